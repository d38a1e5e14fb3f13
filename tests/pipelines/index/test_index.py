"""An index of a folder of videos: what is in it, and how it follows what becomes of them."""

import os
import shutil
from itertools import pairwise

import numpy as np
import pytest
import torch

from simvtp.data.video.clips import read_clip
from simvtp.data.video.transforms import CentreCrop
from simvtp.model import SimVTP
from simvtp.pipelines.index import main
from simvtp.retrieval.video_index import VideoIndex, VideoIndexError
from simvtp.retrieval.video_index.tables import About
from simvtp.retrieval.video_index.writer import IndexWriter
from testing.data.odd_files import H264
from testing.data.shard_files import write_shard
from testing.data.video_files import numbered_frame, write_video_file
from testing.pipelines.indexed_videos import CAPTIONS, LENGTHS, rows


def said(capsys):
    return " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(("offset", "suffix"), [(0, ".mp4"), (7300, ".mkv")])
def test_the_moment_found_starts_where_it_should(offset, suffix, tmp_path):
    """A video of twenty seconds, uneven frames that spell the second, and any first time."""
    random = np.random.default_rng(0)
    times = np.round([*np.arange(0, 10, 0.25), *np.arange(10, 20, 0.1)], 3)
    shown = [int(1000 * time + random.integers(0, 60) * (time % 1 > 0)) for time in times]
    pictures = [numbered_frame(time // 1000, height=128) for time in shown]
    (tmp_path / "videos").mkdir()
    pts = [time + offset for time in shown]
    path = tmp_path / f"videos/coded{suffix}"
    write_video_file(path, pictures, rate=10, pts=pts, options=H264)
    out = tmp_path / "index"
    arguments = ("--model=shapes", f"--data={tmp_path / 'videos'}", f"--out={out}")
    assert main([*arguments, "--workers=0", "--stride=1"]) == 0
    index, model = VideoIndex.open(out), SimVTP.from_pretrained("shapes")
    for second in (0, 3, 9, 12, 17):
        numbers = [second + place // 4 for place in range(8)]
        drawn = [numbered_frame(number, height=128) for number in numbers]
        path = write_video_file(tmp_path / "query.mp4", drawn, rate=4, options=H264)
        clip = CentreCrop(64)(read_clip(path, num_frames=8, short_side=64))
        with torch.inference_mode():
            (hit,) = index.search(model.encode_video(clip[None])[0], top=1)
        assert (hit.start, hit.end) == (second, second + 2)


def test_what_is_in_an_index(undisturbed, drawn_videos):
    found = rows(undisturbed)
    names = list(dict.fromkeys(row["file"] for row in found))
    assert names == sorted(LENGTHS)
    starts = [row["start"] for row in found if row["file"] == "a.mp4"]
    assert starts == pytest.approx([0, 0.4, 0.8, 1.2, 1.6, 2.0, 2.3])
    assert {row["file"]: row["caption"] for row in found} == {
        name: CAPTIONS.get(name) for name in LENGTHS
    }
    assert undisturbed.num_files == len(LENGTHS)
    assert undisturbed.unreadable() == [("bad.mp4", "no video that FFmpeg knows, or a damaged one")]
    hits = undisturbed.search(text="cat sleeping", where="start < 0.3")
    assert [undisturbed.path_of(hit) for hit in hits] == [drawn_videos / "c/c.mp4"]
    assert undisturbed.source_of(hits[0]).span is None
    assert hits[0].thumbnail.startswith(b"\xff\xd8")


def test_workers_and_batches_change_no_moment(undisturbed, drawn_videos, index_it, tmp_path):
    assert index_it(drawn_videos, tmp_path / "index", "--workers=2", "--batch-size=3") == 0
    other = VideoIndex.open(tmp_path / "index")
    assert rows(other, "vector") == rows(undisturbed, "vector")
    one, two = (
        torch.tensor([row["vector"] for row in rows(each)]) for each in (other, undisturbed)
    )
    torch.testing.assert_close(one, two, rtol=0, atol=1e-5)


def test_an_index_follows_its_folder(videos, index_it, tmp_path, capsys):
    out = tmp_path / "index"
    assert index_it(videos, out) == 0
    assert "7 videos: 7 new, 0 changed, 0 as they were" in said(capsys)
    before = {row["key"]: row for row in rows(VideoIndex.open(out))}
    shutil.move(videos / "a.mp4", videos / "z.mp4")
    (videos / "b.mkv").unlink()
    write_video_file(videos / "b.mkv", 20)
    os.utime(videos / "e.mp4")
    (videos / "c/d's.mp4").unlink()
    assert index_it(videos, out) == 0
    assert "6 videos: 1 new, 1 changed, 4 as they were; 2 are gone" in said(capsys)
    after = {row["key"]: row for row in rows(VideoIndex.open(out))}
    same = [key for key in after if key in before]
    assert {after[key]["file"] for key in same} == {"c/c.mp4", "e.mp4", "f.mp4"}
    assert all(after[key] == before[key] for key in same)
    assert index_it(videos, tmp_path / "fresh") == 0
    fresh = rows(VideoIndex.open(tmp_path / "fresh"), "vector")
    assert sorted(fresh, key=lambda row: row["key"]) == sorted(
        rows(VideoIndex.open(out), "vector"), key=lambda row: row["key"]
    )
    said(capsys)
    assert index_it(videos, out) == 0
    assert "6 videos: 0 new, 0 changed, 6 as they were; 0 are gone" in said(capsys)


def test_unreadable_videos_are_tried_again_when_asked_or_changed(
    videos, index_it, tmp_path, capsys
):
    out = tmp_path / "index"
    assert index_it(videos, out) == 0
    told = said(capsys)
    assert "1 video cannot be read: bad.mp4: no video that FFmpeg" in told
    assert f'search python -m simvtp.pipelines.search --index {out} "words"' in told
    assert index_it(videos, out, "--retry") == 0
    assert "0 new, 1 changed, 6 as they were" in said(capsys)
    (videos / "bad.mp4").unlink()
    write_video_file(videos / "bad.mp4", 20)
    assert index_it(videos, out) == 0
    assert "0 new, 1 changed, 6 as they were" in said(capsys)
    assert VideoIndex.open(out).unreadable() == []


def test_other_roots_stay(videos, index_it, tmp_path):
    out, other = tmp_path / "index", tmp_path / "other"
    other.mkdir()
    shutil.copy(videos / "f.mp4", other / "a.mp4")
    assert index_it(videos, out) == 0
    assert index_it(other, out) == 0
    index = VideoIndex.open(out)
    assert index.roots == (videos, other)
    hits = index.search(index.vector_of(rows(index)[0]["key"]), top=100, where="file = 'a.mp4'")
    assert {index.path_of(hit) for hit in hits} == {videos / "a.mp4", other / "a.mp4"}


def test_what_does_not_go_with_an_index_is_refused(videos, index_it, tmp_path, capsys):
    out = tmp_path / "index"
    assert index_it(videos, out, "--window=1") == 0
    assert index_it(videos, out) == 0
    said(capsys)
    assert index_it(videos, out, "--window=2") == 2
    assert "window was 1.0 and is now 2.0, stride was 0.5 and is now 1.0" in said(capsys)
    assert main(["--model=shapes", f"--data={videos}", f"--out={out}"]) == 2
    assert "its vectors are of the model" in said(capsys)
    (tmp_path / "empty").mkdir()
    assert index_it(tmp_path / "empty", out) == 2
    assert "no video in it" in said(capsys)
    assert index_it(videos, out, "--stride=1", "--shots") == 2
    assert "--stride is of windows" in said(capsys)
    assert VideoIndex.open(out).num_files == len(LENGTHS)


def test_one_process_writes_an_index(videos, index_it, tmp_path, capsys):
    about = About("m", "0", 32, (str(videos),), {})
    with IndexWriter(tmp_path / "index", about) as writer:
        with pytest.raises(VideoIndexError, match="another process is writing it"):
            IndexWriter(tmp_path / "index", about)
        other = VideoIndex.open(tmp_path / "index")
        other._files.delete("root = 5")
        with pytest.raises(VideoIndexError, match="another process has written it"):
            writer.save()


def test_shots(drawn_videos, index_it, tmp_path):
    pytest.importorskip("scenedetect")
    assert index_it(drawn_videos, tmp_path / "index", "--shots", "--window=2") == 0
    index = VideoIndex.open(tmp_path / "index")
    assert index.about.settings == {"window": 2.0, "stride": None}
    found = [(row["start"], row["end"]) for row in rows(index) if row["file"] == "e.mp4"]
    assert found[0][0] == 0
    assert found[-1][1] == pytest.approx(6)
    assert all(end == start for (_, end), (start, _) in pairwise(found))
    assert all(end - start <= 2.1 for start, end in found)


def test_shards_and_manifests(drawn_videos, index_it, model_folder, tmp_path):
    def index(data, name):
        own = (f"--model={model_folder}", f"--data={data}", f"--out={tmp_path / name}")
        assert main([*own, "--batch-size=4", "--workers=0", "--device=cpu"]) == 0
        return VideoIndex.open(tmp_path / name)

    members = [
        *(("a.mp4", (drawn_videos / "a.mp4").read_bytes()), ("a.txt", b"a red ball rolls")),
        *(("e.mp4", (drawn_videos / "e.mp4").read_bytes()), ("e.txt", b"blue")),
    ]
    shard = write_shard(tmp_path / "000.tar", members)
    packed = index(shard, "packed")
    assert {row["file"] for row in rows(packed)} == {"000.tar:a", "000.tar:e"}
    (hit, *_) = packed.search(text="ball")
    assert packed.path_of(hit) == shard
    offset, size = packed.source_of(hit).span
    assert shard.read_bytes()[offset : offset + size] == members[0][1]
    table = drawn_videos / "clips.csv"
    table.write_text("videoid,path,caption\n1,a.mp4,a red ball rolls\n2,e.mp4,blue\n")
    listed = index(table, "listed")
    table.unlink()
    named = ("key", "file")
    assert rows(listed, *named) == rows(packed, *named)
