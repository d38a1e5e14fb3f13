"""Folders of models for a task: as SimVTP's, with the task and its names in config.json."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from simvtp.config import ModelConfig
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
from simvtp.parts import PART_NAMES

if TYPE_CHECKING:
    from simvtp.tasks.task_model import TaskModel

M = TypeVar("M", bound="TaskModel")
_NAMES_OF_TASK = {"classification": "classes", "answering": "answers"}


def write_task_folder(model: "TaskModel", folder: Path) -> None:
    """Write a model and what belongs to it into an existing folder.

    Raises:
        OSError: the disk is full or fails.
    """
    key = _NAMES_OF_TASK[model.task]
    described = {"task": model.task, key: list(getattr(model, key))}
    write_model_folder(
        model,
        folder,
        config={**described, "model": asdict(model.config)},
        preprocessor=model.preprocessor(),
        tokenizer=model.tokenizer,
        own_parts=model.own_parts,
    )
    write_facts(folder, model.facts)


def read_task_folder(kind: type[M], source: str | Path, options: Mapping[str, Any]) -> M:
    """A model of a folder or a hub repository, in evaluation mode, on the CPU.

    Args:
        kind: what the model must be.
        source: the folder or the repository.
        options: parts that are not the library's; the rest is passed to the hub's download.

    Raises:
        ValueError: a file is missing, damaged, or of a model for something else.
    """
    parts: Any = {name: options[name] for name in PART_NAMES if name in options}
    download = {name: value for name, value in options.items() if name not in parts}
    folder = find_model_folder(source, download_options=download)
    values = read_config(folder, task=kind.task, parts=parts)
    path, key = folder / "config.json", _NAMES_OF_TASK[kind.task]
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
    settings = {key: names, "frame_spacing": read_frame_spacing(folder), **parts}
    tokenizer = read_tokenizer(folder, vocab_size=config.vocab_size)
    if "text_embedding" in kind.part_names:
        settings["tokenizer"] = tokenizer
    model = load_model(lambda: kind(config, **settings), folder, config=config)
    model.facts = read_facts(folder)
    return model.eval()
