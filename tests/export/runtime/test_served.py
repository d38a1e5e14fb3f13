"""An exported folder behind HTTP: by the command, in a process without torch, until SIGTERM."""

import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from export.runtime import Runtime
from export.runtime.clips import decode_clip
from export.runtime.folder import Range
from simvtp.pipelines.serve import main
from simvtp.pipelines.serve.models.exported_folder import ExportedModel
from testing.export.small_export import CAPTIONS
from testing.pipelines.page_videos import write_video
from testing.pipelines.served import PATIENCE, Served, Site

ROOT = Path(__file__).parents[3]
TOKEN = "a-token-of-more-than-16"
TORCHLESS = """
import sys
for name in ("torch", "torchvision", "pyarrow", "fsspec", "huggingface_hub", "safetensors"):
    sys.modules[name] = None
from simvtp.pipelines.serve import main
raise SystemExit(main(sys.argv[1:]))
"""
TOLERANCE = {"rtol": 0, "atol": 1e-6}


def rows_of(told):
    return np.float32([one["embedding"] for one in told["data"]])


@pytest.fixture
def process(exported, tmp_path):
    """Site, process, and the folder of its temporary files."""
    command = [sys.executable, "-c", TORCHLESS, f"--model={exported.path}", "--port=0"]
    told = {"SIMVTP_SERVE_TOKEN": TOKEN, "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    limits = ["--threads=1", f"--decode-seconds={PATIENCE:g}", f"--request-seconds={PATIENCE:g}"]
    with subprocess.Popen(
        [*command, *limits], stdout=subprocess.PIPE, text=True, env=os.environ | told
    ) as server:
        assert server.stdout is not None
        said = server.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)/v1", said)
        assert found, said
        yield Site(int(found[1]), token=TOKEN), server, said, tmp_path
        server.kill()


@pytest.mark.slow
def test_an_exported_folder_is_served_without_torch(process, runtime, tmp_path):
    site, server, said, place = process
    assert said.startswith("exported (onnxruntime, fp32 on cpu; text, video, match) at ")
    assert site.ask("/v1/models", Authorization="")[0] == 401
    captions = [CAPTIONS[0], "nothing moves"]
    _, texts, _ = site.ask("/v1/embeddings", {"input": [captions[0], {"text": captions[1]}]})
    np.testing.assert_allclose(rows_of(texts), runtime.encode_text(captions), **TOLERANCE)
    file = write_video(tmp_path / "clip.mp4")
    content = file.read_bytes()
    clip = decode_clip(file, num_frames=4, image_size=32, frame_seconds=0.25)[None]
    _, shown, _ = site.ask("/v1/videos/embeddings", content)
    np.testing.assert_array_equal(rows_of(shown), runtime.encode_video(clip))
    _, matched, _ = site.form("/match", ("file", content), ("text", captions[0]))
    score = runtime.match(clip, captions[0])[0]
    assert matched["data"][0]["score"] == pytest.approx(score, abs=1e-6)
    server.send_signal(signal.SIGTERM)
    assert server.wait(PATIENCE) == 0
    assert not [left for left in place.iterdir() if left.name.startswith("simvtp")]


def test_ranges_of_the_graphs_are_kept(exported, runtime):
    with Runtime(exported.path, threads=1) as narrow:
        sizes = {"batch": Range(3, 3, 4), "tokens": Range(8, 8, 12)}
        graphs = {name: replace(one, ranges=sizes) for name, one in exported.graphs.items()}
        narrow.folder = replace(exported, graphs=graphs)
        model = ExportedModel(narrow, max_batch=16)
        assert model.tasks == {"text": 4, "video": 4, "match": 4}
        with Served(model, max_inputs=8) as site:
            # Five rows are a pass of four and one of a row that is repeated.
            captions = [*CAPTIONS[2:], "a", "red", "ball"]
            status, told, _ = site.ask("/v1/embeddings", {"input": captions})
            assert status == 200
            alone = [runtime.encode_text(caption)[0] for caption in captions]
            np.testing.assert_allclose(rows_of(told), alone, **TOLERANCE)
            status, told, _ = site.ask("/v1/embeddings", {"input": ["a", "a red ball " * 5]})
            assert status == 400
            assert "a text may have 12 tokens here, got 16" in told["error"]["message"]
            assert told["error"]["param"] == "input[1]"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--precision=bf16"], "--precision is for model folders"),
        (["--tasks", "text", "--max-inputs=9", "--queue=8"], "queue must hold a whole request"),
        (["--allow-urls", "https://x/"], "a host that may be fetched from must be like"),
        (["--token-file=EMPTY"], "is empty; its first line is the token"),
        (["--host=300.1.1.1", "--tasks", "text"], "port 8000 of 300.1.1.1 cannot be used"),
    ],
)
def test_what_is_typed_wrong(exported, words, said, tmp_path, capsys):
    (tmp_path / "EMPTY").touch()
    words = [word.replace("EMPTY", str(tmp_path / "EMPTY")) for word in words]
    assert main([f"--model={exported.path}", *words]) == 2
    assert said in " ".join(capsys.readouterr().out.split())


def test_a_model_folder_has_no_backend(capsys):
    assert main(["--model=shapes", "--backend=onnxruntime"]) == 2
    assert "--backend is for folders that python -m export.onnx wrote" in capsys.readouterr().out
