"""A fine-tuned model, whichever task it is for."""

from pathlib import Path
from typing import Any

from simvtp.config.json_file import read_json
from simvtp.model_folder import find_model_folder
from simvtp.tasks.answering import VideoAnswerer
from simvtp.tasks.classifier import VideoClassifier

_KINDS = {"classification": VideoClassifier, "answering": VideoAnswerer}


def load_task_model(source: str | Path, **options: Any) -> VideoClassifier | VideoAnswerer:
    """Load a model that was fine-tuned for classification or for questions.

    Args:
        source: its folder, or a hub id.
        **options: passed to the hub's download, as for `SimVTP.from_pretrained`.

    Returns:
        The model, in evaluation mode, on the CPU.

    Raises:
        ValueError: a file is missing or damaged, or the model is pre-trained only.
    """
    folder = find_model_folder(source, download_options=options)
    task = read_json(folder / "config.json").get("task")
    if task is None:
        raise ValueError(
            f"{source} is a pre-trained model, which neither knows classes nor answers. Teach it "
            "yours with python -m simvtp.pipelines.finetune --task classification (or qa) --model "
            f"{source}; to find videos by a text it needs no more: model.rank(text, files), or "
            "python -m simvtp.pipelines.index"
        )
    # A task that nobody knows is refused by either.
    return _KINDS.get(str(task), VideoClassifier).from_pretrained(folder)
