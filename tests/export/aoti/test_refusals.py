"""Compiled code is run for who asks for it by name, where it was made for, and as it was made."""

import json
import shutil
import subprocess
import sys
from dataclasses import asdict

import pytest
import torch
from google.protobuf import text_format
from torch import nn
from tritonclient.grpc import model_config_pb2

from export.aoti import AotiSettings
from export.aoti.compiling import compile_graph, require_compiler
from export.bench import BenchOptions, bench
from export.bench import main as bench_main
from export.placing import require_replaceable
from export.runtime import Runtime
from export.runtime.folder import Range, file_sha256, read_exported_folder
from export.tracing import ExportError
from export.triton.command import main as triton_main
from export.triton.config import ServingSettings
from export.triton.repository import write_repository
from export.trt import main as trt_main
from testing.export.small_export import CAPTIONS


class TestNobodyRunsWhatHeDidNotName:
    def test_a_folder_of_code_is_not_opened_as_one_of_graphs(self, claimed, loaded):
        folder = claimed()
        with pytest.raises(ValueError, match=r"holds compiled code \(\.pt2\), wanted are ONNX"):
            Runtime(folder)
        assert loaded == []

    def test_code_that_lies_in_a_folder_of_graphs(self, exported_copy, loaded, capsys):
        for name in ("video", "text", "match"):
            (exported_copy / f"{name}.pt2").write_bytes(b"not to be touched")
        with Runtime(exported_copy, threads=1) as runtime:
            assert runtime.encode_text(CAPTIONS[0]).shape == (1, 32)
        command = ["--dir", str(exported_copy), "--graphs", "text", "--repeats", "1"]
        assert bench_main(command) == 0
        said = " ".join(capsys.readouterr().out.split())
        assert "skipped aoti-cpu on text: give what python -m export.aoti --device cpu" in said
        assert loaded == []

    def test_the_bench_runs_no_code_of_the_folder_it_is_given(self, claimed, loaded):
        folder = read_exported_folder(claimed(), kind=None)
        with pytest.raises(ValueError, match=r"nothing could be measured: .*wanted are ONNX"):
            bench(folder, BenchOptions(("text",), only=("onnxruntime-cpu", "aoti-cpu")))
        assert loaded == []

    @pytest.mark.parametrize(
        "command",
        [
            (trt_main, "--onnx", "FOLDER", "--backend", "rtx", "--compute-capability", "8.9"),
            (triton_main, "--from", "FOLDER", "--out", "OUT"),
        ],
    )
    def test_who_wants_graphs_says_so(self, claimed, tmp_path, capsys, loaded, command):
        names = {"FOLDER": str(claimed()), "OUT": str(tmp_path / "out")}
        main, *words = command
        assert main([names.get(word, word) for word in words]) == 2
        assert "wanted are ONNX graphs" in " ".join(capsys.readouterr().out.split())
        assert loaded == []

    def test_a_folder_of_graphs_is_no_code(self, exported, loaded):
        with pytest.raises(ValueError, match=r"holds ONNX graphs, wanted are compiled code"):
            Runtime(exported.path, backend="aoti")
        assert loaded == []

    def test_providers_are_those_of_onnx_runtime(self, claimed):
        with pytest.raises(ValueError, match="provider is a setting of backend 'onnxruntime'"):
            Runtime(claimed(), backend="aoti", provider="cpu")


