"""OpenVINO against the model in torch, on the graphs that ONNX Runtime runs."""

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from export.bench import BenchOptions, bench
from export.runtime import Runtime
from export.runtime.folder import read_exported_folder
from testing.export.small_export import CAPTIONS, clips

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def openvino(runtime):
    return Runtime(runtime.folder.path, backend="openvino", threads=1)


@pytest.mark.parametrize("batch", [1, 4])
def test_fp32_is_the_model(openvino, exported_model, batch):
    frames, captions = clips(exported_model, batch, 0), list(CAPTIONS[:1]) * batch
    with torch.no_grad():
        video = exported_model.encode_video(torch.from_numpy(frames)).numpy()
        text = exported_model.encode_text(captions).numpy()
        match = exported_model.match(torch.from_numpy(frames), captions).numpy()
    assert np.abs(openvino.encode_video(frames) - video).max() < 1e-5
    assert np.abs(openvino.encode_text(captions) - text).max() < 1e-5
    assert np.abs(openvino.match(frames, captions) - match).max() < 1e-5


def test_bf16_is_close_and_is_not_fp32(openvino, exported_model):
    frames = clips(exported_model, 2, 0)
    with Runtime(openvino.folder.path, backend="openvino", precision="bf16") as half:
        found = half.encode_video(frames)
    wanted = openvino.encode_video(frames)
    assert (found * wanted).sum(axis=1).min() > 0.995
    assert not np.array_equal(found, wanted)


def test_threads_share_a_graph(openvino, exported_model):
    batches = [clips(exported_model, 1, seed) for seed in range(4)]
    wanted = [openvino.encode_video(batch) for batch in batches]
    found = {}

    def run(number):
        found[number] = [openvino.encode_video(batches[number]) for _ in range(5)]

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, outputs in found.items():
        assert all(np.array_equal(output, wanted[number]) for output in outputs)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"backend": "openvino", "precision": "fp16"}, "precision must be one of fp32, bf16"),
        ({"backend": "openvino", "provider": "cpu"}, "provider is a setting of"),
        ({"precision": "bf16"}, "precision is a setting of backend 'openvino'"),
    ],
)
def test_settings_that_mean_nothing_are_refused(runtime, settings, said):
    with pytest.raises(ValueError, match=said):
        Runtime(runtime.folder.path, **settings)


def test_a_missing_package_is_named(runtime, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.delitem(sys.modules, "export.runtime.openvino_session", raising=False)
    with pytest.raises(ValueError, match="pip install openvino"):
        Runtime(runtime.folder.path, backend="openvino")


def test_it_is_timed_beside_onnx_runtime(runtime):
    folder = read_exported_folder(runtime.folder.path)
    only = ("onnxruntime-cpu", "openvino", "openvino-bf16")
    options = BenchOptions(graphs=["text"], batches=[1], only=only, repeats=1, warmup=1)
    timings, skipped = bench(folder, options)
    assert [timing.contestant for timing in timings] == list(only)
    assert not skipped
    assert timings[1].max_difference < 1e-5


SIGNALLED = """
import gc, signal, sys, threading
from export.runtime import Runtime

signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
runtimes = [Runtime(sys.argv[1], backend="openvino", threads=1)]
assert runtimes[0].encode_text("a ball").shape == (1, 32)
signal.raise_signal(signal.SIGUSR1)
# Freed by another thread than the one that loaded it.
ending = threading.Thread(target=lambda: (runtimes.clear(), gc.collect()))
ending.start()
ending.join()
signal.raise_signal(signal.SIGUSR1)
"""


def test_signals_are_handled_while_a_graph_is_loaded_and_after(exported):
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", SIGNALLED, str(exported.path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert (done.returncode, done.stdout.split()) == (0, ["handled", "handled"]), done.stderr
