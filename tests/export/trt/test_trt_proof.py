"""What is measured on a GPU, on a TensorRT that runs in the host's memory."""

import shutil
from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from export.parity import ParityError, ParityRow
from export.runtime.engine_file import read_engine_file
from export.runtime.folder import Range, read_exported_folder
from export.trt.measures import check_gate, measure_latency, measure_parity
from export.trt.parse import BuildError
from tests.export.host_tensorrt import (
    TEXT_PROFILES,
    Context,
    HostCuda,
    host_tensorrt,
    write_engine,
)

CLIPS = {end: [size, 4, 3, 32, 32] for end, size in (("min", 1), ("opt", 2), ("max", 4))}
KEPT = {"min": [1, 1], "opt": [2, 4], "max": [4, 8]}
ALL_PROFILES = [TEXT_PROFILES[0] | {"frames": CLIPS, "keep": KEPT}]
RANGES = {"batch": Range(1, 2, 4), "tokens": Range(3, 8, 16)}


@pytest.fixture
def host(monkeypatch):
    cuda = HostCuda()
    modules = {
        "tensorrt": host_tensorrt(ALL_PROFILES, cuda),
        "cuda.bindings.runtime": cuda,
    }
    monkeypatch.setattr("export.runtime.engine.importlib.import_module", modules.__getitem__)


def engine_of(folder, *, graph="text", content=None):
    """A graph's engine for the TensorRT of host_tensorrt: an ONNX file."""
    profiles = TEXT_PROFILES if graph == "text" else ALL_PROFILES
    path = write_engine(folder, graph, profiles, compute_capability="7.5 8.9", content=content)
    return read_engine_file(path)


def parity(folder, engine, *, ranges=RANGES):
    exported = read_exported_folder(folder)
    return measure_parity(
        engine,
        replace(exported.graph(engine.graph), ranges=ranges),
        onnx_file=exported.file(engine.graph),
        precision="fp32",
        config=exported.model["config"],
    )


def test_an_engine_is_compared_at_all_corners(host, exported_copy):
    rows = parity(exported_copy, engine_of(exported_copy))
    corners = [tuple(row.sizes.values()) for row in rows]
    assert corners == [(1, 3), (1, 16), (4, 3), (4, 16)]
    assert all(row.max_abs_error < 1e-6 and row.min_cosine > 1 - 1e-6 for row in rows)
    report = read_exported_folder(exported_copy).report
    check_gate("text", rows, report=report, tf32=False)


def test_every_output_is_compared(host, reconstructing, tmp_path):
    folder = Path(shutil.copytree(reconstructing.path, tmp_path / "copy"))
    ranges = RANGES | {"kept": Range(1, 4, 8)}
    same = parity(folder, engine_of(folder, graph="reconstruct"), ranges=ranges)
    assert max(row.max_abs_error for row in same) < 1e-6
    model = onnx.load(folder / "reconstruct.onnx")
    scale = onnx.helper.make_tensor("twice", onnx.TensorProto.FLOAT, [], [2.0])
    last = next(node for node in model.graph.node if "word_logits" in node.output)
    last.output[0] = "halves"
    model.graph.initializer.append(scale)
    model.graph.node.append(onnx.helper.make_node("Mul", ["halves", "twice"], ["word_logits"]))
    content = model.SerializeToString()
    other = parity(folder, engine_of(folder, graph="reconstruct", content=content), ranges=ranges)
    assert min(row.max_abs_error for row in other) > 1e-3


def test_an_engine_of_other_weights_is_outside_the_gate(host, exported_copy):
    model = onnx.load(exported_copy / "text.onnx")
    for tensor in model.graph.initializer:
        if len(tensor.dims) == 2 and tensor.data_type == onnx.TensorProto.FLOAT:
            values = 1.01 * onnx.numpy_helper.to_array(tensor)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    engine = engine_of(exported_copy, content=model.SerializeToString())
    rows = parity(exported_copy, engine)
    assert max(row.max_abs_error for row in rows) > 1e-4
    report = read_exported_folder(exported_copy).report
    with pytest.raises(ParityError, match=r"text at batch 1, tokens 3: max_abs_error .* > 1e-05"):
        check_gate("text", rows, report=report, tf32=False)


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


def test_latencies_tell_the_precision_of_each(host, exported_copy, exported_model_folder):
    engine_of(exported_copy)
    exported = read_exported_folder(exported_copy)
    rows = measure_latency(exported, "text", backend="tensorrt", model=exported_model_folder)
    rows = [row for row in rows if row["contestant"] == "tensorrt"]
    assert [row["batch"] for row in rows] == [1, 2, 4]
    assert {row["precision"] for row in rows} == {"fp32"}
    assert all(0 < row["p50_ms"] <= row["p95_ms"] for row in rows)


def test_numbers_that_are_none_are_told_of_their_graph(host, exported_copy):
    model = onnx.load(exported_copy / "text.onnx")
    last = next(node for node in model.graph.node if "text_embed" in node.output)
    last.output[0] = "embed"
    nan = onnx.helper.make_tensor("nan", onnx.TensorProto.FLOAT, [], [float("nan")])
    model.graph.initializer.append(nan)
    model.graph.node.append(onnx.helper.make_node("Mul", ["embed", "nan"], ["text_embed"]))
    engine = engine_of(exported_copy, content=model.SerializeToString())
    with pytest.raises(ParityError, match="text: the output at batch 1, tokens 3 holds NaN"):
        parity(exported_copy, engine)


def test_a_gpu_that_fails_at_an_engine(host, exported_copy, monkeypatch):
    monkeypatch.setattr(Context, "execute_async_v3", lambda self, stream: False)
    with pytest.raises(BuildError, match=r"text\.plan cannot be run: TensorRT refused"):
        parity(exported_copy, engine_of(exported_copy))
