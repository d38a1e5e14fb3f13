import numpy as np
import onnx
import onnxruntime
import pytest

from export.drawn_inputs import example_inputs
from export.onnx.quantize import METHODS, products, quantize_graph


def run(file, inputs):
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return session.run(None, inputs)[0]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["video", "text", "match"])
def test_int8_graphs_say_nearly_the_same(exported, tmp_path, name, method):
    config = exported.model["config"]
    batches = [example_inputs(config, name, batch=2, tokens=8, seed=seed) for seed in range(4)]
    source, target = exported.file(name), tmp_path / "int8.onnx"
    quantized = quantize_graph(source, target, method=method, batches=batches)
    assert [file.name for file in tmp_path.iterdir()] == ["int8.onnx"]
    onnx.checker.check_model(str(target), full_check=True)
    # Weights of all products but the first one's of the pixels are whole numbers now.
    whole = [
        tensor
        for tensor in onnx.load(target).graph.initializer
        if tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) == 2
    ]
    assert len(whole) == len(quantized) == len(products(source))
    matmuls = [node for node in onnx.load(source).graph.node if node.op_type == "MatMul"]
    assert len(quantized) < len(matmuls), "attention's own products stay as they are"
    inputs = example_inputs(config, name, batch=3, tokens=8, seed=9)
    expected, found = run(source, inputs), run(target, inputs)
    assert not np.array_equal(expected, found)
    np.testing.assert_allclose(found, expected, atol=0.08)


def test_weights_are_rounded_to_seven_bits_of_their_channel(exported, tmp_path):
    """Two products of eight bits overflow the 16 that CPUs without VNNI sum them in."""
    quantize_graph(exported.file("text"), tmp_path / "int8.onnx", method="dynamic")
    graph = onnx.load(tmp_path / "int8.onnx").graph
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    originals = [
        onnx.numpy_helper.to_array(tensor)
        for tensor in onnx.load(exported.file("text")).graph.initializer
        if len(tensor.dims) == 2
    ]
    checked = 0
    for name, whole in values.items():
        if whole.dtype != np.int8 or whole.ndim != 2:
            continue
        scale = values[name.replace("_quantized", "_scale")]
        errors = [
            np.abs(whole * scale - original).max() / scale.max()
            for original in originals
            if original.shape == whole.shape
        ]
        assert min(errors) <= 0.51
        assert np.abs(whole.astype(int)).max(axis=0).tolist() == [64] * whole.shape[1]
        checked += 1
    assert checked >= 8


def test_what_cannot_be_quantized_is_refused(exported, tmp_path):
    source, target = exported.file("text"), tmp_path / "int8.onnx"
    with pytest.raises(ValueError, match="int8_method must be one of dynamic, static"):
        quantize_graph(source, target, method="mixed")
    with pytest.raises(ValueError, match="needs batches to calibrate on"):
        quantize_graph(source, target, method="static")
    assert not list(tmp_path.iterdir())
