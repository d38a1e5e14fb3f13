"""What is missing or wrong is said before anything is built."""

import json
import subprocess
import sys

import pytest

from export.tracing import ExportError
from export.trt import command as trt
from export.trt.library import Gpu, open_library
from export.trt.source import find_source
from testing.export.rtx import RTX, needs_rtx


@pytest.mark.parametrize("backend", ["tensorrt", "rtx"])
def test_a_missing_library_is_named_and_nothing_is_written(exported_copy, backend):
    before = sorted(exported_copy.iterdir())
    code = (
        "import sys; sys.modules['tensorrt'] = sys.modules['tensorrt_rtx'] = None\n"
        "from export.trt.command import main; raise SystemExit(main(sys.argv[1:]))"
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
        (("--graphs", "video", "--tokens", "3", "8", "16"), "video has no tokens; leave --tokens"),
        (("--refit", "text.engine"), "--refit keeps what the engine was built with"),
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
def test_what_a_refit_refuses(exported_copy, capsys, monkeypatch):
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
    library = open_library("rtx")
    other = library.cuda._replace(gpu=Gpu("Hopper", "9.0"))
    monkeypatch.setattr(trt, "open_library", lambda backend: library._replace(cuda=other))
    assert trt.main([*command, *refit]) == 2
    assert "for compute capability 8.9, Hopper here has 9.0" in capsys.readouterr().out
    (exported_copy / "text.plan").write_bytes((exported_copy / "text.engine").read_bytes())
    plan = {**told, "refittable": True, "backend": "tensorrt", "file": "text.plan"}
    (exported_copy / "text.plan.json").write_text(json.dumps(plan))
    assert trt.main([*command, "--refit", str(exported_copy / "text.plan")]) == 2
    assert "is an engine of --backend tensorrt, got rtx" in capsys.readouterr().out
    model = ["--model", "any", "--out", str(exported_copy), "--backend", "rtx"]
    assert trt.main([*model, *refit]) == 2
    assert "an export replaces its folder; choose another --out" in capsys.readouterr().out


@needs_rtx
def test_data_centre_tensorrt_without_a_gpu(exported_copy, capsys, monkeypatch):
    library = open_library("rtx")
    cuda = library.cuda._replace(gpu=None)
    library = library._replace(backend="tensorrt", cuda=cuda)
    monkeypatch.setattr(trt, "open_library", lambda backend: library)
    for more in ((), ("--dry-run",)):
        assert trt.main(["--onnx", str(exported_copy), *more]) == 2
        assert "data-centre TensorRT needs the NVIDIA GPU" in capsys.readouterr().out


@needs_rtx
def test_polygraphy_that_is_missing(exported_copy, capsys, monkeypatch):
    monkeypatch.setattr("export.trt.library.importlib.util.find_spec", lambda name: None)
    assert trt.main(["--onnx", str(exported_copy), *RTX]) == 2
    assert "pip install 'simvtp[rtx]'" in capsys.readouterr().out


@needs_rtx
def test_without_cuda_bindings_nobody_says_that_there_is_no_gpu(exported_copy, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    assert trt.main(["--onnx", str(exported_copy), "--backend", "rtx"]) == 2
    printed = capsys.readouterr().out
    assert "pip install cuda-bindings" in printed
    assert "none can be used here" not in printed


@needs_rtx
def test_a_timing_cache_within_the_folder_that_an_export_replaces(tmp_path):
    command = [
        "--model",
        "any",
        "--out",
        str(tmp_path),
        "--timing-cache",
        str(tmp_path / "k.cache"),
    ]
    options = trt.build_parser().parse_args(command)
    with pytest.raises(ValueError, match=r"holds k\.cache itself, and an export replaces"):
        find_source(options, {})


@needs_rtx
@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ExportError("graph 'text' cannot be exported"), 1, "graph 'text' cannot be exported"),
        (OSError(28, "No space left on device"), 2, "out: No space left on device"),
    ],
)
def test_an_export_that_fails(tmp_path, capsys, monkeypatch, error, code, message):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("export.onnx.folder.export_folder", fail)
    assert trt.main(["--model", "any", "--out", str(tmp_path / "out"), *RTX]) == code
    printed = capsys.readouterr().out
    assert printed.startswith("error: ")
    assert printed.endswith(f"{message}\n")


@needs_rtx
def test_a_model_cannot_be_exported_without_torch(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "export.onnx.folder", None)
    assert trt.main(["--model", "any", "--out", str(tmp_path / "out"), *RTX]) == 2
    assert "pip install 'simvtp[export]', or export it elsewhere" in capsys.readouterr().out
