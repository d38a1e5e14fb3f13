"""Clips packed into shards: nothing changes on the way but what was asked for."""

import hashlib
import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from simvtp.data import load_manifest, load_shards, probe, read_clip
from simvtp.data.shards.index import read_index
from simvtp.decoding.video_file import open_video
from testing.data.video_files import read_numbers, set_rotation, write_video_file
from testing.pipelines.prepared_clips import CAPTIONS, NUM_CLIPS, drawn, run, tree, write_manifest


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


def test_bad_clips_are_left_out_with_a_reason(with_bad_clips, tmp_path, capsys):
    out = tmp_path / "shards"
    assert run("--data", with_bad_clips, "--out", out, "--clips-per-shard=2") == 1
    good = ["id0", "id2", "id3", "id5", "id6", "copy"]
    assert [record.video_id for record in load_shards(str(out))] == good
    report = json.loads((out / "report.json").read_text())
    assert [clip["video_id"] for clip in report["dropped_clips"]] == ["id1", "id4"]
    assert "no video that FFmpeg" in report["dropped_clips"][0]["reason"]
    assert [clip["name"] for clip in report["dropped_clips"]] == ["1.mp4", "4.mp4"]
    assert report["data"] == with_bad_clips.name
    for file in out.iterdir():
        assert str(with_bad_clips.parent).encode() not in file.read_bytes()
    assert [shard.clips for shard in read_index((out / "index.json").read_bytes(), source="")] == [
        *(2, 2, 2)
    ]
    said = capsys.readouterr().out
    assert f"bad: {with_bad_clips.parent}/1.mp4: no video that FFmpeg knows" in said
    assert "the shards are of 6 of 8: 2 cannot be read, the limit is 10%" in said


def test_faulty_rows_cost_no_other_and_are_listed(manifest, tmp_path, capsys):
    text = manifest.read_text() + "gone,gone.mp4,words\nout,../x.mp4,words\n"
    with_faults = manifest.with_name("faulty.csv")
    with_faults.write_text(text)
    out = tmp_path / "shards"
    assert run("--data", with_faults, "--out", out) == 1
    assert len(load_shards(str(out))) == NUM_CLIPS
    report = json.loads((out / "report.json").read_text())
    assert (report["clips"], report["dropped"]) == (NUM_CLIPS, 2)
    reasons = [clip["reason"] for clip in report["dropped_clips"]]
    assert "no file 'gone.mp4' under the root" in reasons[0]
    assert "path '../x.mp4' leaves the root" in reasons[1]
    assert str(manifest.parent) not in (out / "report.json").read_text()
    assert f"bad: {with_faults}: line" in capsys.readouterr().out
    assert run("--data", with_faults, "--check", "--json", tmp_path / "figures.json") == 1
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert (figures["decoded"], figures["faulty_rows"], len(figures["bad"])) == (NUM_CLIPS, 2, 2)
    assert "faulty rows" in capsys.readouterr().out


def test_all_clips_bad(tmp_path, capsys):
    (tmp_path / "a.mp4").write_bytes(b"nothing")
    manifest = write_manifest(tmp_path / "clips.csv", [("a", "a.mp4", "words")])
    assert run("--data", manifest, "--out", tmp_path / "out") == 1
    assert "all 1 clips are bad" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give one of --out DIR"),
        (["--out=x", "--check"], "give one of --out DIR"),
        (["--check", "--gop=3"], "clips are looked at as they are"),
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
