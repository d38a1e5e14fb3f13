"""Engines are really built here; running them needs a GPU."""

import re
from dataclasses import asdict

import pytest
import torch
from packaging.version import Version

from export.graphs import build_graph
from export.onnx.graph_file import write_graph
from export.placing import require_replaceable
from export.runtime.engine_file import check_engine_bytes, check_engine_version, read_engine_file
from export.runtime.folder import Range, read_exported_folder
from export.trt import BuildSettings, build_engines, main
from export.trt.library import open_library
from testing.export.rtx import RANGES, RTX, needs_rtx

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@needs_rtx
@pytest.mark.parametrize(("precision", "opset"), [("fp32", 23), ("fp16", 20), ("bf16", 20)])
def test_an_engine_of_each_precision(exported_model, tmp_path, capsys, precision, opset):
    file = tmp_path / "text.onnx"
    graph = build_graph(exported_model, "text", dtype=DTYPES[precision], opset=opset)
    ranges = {"batch": Range(1, 2, 4), "tokens": Range(3, 8, 16)}
    config = asdict(exported_model.config)
    spec = write_graph(graph, file, name="text", config=config, ranges=ranges, opset=opset)
    assert main(["--onnx", str(file), *RTX, *RANGES]) == 0
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
    if open_library("rtx").gpu is None:
        assert (told["parity"], told["latency"]) == (None, None)
        assert told["not_measured"].startswith("needs a GPU of compute capability 8.9")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("text.engine", "text.engine.json", "text.onnx"),
    ]


@needs_rtx
def test_every_graph_of_a_folder_for_several_gpus_at_once(exported_copy, capsys):
    # The oldest has no products of float32.
    known = open_library("rtx").compute_capabilities[1:]
    assert {"8.9", "12.0"} <= set(known)
    gpus = ("--backend", "rtx", "--compute-capability", *reversed(known))
    assert main(["--onnx", str(exported_copy), *gpus, "--batch", "1", "2", "3"]) == 0
    assert " ".join(known) in capsys.readouterr().out
    for name, graph in read_exported_folder(exported_copy).graphs.items():
        engine = read_engine_file(exported_copy / f"{name}.engine.json")
        assert engine.compute_capability == " ".join(known)
        [profile] = engine.profiles
        assert set(profile) == {tensor.name for tensor in graph.inputs}
        assert {shapes.largest[0] for shapes in profile.values()} == {3}
        if name != "video":
            assert profile["token_ids"].largest == (3, 16)


@needs_rtx
def test_an_engine_that_fails_leaves_the_older_one(exported_copy, capsys):
    if Version(open_library("rtx").version) < Version("1.7"):
        pytest.skip("TensorRT-RTX refuses no GPU for this before 1.7")
    command = ["--onnx", str(exported_copy), *RTX, "--graphs", "text"]
    assert main(command) == 0
    before = {path: path.read_bytes() for path in exported_copy.iterdir()}
    # What a GPU cannot do is TensorRT's own error.
    assert main([*command, "--compute-capability", "7.5"]) == 1
    assert "FP32 GEMM is not supported" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in exported_copy.iterdir()} == before


@needs_rtx
def test_what_a_killed_build_left_is_written_over(exported_copy):
    left = exported_copy / "text.engine.partial"
    left.write_bytes(b"half of it")
    require_replaceable(exported_copy)
    assert main(["--onnx", str(exported_copy), *RTX, "--graphs", "text"]) == 0
    check_engine_bytes(read_engine_file(exported_copy / "text.engine.json"))
    assert not left.exists()


@needs_rtx
def test_from_a_model_folder_in_one_command(exported_model_folder, tmp_path):
    out = tmp_path / "out"
    command = ["--model", str(exported_model_folder), "--out", str(out), *RTX]
    assert main([*command, "--batch", "1", "1", "2", "--graphs", "video"]) == 0
    folder = read_exported_folder(out)
    assert folder.precision == "fp16"
    assert read_engine_file(out / "video.engine.json").onnx_sha256 == folder.graphs["video"].sha256


@needs_rtx
def test_from_python(exported_copy):
    [engine] = build_engines(
        exported_copy,
        backend="rtx",
        compute_capabilities=["8.9"],
        graphs=["text"],
        ranges={"batch": Range(1, 1, 2)},
        settings=BuildSettings(tf32=True),
    )
    check_engine_bytes(engine)
    assert engine.path == exported_copy / "text.engine"
    assert engine.profiles[0]["token_ids"].largest == (2, 16)
    assert engine.sidecar["tf32"]
    with pytest.raises(ValueError, match="video has no tokens"):
        build_engines(
            exported_copy,
            backend="rtx",
            compute_capabilities=["8.9"],
            graphs=["video"],
            ranges={"tokens": Range(3, 8, 16)},
        )
