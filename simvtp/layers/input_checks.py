"""Refusals of inputs by what the host knows of them: no check waits for a device."""

import reprlib
from typing import Literal

import torch
from torch import Tensor

Kind = Literal["any", "float", "int64", "bool"]


def require_tensor(name: str, value: object, shape: str, *, fix: str, kind: Kind = "any") -> None:
    """Refuse what is no tensor of a number format and a number of axes.

    Args:
        name: of the argument.
        value: what was given.
        shape: the axes by name, such as "(batch, width)"; their sizes are not looked at.
        fix: what to do instead, for the message.
        kind: number format.

    Raises:
        TypeError: it is no tensor.
        ValueError: it is of another number format, or has more or fewer axes.
    """
    if not isinstance(value, Tensor):
        raise TypeError(_refusal(name, value, shape, kind, fix))
    num_axes = len(shape.strip("(),").replace(",", " ").split())
    if value.ndim != num_axes or not _is_of(value, kind):
        raise ValueError(_refusal(name, value, shape, kind, fix))


def require_alike(*named: tuple[str, Tensor], fix: str) -> None:
    """Refuse tensors of different shapes, which would otherwise broadcast in silence.

    Raises:
        ValueError: the shapes differ.
    """
    if any(tensor.shape != named[0][1].shape for _, tensor in named[1:]):
        names = " and ".join(name for name, _ in named)
        shapes = " and ".join(str(tuple(tensor.shape)) for _, tensor in named)
        raise ValueError(f"{names} must have the same shape, got {shapes}; {fix}")


def clips_on(video: Tensor, device: torch.device) -> Tensor:
    """Clips on a model's device.

    Raises:
        TypeError: they are no tensor.
    """
    if not isinstance(video, Tensor):
        raise TypeError(
            "video must be a tensor (batch, frames, channels, height, width) of uint8, got "
            f"{describe(video)}; read files with simvtp.data.read_clip first"
        )
    return video.to(device)


def require_temperature(value: float | Tensor) -> None:
    """Refuse a temperature that is not above 0; one that lies on a device is not looked at.

    Raises:
        ValueError: it is 0, below, or NaN.
    """
    if isinstance(value, Tensor) and value.device.type != "cpu":
        return
    if not value > 0:
        raise ValueError(
            f"temperature must be greater than 0, got {float(value)}; 0.05 is the paper's"
        )


def describe(value: object) -> str:
    """A value in a few words, for messages."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} of shape {tuple(value.shape)}"
    return f"{type(value).__name__} {reprlib.repr(value)}"


def _is_of(tensor: Tensor, kind: Kind) -> bool:
    if kind == "float":
        return tensor.is_floating_point()
    return kind == "any" or tensor.dtype == getattr(torch, kind)


def _refusal(name: str, value: object, shape: str, kind: Kind, fix: str) -> str:
    wanted = f"a tensor {shape}" if kind == "any" else f"a tensor {shape} of {kind}"
    return f"{name} must be {wanted}, got {describe(value)}; {fix}"
