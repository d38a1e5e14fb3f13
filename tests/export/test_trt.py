"""Engines are really parsed and built here; running them needs a GPU."""

import importlib.util
import json
import logging
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, helper

from export import trt
from export.engine_file import check_engine_bytes, check_engine_version, read_engine_file
from export.exporting import write_graph
from export.folder import Range, read_exported_folder
from export.graphs import build_graph
from export.trt_library import known_capabilities, open_library
from export.trt_program import read_program

RTX = ("--backend", "rtx", "--compute-capability", "8.9")
RANGES = ("--batch", "1", "2", "4", "--tokens", "3", "8", "16")
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def needs_rtx(test):
    """Mark a test that builds with TensorRT-RTX."""
    missing = importlib.util.find_spec("tensorrt_rtx") is None
    skip = pytest.mark.skipif(missing, reason="needs tensorrt-rtx-cu13")
    return pytest.mark.trt(skip(test))


@pytest.mark.parametrize("backend", ["tensorrt", "rtx"])
def test_a_missing_library_is_named_and_nothing_is_written(exported_copy, backend):
    before = sorted(exported_copy.iterdir())
    code = (
        "import sys; sys.modules['tensorrt'] = sys.modules['tensorrt_rtx'] = None\n"
        "from export import trt; raise SystemExit(trt.main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "--onnx", str(exported_copy), "--backend", backend]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    package = {"tensorrt": "tensorrt", "rtx": "tensorrt-rtx-cu13"}[backend]
    assert done.returncode == 2
    assert f"pip install {package}" in done.stdout
    assert "Traceback" not in done.stderr
    assert sorted(exported_copy.iterdir()) == before


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
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--batch", "1", "2", "5"), "batch of a profile must lie in 1 to 4"),
        (("--tokens", "2", "8", "16"), "tokens of a profile must lie in 3 to 16"),
        (("--batch", "3", "2", "4"), "smallest <= usual <= largest"),
        (("--precision", "fp16"), "was exported in fp32"),
        (("--graphs", "audio"), "holds no graph 'audio'"),
        (("--compute-capability", "9.0"), "builds for compute capability"),
        (("--workspace", "0"), "workspace must be above 0"),
        (("--timing-cache", "kernels.cache"), "leave --timing-cache out"),
        (("--version-compatible",), "leave --version-compatible out"),
        (("--out", "elsewhere"), "engines lie beside their graphs"),
    ],
)
def test_what_cannot_work_is_refused_before_building(exported_copy, capsys, options, message):
    assert trt.main(["--onnx", str(exported_copy), *RTX, *options]) == 2
    assert message in capsys.readouterr().out
    assert not list(exported_copy.glob("*.engine*"))


@needs_rtx
def test_options_that_need_a_gpu_say_so(exported_copy, capsys):
    if open_library("rtx").gpu is not None:
        pytest.skip("there is a GPU")
    command = ["--onnx", str(exported_copy), "--backend", "rtx"]
    assert trt.main([*command, "--compute-capability", "8.9", "--refittable"]) == 2
    assert "run this on a machine with a GPU" in capsys.readouterr().out
    assert trt.main(command) == 2
    assert "name one with --compute-capability, one of 7.5" in capsys.readouterr().out
    assert not list(exported_copy.glob("*.engine*"))


@needs_rtx
def test_what_a_refit_refuses(exported_copy, capsys):
    command = ["--onnx", str(exported_copy), "--backend", "rtx"]
    refit = ("--refit", str(exported_copy / "text.engine"))
    assert trt.main([*command, *refit]) == 2
    assert "text.engine.json" in capsys.readouterr().out
    assert trt.main([*command, "--compute-capability", "8.9", "--graphs", "text"]) == 0
    sidecar = exported_copy / "text.engine.json"
    told = json.loads(sidecar.read_text())
    refusals = [
        ({}, "was not built refittable"),
        ({"refittable": True, "precision": "bf16"}, "is in bf16, text.onnx in fp32"),
        ({"refittable": True, "outputs": []}, "differ in inputs or outputs"),
        ({"refittable": True, "graph": "video"}, "differ in inputs or outputs"),
        ({"refittable": True, "graph": "odd"}, "is of graph 'odd', given is video, text, match"),
        ({"refittable": True, "tensorrt_version": "1.0.0"}, "was built with TensorRT 1.0.0"),
        ({"refittable": True, "bytes": 7}, "truncated"),
    ]
    if open_library("rtx").gpu is None:
        refusals.append(({"refittable": True}, "refitting loads the engine, which needs the"))
    for changed, message in refusals:
        sidecar.write_text(json.dumps({**told, **changed}))
        capsys.readouterr()
        assert trt.main([*command, *refit]) == 2
        assert message in capsys.readouterr().out
    model = ["--model", "any", "--out", str(exported_copy), "--backend", "rtx"]
    assert trt.main([*model, *refit]) == 2
    assert "an export replaces its folder; choose another --out" in capsys.readouterr().out


