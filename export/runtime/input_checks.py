"""Inputs of a graph checked against its declared types and ranges, before anything is queued."""

from collections.abc import Mapping

import numpy as np

from export.runtime.folder import GraphSpec, Range, TensorSpec

_ADVICE = {
    "uint8": "give pixels from 0 to 255 as they are: the graph normalises them",
    "int64": "convert it with .astype(numpy.int64)",
}


def check_batch(spec: GraphSpec, size: int) -> None:
    """See that a graph takes so many clips or captions.

    Raises:
        ValueError: they are more or fewer than it was exported for.
    """
    _check_range("batch", size, spec.ranges["batch"])


def check_inputs(spec: GraphSpec, inputs: Mapping[str, np.ndarray]) -> None:
    """See that a graph takes these inputs, before anything is queued.

    Raises:
        ValueError: one is missing, unknown, of another type, or of a size out of its range.
    """
    names = [tensor.name for tensor in spec.inputs]
    if not isinstance(inputs, Mapping):
        raise TypeError(
            f"inputs must be arrays by name, {', '.join(names)}, got {type(inputs).__name__}"
        )
    if set(inputs) != set(names):
        raise ValueError(
            f"graph {spec.name!r} takes {', '.join(names)}, got {', '.join(inputs) or 'nothing'}"
        )
    sizes: dict[str, tuple[int, str]] = {}
    for tensor in spec.inputs:
        array = inputs[tensor.name]
        _check_array(tensor, array)
        for place, (wanted, size) in enumerate(zip(tensor.shape, array.shape, strict=True)):
            if isinstance(wanted, int):
                _check_fixed(tensor, array, place)
                continue
            known, first = sizes.setdefault(wanted, (size, tensor.name))
            if size != known:
                raise ValueError(
                    f"{first} has {wanted} {known}, {tensor.name} has {size}; they must agree: "
                    "repeat the shorter side"
                )
            _check_range(wanted, size, spec.ranges[wanted])


def _check_array(tensor: TensorSpec, array: object) -> None:
    if not isinstance(array, np.ndarray):
        raise ValueError(
            f"{tensor.name} must be a numpy array, got {type(array).__name__}; "
            "convert it with numpy.asarray"
        )
    if array.dtype != np.dtype(tensor.dtype):
        advice = _ADVICE.get(tensor.dtype, f"convert it with .astype(numpy.{tensor.dtype})")
        raise ValueError(f"{tensor.name} must be {tensor.dtype}, got {array.dtype}; {advice}")
    if array.ndim != len(tensor.shape):
        shape = ", ".join(str(size) for size in tensor.shape)
        raise ValueError(
            f"{tensor.name} must be ({shape}), got {array.ndim} dimensions {array.shape}; "
            f"a single one is given as {tensor.name}[None]"
        )


def _check_fixed(tensor: TensorSpec, array: np.ndarray, place: int) -> None:
    if array.shape[place] != tensor.shape[place]:
        shape = ", ".join(str(size) for size in tensor.shape)
        raise ValueError(
            f"{tensor.name} must be ({shape}), got {array.shape}; cut and resize clips as "
            "preprocessor.json says"
        )


def _check_range(dimension: str, size: int, declared: Range) -> None:
    if size in declared:
        return
    advice = f"export the folder anew with a range of {dimension} that holds it"
    if dimension == "batch" and size > declared.largest:
        advice = f"split it into calls of at most {declared.largest}"
    elif dimension == "batch":
        advice = "fill it up with repeats" if size else "there is nothing to run"
    elif dimension == "tokens" and size > declared.largest:
        advice = f"shorten the captions, or {advice}"
    raise ValueError(
        f"{dimension} must be from {declared.smallest} to {declared.largest}, got {size}; {advice}"
    )
