"""Engines are really built here; running them needs a GPU."""

import logging
import re
from dataclasses import asdict

import pytest
import torch

from export.graphs import build_graph
from export.onnx.graph_file import write_graph
from export.runtime.engine_file import check_engine_bytes, check_engine_version, read_engine_file
from export.runtime.folder import Range, read_exported_folder
from export.trt import command as trt
from export.trt.library import Gpu, known_capabilities, open_library
from export.trt.program import read_program
from export.trt.settings import BuildSettings, Plan
from export.trt.sidecar import inspect_layers
from tests.export.rtx import RANGES, RTX, needs_rtx

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@needs_rtx
@pytest.mark.parametrize(
    ("precision", "opset"), [("fp32", 20), ("fp32", 23), ("fp16", 20), ("fp16", 23), ("bf16", 20)]
)
def test_engines_have_the_precision_of_their_graph_and_say_what_is_fused(
    exported_model, tmp_path, capsys, precision, opset
):
    file = tmp_path / "text.onnx"
    graph = build_graph(exported_model, "text", dtype=DTYPES[precision], opset=opset)
    ranges = {"batch": Range(1, 2, 4), "tokens": Range(3, 8, 16)}
    config = asdict(exported_model.config)
    spec = write_graph(graph, file, name="text", config=config, ranges=ranges, opset=opset)
    assert trt.main(["--onnx", str(file), *RTX, *RANGES]) == 0
    assert f"{precision} " in capsys.readouterr().out
    engine = read_engine_file(tmp_path / "text.engine.json")
    check_engine_bytes(engine)
    check_engine_version(engine, found=open_library("rtx").version)
    assert engine.onnx_sha256 == spec.sha256
    assert (engine.inputs, engine.outputs) == (spec.inputs, spec.outputs)
    told = engine.sidecar
    assert told["precision"] == precision
    assert re.fullmatch(r"1\d\.\d+", told["cuda_version"])
    assert told["peak_memory_bytes"] > engine.bytes > spec.bytes / 2
    program = read_program(engine.path.read_bytes())
    assert program.compute_capabilities == ("8.9",)
    # There are kernels for attention of half precision only; each of the two blocks has one.
    fused = 0 if precision == "fp32" else exported_model.config.depth
    assert len(program.fused_attention) == fused
    node = "node_softmax" if opset == 20 else "node_scaled_dot_product_attention"
    assert all(any(name.startswith(node) for name in names) for names in program.fused_attention)
    # All but the LayerNorm of words, pooling and small constants is in the graph's precision.
    matrices = sum(value.numel() for value in graph.parameters() if value.ndim == 2)
    size = DTYPES[precision].itemsize
    assert program.weight_bytes[precision] >= matrices * size
    assert set(program.weight_bytes) <= {precision, "fp32"}
    if precision != "fp32":
        assert program.weight_bytes["fp32"] < program.weight_bytes[precision] / 10
    if open_library("rtx").gpu is None:
        assert told["layers"]["fused_attention"]["count"] == fused
        assert told["layers"]["weight_bytes"] == program.weight_bytes
        assert (told["parity"], told["latency"]) == (None, None)
        assert told["not_measured"].startswith("needs a GPU of compute capability 8.9")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("text.engine", "text.engine.json", "text.onnx"),
    ]


@needs_rtx
def test_every_graph_of_a_folder_for_several_gpus_at_once(exported_copy, capsys):
    # The oldest has no products of float32.
    known = known_capabilities(open_library("rtx"))[1:]
    assert {"8.9", "12.0"} <= set(known)
    options = (
        "--backend",
        "rtx",
        "--compute-capability",
        *reversed(known),
        "--batch",
        "1",
        "2",
        "3",
    )
    assert trt.main(["--onnx", str(exported_copy), *options]) == 0
    assert " ".join(known) in capsys.readouterr().out
    for name, graph in read_exported_folder(exported_copy).graphs.items():
        engine = read_engine_file(exported_copy / f"{name}.engine.json")
        assert engine.compute_capability == " ".join(known)
        assert read_program(engine.path.read_bytes()).compute_capabilities == tuple(known)
        [profile] = engine.profiles
        assert set(profile) == {tensor.name for tensor in graph.inputs}
        assert {shapes.largest[0] for shapes in profile.values()} == {3}
        if name != "video":
            assert profile["token_ids"].largest == (3, 16)
    assert not list(exported_copy.glob(".building-*"))


@needs_rtx
@pytest.mark.parametrize(("options", "digit"), [((), b"0"), (("--tf32",), b"1")])
def test_float32_is_not_rounded_to_tf32_unless_asked_for(exported_copy, options, digit):
    assert trt.main(["--onnx", str(exported_copy), *RTX, "--graphs", "text", *options]) == 0
    engine = (exported_copy / "text.engine").read_bytes()
    assert b"\n  tf32=" + digit + b"\n" in engine
    assert b"\n  tf32=" + {b"0": b"1", b"1": b"0"}[digit] + b"\n" not in engine


@needs_rtx
def test_an_engine_for_another_gpu_than_that_of_this_machine_is_described(exported_copy):
    assert trt.main(["--onnx", str(exported_copy), *RTX, "--graphs", "text"]) == 0
    engine = (exported_copy / "text.engine").read_bytes()
    library = open_library("rtx")._replace(gpu=Gpu("other", "9.0"))
    told = inspect_layers(Plan(library, ("8.9",), BuildSettings(), {}), engine)
    assert told["source"] == "the program text in the engine"
    assert told["count"] == sum(read_program(engine).layers.values())


@needs_rtx
def test_an_engine_that_fails_leaves_the_older_one(exported_copy, capsys):
    command = ["--onnx", str(exported_copy), *RTX, "--graphs", "text"]
    assert trt.main(command) == 0
    before = {path: path.read_bytes() for path in exported_copy.iterdir()}
    # What a GPU cannot do is TensorRT's own error.
    assert trt.main([*command, "--compute-capability", "7.5"]) == 1
    assert "FP32 GEMM is not supported" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in exported_copy.iterdir()} == before


@needs_rtx
def test_the_librarys_own_output_goes_to_the_log(exported_copy, capfd, caplog):
    with caplog.at_level(logging.INFO, logger="export.trt"):
        assert trt.main(["--onnx", str(exported_copy), *RTX, "--graphs", "text", "--verbose"]) == 0
    assert any("Engine generation completed" in record.message for record in caplog.records)
    assert capfd.readouterr().err == ""


@needs_rtx
def test_from_a_model_folder_in_one_command(exported_model_folder, tmp_path):
    out = tmp_path / "out"
    command = ["--model", str(exported_model_folder), "--out", str(out), *RTX]
    assert trt.main([*command, "--batch", "1", "1", "2", "--graphs", "video"]) == 0
    folder = read_exported_folder(out)
    assert folder.precision == "fp16"
    assert read_engine_file(out / "video.engine.json").onnx_sha256 == folder.graphs["video"].sha256
