"""`--debug` shows where an error arose; without it a command tells it on one line."""

import importlib

import pytest

COMMANDS = {
    "simvtp.pipelines.pretrain": ["--data.validation=NONE", "--run.out=OUT"],
    "simvtp.pipelines.finetune": ["--task=qa", "--model=NONE", "--run.out=OUT"],
    "simvtp.pipelines.evaluate": ["--model=NONE", "--data=NONE"],
    "simvtp.pipelines.embed": ["--model=NONE", "--data=NONE", "--out=OUT"],
    "simvtp.pipelines.predict": ["--model=NONE", "--data=NONE"],
    "simvtp.pipelines.prepare": ["--data=NONE", "--check"],
    "simvtp.pipelines.convert": ["NONE", "--out=OUT"],
    "simvtp.pipelines.serve": ["--model=NONE"],
    "simvtp.pipelines.visualize": ["--model=NONE", "--data=NONE", "--out=OUT"],
    "export.onnx": ["--model=NONE", "--out=OUT"],
    "export.trt": ["--onnx=NONE", "--out=OUT"],
    "export.triton": ["--from=NONE", "--out=OUT"],
    "export.bench": ["--dir=NONE"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_shows_where_an_error_arose(name, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = tmp_path / "none"
    places = {"NONE": folder, "OUT": tmp_path / "out"}
    arguments = list(COMMANDS[name])
    for word, place in places.items():
        arguments = [argument.replace(word, str(place)) for argument in arguments]
    command = importlib.import_module(name)
    said = {}
    for debug in (False, True):
        assert command.main([*arguments, *["--debug"] * debug]) == 2
        said[debug] = capsys.readouterr()
        assert "error: " in said[debug].out
    assert "Traceback" not in said[False].out + said[False].err
    assert "Traceback (most recent call last):" in said[True].err
    assert name.split(".")[0] in said[True].err
    assert said[True].out == said[False].out
