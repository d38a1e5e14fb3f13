import io
import json
import shutil
import subprocess
import sys
from copy import deepcopy
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from export import writing
from export.bench.machine import describe_machine, machine_text
from export.onnx import main
from export.report import print_report
from export.runtime import Runtime
from export.runtime.folder import file_sha256, read_exported_folder
from export.runtime.onnx_session import OnnxSession
from simvtp import SimVTP
from simvtp.printing import Console
from testing.export.small_export import QUICK, SIZES


def run(capsys, *arguments):
    """Exit code and what was printed."""
    code = main([str(argument) for argument in arguments])
    return code, " ".join(capsys.readouterr().out.split())


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def replaced(exported, exported_model_folder, tmp_path_factory):
    """One graph of a model without tokenizer, in opset 23, in place of three."""
    folder = tmp_path_factory.mktemp("replaced")
    model = Path(shutil.copytree(exported_model_folder, tmp_path_factory.mktemp("model") / "model"))
    (model / "tokenizer.json").unlink()
    shutil.copytree(exported.path, folder / "out")
    command = ("--model", model, "--out", folder / "out", "--graphs", "text", *QUICK)
    options = ("--external-data", "--opset", "23")
    assert main([str(argument) for argument in (*command, *options)]) == 0
    return read_exported_folder(folder / "out", check_hashes=True)


class TestFolder:
    def test_holds_what_serving_needs(self, exported, reconstructing, exported_model_folder):
        others = {"tokenizer.json", "preprocessor.json", "report.json", "report.md"}
        assert set(files_of(exported.path)) == {"video.onnx", "text.onnx", "match.onnx"} | others
        assert set(files_of(reconstructing.path)) == {"reconstruct.onnx"} | others
        for name in ("tokenizer.json", "preprocessor.json"):
            copied = exported.path / name
            assert copied.read_bytes() == (exported_model_folder / name).read_bytes()
        assert [path.name for path in reconstructing.path.parent.iterdir()] == ["exported"]

    def test_report(self, exported, exported_model_folder, exported_model):
        report = exported.report
        assert report["model"] == {
            "folder": exported_model_folder.name,
            "weights_sha256": file_sha256(exported_model_folder / "model.safetensors"),
            "config": json.loads(json.dumps(asdict(exported_model.config))),
        }
        assert (report["precision"], report["opset"]) == ("fp32", 20)
        assert report["versions"]["onnx"] == onnx.__version__
        assert report["graphs"]["text"]["ranges"] == {"batch": [1, 2, 4], "tokens": [3, 8, 16]}
        assert report["gate"] == {"atol": 1e-5, "min_cosine": 0.999999}
        parity = report["parity"]
        assert [(row["batch"], row["tokens"]) for row in parity["text"]] == [
            *((1, 3), (1, 16), (4, 3), (4, 16))
        ]
        for row in (*parity["video"], *parity["text"]):
            assert row["max_abs_error"] <= 1e-5
            assert row["min_cosine"] >= 0.999999
        assert parity["ranking"]["top1_changed"] == 0
        assert parity["ranking"]["gallery"] == 16

    def test_markdown(self, exported):
        text = (exported.path / "report.md").read_text()
        assert exported.report["model"]["weights_sha256"] in text
        assert "| video.onnx |" in text
        for row in exported.report["parity"]["match"]:
            assert f"| match | onnxruntime | {row['batch']} | {row['tokens']} |" in text

    def test_paths_are_printed_as_they_are(self, exported):
        said = io.StringIO()
        model = exported.report["model"] | {"folder": "runs[/red]/[bold]model"}
        print_report(Console(file=said, width=200), exported.report | {"model": model})
        assert "runs[/red]/[bold]model: fp32, opset 20" in said.getvalue()

    def test_an_older_export_is_replaced(self, replaced):
        assert set(replaced.graphs) == {"text"}
        assert not (replaced.path / "video.onnx").exists()
        assert [path.name for path in replaced.path.parent.iterdir()] == ["out"]

    def test_weights_in_a_file_of_their_own(self, replaced):
        spec = replaced.graph("text")
        assert spec.external_data == ("text.onnx.data",)
        sizes = {name: len(content) for name, content in files_of(replaced.path).items()}
        assert spec.bytes == sizes["text.onnx"] + sizes["text.onnx.data"]
        assert sizes["text.onnx.data"] > sizes["text.onnx"]

    def test_attention_is_an_operator_where_there_is_one(self, replaced):
        assert replaced.opset == 23
        assert replaced.report["graphs"]["text"]["operators"]["Attention"] == 2

    def test_a_model_without_a_tokenizer_takes_ids(self, replaced):
        assert not (replaced.path / "tokenizer.json").exists()
        note = "The model folder has no tokenizer.json: captions must come as token ids."
        assert note in replaced.report["notes"]

    def test_outside_the_gate_nothing_changes(
        self, exported, exported_model_folder, tmp_path, capsys
    ):
        out = tmp_path / "out"
        shutil.copytree(exported.path, out)
        before = files_of(out)
        command = ("--model", exported_model_folder, "--out", out, "--graphs", "text", *QUICK)
        code, said = run(capsys, *command, "--atol", "1e-12")
        assert code == 1
        assert "text by onnxruntime at batch 1, tokens 3: max_abs_error" in said
        assert "nothing was written" in said
        assert files_of(out) == before
        assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("precision", "kind", "runs"),
    [
        ("fp16", onnx.TensorProto.FLOAT16, {"onnxruntime"}),
        ("bf16", onnx.TensorProto.BFLOAT16, {"onnxruntime, widened", "torch bf16"}),
        ("int8", onnx.TensorProto.INT8, {"onnxruntime"}),
    ],
)
def test_precisions(exported_model_folder, tmp_path, capsys, precision, kind, runs):
    out = tmp_path / "out"
    command = ("--model", exported_model_folder, "--out", out, "--graphs", "text", *QUICK)
    code, said = run(capsys, *command, "--precision", precision)
    assert code == 0, said
    exported = read_exported_folder(out)
    model = onnx.load(exported.file("text"))
    kinds = [tensor.data_type for tensor in model.graph.initializer if len(tensor.dims) == 2]
    assert kinds.count(kind) >= 4 * 2
    assert exported.graph("text").outputs[0].dtype == "float32"
    rows = exported.report["parity"]["text"]
    assert {row["by"] for row in rows} == runs
    # Close, but not so close that nothing was rounded.
    assert all(1e-6 < row["max_abs_error"] < 1e-1 for row in rows)
    assert ("have not been run" in said) == (precision == "bf16")


