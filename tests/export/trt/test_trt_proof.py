"""How an engine is compared; ONNX Runtime stands for the GPU that runs it."""

from dataclasses import replace

import onnx
import pytest

from export.parity import ParityError, ParityRow
from export.runtime.folder import Range, file_sha256
from export.runtime.onnx_session import OnnxSession
from export.trt.measures import check_gate, measure_parity

RANGES = {"batch": Range(1, 2, 4), "tokens": Range(3, 8, 16)}


def parity(exported, graph, *, run, ranges=RANGES):
    return measure_parity(
        run,
        replace(exported.graph(graph), ranges=ranges),
        onnx_file=exported.file(graph),
        precision="fp32",
        config=exported.model["config"],
    )


def runner(exported, graph, tmp_path, *, change=lambda model: None):
    """Runs batches on a changed copy of a graph."""
    model = onnx.load(exported.file(graph))
    change(model)
    file = tmp_path / f"{graph}.onnx"
    onnx.save(model, file)
    session = OnnxSession(file, replace(exported.graph(graph), sha256=file_sha256(file)))
    return lambda batches: [session.run(inputs) for inputs in batches]


def times(model, output, factor):
    """Multiply an output of a graph."""
    last = next(node for node in model.graph.node if output in node.output)
    last.output[0] = "before"
    model.graph.initializer.append(
        onnx.helper.make_tensor("factor", onnx.TensorProto.FLOAT, [], [factor])
    )
    model.graph.node.append(onnx.helper.make_node("Mul", ["before", "factor"], [output]))


def test_an_engine_is_compared_at_all_corners(exported, tmp_path):
    rows = parity(exported, "text", run=runner(exported, "text", tmp_path))
    corners = [tuple(row.sizes.values()) for row in rows]
    assert corners == [(1, 3), (1, 16), (4, 3), (4, 16)]
    assert all(row.max_abs_error < 1e-6 and row.min_cosine > 1 - 1e-6 for row in rows)
    check_gate("text", rows, report=exported.report, tf32=False)


def test_every_output_is_compared(reconstructing, tmp_path):
    graph, ranges = "reconstruct", RANGES | {"kept": Range(1, 4, 8)}
    same = parity(reconstructing, graph, run=runner(reconstructing, graph, tmp_path), ranges=ranges)
    assert max(row.max_abs_error for row in same) < 1e-6
    twice = runner(
        reconstructing, graph, tmp_path, change=lambda model: times(model, "word_logits", 2.0)
    )
    other = parity(reconstructing, graph, run=twice, ranges=ranges)
    assert min(row.max_abs_error for row in other) > 1e-3


def test_an_engine_of_other_weights_is_outside_the_gate(exported, tmp_path):
    def change(model):
        for tensor in model.graph.initializer:
            if len(tensor.dims) == 2 and tensor.data_type == onnx.TensorProto.FLOAT:
                values = 1.01 * onnx.numpy_helper.to_array(tensor)
                tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))

    rows = parity(exported, "text", run=runner(exported, "text", tmp_path, change=change))
    with pytest.raises(ParityError, match=r"text at batch 1, tokens 3: max_abs_error .* > 1e-05"):
        check_gate("text", rows, report=exported.report, tf32=False)


@pytest.mark.parametrize(
    ("error", "tf32", "fits"),
    [(9e-6, False, True), (2e-5, False, False), (5e-3, True, True), (2e-2, True, False)],
)
def test_tf32_has_the_gate_of_float16(error, tf32, fits):
    rows = [ParityRow({"batch": 1}, error, 1.0)]
    report = {"gate": {"atol": 1e-5, "min_cosine": 0.999999}}
    if fits:
        check_gate("text", rows, report=report, tf32=tf32)
    else:
        with pytest.raises(ParityError):
            check_gate("text", rows, report=report, tf32=tf32)


def test_numbers_that_are_none_are_told_of_their_graph(exported, tmp_path):
    nan = runner(
        exported, "text", tmp_path, change=lambda model: times(model, "text_embed", float("nan"))
    )
    with pytest.raises(ParityError, match="text: the output at batch 1, tokens 3 holds NaN"):
        parity(exported, "text", run=nan)
