"""Folders of models for a task: as SimVTP's, with the task and its names in config.json."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from tokenizers import Tokenizer

from simvtp.config import FrameSpacing, ModelConfig
from simvtp.model_card import read_facts, write_facts
from simvtp.model_folder import (
    about,
    find_model_folder,
    load_model,
    read_config,
    read_frame_spacing,
    read_tokenizer,
    write_model_folder,
)
from simvtp.parts import PART_NAMES, ModelParts
from simvtp.tasks.task_model import TaskModel

M = TypeVar("M", bound=TaskModel)
_NAMES_OF_TASK = {"classification": "classes", "answering": "answers"}


class TaskFolder(NamedTuple):
    """What is beside the weights.

    Attributes:
        config: sizes of the model.
        names: classes or answers.
        frame_spacing: time or frames of the source video between two frames of a clip.
        tokenizer: turns questions into ids; None without text.
        parts: parts that are not the library's, as they were given.
    """

    config: ModelConfig
    names: tuple[str, ...]
    frame_spacing: FrameSpacing
    tokenizer: Tokenizer | None
    parts: ModelParts


def write_task_folder(
    model: TaskModel,
    folder: Path,
    *,
    task: str,
    names: tuple[str, ...],
    tokenizer: Tokenizer | None = None,
) -> None:
    """Write a model and what belongs to it.

    Args:
        model: the model.
        folder: an existing folder.
        task: classification or answering.
        names: classes or answers.
        tokenizer: turns questions into ids.

    Raises:
        OSError: the disk is full or fails.
    """
    described = {"task": task, _NAMES_OF_TASK[task]: list(names)}
    write_model_folder(
        model,
        folder,
        config={**described, "model": asdict(model.config)},
        preprocessor=model.preprocessor(),
        tokenizer=tokenizer,
        own_parts=model.own_parts,
    )
    write_facts(folder, model.facts)


def read_task_folder(
    source: str | Path, options: Mapping[str, Any], *, task: str, build: Callable[[TaskFolder], M]
) -> M:
    """A model of a folder or a hub repository, in evaluation mode, on the CPU.

    Args:
        source: the folder or the repository.
        options: parts that are not the library's; the rest is passed to the hub's download.
        task: what the model must be for.
        build: makes it of what is beside the weights.

    Raises:
        ValueError: a file is missing, damaged, or of a model for something else.
    """
    parts: Any = {name: options[name] for name in PART_NAMES if name in options}
    download = {name: value for name, value in options.items() if name not in parts}
    folder = find_model_folder(source, download_options=download)
    values = read_config(folder, task=task, parts=parts)
    path, key = folder / "config.json", _NAMES_OF_TASK[task]
    known = ("task", key, "model")
    if set(values) != set(known) or not isinstance(values["model"], dict):
        raise ValueError(
            f"{path} must hold {', '.join(known)}, the last one an object, and nothing else, got "
            f"{', '.join(sorted(values))}; save the model anew"
        )
    names = values[key]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{path}: {key} must be a list of names, got {names!r:.80}")
    with about(path):
        config = ModelConfig.from_dict(values["model"])
    contents = TaskFolder(
        config=config,
        names=tuple(names),
        frame_spacing=read_frame_spacing(folder),
        tokenizer=read_tokenizer(folder, vocab_size=config.vocab_size),
        parts=parts,
    )
    model = load_model(partial(build, contents), folder, config=config)
    model.facts = read_facts(folder)
    return model.eval()