def test_an_overflow_in_half_precision_is_told_of_its_graph(exported_model, tmp_path, capsys):
    model = deepcopy(exported_model)
    for block in model.encoder.transformer.blocks:
        block.attention.qkv.weight.data *= 1e6
    model.save_pretrained(tmp_path / "model")
    command = ("--model", tmp_path / "model", "--out", tmp_path / "out", "--graphs", "text")
    code, said = run(capsys, *command, *QUICK, "--precision", "fp16")
    assert code == 1
    assert "text by onnxruntime: the output at batch 1, tokens 3 holds NaN or infinity; " in said
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_graph_that_fails_when_it_runs(exported_model_folder, tmp_path, capsys, monkeypatch):
    def fail(self, inputs):
        raise RuntimeError("text.onnx cannot be run: out of memory")

    monkeypatch.setattr(OnnxSession, "run", fail)
    command = ("--model", exported_model_folder, "--out", tmp_path / "out", "--graphs", "text")
    code, said = run(capsys, *command, *QUICK)
    assert code == 1
    assert "text by onnxruntime: text.onnx cannot be run: out of memory; " in said
    assert list(tmp_path.iterdir()) == []


def test_clips_of_another_size(exported_model, exported_model_folder, tmp_path, capsys):
    out = tmp_path / "out"
    sizes = ("--num-frames", "6", "--image-size", "48")
    command = ("--model", exported_model_folder, "--out", out, "--graphs", "video", *sizes)
    code, said = run(capsys, *command, "--batch", 1, 2, 4, "--repeats", 1)
    assert code == 0, said
    exported = read_exported_folder(out)
    assert exported.graph("video").inputs[0].shape == ("batch", 6, 3, 48, 48)
    cut = json.loads((out / "preprocessor.json").read_text())
    assert cut == exported_model.preprocessor() | {"num_frames": 6, "image_size": 48}
    # Torch is timed with clips of that size too, so all three agree.
    rows = exported.report["latency"]
    assert len(rows) == 2 * 2
    assert all(row["max_difference"] <= 1e-5 for row in rows)
    # Positions are formulas: weights trained on few places serve more.
    other = SimVTP.from_config(replace(exported_model.config, num_frames=6, image_size=48))
    other.load_state_dict(exported_model.state_dict())
    clips = np.random.default_rng(0).integers(0, 256, (2, 6, 3, 48, 48), dtype=np.uint8)
    with torch.inference_mode():
        expected = other.encode_video(torch.from_numpy(clips)).numpy()
    with Runtime(out, threads=1) as runtime:
        np.testing.assert_allclose(runtime.encode_video(clips), expected, atol=1e-5)


