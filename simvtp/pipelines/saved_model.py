"""The model folder that a run leaves, and the settings that its card tells."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from simvtp.config.flat import flat_settings
from simvtp.conversion import read_origins
from simvtp.files import put_in_place, unfinished


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
    origins = read_origins(folder.parent)
    if origins:
        model.facts = replace(model.facts, origins=origins)
    with unfinished(folder) as work:
        model.save_pretrained(work / "model")
        put_in_place(work / "model", folder)
