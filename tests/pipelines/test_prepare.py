"""Clips checked and packed: nothing changes on the way, nothing is lost by kills or bad clips."""

import csv
import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from simvtp.data import ClipRecord, load_clips, load_manifest, load_shards, probe, read_clip
from simvtp.data.clip_checks import check_clips
from simvtp.data.shards import read_index
from simvtp.data.video_file import open_video
from simvtp.pipelines import prepare
from tests.data.conftest import read_numbers, write_video_file
from tests.data.test_clips import set_rotation

NUM_CLIPS = 7
CAPTIONS = {n: [f"clip number {n}", "a row of, bars"][: 1 + n % 2] for n in range(NUM_CLIPS)}


def write_manifest(path: Path, rows: list[tuple[str, str, str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("videoid", "path", "caption"), *rows])
    return path


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """Seven clips of different lengths, some with two captions, one with an odd id."""
    folder = tmp_path_factory.mktemp("clips")
    rows = []
    for number, captions in CAPTIONS.items():
        write_video_file(folder / f"{number}.mp4", 12 + 3 * number)
        video_id = "a/b.c é" if number == 3 else f"id{number}"
        rows += [(video_id, f"{number}.mp4", caption) for caption in captions]
    return write_manifest(folder / "clips.csv", rows)


def run(*arguments: object) -> int:
    return prepare.main([str(argument) for argument in ("--num-processes=1", *arguments)])


@pytest.fixture(scope="module")
def prepared(manifest, tmp_path_factory):
    out = tmp_path_factory.mktemp("prepared") / "shards"
    assert run("--data", manifest, "--out", out, "--clips-per-shard=3") == 0
    return out


def tree(folder: Path) -> dict[str, str]:
    """Digest of every file below a folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def drawn(record: ClipRecord) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    return read_clip(record.path, num_frames=4, stride=2, generator=generator, span=record.span)


@pytest.mark.parametrize("pattern", ["", "/00000*.tar"])
def test_shards_hold_the_same_clips_and_captions(manifest, prepared, pattern):
    before, after = load_manifest(manifest), load_shards(f"{prepared}{pattern}")
    assert [record.captions for record in after] == [record.captions for record in before]
    if not pattern:
        assert [record.video_id for record in after] == [record.video_id for record in before]
    for one, other in zip(before, after, strict=True):
        assert torch.equal(drawn(one), drawn(other))
        assert other.span is not None
        with Path(other.path).open("rb") as file:
            file.seek(other.span.offset)
            assert file.read(other.span.size) == Path(one.path).read_bytes()


def test_index_and_report_state_what_is_there(manifest, prepared):
    shards = read_index((prepared / "index.json").read_bytes(), source="index")
    assert [shard.clips for shard in shards] == [3, 3, 1]
    for shard in shards:
        data = (prepared / shard.file).read_bytes()
        assert (shard.bytes, shard.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert sorted(tree(prepared)) == [
        *("000000.tar", "000001.tar", "000002.tar"),
        *("clips.arrow", "index.json", "report.json"),
    ]
    report = json.loads((prepared / "report.json").read_text())
    seconds = [(12 + 3 * number) / 10 for number in CAPTIONS]
    assert (report["clips"], report["dropped"], report["shards"]) == (NUM_CLIPS, 0, 3)
    assert report["seconds"] == pytest.approx(
        {"min": min(seconds), "median": 2.1, "max": max(seconds), "total": sum(seconds)}
    )


def test_shards_can_be_prepared_again_in_a_shuffled_order(prepared, tmp_path):
    out = tmp_path / "again"
    assert run("--data", prepared, "--out", out, "--shuffle-seed=1") == 0
    first, second = load_shards(str(prepared)), load_shards(str(out))
    names = [record.video_id for record in second]
    assert names != [record.video_id for record in first]
    by_id = {record.video_id: record for record in first}
    assert sorted(names) == sorted(by_id)
    for record in second:
        assert record.captions == by_id[record.video_id].captions
        assert torch.equal(drawn(record), drawn(by_id[record.video_id]))
    assert run("--data", out, "--check") == 0


def test_clips_encoded_anew_have_the_size_rate_and_keyframes_asked_for(tmp_path):
    picture = np.full((48, 96, 3), 20, dtype=np.uint8)
    picture[:24, :48] = 230
    set_rotation(write_video_file(tmp_path / "turned.mp4", [picture] * 20), 90)
    write_video_file(tmp_path / "numbers.mp4", 30, rate=30)
    grey = [np.full((99, 201, 3), 80, np.uint8)] * 9
    write_video_file(tmp_path / "wide.mp4", grey, rate=3, pixel_format="yuv444p")
    names = ["turned", "numbers", "wide"]
    rows = [(name, f"{name}.mp4", "bars") for name in names]
    manifest = write_manifest(tmp_path / "clips.csv", rows)
    out = tmp_path / "shards"
    settings = ("--short-side=32", "--fps=15", "--gop=4")
    assert run("--data", manifest, "--out", out, *settings) == 0
    turned, numbers, wide = load_shards(str(out))
    sizes = {}
    for record in (turned, numbers, wide):
        info = probe(record.path, span=record.span)
        sizes[record.video_id] = info.width, info.height, info.num_frames
        assert info.frames_per_second == 15
        with open_video(record.path, span=record.span) as (container, stream):
            frames = list(container.decode(stream))
            assert [n for n, f in enumerate(frames) if f.key_frame] == list(
                range(0, len(frames), 4)
            )
            assert all(frame.rotation == 0 for frame in frames)
            assert len(container.streams) == 1
    assert sizes == {"turned": (32, 64, 30), "numbers": (128, 32, 15), "wide": (64, 32, 45)}
    upright = torch.from_numpy(np.rot90(picture, -1).copy())[::24, ::24].float()
    seen = read_clip(turned.path, num_frames=1, span=turned.span)[0].permute(1, 2, 0)
    assert (seen[4::16, 4::16][: len(upright)].float() - upright[:, :2]).abs().max() < 12
    clip = read_clip(numbers.path, num_frames=15, stride=1, span=numbers.span)
    assert read_numbers(clip) == list(range(0, 30, 2))


def write_colours(file: Path, picture: np.ndarray, color_range: int) -> None:
    """Five frames in the matrix of BT.709, in the limited (1) or the full range (2)."""
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264", rate=5, options={"crf": "4"})
        stream.height, stream.width = picture.shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.colorspace, stream.codec_context.color_range = 1, color_range
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(
            format="yuv420p", dst_colorspace="ITU709", dst_color_range=color_range
        )
        for number in range(5):
            frame.pts, frame.time_base = number, Fraction(1, 5)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def test_colours_survive_the_encoding(tmp_path):
    colours = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    picture = np.repeat(np.repeat(colours, 16, 0), 16, 1)
    rows = []
    for color_range in (1, 2):
        for turned in (False, True):
            file = tmp_path / f"{color_range}{turned}.mp4"
            write_colours(file, picture, color_range)
            if turned:
                set_rotation(file, 90)
            rows.append((file.stem, file.name, "colours"))
    manifest = write_manifest(tmp_path / "clips.csv", rows)
    assert run("--data", manifest, "--out", tmp_path / "out", "--gop=2") == 0
    for before, after in zip(
        load_manifest(manifest), load_shards(str(tmp_path / "out")), strict=True
    ):
        first, second = drawn(before).float(), drawn(after).float()
        assert first.shape == second.shape
        assert (first - second).abs().mean() < 4


@pytest.fixture(scope="module")
def with_bad_clips(manifest, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    rows = []
    for number in range(NUM_CLIPS):
        data = (manifest.parent / f"{number}.mp4").read_bytes()
        if number == 1:
            data = b"this is no video"
        if number == 4:
            # Its start can be read, but the header promises pictures whose bytes are gone.
            start, end = data.index(b"mdat") + 900, data.rindex(b"moov") - 4
            data = data[:start] + bytes(end - start) + data[end:]
        (folder / f"{number}.mp4").write_bytes(data)
        rows.append((f"id{number}", f"{number}.mp4", f"words of {number}"))
    (folder / "copy.mp4").write_bytes((folder / "2.mp4").read_bytes())
    return write_manifest(folder / "clips.csv", [*rows, ("copy", "copy.mp4", "words of 2")])


def test_bad_clips_are_left_out_with_a_reason(with_bad_clips, tmp_path, capsys):
    out = tmp_path / "shards"
    assert run("--data", with_bad_clips, "--out", out, "--clips-per-shard=2") == 0
    good = ["id0", "id2", "id3", "id5", "id6", "copy"]
    assert [record.video_id for record in load_shards(str(out))] == good
    report = json.loads((out / "report.json").read_text())
    assert [clip["video_id"] for clip in report["dropped_clips"]] == ["id1", "id4"]
    assert "Invalid data" in report["dropped_clips"][0]["reason"]
    assert [shard.clips for shard in read_index((out / "index.json").read_bytes(), source="")] == [
        *(2, 2, 2)
    ]
    assert f"bad: {with_bad_clips.parent}/1.mp4: Invalid data" in capsys.readouterr().out


def test_all_clips_bad(tmp_path, capsys):
    (tmp_path / "a.mp4").write_bytes(b"nothing")
    manifest = write_manifest(tmp_path / "clips.csv", [("a", "a.mp4", "words")])
    assert run("--data", manifest, "--out", tmp_path / "out") == 1
    assert "all 1 clips are bad" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_check_reports_figures_that_can_be_derived(with_bad_clips, tmp_path, capsys):
    file = tmp_path / "figures.json"
    assert run("--data", with_bad_clips, "--check", "--json", file) == 1
    figures = json.loads(file.read_text())
    folder = with_bad_clips.parent
    good = [0, 2, 3, 5, 6, 2]
    seconds = [(12 + 3 * number) / 10 for number in good]
    assert (figures["clips"], figures["decoded"], figures["captions"]) == (8, 6, 8)
    assert figures["seconds"] == pytest.approx(
        {
            "min": min(seconds),
            "median": statistics.median(seconds),
            "max": max(seconds),
            "total": sum(seconds),
        }
    )
    assert figures["resolutions"] == {"128x32": 6}
    assert figures["frame_rates"] == {"10": 6}
    assert figures["codecs"] == {"h264": 6}
    assert figures["caption_words"] == {"min": 3, "median": 3, "max": 3, "total": 24}
    assert figures["identical_clips"] == [[str(folder / "2.mp4"), str(folder / "copy.mp4")]]
    assert figures["identical_captions"] == {"words of 2": 2}
    assert [clip["video_id"] for clip in figures["bad"]] == ["id1", "id4"]
    printed = capsys.readouterr().out
    assert "6 of 8" in printed
    assert "128x32 (6)" in printed


@pytest.mark.slow
def test_a_clip_that_hangs_is_given_up_and_costs_no_other(manifest, tmp_path):
    os.mkfifo(tmp_path / "fifo.mp4")
    good = load_manifest(manifest)
    records = [good[0], ClipRecord("hangs", tmp_path / "fifo.mp4", ("x",)), good[1], good[2]]
    results = list(check_clips(records, range(4), num_processes=1, time_limit=3))
    assert [clip.reason for clip in results] == ["", "it was not decoded within 3 seconds", "", ""]
    assert [clip.record for clip in results] == records


def test_a_decoder_that_crashes_costs_no_other_clip(manifest, tmp_path):
    fifo = tmp_path / "fifo.mp4"
    os.mkfifo(fifo)
    good = load_manifest(manifest)
    records = [good[0], ClipRecord("crashes", fifo, ("x",)), good[1]]

    def kill_the_reader() -> None:
        # A pipe can be opened in this way only while another process waits for its bytes.
        for _ in range(10_000):
            try:
                descriptor = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
            except OSError:
                time.sleep(0.01)
                continue
            (worker,) = multiprocessing.active_children()
            worker.kill()
            worker.join()
            os.close(descriptor)
            return

    killer = threading.Thread(target=kill_the_reader)
    killer.start()
    results = list(check_clips(records, range(3), num_processes=1, time_limit=100))
    killer.join()
    assert [bool(clip.reason) for clip in results] == [False, True, False]
    assert "crashed (exit code -9)" in results[1].reason


def test_check_finds_a_shard_that_is_no_longer_what_was_written(prepared, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(prepared, copy)
    data = bytearray((copy / "000001.tar").read_bytes())
    # A caption: every clip still decodes.
    place = data.index(b"clip number")
    data[place] ^= 1
    (copy / "000001.tar").write_bytes(data)
    assert run("--data", copy, "--check") == 1
    assert f"bad: {copy}/000001.tar: the whole shard has sha256" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either --out DIR"),
        (["--out=x", "--check"], "give either --out DIR"),
        (["--check", "--gop=3"], "--check looks at the clips as they are"),
        (["--out=x", "--json=y"], "--json goes with --check"),
        (["--out=x", "--short-side=33"], "short_side must be even and at least 16, got 33"),
        (["--out=x", "--fps=0"], "fps must lie in (0, 240], got 0"),
        (["--out=x", "--clips-per-shard=0"], "must be at least 1, got 0"),
    ],
)
def test_settings_that_do_not_fit_are_refused(manifest, arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        run("--data", manifest, *arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_finished_and_foreign_folders_are_refused(manifest, prepared, tmp_path, capsys):
    before = tree(prepared)
    assert run("--data", manifest, "--out", prepared) == 2
    assert "it is finished" in capsys.readouterr().out
    assert tree(prepared) == before
    (tmp_path / "mine.txt").touch()
    assert run("--data", manifest, "--out", tmp_path) == 2
    assert "holds other files" in capsys.readouterr().out
    (tmp_path / "file").touch()
    assert run("--data", manifest, "--out", tmp_path / "file" / "shards") == 2
    assert "Not a directory" in capsys.readouterr().out


def start(manifest: Path, out: Path, *settings: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "simvtp.pipelines.prepare", "--data", str(manifest)]
    return subprocess.Popen(
        [*command, "--out", str(out), "--num-processes=1", "--clips-per-shard=2", *settings],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def kill_when(process: subprocess.Popen[bytes], there: Path) -> None:
    end = time.monotonic() + 60
    while not there.exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.001)
    assert there.exists()
    process.send_signal(signal.SIGKILL)
    process.communicate()


@pytest.mark.slow
def test_killed_at_several_moments_and_started_again_gives_the_same_bytes(
    with_bad_clips, tmp_path, capsys
):
    settings = ("--fps=6", "--gop=3")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    arguments = ("--data", with_bad_clips, *settings, "--clips-per-shard=2")
    assert run(*arguments, "--out", whole) == 0
    moments = [".progress/settings.json", "000000.tar", "000001.tar", ".progress/000001.json"]
    for moment in [*moments, "clips.arrow"]:
        kill_when(start(with_bad_clips, killed, *settings), killed / moment)
        if moment == "000001.tar":
            assert run(*arguments, "--out", killed, "--gop=5") == 2
            assert "gop was 3 and is now 5" in capsys.readouterr().out
    assert not (killed / "index.json").exists() or (killed / ".progress").exists()
    assert run(*arguments, "--out", killed) == 0
    assert "going on at clip" in capsys.readouterr().out
    assert tree(killed) == tree(whole)
    assert load_clips(killed)[0].video_id == "id0"


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="a small file system is mounted")
def test_a_full_disk_is_named_and_the_run_goes_on_afterwards(manifest, tmp_path, capsys):
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        arguments = ("--data", manifest, "--out", small / "shards", "--clips-per-shard=2")
        assert run(*arguments) == 2
        assert "No space left on device" in capsys.readouterr().out
        assert not (small / "shards" / "index.json").exists()
        subprocess.run(["mount", "-o", "remount,size=4m", str(small)], check=True)
        assert run(*arguments) == 0
        assert len(load_shards(str(small / "shards"))) == NUM_CLIPS
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)
