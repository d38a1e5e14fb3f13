"""Files of foreign weights: named tensors, read without running a line of code out of them."""

import json
import re
import warnings
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.serialization import safe_globals

from simvtp.config.json_file import read_json
from simvtp.named_files import file_beside

_WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "mp_rank_00_model_states.pt",
)
STATE_KEYS = ("model", "module", "state_dict", "model_state_dict")
# What DistributedDataParallel, torch.compile, FSDP and activation checkpointing put into names,
# before all of them or before those of the part that they wrap.
_WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
# What trainers call the model that they hold; taken off where every name begins so.
_HOLDERS = ("model", "backbone", "net", "network", "ema", "ema_model", "model_ema")
# How many models torch's AveragedModel has averaged.
_COUNT = "n_averaged"


class ForeignWeights(NamedTuple):
    """What a source holds.

    Attributes:
        source: where it was read from.
        tensors: weights by their names there, without the prefixes of whatever wrapped the model.
        config: decoded config.json; empty where there is none.
        files: files with the weights.
        state: key of the weights in a file that holds several things; None for a file of weights.
        others: keys of further weights there, such as averaged ones.
    """

    source: Path
    tensors: dict[str, Tensor]
    config: dict[str, Any]
    files: tuple[Path, ...]
    state: str | None = None
    others: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """Where the weights lie, and what else tells of them."""
        return self.source if self.source.is_dir() else self.source.parent


class _State(NamedTuple):
    """Named tensors in a file, where there, and what else of the kind it holds."""

    tensors: Mapping[str, Tensor]
    key: str | None = None
    others: tuple[str, ...] = ()


def read_weights(source: str | Path, *, state: str | None = None) -> ForeignWeights:
    """Read a checkpoint file, a folder of transformers or DeepSpeed, or a model folder.

    Files of torch.save are read as tensors and plain values only; the paper's hold their
    command line in an `argparse.Namespace`, the one class that is let through.

    Args:
        source: the file or the folder.
        state: key of the weights to take of a file that holds several, e.g. `model_ema`; by
            default model, module, state_dict or model_state_dict, or the only ones there are.

    Raises:
        ValueError: there is nothing to read, it is damaged or incomplete, or it would have to
            run code.
    """
    source = Path(source)
    if source.is_dir():
        return _read_folder(source, state)
    if not source.is_file():
        raise ValueError(
            f"there is no file or folder {source}; nothing is downloaded, so give the path of "
            "weights that are already here"
        )
    return _of_file(source, {}, source, state)


def _of_file(source: Path, config: dict[str, Any], file: Path, state: str | None) -> ForeignWeights:
    tensors, key, others = _read_file(file, state)
    return ForeignWeights(source, _unwrapped(tensors, file), config, (file,), key, others)


def _transformer_folder(folder: Path) -> Path:
    """Where a sentence-transformers folder keeps its transformer; others are their own.

    Raises:
        ValueError: modules.json is damaged, or names a folder that does not lie within.
    """
    path = folder / "modules.json"
    if not path.is_file():
        return folder
    try:
        first = json.loads(path.read_text("utf-8"))[0]["path"]
    except (ValueError, LookupError, TypeError, RecursionError):
        first = None
    if not isinstance(first, str):
        raise ValueError(f"{path} must list modules with their path; copy it anew")
    return file_beside(path, first) if first else folder


def _read_folder(folder: Path, state: str | None) -> ForeignWeights:
    folder = _transformer_folder(folder)
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
    settings = read_json(config) if config.is_file() else {}
    if first.suffix != ".json":
        return _of_file(folder, settings, first, state)
    names, files = _shards(first)
    tensors: dict[str, Tensor] = {}
    for file in files:
        of_file = _read_file(file, state).tensors
        twice = sorted(set(of_file) & set(tensors))
        if twice:
            raise ValueError(f"{file} repeats {twice[0]} of another file of {first}; copy it anew")
        tensors |= of_file
    missing = sorted(set(names) - set(tensors))
    if missing:
        raise ValueError(
            f"{first} lists {len(missing)} tensors that its files lack, such as {missing[0]}; "
            "copy the folder anew"
        )
    return ForeignWeights(folder, _unwrapped(tensors, first), settings, files)


