"""The model folder: config.json, model.safetensors, tokenizer.json, preprocessor.json."""

import errno
import shlex
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

import safetensors.torch
import torch
from huggingface_hub import snapshot_download
from tokenizers import Tokenizer
from torch import nn

from simvtp.config import FrameSpacing, ModelConfig
from simvtp.config.json_file import read_json, write_json
from simvtp.data.tokenizer import load_tokenizer, require_vocabulary
from simvtp.encoders import PaddedEncoder
from simvtp.layers.tubelets import IMAGENET_MEAN, IMAGENET_STD

MODEL_FILES = ("config.json", "model.safetensors", "tokenizer.json", "preprocessor.json")
_OPTIONAL_FILES = ("tokenizer.json",)
# What tells of the model beside its parts, all of it optional.
_FACT_FILES = ("origin.json", "training.json", "README.md")
_CLASS_OF_TASK = {"classification": "VideoClassifier", "answering": "VideoAnswerer"}
M = TypeVar("M", bound=nn.Module)
OWN_PARTS = "own_parts"
_SHIPPED = Path(__file__).with_name("weights")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


class FrameSpacingWarning(UserWarning):
    """A model folder says how many frames lie between two of a clip, but not how much time."""


def find_model_folder(source: str | Path, *, download_options: Mapping[str, Any]) -> Path:
    """A complete model folder: `source` itself, a model that ships with the library, or the hub
    repository of that name, downloaded.

    Raises:
        ValueError: there is neither, or a file is missing.
    """
    if not isinstance(source, str | Path):
        raise TypeError(f"a model is loaded from a folder or hub id, got {source!r:.80}")
    folder = Path(source)
    if not folder.is_dir():
        shipped = shipped_models().get(str(source))
        folder = shipped or _download(str(source), download_options)
    for name in MODEL_FILES:
        if name not in _OPTIONAL_FILES and not (folder / name).is_file():
            raise ValueError(
                f"{folder} is not a complete model folder: {name} is missing; "
                f"save_pretrained writes {', '.join(MODEL_FILES)}{_about_pickles(folder)}"
            )
    return folder


def shipped_models() -> dict[str, Path]:
    """Folders of the models that ship with the library, by name."""
    return {folder.name: folder for folder in sorted(_SHIPPED.iterdir()) if folder.is_dir()}


def _about_pickles(folder: Path) -> str:
    found = [path.name for path in sorted(folder.iterdir()) if path.suffix in _PICKLES]
    if not found:
        return ""
    return f"; {found[0]} may be a pickle, which can run code, and is never read"


def _download(repository: str, options: Mapping[str, Any]) -> Path:
    try:
        return Path(
            snapshot_download(repository, allow_patterns=[*MODEL_FILES, *_FACT_FILES], **options)
        )
    except Exception as error:
        shipped = shipped_models()
        alike = get_close_matches(repository, shipped, n=1)
        meant = f" (did you mean {alike[0]}?)" if alike else ""
        raise ValueError(
            f"{repository!r} is neither a folder here nor a model of the library "
            f"({', '.join(shipped)}){meant}, nor could it be downloaded from the hub; give the "
            "path of a folder written by save_pretrained. The hub's client says: "
            f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        ) from error


@contextmanager
def about(path: Path) -> Iterator[None]:
    """Name the file in what its contents are refused for."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def load_model(build: Callable[[], M], folder: Path, *, config: ModelConfig) -> M:
    """A model with all weights of a folder, strictly.

    What the settings ask for is compared with the weights' header before anything is built.

    Args:
        build: makes the model, on the device that is torch's default.
        folder: the model folder.
        config: sizes that `build` goes by.

    Raises:
        ValueError: the file is damaged, or a weight is missing, unknown or of another shape.
    """
    path = folder / "model.safetensors"
    try:
        # Safetensors says of a file that may not be read that it is not there.
        path.open("rb").close()
        with safetensors.safe_open(path, framework="pt") as file:
            found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not a readable safetensors file: {error}") from error
    with about(folder / "config.json"):
        for name in ("depth", "decoder_depth", "word_decoder_depth"):
            if getattr(config, name) > len(found):
                raise ValueError(
                    f"{name} is {getattr(config, name)}, and {path} has only {len(found)} weights"
                )
        with torch.device("meta"):
            expected = {name: tuple(value.shape) for name, value in build().state_dict().items()}
    _require_shapes(path, found, expected)
    model = build()
    model.load_state_dict(safetensors.torch.load_file(path))
    return model


def _require_shapes(
    path: Path, found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]
) -> None:
    problems = [f"missing {name}" for name in expected if name not in found]
    problems += [f"unknown {name}" for name in found if name not in expected]
    problems += [
        f"{name} is {found[name]}, the config asks for {shape}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    if problems:
        shown = "; ".join(problems[:5])
        raise ValueError(f"{path} does not fit the model in {len(problems)} weights: {shown}")


def write_model_folder(
    module: nn.Module,
    folder: Path,
    *,
    config: Mapping[str, Any],
    preprocessor: Mapping[str, Any],
    tokenizer: Tokenizer | None,
    own_parts: Collection[str] = (),
) -> None:
    """Write the files of a model folder; config.json tells which parts are not the library's.

    Raises:
        OSError: the disk is full or fails.
    """
    save_weights(module, folder / "model.safetensors")
    own = {name: _kind_of(getattr(module, name)) for name in own_parts}
    write_json(folder / "config.json", {**config, OWN_PARTS: own} if own else config)
    write_json(folder / "preprocessor.json", preprocessor)
    if tokenizer is not None:
        # Tokenizer.save raises a bare Exception where the disk is full.
        (folder / "tokenizer.json").write_text(tokenizer.to_str(pretty=True), "utf-8")


def _kind_of(part: nn.Module) -> str:
    """Class of a part of one's own, for whoever has to give it again."""
    wrapped = f" over {_kind_of(part.module)}" if isinstance(part, PaddedEncoder) else ""
    return f"{type(part).__module__}.{type(part).__qualname__}{wrapped}"


