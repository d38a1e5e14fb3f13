import json
import time

import numpy as np
import pytest
import torch

from export.bench import BenchOptions, bench, main
from export.bench.contestants import NAMES
from export.bench.machine import describe_machine
from export.bench.rounds import measure_rounds
from export.runtime import Runtime
from export.runtime.folder import read_exported_folder


def run(capsys, *arguments):
    """Exit code and what was printed, in one line."""
    code = main([str(argument) for argument in arguments])
    return code, " ".join(capsys.readouterr().out.split())


@pytest.fixture(scope="module")
def figures(exported, exported_model_folder):
    """Figures of onnxruntime and torch on all graphs."""
    only = ("onnxruntime-cpu", "torch-eager", "rtx")
    options = BenchOptions(
        batches=(1, 3), repeats=2, warmup=1, threads=1, model=exported_model_folder, only=only
    )
    return bench(exported, options)


class TestFigures:
    def test_a_row_for_each_graph_batch_and_contestant(self, figures):
        timings, _ = figures
        assert [row[:3] for row in timings] == [
            (graph, batch, contestant)
            for graph in ("video", "text", "match")
            for batch in (1, 3)
            for contestant in ("onnxruntime-cpu", "torch-eager")
        ]

    def test_figures_make_sense(self, figures):
        for row in figures[0]:
            assert 0 < row.p50_ms <= row.p95_ms
            assert row.per_second == pytest.approx(1000 * row.batch / row.p50_ms)

    def test_contestants_agree(self, figures):
        # Zero for the first, and never zero by accident for the other.
        for row in figures[0]:
            assert row.max_difference < 1e-5
            assert row.contestant != "onnxruntime-cpu" or row.max_difference == 0
        assert any(row.max_difference > 0 for row in figures[0])

    def test_what_was_left_out(self, figures):
        skipped = figures[1]
        assert [row[:2] for row in skipped] == [
            (graph, "rtx") for graph in ("video", "text", "match")
        ]
        assert all("tensorrt_rtx" in row.reason or "engine" in row.reason for row in skipped)


class TestCommand:
    def test_table_and_json(self, exported, tmp_path, capsys):
        target = tmp_path / "bench.json"
        command = ("--dir", exported.path, "--graphs", "text", "--tokens", 5, "--repeats", 2)
        code, said = run(capsys, *command, "--threads", 1, "--json", target)
        assert code == 0, said
        report = json.loads(target.read_text())
        timed = {row["contestant"] for row in report["latency"]}
        # OpenVINO's bf16 is for processors that multiply it.
        assert timed - {"openvino-bf16"} == {"onnxruntime-cpu", "openvino"}
        for name in timed:
            batches = [row["batch"] for row in report["latency"] if row["contestant"] == name]
            assert batches == [1, 2, 4]
        left_out = {row["contestant"] for row in report["skipped"]}
        assert left_out == set(NAMES) - timed
        assert report["versions"]["onnxruntime"]
        assert report["machine"] == describe_machine()
        assert report["graphs"]["text"] == exported.graph("text").sha256
        for row in report["latency"]:
            cells = [cell.strip() for cell in said.split("│")]
            assert row["contestant"] in cells
            assert f"{row['p50_ms']:.2f}" in cells
        for name in left_out:
            assert f"skipped {name} on text: " in said
        assert "skipped torch-eager on text: give the model folder with --model" in said

    @pytest.mark.parametrize(
        ("arguments", "reason"),
        [
            (["--batches", 5], "batch must be from 1 to 4, got 5; split"),
            (["--tokens", 17], "tokens must be from 3 to 16, got 17"),
            (["--graphs", "sound"], "no graph 'sound', only video, text, match"),
            (["--json", "/none/x.json"], "there is no folder /none"),
            (["--model", "/none"], "neither a folder here nor"),
            (["--only", "torch-eager"], "nothing could be measured: torch-eager on video: give"),
        ],
    )
    def test_refusals(self, exported, capsys, monkeypatch, arguments, reason):
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        code, said = run(capsys, "--dir", exported.path, *arguments)
        assert code == 2
        assert said.startswith("error: ")
        assert reason in said

    @pytest.mark.parametrize("arguments", [["--repeats", "0"], ["--only", "tpu"], []])
    def test_bad_options(self, exported, arguments, capsys):
        folder = ["--dir", str(exported.path)] if arguments else []
        with pytest.raises(SystemExit, match="2"):
            main([*folder, *arguments])
        assert "error: " in capsys.readouterr().err

    def test_paths_are_printed_as_they_are_and_figures_before_a_disk_fails(
        self, exported_copy, tmp_path, capsys
    ):
        folder = exported_copy.rename(tmp_path / "[red]x")
        command = ("--dir", folder, "--graphs", "text", "--batches", 1, "--repeats", 1)
        code, said = run(capsys, *command, "--json", tmp_path)
        assert code == 2
        assert f"{folder} (fp32)" in said
        assert "│ 1 │ onnxruntime-cpu │" in said
        assert f"error: {tmp_path}: Is a directory" in said

    def test_it_may_be_stopped(self, exported, monkeypatch, capsys):
        def stop(*_):
            raise KeyboardInterrupt

        monkeypatch.setattr(Runtime, "run", stop)
        assert run(capsys, "--dir", exported.path, "--graphs", "text") == (130, "stopped")

    def test_folders_that_are_none(self, tmp_path, capsys):
        code, said = run(capsys, "--dir", tmp_path)
        assert (code, "report.json cannot be read" in said) == (2, True)

    def test_another_model(self, exported, exported_model, tmp_path, capsys):
        from copy import deepcopy

        other = deepcopy(exported_model)
        other.match_head.bias.data += 1
        other.save_pretrained(tmp_path / "other")
        code, said = run(capsys, "--dir", exported.path, "--model", tmp_path / "other")
        assert code == 2
        assert "does not hold the weights" in said

    def test_a_model_of_the_library_is_found_by_its_name(self, exported, capsys):
        code, told = run(capsys, "--dir", exported.path, "--model", "shapes")
        assert code == 2
        assert "does not hold the weights that" in told

    def test_an_engine_that_is_stale_is_left_out(self, exported_copy):
        (exported_copy / "text.plan.json").write_text("{}")
        folder = read_exported_folder(exported_copy)
        options = BenchOptions(("text",), only=("onnxruntime-cpu", "tensorrt"), repeats=1)
        timings, skipped = bench(folder, options)
        assert {row.contestant for row in timings} == {"onnxruntime-cpu"}
        assert [row.contestant for row in skipped] == ["tensorrt"]