def _shards(index: Path) -> tuple[dict[str, str], tuple[Path, ...]]:
    """Files of the tensors, and the files."""
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise ValueError(f"{index} must hold a weight_map from tensors to files; copy it anew")
    files = tuple(file_beside(index, name) for name in sorted(set(names.values())))
    for file in files:
        if not file.is_file():
            raise ValueError(
                f"{index} names {file.name}, which is no file beside it; copy the folder anew"
            )
    return names, files


def _read_file(path: Path, state: str | None) -> _State:
    """Tensors of a file; what kind it is stands in its first bytes, whatever it is called."""
    with path.open("rb") as file:
        start = file.read(9)
    if not start:
        raise ValueError(f"{path} is empty; copy it anew")
    if start[8:] == b"{":
        try:
            return _State(load_file(path))
        except SafetensorError as error:
            raise ValueError(f"{path} is not a whole safetensors file: {error}") from error
    return _state_of(_load_pickle(path), path, state)


def _load_pickle(path: Path) -> Any:
    try:
        with safe_globals([Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # About formats that are torch's own business.
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # Damaged pickles raise whatever their bytes happen to mean.
        code = re.search(r"GLOBAL (\S+)", str(error))
        if code is not None:
            reason = (
                f"{path} asks for {code[1]}, which could run any code, so it is not read; ask its "
                "maker for a file of tensors alone, best a safetensors file"
            )
        else:
            reason = (
                f"{path} cannot be read as a file of torch.save or safetensors ({_why(error)}); "
                "copy it anew, or give another file"
            )
    # Not chained: torch's own text advises to read the file in earnest.
    raise ValueError(reason)


def _why(error: Exception) -> str:
    """First line of what went wrong, without torch's advice on what to switch off."""
    text = str(error).strip()
    if "weights_only" in text or "Weights only" in text:
        _, _, text = text.partition("WeightsUnpickler error:")
        text = text.strip() or "no plain tensors"
    return (text or type(error).__name__).splitlines()[0][:200]


def _state_of(value: Any, path: Path, wanted: str | None) -> _State:
    """The weights in what a file holds."""
    if not isinstance(value, Mapping):
        raise ValueError(f"{path} must hold named tensors, got {type(value).__name__}")
    known = {str(key): state for key, state in value.items() if _is_state(state)}
    if wanted is not None and not _is_state(value):
        if wanted not in known:
            there = f"it has {', '.join(known)}" if known else "it has none"
            raise ValueError(f"{path} has no named tensors under {wanted!r}; {there}")
        key = wanted
    else:
        # Those of a training's own kind go before averaged ones, and these before a refusal.
        usual = [key for key in STATE_KEYS if isinstance(value.get(key), Mapping)]
        key = next(iter(usual or (known if len(known) == 1 else ())), None)
    tensors = value if key is None else value[key]
    if not _is_state(tensors):
        others = [str(name) for name, tensor in tensors.items() if not isinstance(tensor, Tensor)]
        raise ValueError(
            f"{path} must hold named tensors, at its top or under one of {', '.join(STATE_KEYS)}; "
            + (f"these are none: {', '.join(others[:5])}" if others else "it holds none")
            + (f"; --state takes one of {', '.join(known)}" if known else "")
        )
    return _State(tensors, key, tuple(name for name in known if name != key))


def _is_state(value: Any) -> bool:
    """Whether it is tensors by their names, one or more."""
    if not isinstance(value, Mapping) or not value:
        return False
    return all(isinstance(name, str) and isinstance(t, Tensor) for name, t in value.items())


def _unwrapped(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Tensors by the names they had before anything wrapped the model, however often."""
    names = {name: _without_wrappers(name) for name in tensors if name != _COUNT}
    if not names:
        raise ValueError(f"{path} must hold named tensors, it holds none")
    while any(all(n.startswith(f"{holder}.") for n in names.values()) for holder in _HOLDERS):
        names = {full: name.partition(".")[2] for full, name in names.items()}
    full_names: dict[str, str] = {}
    for full, name in names.items():
        other = full_names.setdefault(name, full)
        if other != full:
            raise ValueError(
                f"{path} has two names for {name}: {other} and {full}; it is of two models, so "
                "give a file of one of them"
            )
    return {name: tensors[full] for name, full in full_names.items()}


def _without_wrappers(name: str) -> str:
    *places, last = name.split(".")
    return ".".join([place for place in places if place not in _WRAPPERS] + [last])
