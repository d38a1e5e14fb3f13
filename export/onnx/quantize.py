"""Int8 graphs by ONNX Runtime's own quantiser: products of tokens and weights, nothing else."""

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from simvtp.config.checks import require_choice

METHODS = ("dynamic", "static")
# The matching head is a Gemm: small, last, and in float32.
_PRODUCTS = ("MatMul",)

Inputs = Mapping[str, np.ndarray]


def quantize_graph(
    source: Path, target: Path, *, method: str, batches: Iterable[Inputs] = ()
) -> list[str]:
    """Write a graph whose products with weights are int8, one scale for each output channel.

    Weights have seven of the eight bits, so that every CPU computes the same. Products of two
    activations, as in attention, stay in float32, and so does the first product with the pixels,
    whose range is the widest.

    Args:
        source: float32 graph.
        target: file to write.
        method: "dynamic" finds the activations' ranges at run time, for each call; "static" has
            found them on `batches`.
        batches: inputs of the graph to calibrate on, for the static method.

    Returns:
        Names of the products that were quantised.

    Raises:
        ValueError: the method is unknown, there is nothing to calibrate on, or no product.
    """
    require_choice("int8_method", method, METHODS)
    calibration = list(batches) if method == "static" else []
    if method == "static" and not calibration:
        raise ValueError("static quantisation needs batches to calibrate on, got none")
    with TemporaryDirectory(dir=target.parent) as scratch, _quiet():
        prepared = Path(scratch) / "prepared.onnx"
        # Symbolic shapes cannot be inferred through the casts of the masks; the others suffice.
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        names = products(prepared)
        if not names:
            raise ValueError(f"{source} has no product with weights to quantise")
        model = onnx.load(prepared)
        # The quantiser turns weights around and, before 1.32, trips over the shapes they had.
        del model.graph.value_info[:]
        options = {
            "nodes_to_quantize": names,
            "op_types_to_quantize": list(_PRODUCTS),
            "per_channel": True,
            "weight_type": QuantType.QInt8,
            # CPUs without VNNI sum two products in 16 bits, which eight-bit weights overflow.
            "reduce_range": True,
            "extra_options": {"MatMulConstBOnly": True},
        }
        if method == "dynamic":
            quantize_dynamic(model, str(target), **options)
        else:
            quantize_static(
                model,
                str(target),
                _Batches(calibration),
                quant_format=QuantFormat.QDQ,
                activation_type=QuantType.QUInt8,
                calibrate_method=CalibrationMethod.MinMax,
                **options,
            )
    return names


def products(file: Path) -> list[str]:
    """Names of the products of activations and weights, but for the one that reads the pixels."""
    graph = onnx.load(file, load_external_data=False).graph
    weights = {tensor.name for tensor in graph.initializer}
    found = [
        node.name
        for node in graph.node
        if node.op_type in _PRODUCTS and any(name in weights for name in node.input)
    ]
    takes_pixels = any(tensor.name == "frames" for tensor in graph.input)
    return found[1:] if takes_pixels else found


class _Batches(CalibrationDataReader):
    """Batches one after the other, as the calibration asks for them."""

    def __init__(self, batches: list[Inputs]) -> None:
        self._left = iter(batches)

    def get_next(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
    ) -> dict[str, np.ndarray] | None:
        """The next batch; None after the last."""
        batch = next(self._left, None)
        return None if batch is None else dict(batch)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the quantiser's advice on the root logger."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
