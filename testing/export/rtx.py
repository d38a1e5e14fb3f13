"""What tests that build with TensorRT-RTX have in common."""

import importlib.util
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

RTX = ("--backend", "rtx", "--compute-capability", "8.9")
RANGES = ("--batch", "1", "2", "4", "--tokens", "3", "8", "16")


def needs_rtx(test):
    """Mark a test that builds with TensorRT-RTX."""
    missing = importlib.util.find_spec("tensorrt_rtx") is None
    skip = pytest.mark.skipif(missing, reason="needs tensorrt-rtx-cu13")
    return pytest.mark.trt(skip(test))


def lone_graph(path: Path, operator: str, *types: int) -> Path:
    """An ONNX file of one node, with a dynamic batch and an input of each type."""
    types = types or (TensorProto.FLOAT,)
    values = [
        helper.make_tensor_value_info(name, kind, ["batch", 3])
        for name, kind in zip("xyz", (*types, types[0]), strict=False)
    ]
    names = [value.name for value in values]
    node = helper.make_node(operator, names[:-1], names[-1:], name="the_node")
    graph = helper.make_graph([node], "graph", values[:-1], values[-1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), path)
    return path