class TestNotLoaded:
    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"versions": {"torch": "2.9.1+cpu"}}, "compiled by torch 2.9.1.cpu, this is"),
            ({"versions": {}}, "'versions' has no 'torch'; compile it here"),
            ({"instructions": ["avx9000"]}, "a processor with avx9000, which this one lacks"),
            ({"instructions": ...}, "the report has no 'instructions'"),
            ({"device": "tpu"}, "device must be one of cpu, cuda, got 'tpu'"),
            ({"device": "cuda"}, "the report has no 'compute_capability'"),
        ],
    )
    def test_for_another_machine(self, claimed, loaded, changes, reason):
        runtime = Runtime(claimed(**changes), backend="aoti")
        with pytest.raises(ValueError, match=reason):
            runtime.open("text")
        assert loaded == []

    @pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
    def test_for_a_gpu(self, claimed, loaded):
        runtime = Runtime(claimed(device="cuda", compute_capability="9.0"), backend="aoti")
        with pytest.raises(ValueError, match="for a GPU, and torch finds no GPU 0 here"):
            runtime.open("text")
        assert loaded == []

    def test_changed_since(self, claimed, loaded):
        folder = claimed()
        file = folder / "text.pt2"
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
        with pytest.raises(ValueError, match=r"text\.pt2 have SHA-256 .* they were changed"):
            Runtime(folder, backend="aoti").open("text")
        assert loaded == []

    def test_files_of_another_ending(self, exported_copy, claimed, loaded):
        folder = claimed()
        report = json.loads((folder / "report.json").read_text())
        report["graphs"]["text"]["file"] = "text.so"
        (folder / "report.json").write_text(json.dumps(report))
        (folder / "text.pt2").rename(folder / "text.so")
        with pytest.raises(ValueError, match=r"text\.so must be a \.pt2 file"):
            Runtime(folder, backend="aoti").open("text")
        assert loaded == []

    def test_what_is_no_code_at_all(self, claimed, loaded):
        runtime = Runtime(claimed(), backend="aoti")
        with pytest.raises(ValueError, match=r"text\.pt2 cannot be loaded by torch .*; compile it"):
            runtime.open("text")
        assert loaded == [str(runtime.folder.file("text"))]


class TestBench:
    def test_code_of_another_model(self, claimed, exported, capsys):
        folder = claimed(model=exported.report["model"] | {"weights_sha256": "0" * 64})
        command = ("--dir", exported.path, "--aoti", folder)
        assert bench_main([str(word) for word in command]) == 2
        assert "was compiled from another model" in " ".join(capsys.readouterr().out.split())

    def test_two_folders_for_one_device(self, claimed, exported, tmp_path, capsys):
        folder = claimed()
        other = shutil.copytree(folder, tmp_path / "other")
        command = ("--dir", exported.path, "--aoti", folder, other)
        assert bench_main([str(word) for word in command]) == 2
        assert "were both compiled for cpu" in " ".join(capsys.readouterr().out.split())


class TestSettings:
    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"precision": "int8"}, "precision must be one of fp32, fp16, bf16, got 'int8'"),
            ({"device": "tpu"}, "device must be one of cpu, cuda, got 'tpu'"),
            ({"graphs": ("sound",)}, "graphs must be one of"),
        ],
    )
    def test_out_of_range(self, changes, reason):
        with pytest.raises(ValueError, match=reason):
            AotiSettings(**changes)


