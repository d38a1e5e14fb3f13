import importlib
import importlib.metadata
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from simvtp.pipelines import console, doctor


def run(*words):
    code = "from simvtp.pipelines.console import main; raise SystemExit(main())"
    return subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)


def test_every_command_with_a_room_of_its_own_is_named():
    root = Path(console.__file__).parent
    rooms = {file.parent.name for file in root.glob("*/__main__.py")}
    exporters = {file.parent.name for file in (root.parent.parent / "export").glob("*/__main__.py")}
    assert rooms <= set(console.COMMANDS)
    assert exporters == {name.split()[1] for name in console.COMMANDS if name.startswith("export ")}


def test_a_command_gets_its_own_words_and_gives_its_own_exit_code():
    told = run("convert", "--help")
    assert told.returncode == 0
    assert "--out" in told.stdout
    refused = run("export", "onnx")
    assert refused.returncode == 2
    assert "--model" in refused.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["pretrian"], "did you mean pretrain?"),
        (["export"], "did you mean export onnx or export trt"),
        (["x"], "there are pretrain,"),
    ],
)
def test_what_is_no_command_is_refused(words, said, capsys):
    assert console.main(words) == 2
    assert said in capsys.readouterr().err


def test_shells_complete_commands_and_options(capsys):
    assert console.main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    for part in ("pretrain", "--run.batch_size", "onnx", "--clips-per-video"):
        assert part in script
    checked = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True)
    assert checked.returncode == 0, checked.stderr
    assert console.main(["completion", "csh"]) == 2


def test_a_command_whose_extra_is_missing_is_not_completed(monkeypatch):
    def lacking(name):
        if name == console.COMMANDS["search"].parser:
            raise ModuleNotFoundError("a video index needs lancedb")
        return importlib.import_module(name)

    monkeypatch.setattr(console, "importlib", SimpleNamespace(import_module=lacking))
    told = console.completed_parser().format_help()
    assert console.COMMANDS["embed"].summary[:20] in told
    assert console.COMMANDS["search"].summary[:20] not in told


def test_the_doctor_names_versions_kernels_and_what_an_extra_lacks(capsys, monkeypatch):
    original = importlib.metadata.version

    def version(name):
        if name == "peft":
            raise importlib.metadata.PackageNotFoundError(name)
        return original(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert doctor.main([]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert f"torch {original('torch')}" in told
    assert "attention by sdpa runs" in told
    assert "lacks peft: pip install 'simvtp[lora]'" in told


@pytest.mark.parametrize(
    ("package", "words", "extra"),
    [("lancedb", ["index", "--help"], "search"), ("onnx", ["export", "onnx"], "export")],
)
def test_a_command_without_its_packages_names_the_extra(package, words, extra):
    code = (
        f"import sys; sys.modules[{package!r}] = None; "
        f"from simvtp.pipelines.console import main; raise SystemExit(main({words!r}))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert told.returncode == 2
    assert f"pip install 'simvtp[{extra}]'" in " ".join(told.stderr.split())
    assert "Traceback" not in told.stderr