@needs_rtx
def test_a_dry_run_counts_every_operator_and_builds_nothing(exported_copy, capsys):
    assert trt.main(["--onnx", str(exported_copy), *RTX, "--dry-run", "--graphs", "text"]) == 0
    printed = capsys.readouterr().out
    graph = onnx.load(exported_copy / "text.onnx").graph
    matmuls = sum(node.op_type == "MatMul" for node in graph.node)
    row = next(line.split() for line in printed.splitlines() if "MatMul" in line)
    assert row[1:4:2] == ["MatMul", str(matmuls)]
    assert "all operators are supported; nothing was built" in printed
    assert not list(exported_copy.glob("*.engine*"))


@needs_rtx
def test_an_unsupported_operator_is_named_with_its_node(tmp_path, capsys):
    file = lone_graph(tmp_path / "odd.onnx", "StringNormalizer")
    options = ("--onnx", str(file), *RTX, "--batch", "1", "2", "4")
    assert trt.main([*options, "--dry-run"]) == 1
    printed = capsys.readouterr().out
    assert "node 0 'the_node', operator StringNormalizer: UNSUPPORTED_NODE" in printed
    assert "some operators are not supported; nothing was built" in printed
    assert trt.main(options) == 1
    assert "node 0 'the_node', operator StringNormalizer" in capsys.readouterr().out
    assert sorted(tmp_path.iterdir()) == [file]


@needs_rtx
def test_types_that_do_not_fit_are_named_with_their_node(tmp_path, capsys):
    file = lone_graph(tmp_path / "mixed.onnx", "Add", TensorProto.FLOAT, TensorProto.FLOAT16)
    assert trt.main(["--onnx", str(file), *RTX, "--batch", "1", "2", "4"]) == 1
    printed = capsys.readouterr().out
    assert "node 0 'the_node', operator Add: INVALID_NODE" in printed
    assert "of types Float and Half" in printed
    assert printed.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == [file]


@needs_rtx
def test_a_single_file_is_built_with_ranges_that_are_given(tmp_path, capsys):
    file = lone_graph(tmp_path / "plain.onnx", "Softmax")
    assert trt.main(["--onnx", str(file), *RTX]) == 2
    assert "give --batch MIN OPT MAX" in capsys.readouterr().out
    assert trt.main(["--onnx", str(file), *RTX, "--batch", "1", "2", "4"]) == 0
    [profile] = read_engine_file(tmp_path / "plain.engine.json").profiles
    assert profile["x"].largest == (4, 3)


@needs_rtx
@pytest.mark.parametrize("keep", [0, 100, 3000])
def test_a_truncated_graph_is_refused(exported_copy, tmp_path, capsys, keep):
    (tmp_path / "cut").mkdir()
    file = tmp_path / "cut" / "cut.onnx"
    file.write_bytes((exported_copy / "text.onnx").read_bytes()[:keep])
    assert trt.main(["--onnx", str(file), *RTX, *RANGES]) == 2
    assert capsys.readouterr().out.startswith("error: ")
    assert sorted(file.parent.iterdir()) == [file]
    report = exported_copy / "text.onnx"
    report.write_bytes(report.read_bytes()[:-1])
    assert trt.main(["--onnx", str(exported_copy), *RTX]) == 2
    assert "truncated" in capsys.readouterr().out


@needs_rtx
def test_from_a_model_folder_in_one_command(exported_model_folder, tmp_path):
    out = tmp_path / "out"
    command = ["--model", str(exported_model_folder), "--out", str(out), *RTX]
    assert trt.main([*command, "--batch", "1", "1", "2", "--graphs", "video"]) == 0
    folder = read_exported_folder(out)
    assert folder.precision == "fp16"
    assert read_engine_file(out / "video.engine.json").onnx_sha256 == folder.graphs["video"].sha256


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
