"""`--quiet` of the exporters leaves results and errors."""

import shutil

import pytest

from export import bench, onnx, triton
from testing.export.small_export import QUICK


@pytest.mark.parametrize("quiet", [True, False])
def test_exporting_timing_and_serving(exported, exported_model_folder, tmp_path, quiet, capsys):
    words = ["--quiet"] * quiet
    model, out = tmp_path / "model", tmp_path / "out"
    shutil.copytree(exported_model_folder, model)
    (model / "tokenizer.json").unlink()
    command = [f"--model={model}", f"--out={out}", "--graphs", "text", *QUICK, *words]
    assert onnx.main(command) == 0
    said = capsys.readouterr()
    assert "exported to" in said.out
    assert ("has no tokenizer.json" in said.out) == (not quiet)
    assert bool(said.err) == (not quiet)
    command = [f"--dir={out}", "--only", "onnxruntime-cpu", "--batches", "1", "--repeats=1"]
    assert bench.main([*command, *words]) == 0
    said = capsys.readouterr()
    assert "per second" in said.out
    assert not quiet or not said.err
    command = [f"--from={exported.path}", f"--out={tmp_path / 'models'}", "--device=cpu"]
    assert triton.main([*command, "--backend=python", *words]) == 0
    said = capsys.readouterr()
    assert "preprocess" in said.out
    assert ("clips of videos" in said.out) == (not quiet)