class TestCompiler:
    def test_the_one_that_is_missing_is_named(self):
        named = r"C\+\+ compiler, and /none/c\+\+ cannot be run; install g\+\+"
        missing = torch._inductor.config.patch({"cpp.cxx": (None, "/none/c++")})
        with missing, pytest.raises(ValueError, match=named):
            require_compiler()

    def test_nothing_begins_without_it_or_needs_onnx(self, exported_model_folder, tmp_path):
        code = (
            "import sys\n"
            "sys.modules |= dict.fromkeys(('onnx', 'onnxscript', 'onnxruntime'))\n"
            "from export.aoti import main\n"
            "raise SystemExit(main())"
        )
        words = ("--model", exported_model_folder, "--out", tmp_path / "out")
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, words)],
            env={"CXX": "/none/c++", "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 2, done.stderr
        assert "/none/c++ cannot be run" in " ".join(done.stdout.split())
        assert not (tmp_path / "out").exists()

    @pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
    def test_a_gpu_that_is_not_there(self, exported_model, tmp_path):
        with pytest.raises(ValueError, match="needs the GPU that the graphs are for"):
            exported_model.export_aoti(tmp_path / "out", AotiSettings(device="cuda"))
        assert not (tmp_path / "out").exists()

    def test_what_cannot_be_traced(self, exported_model, tmp_path):
        class Reading(nn.Module):
            def forward(self, token_ids, attention_mask):
                return token_ids if attention_mask.sum().item() > 3 else attention_mask

        ranges = {"batch": Range(1, 2, 4), "tokens": Range(3, 8, 16)}
        common = {"name": "text", "config": asdict(exported_model.config), "ranges": ranges}
        common |= {"device": "cpu", "scratch": tmp_path}
        with pytest.raises(ExportError, match="graph 'text' cannot be compiled: "):
            compile_graph(Reading(), tmp_path / "text.pt2", **common)
        assert list(tmp_path.iterdir()) == []


def test_an_older_compilation_may_be_replaced_and_nothing_else(claimed):
    folder = claimed()
    require_replaceable(folder)
    (folder / "code.so").write_bytes(b"")
    with pytest.raises(ValueError, match=r"holds code\.so, which is no part of an export"):
        require_replaceable(folder)


class TestTriton:
    """A repository of compiled graphs; what serves it is not here, see docs/not_run.md."""

    @pytest.fixture
    def configs(self, claimed, tmp_path, loaded):
        out = tmp_path / "models"
        options = ("--backend", "pytorch", "--device", "cpu", "--threads", "3")
        assert triton_main(["--from", str(claimed()), "--out", str(out), *options]) == 0
        assert loaded == []
        return {
            file.parent.name: text_format.Parse(file.read_text(), model_config_pb2.ModelConfig())
            for file in out.glob("*/config.pbtxt")
        }

    def test_graphs_are_called_as_their_backend_calls_them(self, configs, exported, tmp_path):
        match, spec = configs["match"], exported.graph("match")
        assert (match.platform, match.default_model_filename) == ("torch_aoti", "model.pt2")
        assert match.parameters["INTRA_OP_THREAD_COUNT"].string_value == "3"
        assert [tensor.name for tensor in match.input] == ["INPUT__0", "INPUT__1", "INPUT__2"]
        assert [tensor.name for tensor in match.output] == ["OUTPUT__0"]
        dims = [list(tensor.dims) for tensor in match.input]
        assert dims == [[4, 3, 32, 32], [-1], [-1]]
        for request in match.model_warmup:
            assert set(request.inputs) == {"INPUT__0", "INPUT__1", "INPUT__2"}
            assert request.inputs["INPUT__2"].input_data_file == "attention_mask"
        copied = tmp_path / "models" / "match" / "1"
        assert [file.name for file in copied.iterdir()] == ["model.pt2"]
        assert file_sha256(copied / "model.pt2") == spec.sha256

    def test_ensembles_call_them_as_users_do(self, configs):
        search = configs["search"].ensemble_scheduling.step
        assert dict(search[1].input_map) == {"INPUT__0": "token_ids", "INPUT__1": "attention_mask"}
        assert dict(search[1].output_map) == {"OUTPUT__0": "text_embed"}
        assert [tensor.name for tensor in configs["search"].output] == ["text_embed"]
        match = configs["match_video"]
        assert {tensor.name for tensor in match.input} == {"TEXT", "VIDEO"}
        assert [tensor.name for tensor in match.output] == ["match_probability"]

    def test_code_for_another_device(self, claimed, tmp_path, capsys):
        options = ("--from", claimed(), "--out", tmp_path / "models", "--backend", "pytorch")
        assert triton_main([str(word) for word in options]) == 2
        said = " ".join(capsys.readouterr().out.split())
        assert "was compiled for cpu, got device gpu; compile it with" in said

    def test_graphs_are_not_for_this_backend(self, exported, tmp_path):
        settings = ServingSettings(backend="pytorch")
        with pytest.raises(ValueError, match=r"serves what python -m export\.aoti writes"):
            write_repository(exported, tmp_path, settings, None)
