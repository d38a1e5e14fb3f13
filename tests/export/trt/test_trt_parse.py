"""Graphs as TensorRT's parser reads them, and files that hold none."""

import re

import onnx
import pytest
from onnx import TensorProto

from export.runtime.engine_file import read_engine_file
from export.trt.command import main
from export.trt.library import open_library
from testing.export.rtx import RANGES, RTX, lone_graph, needs_rtx


@needs_rtx
def test_a_dry_run_reads_every_graph_and_builds_nothing(exported_copy, capsys):
    before = sorted(exported_copy.iterdir())
    assert main(["--onnx", str(exported_copy), *RTX, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    version = open_library("rtx").version
    for name in ("video", "text", "match"):
        [layers] = re.findall(rf"{name}: TensorRT {version} reads it as (\d+) layers", printed)
        # A layer for each operator at least, but for those that are folded into constants.
        assert int(layers) > len(onnx.load(exported_copy / f"{name}.onnx").graph.node) / 2
    assert "all graphs can be read; nothing was built" in printed
    assert sorted(exported_copy.iterdir()) == before


@needs_rtx
def test_an_unsupported_operator_is_named_with_its_node(tmp_path, capsys):
    file = lone_graph(tmp_path / "odd.onnx", "StringNormalizer")
    options = ("--onnx", str(file), *RTX, "--batch", "1", "2", "4")
    reason = "In node 0 with name: the_node and operator: StringNormalizer .*: UNSUPPORTED_NODE"
    assert main([*options, "--dry-run", "--out", str(tmp_path / "new")]) == 1
    printed = capsys.readouterr().out
    assert re.search(f"odd: {reason}", printed)
    assert "some graphs cannot be read; nothing was built" in printed
    assert main(options) == 1
    assert re.search(rf"error: odd\.onnx: {reason}", capsys.readouterr().out)
    assert sorted(tmp_path.iterdir()) == [file]


@needs_rtx
def test_types_that_do_not_fit_are_named_with_their_node(tmp_path, capsys):
    file = lone_graph(tmp_path / "mixed.onnx", "Add", TensorProto.FLOAT, TensorProto.FLOAT16)
    assert main(["--onnx", str(file), *RTX, "--batch", "1", "2", "4"]) == 1
    printed = capsys.readouterr().out
    assert "In node 0 with name: the_node and operator: Add (parseNode): INVALID_NODE" in printed
    assert "of types Float and Half" in printed
    assert printed.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == [file]


@needs_rtx
def test_a_single_file_is_built_with_ranges_that_are_given(tmp_path, capsys):
    file = lone_graph(tmp_path / "plain.onnx", "Softmax")
    assert main(["--onnx", str(file), *RTX]) == 2
    assert "give --batch MIN OPT MAX" in capsys.readouterr().out
    assert main(["--onnx", str(file), *RTX, "--batch", "1", "2", "4"]) == 0
    [profile] = read_engine_file(tmp_path / "plain.engine.json").profiles
    assert profile["x"].largest == (4, 3)
    assert main(["--onnx", str(file), *RTX, "--batch", "1", "2", "4", "--graphs", "text"]) == 2
    assert "--graphs chooses from a folder" in capsys.readouterr().out


@needs_rtx
def test_inputs_of_a_single_file_that_have_no_known_size_or_type(tmp_path, capsys):
    file = lone_graph(tmp_path / "plain.onnx", "Softmax")
    model = onnx.load(file)
    value = model.graph.input[0].type.tensor_type
    reasons = []
    for name in ("kept", ""):
        value.shape.dim[0].dim_param = name
        onnx.save(model, file)
        assert main(["--onnx", str(file), *RTX, "--dry-run"]) == 2
        reasons.append(capsys.readouterr().out)
    assert "how large kept may be; give the folder that export.onnx wrote" in reasons[0]
    assert "has a dimension with neither size nor name" in reasons[1]
    model.graph.input[0].type.sequence_type.elem_type.tensor_type.elem_type = TensorProto.FLOAT
    onnx.save(model, file)
    assert main(["--onnx", str(file), *RTX, "--dry-run"]) == 2
    assert "no tensor of a known type" in capsys.readouterr().out


@needs_rtx
@pytest.mark.parametrize("keep", [0, 100, 3000])
def test_a_truncated_graph_is_refused(exported_copy, tmp_path, capsys, keep):
    (tmp_path / "cut").mkdir()
    file = tmp_path / "cut" / "cut.onnx"
    file.write_bytes((exported_copy / "text.onnx").read_bytes()[:keep])
    assert main(["--onnx", str(file), *RTX, *RANGES]) == 2
    assert capsys.readouterr().out.startswith("error: ")
    assert sorted(file.parent.iterdir()) == [file]
    report = exported_copy / "text.onnx"
    report.write_bytes(report.read_bytes()[:-1])
    assert main(["--onnx", str(exported_copy), *RTX]) == 2
    assert "truncated" in capsys.readouterr().out
