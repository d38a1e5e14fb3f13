"""A bfloat16 graph with its numbers widened to float32, for runtimes without bfloat16 kernels."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from export.runtime.folder import GraphSpec, file_sha256

_HALF, _FULL = onnx.TensorProto.BFLOAT16, onnx.TensorProto.FLOAT


def widen(source: Path, target: Path, *, spec: GraphSpec) -> GraphSpec:
    """Write a graph whose bfloat16 weights and casts are float32, values unchanged.

    ONNX Runtime's CPU has hardly any kernel for bfloat16. What it makes of the widened graph
    proves operators, wiring and weights of the file; it does not show the rounding between them.

    Args:
        source: ONNX file, with its external data beside it.
        target: file to write, with external data in `target.name + ".data"`.
        spec: what the source is.

    Returns:
        What was written.
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
    data = target.with_name(f"{target.name}.data")
    onnx.save(model, target, save_as_external_data=True, location=data.name)
    return replace(
        spec,
        file=target.name,
        sha256=file_sha256(target, data),
        bytes=target.stat().st_size + data.stat().st_size,
        external_data=(data.name,),
    )


def _widen_tensor(tensor: onnx.TensorProto) -> None:
    values = numpy_helper.to_array(tensor).astype(np.float32)
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
