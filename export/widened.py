"""A bfloat16 graph with its numbers widened to float32, for runtimes without bfloat16 kernels."""

from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

_HALF, _FULL = onnx.TensorProto.BFLOAT16, onnx.TensorProto.FLOAT


def widen(source: Path, target: Path) -> None:
    """Write a graph whose bfloat16 weights and casts are float32, values unchanged.

    ONNX Runtime's CPU has hardly any kernel for bfloat16. What it makes of the widened graph
    proves operators, wiring and weights of the file; it does not show the rounding between them.

    Args:
        source: ONNX file, with its external data beside it.
        target: file to write, with external data in `target.name + ".data"`.
    """
    model = onnx.load(source)
    graph = model.graph
    for tensor in graph.initializer:
        if tensor.data_type == _HALF:
            _widen_tensor(tensor)
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == _HALF:
                attribute.i = _FULL
            elif attribute.t.data_type == _HALF:
                _widen_tensor(attribute.t)
    # Shapes of what lies between are told anew by whoever loads it.
    del graph.value_info[:]
    onnx.save(model, target, save_as_external_data=True, location=f"{target.name}.data")


def _widen_tensor(tensor: onnx.TensorProto) -> None:
    values = numpy_helper.to_array(tensor).astype(np.float32)
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