def describe_preprocessing(config: ModelConfig, *, frame_spacing: FrameSpacing) -> dict[str, Any]:
    """How a clip is cut and what the model does to its pixels, as in preprocessor.json."""
    return {
        "num_frames": config.num_frames,
        "frame_seconds": frame_spacing.seconds,
        "frame_stride": frame_spacing.stride,
        "image_size": config.image_size,
        "resize": "short side to image_size, bilinear, antialiased; then centre crop",
        "layout": "frames, channels, height, width; uint8 RGB; normalised inside the model",
        "mean": list(IMAGENET_MEAN),
        "std": list(IMAGENET_STD),
    }


def read_tokenizer(folder: Path, *, vocab_size: int) -> Tokenizer | None:
    """The tokenizer of a model folder; None where it has none.

    Raises:
        ValueError: it is damaged, or has more words than the model.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        return None
    tokenizer = load_tokenizer(path)
    with about(path):
        require_vocabulary(tokenizer, vocab_size=vocab_size)
    return tokenizer


def read_config(folder: Path, *, task: str | None, parts: Collection[str] = ()) -> dict[str, Any]:
    """Config of a model for a task, or with None of a pre-trained SimVTP.

    Args:
        folder: the model folder.
        task: what the model must be for.
        parts: names of the parts that the caller gives.

    Raises:
        ValueError: the file is damaged, it is of a model for something else, or the parts are not
            those that must be given.
    """
    values = read_json(folder / "config.json")
    found = values.get("task")
    if found == task:
        with about(folder / "config.json"):
            _require_own_parts(values.pop(OWN_PARTS, {}), parts)
        return values
    if found is None:
        raise ValueError(
            f"{folder} holds a pre-trained SimVTP, which has no head for {task}; load it with "
            f"SimVTP.from_pretrained and give it one with {_CLASS_OF_TASK[str(task)]}.from_model"
        )
    if not isinstance(found, str) or found not in _CLASS_OF_TASK:
        known = ", ".join(_CLASS_OF_TASK)
        raise ValueError(f"{folder} holds a model for the task {found!r}; known are {known}")
    raise ValueError(
        f"{folder} holds a model for {found}, not {task or 'a pre-trained SimVTP'}; load it with "
        f"simvtp.tasks.{_CLASS_OF_TASK[found]}.from_pretrained"
    )


def _require_own_parts(own: Any, given: Collection[str]) -> None:
    """See that what is given is what a config says the library does not make."""
    if not isinstance(own, dict):
        raise ValueError(f"{OWN_PARTS} must name kinds of parts, got {own!r:.80}")
    for name, kind in own.items():
        if name not in given:
            raise ValueError(
                f"{OWN_PARTS}: the model's {name} is not the library's but a {kind!r:.80}; build "
                f"it as it was, and load the model in Python: from_pretrained(..., {name}=...)"
            )
    for name in given:
        if name not in own:
            raise ValueError(
                f"the model's {name} is the library's own; leave {name}= out, and replace it in "
                "the loaded model with model.rebuilt"
            )


def save_weights(module: nn.Module, path: Path) -> None:
    """Write all weights to a safetensors file, which those may read who may read others.

    Raises:
        OSError: the disk is full or fails.
    """
    weights = {name: tensor.contiguous() for name, tensor in module.state_dict().items()}
    # Safetensors puts a file in its place that only its owner may read.
    path.touch()
    mode = path.stat().st_mode
    try:
        safetensors.torch.save_file(weights, path, metadata={"format": "pt"})
        path.chmod(mode)
    except safetensors.SafetensorError as error:
        raise OSError(errno.EIO, str(error), str(path)) from error


def read_frame_spacing(folder: Path) -> FrameSpacing:
    """Time or frames of a video between two frames of a clip, as preprocessor.json has it.

    Of a folder that was written before clips were cut by time, with a FrameSpacingWarning.

    Raises:
        ValueError: the file is damaged or does not tell.
    """
    path = folder / "preprocessor.json"
    values = read_json(path)
    try:
        spacing = FrameSpacing.of(values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}; or save the model anew") from error
    if "frame_seconds" not in values:
        message = (
            f"{folder} is of a version that counted frames and not seconds: a clip's frames are "
            f"{spacing.stride} of a video's apart, whatever its rate. If its training videos had "
            "one rate, say so, e.g. for 25 frames a second: python -m simvtp.pipelines.convert "
            f"{shlex.quote(str(folder))} --out NEW --frame-seconds {(spacing.stride or 1) / 25:g}"
        )
        warnings.warn(message, FrameSpacingWarning, stacklevel=2)
    return spacing