class TestBadInput:
    @pytest.mark.parametrize(
        ("arguments", "reason"),
        [
            (("--opset", "26"), "opset must lie in 18 to 25, got 26"),
            (("--opset", "17"), "opset must lie in 18 to 25, got 17"),
            (("--batch", "4", "2", "8"), r"1 <= smallest <= usual <= largest, got (4, 2, 8)"),
            (("--batch", "0", "1", "2"), "got (0, 1, 2)"),
            (("--tokens", "3", "8", "17"), "at most 16, the model's max_text_length, got 17"),
            (("--tokens", "2", "8", "16"), "at least 3 ([CLS], a word, [SEP]), got 2"),
            (("--graphs", "text", "text"), "each once"),
            (("--atol", "-1"), "atol must be above 0 and finite, got -1.0"),
            (("--atol", "nan"), "atol must be above 0 and finite, got nan"),
            (("--atol", "inf"), "atol must be above 0 and finite, got inf"),
            (("--int8-method", "static"), "'static' is for precision int8, got fp32"),
            (("--graphs", "video", "--tokens", "3", "8", "16"), "which graph video has not"),
            (("--min-cosine", "1.5"), "min_cosine must lie in [-1, 1], got 1.5"),
            (("--image-size", "40"), "40"),
            (("--num-frames", "3"), "3"),
            (("--repeats", "-1"), "repeats must be >= 0, got -1"),
        ],
    )
    def test_settings(self, exported_model_folder, tmp_path, capsys, arguments, reason):
        command = ("--model", exported_model_folder, "--out", tmp_path / "out", *arguments)
        code, said = run(capsys, *command)
        assert code == 2
        assert said.startswith("error: ")
        assert reason in said
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("name", ["config.json", "model.safetensors", "preprocessor.json"])
    @pytest.mark.parametrize("damage", ["missing", "truncated", "empty"])
    def test_model_folders(self, exported_model_folder, tmp_path, capsys, name, damage):
        model = shutil.copytree(exported_model_folder, tmp_path / "model")
        path = Path(model) / name
        if damage == "missing":
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[: 50 if damage == "truncated" else 0])
        code, said = run(capsys, "--model", model, "--out", tmp_path / "out", *QUICK)
        assert (code, said[:7]) == (2, "error: ")
        assert name in said
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("values", [{}, {"frame_stride": 0}, {"frame_seconds": "x"}])
    def test_preprocessors_without_a_spacing(self, exported_model_folder, tmp_path, capsys, values):
        model = Path(shutil.copytree(exported_model_folder, tmp_path / "model"))
        (model / "preprocessor.json").write_text(json.dumps(values))
        code, said = run(capsys, "--model", model, "--out", tmp_path / "out", *QUICK)
        assert code == 2
        assert "preprocessor.json: " in said
        assert "frame_stride must be a whole number" in said or "frame_seconds" in said

    def test_other_peoples_graphs_are_left_alone(self, exported_model_folder, tmp_path, capsys):
        (tmp_path / "detector.onnx").write_bytes(b"mine")
        code, said = run(capsys, "--model", exported_model_folder, "--out", tmp_path, *QUICK)
        assert code == 2
        assert "holds detector.onnx but no report.json" in said
        assert files_of(tmp_path) == {"detector.onnx": b"mine"}

    def test_a_folder_that_is_no_export_is_left_alone(
        self, exported_model_folder, tmp_path, capsys
    ):
        (tmp_path / "notes.txt").write_text("mine")
        code, said = run(capsys, "--model", exported_model_folder, "--out", tmp_path, *QUICK)
        assert code == 2
        assert "holds notes.txt, which is no part of an export" in said
        command = ("--model", exported_model_folder, "--out", exported_model_folder, *QUICK)
        assert run(capsys, *command)[0] == 2
        command = ("--model", exported_model_folder, "--out", tmp_path / "notes.txt", *QUICK)
        code, said = run(capsys, *command)
        assert code == 2
        assert "is a file" in said


def test_the_command_does_not_hide_the_library():
    command = [sys.executable, "-W", "error", "-m", "export.onnx", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[3])
    assert done.returncode == 0, done.stderr
    assert "--min-cosine" in done.stdout


@pytest.mark.slow
def test_latencies(exported_model_folder, tmp_path, capsys):
    out = tmp_path / "out"
    command = ("--model", exported_model_folder, "--out", out, "--graphs", "text", *SIZES)
    code, said = run(capsys, *command, "--repeats", 2)
    assert code == 0, said
    rows = read_exported_folder(out).report["latency"]
    assert [(row["batch"], row["contestant"]) for row in rows] == [
        (batch, contestant) for batch in (1, 2) for contestant in ("torch-eager", "onnxruntime-cpu")
    ]
    assert all(0 < row["p50_ms"] <= row["p95_ms"] for row in rows)
    assert f"Timed on {machine_text(describe_machine())} with threads: 1" in said


def test_a_stopped_timing_costs_its_figures_alone(
    exported_model_folder, tmp_path, capsys, monkeypatch
):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(writing, "bench", stop)
    out = tmp_path / "out"
    command = ("--model", exported_model_folder, "--out", out, "--graphs", "text", *SIZES)
    code, said = run(capsys, *command, "--repeats", 2)
    assert code == 0, said
    report = read_exported_folder(out).report
    assert report["latency"] == []
    assert report["notes"][-1] == "Not timed: it was stopped meanwhile."


def test_the_options_of_image_transformers(exported_model, tmp_path, capsys):
    options = {"activation": "quick_gelu", "norm_eps": 1e-5, "extra_tokens": 2}
    config = replace(exported_model.config, **options, video_norm="layer_norm")
    model = SimVTP.from_config(config, tokenizer=exported_model.tokenizer)
    model.load_state_dict(exported_model.state_dict(), strict=False)
    model.save_pretrained(tmp_path / "model")
    command = ("--model", tmp_path / "model", "--out", tmp_path / "out", "--graphs", "match")
    code, said = run(capsys, *command, *QUICK)
    assert code == 0, said
