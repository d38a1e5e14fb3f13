"""The model folder that a run leaves, and the settings that its card tells."""

import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from simvtp.config.flat import flat_settings
from simvtp.conversion import read_origins


def recipe_of(config: Any) -> dict[str, Any]:
    """Settings for a model card, without paths of this machine."""
    flat = flat_settings(asdict(config))
    hidden = ("data.train", "data.validation", "data.test", "data.root", "data.tokenizer")
    paths = (*hidden, "run.out", "run.device", "init_video", "init_text")
    kept = {name: value for name, value in flat.items() if name not in paths}
    if "model" in kept:
        kept["model"] = Path(kept["model"]).name
    return kept


def save_model(model: Any, folder: Path) -> None:
    """Put the model folder in place once it is whole, with the origins that its run noted."""
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    origins = read_origins(folder.parent)
    if origins:
        model.facts = replace(model.facts, origins=origins)
    model.save_pretrained(partial)
    if folder.exists():
        shutil.rmtree(folder)
    partial.rename(folder)
