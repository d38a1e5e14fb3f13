"""Files of foreign weights: named tensors, read without running a line of code out of them."""

import json
import re
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.serialization import safe_globals

_WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "mp_rank_00_model_states.pt",
)
_STATE_KEYS = ("model", "module", "state_dict", "model_state_dict")
# What DistributedDataParallel and torch.compile put in front of every name.
_WRAPPERS = ("module.", "_orig_mod.")


class ForeignWeights(NamedTuple):
    """What a source holds.

    Attributes:
        source: where it was read from.
        tensors: weights by their names there.
        config: decoded config.json; empty where there is none.
        files: files with the weights.
    """

    source: Path
    tensors: dict[str, Tensor]
    config: dict[str, Any]
    files: tuple[Path, ...]


def read_weights(source: str | Path) -> ForeignWeights:
    """Read a checkpoint file, a folder of transformers or DeepSpeed, or a model folder.

    Files of torch.save are read as tensors and plain values only; the paper's hold their
    command line in an `argparse.Namespace`, the one class that is let through.

    Raises:
        ValueError: there is nothing to read, it is damaged or incomplete, or it would have to
            run code.
    """
    source = Path(source)
    if source.is_dir():
        return _read_folder(source)
    if not source.is_file():
        raise ValueError(
            f"there is no file or folder {source}; nothing is downloaded, so give the path of "
            "weights that are already here"
        )
    return ForeignWeights(source, _read_file(source), {}, (source,))


def _read_folder(folder: Path) -> ForeignWeights:
    present = [name for name in _WEIGHT_FILES if (folder / name).is_file()]
    if not present:
        loose = [path.name for path in sorted(folder.iterdir()) if path.is_file()]
        raise ValueError(
            f"{folder} holds none of {', '.join(_WEIGHT_FILES)}; give the weights' file itself"
            + (f", which may be one of {', '.join(loose[:5])}" if loose else "")
        )
    first = folder / present[0]
    if (folder / "mp_rank_01_model_states.pt").is_file() and first.name.startswith("mp_rank"):
        raise ValueError(
            f"{folder} holds a model split over several devices (mp_rank_01 and so on); put it "
            "together with DeepSpeed's own tools first"
        )
    config = folder / "config.json"
    settings = _read_json(config) if config.is_file() else {}
    if first.suffix != ".json":
        return ForeignWeights(folder, _read_file(first), settings, (first,))
    files = _shards(first)
    tensors: dict[str, Tensor] = {}
    for file in files:
        tensors |= _read_file(file)
    missing = sorted(set(_read_json(first)["weight_map"]) - set(tensors))
    if missing:
        raise ValueError(
            f"{first} lists {len(missing)} tensors that its files lack, such as {missing[0]}; "
            "copy the folder anew"
        )
    return ForeignWeights(folder, tensors, settings, files)


def _shards(index: Path) -> tuple[Path, ...]:
    names = _read_json(index).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise ValueError(f"{index} must hold a weight_map from tensors to files; copy it anew")
    files = tuple(index.parent / name for name in sorted(set(names.values())))
    for file in files:
        if file.parent != index.parent or not file.is_file():
            raise ValueError(
                f"{index} names {file.name}, which is no file beside it; copy the folder anew"
            )
    return files


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}; copy it anew") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(values).__name__}")
    return values


def _read_file(path: Path) -> dict[str, Tensor]:
    """Tensors of a file; what kind it is stands in its first bytes, whatever it is called."""
    with path.open("rb") as file:
        start = file.read(9)
    if not start:
        raise ValueError(f"{path} is empty; copy it anew")
    if start[8:] == b"{":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path} is not a whole safetensors file: {error}") from error
    return _state_of(_load_pickle(path), path)


def _load_pickle(path: Path) -> Any:
    try:
        with safe_globals([Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # Damaged pickles raise whatever their bytes happen to mean.
        code = re.search(r"GLOBAL (\S+)", str(error))
        if code is not None:
            raise ValueError(
                f"{path} asks for {code[1]}, which could run any code, so it is not read; where "
                "you trust it, save its tensors alone: torch.save(torch.load(FILE, "
                "weights_only=False)['model'], 'weights.pth'), and give that file"
            ) from error
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"{path} cannot be read as a file of torch.save or safetensors ({reason[:200]}); copy "
            "it anew, or give another file"
        ) from error


def _state_of(value: Any, path: Path) -> dict[str, Tensor]:
    """The state dict in what a file holds, without the prefixes of wrapped modules."""
    if not isinstance(value, Mapping):
        raise ValueError(f"{path} must hold named tensors, got {type(value).__name__}")
    state = next((value[key] for key in _STATE_KEYS if isinstance(value.get(key), Mapping)), value)
    others = [str(name) for name, tensor in state.items() if not isinstance(tensor, Tensor)]
    if others or not state:
        raise ValueError(
            f"{path} must hold named tensors, at its top or under one of {', '.join(_STATE_KEYS)}; "
            + (f"these are none: {', '.join(others[:5])}" if others else "it holds none")
        )
    for prefix in _WRAPPERS:
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return dict(state)
