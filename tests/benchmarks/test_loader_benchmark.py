import json
import sys

import pytest
import torch

from benchmarks import loader
from simvtp.data import ClipRecord
from simvtp.data.corpus.rendering import render_corpus
from simvtp.data.video.clips import read_clip
from simvtp.seeding import derive_generator


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    return render_corpus(folder, num_train=4, num_validation=3, num_processes=1, progress=False)


def run(monkeypatch, *options):
    monkeypatch.setattr(sys, "argv", ["loader", *map(str, options)])
    threads = torch.get_num_threads()
    try:
        return loader.main()
    finally:
        torch.set_num_threads(threads)


def test_it_reports_rates_and_the_cores_a_step_needs(corpus, tmp_path, monkeypatch, capsys):
    step = tmp_path / "step.json"
    step.write_text(json.dumps({"steps": {"packed": {"clips_per_second": [10.0, 30.0, 20.0]}}}))
    report = tmp_path / "loader.json"
    options = ("--data", corpus.validation, "--image-size", 32, "--rounds", 2, "--json", report)
    assert run(monkeypatch, *options, "--step-results", step) == 0
    result = json.loads(report.read_text())
    rates = result["clips_per_second_and_core"]
    assert all(len(each) == 2 and min(each) > 0 for each in rates.values())
    assert result["step_clips_per_second"] == 20.0
    assert result["frames_decoded_a_clip"] >= 16
    median = sum(rates[loader.SAMPLE]) / 2
    assert f"needs {20 / median:.2f} cores" in " ".join(capsys.readouterr().out.split())


def test_the_bare_loop_decodes_the_same_clip(corpus, monkeypatch):
    path = next(iter(corpus.root.glob("**/*.mp4")))
    shown = []
    clip = read_clip(path, num_frames=16, stride=4, generator=derive_generator(0, 0, 5))

    class Frame:
        def __init__(self, frame):
            self.frame, self.pts = frame, frame.pts

        def to_ndarray(self, **options):
            picture = self.frame.to_ndarray(**options)
            shown.append(torch.from_numpy(picture))
            return picture

    opened = loader.av.open

    def wrapped(*arguments, **options):
        container = opened(*arguments, **options)
        decode = container.decode

        class Container:
            streams = container.streams
            seek = container.seek

            def __enter__(self):
                return self

            def __exit__(self, *_):
                container.close()

            def decode(self, stream):
                return (Frame(frame) for frame in decode(stream))

        return Container()

    monkeypatch.setattr(loader.av, "open", wrapped)
    record = ClipRecord("", path, ("",))
    loader.bare_clip(record, derive_generator(0, 0, 5), num_frames=16)
    assert torch.equal(torch.stack(shown).permute(0, 3, 1, 2), clip)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--data", "missing.csv"), "missing.csv"),
        (("--step-results", "missing.json"), "no result of benchmarks.train_step"),
    ],
)
def test_what_is_missing_is_named(options, reason, monkeypatch, capsys):
    assert run(monkeypatch, *options) == 2
    assert reason in capsys.readouterr().err


def test_a_manifest_without_a_readable_clip_is_refused(tmp_path, monkeypatch, capsys):
    (tmp_path / "a.mp4").write_bytes(b"no video")
    manifest = tmp_path / "clips.csv"
    manifest.write_text("videoid,path,caption\n1,a.mp4,nothing\n")
    assert run(monkeypatch, "--data", manifest) == 2
    assert "no clip that can be read" in capsys.readouterr().err