@pytest.mark.slow
def test_what_torch_does_not_compile_is_not_timed_as_compiled(
    exported, exported_model_folder, request
):
    torch._dynamo.reset()
    request.addfinalizer(torch._dynamo.reset)
    options = BenchOptions(
        ("text",), (1, 2), model=exported_model_folder, only=("torch-compiled",), repeats=1
    )
    with torch._dynamo.config.patch(recompile_limit=1):
        timings, skipped = bench(exported, options)
    assert [row.batch for row in timings] == [1]
    assert [row.reason[:8] for row in skipped] == ["batch 2:"]


def test_a_contestant_that_fails_does_not_stop_the_others(exported, monkeypatch):
    real = Runtime.run

    def fail_above_one(self, graph, inputs):
        if len(inputs["token_ids"]) > 1:
            raise MemoryError("no memory\nmore")
        return real(self, graph, inputs)

    monkeypatch.setattr(Runtime, "run", fail_above_one)
    options = BenchOptions(("text",), (1, 2), only=("onnxruntime-cpu",), repeats=1)
    timings, skipped = bench(exported, options)
    assert [row.batch for row in timings] == [1]
    assert [tuple(row) for row in skipped] == [
        ("text", "onnxruntime-cpu", "batch 2: MemoryError: no memory")
    ]


def test_rounds_are_interleaved_and_percentiles_those_of_the_counted_ones(monkeypatch):
    clock = [0.0]
    order = []
    seconds = {"a": iter([9.0, 1.0, 2.0, 3.0, 10.0]), "b": iter([9.0, 5.0, 5.0, 5.0, 5.0])}

    def call(name):
        def work():
            order.append(name)
            clock[0] += next(seconds[name])

        return work

    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    calls = {name: call(name) for name in seconds}
    found = measure_rounds(calls, repeats=4, warmup=1, label="test")
    assert "".join(order) == "abbaabbaab"
    assert found["a"].p50_ms == 2500
    # Between the third and the fourth of four: 0.95 * 3 = 2.85.
    assert found["a"].p95_ms == pytest.approx(3000 + 0.85 * 7000)
    assert found["b"] == pytest.approx((5000, 5000))
    assert np.isfinite(found["a"]).all()
