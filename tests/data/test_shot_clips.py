"""Long videos cut into clips shot by shot: where they are cut, what is left out, how it goes on."""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from simvtp.data import ManifestError, load_clips, probe, read_clip
from simvtp.pipelines.prepare import command as prepare

RATE = 10
# Colour and seconds of each shot; the second one is too short, the last one too long.
SHOTS = (((230, 40, 40), 2.0), ((20, 60, 20), 0.8), ((120, 200, 240), 1.5), ((40, 20, 90), 5.0))


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory, write_video: Callable[..., Path]) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    (folder / "talks").mkdir()
    pictures = [
        np.full((48, 64, 3), colour, np.uint8)
        for colour, seconds in SHOTS
        for _ in range(round(seconds * RATE))
    ]
    write_video(folder / "talks/a.mp4", pictures, rate=RATE)
    (folder / "b.mp4").write_bytes(b"no video")
    return folder


def cut(videos: Path, out: Path, *arguments: str) -> int:
    settings = ["--shortest", "1", "--longest", "2.5", "--workers", "1", *arguments]
    return prepare.main(["--data", str(videos), "--shots", str(out), *settings])


def test_each_shot_becomes_a_clip_that_waits_for_a_caption(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "clips"
    assert cut(videos, out) == 1
    told = capsys.readouterr().out
    assert "4 clips of 1 video; write their captions into" in told
    assert "bad: " in told
    with (out / "clips.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == [f"talks/a.mp4/{n:04}.mp4" for n in range(4)]
    bounds = [(float(row["start"]), float(row["end"])) for row in rows]
    np.testing.assert_allclose(bounds, [(0, 2), (2.8, 4.3), (4.3, 6.8), (6.8, 9.3)], atol=0.02)
    shown = (SHOTS[0], SHOTS[2], SHOTS[3], SHOTS[3])
    for row, (colour, _), (start, end) in zip(rows, shown, bounds, strict=True):
        path = out / row["path"]
        assert probe(path).duration == pytest.approx(end - start, abs=0.05)
        clip = read_clip(path, num_frames=8, stride=1).float()
        assert (clip.mean(dim=(0, 2, 3)) - torch.tensor(colour)).abs().max() < 15
        assert clip.std(dim=(0, 2, 3)).max() < 12

    with pytest.raises(ManifestError, match=r"line 2: caption .* is empty; describe the clip"):
        load_clips(str(out / "clips.csv"))
    text = (out / "clips.csv").read_text().replace(".mp4,,", ".mp4,a colour,")
    (out / "clips.csv").write_text(text)
    assert len(load_clips(str(out / "clips.csv"))) == 4
    # Captions are not overwritten.
    assert cut(videos, out) == 2
    assert (out / "clips.csv").read_text() == text


def test_a_stopped_run_goes_on_with_the_next_video(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out = tmp_path / "clips"
    assert cut(videos, out) == 1
    (out / "clips.csv").unlink()
    kept = {path: path.stat().st_mtime_ns for path in out.rglob("*.mp4") if path.is_file()}
    # Left by a kill: half of a folder.
    (out / ".b.mp4.partial").mkdir()
    (out / ".b.mp4.partial/0000.mp4").write_bytes(b"half")
    assert cut(videos, out) == 1
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert (out / "clips.csv").is_file()
    assert not (out / ".b.mp4.partial").exists()


def test_lengths_that_make_no_sense_are_refused(videos: Path, tmp_path: Path):
    assert cut(videos, tmp_path / "clips", "--shortest", "3") == 2
    for arguments in (["--longest", "3"], ["--shots", "x", "--check"]):
        with pytest.raises(SystemExit):
            prepare.main(["--data", str(videos), *arguments])
