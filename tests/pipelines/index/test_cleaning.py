"""Copies and outliers by the command, as lines, JSON, a page and a data set of FiftyOne."""

import io
import json
import zlib
from base64 import b64decode

import numpy as np
import pytest

from simvtp.data import probe
from simvtp.pipelines.index import main
from simvtp.retrieval.video_index import VideoIndex
from testing.data.video_files import write_video_file
from testing.pipelines.planted import COPIES, NUM_DIFFERENT
from testing.retrieval.made_index import axis, make


def test_planted_copies_are_found_and_nothing_else(planted, tmp_path, capsys):
    _, index = planted
    report = tmp_path / "found" / "report.json"
    command = [f"--index={index}", "--duplicates", "--outliers=3", f"--json={report}"]
    assert main(command) == 0
    found = json.loads(report.read_text())
    pairs = {
        copy["file"]: group["kept"]["file"] for group in found["groups"] for copy in group["copies"]
    }
    assert pairs == COPIES
    assert found["videos"] == NUM_DIFFERENT + len(COPIES)
    distances = [one["distance"] for one in found["outliers"]]
    assert len(distances) == 3
    assert distances == sorted(distances, reverse=True)
    said = capsys.readouterr().out
    assert "3 copies of 3 videos" in said
    assert "0.mp4 (4.0 s, " in said


def test_names_stand_on_the_page_as_text(tmp_path):
    hostile = "<script>alert(1)</script>.mp4"
    videos = {hostile: (axis(0), 5.0, 2), "b.mp4": (axis(0), 5.0, 1), "c.mp4": (axis(3), 5.0, 1)}
    make(tmp_path / "index", videos)
    page = tmp_path / "page.html"
    command = [f"--index={tmp_path / 'index'}", "--duplicates", "--outliers", f"--html={page}"]
    assert main(command) == 0
    text = page.read_text()
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)" in text
    assert text.count("data:image/jpeg;base64,") == 5
    assert text.count('class="kept"') == 1


def vector_of(value):
    data = zlib.decompress(b64decode(value["$binary"]["base64"]))
    return np.load(io.BytesIO(data), allow_pickle=False)


def test_fiftyone_gets_videos_moments_and_tags(planted, tmp_path):
    folder, place = planted
    out = tmp_path / "fiftyone"
    assert main([f"--index={place}", "--duplicates", f"--fiftyone={out}"]) == 0
    samples = json.loads((out / "samples.json").read_text())["samples"]
    by_name = {sample["filepath"]: sample for sample in samples}
    assert set(by_name) == {str(path) for path in folder.glob("*.mp4")}
    tagged = {name for name, sample in by_name.items() if sample["tags"] == ["copy"]}
    assert tagged == {str(folder / name) for name in COPIES}
    index = VideoIndex.open(place)
    sample, info = by_name[str(folder / "cut.mp4")], probe(folder / "cut.mp4")
    assert sample["caption"] == (folder / "cut.txt").read_text()
    rows = index.moments("start", "end", "vector", where="file = 'cut.mp4'").read_all().to_pylist()
    rows.sort(key=lambda row: row["start"])
    assert len(rows) == len(sample["moments"]["detections"]) > 1
    for row, found in zip(rows, sample["moments"]["detections"], strict=True):
        assert np.array_equal(vector_of(found["embedding"]), np.float32(row["vector"]))
        assert (found["start"], found["end"]) == (row["start"], row["end"])
        first, last = found["support"]
        assert first == pytest.approx(1 + row["start"] * info.frames_per_second, abs=1)
        assert last == pytest.approx(row["end"] * info.frames_per_second, abs=1)
        assert 1 <= first <= last <= info.num_frames
    mean = np.mean([row["vector"] for row in rows], axis=0)
    expected = mean / np.linalg.norm(mean)
    assert vector_of(sample["embedding"]) == pytest.approx(expected, abs=1e-6)
    described = json.loads((out / "metadata.json").read_text())
    assert set(sample) <= {field["db_field"] for field in described["sample_fields"]}


def test_what_fiftyone_cannot_play_is_left_out_by_name(tmp_path, capsys):
    names = ("a.mp4", "../b.mp4", "c.gif", "d.mp4")
    make(tmp_path / "index", {name: (axis(place), 5.0, 1) for place, name in enumerate(names)})
    (tmp_path / "b.mp4").write_bytes(b"not below the root")
    (tmp_path / "index" / "c.gif").write_bytes(b"a picture")
    command = [f"--index={tmp_path / 'index'}", f"--fiftyone={tmp_path / 'out'}"]
    assert main(command) == 2
    assert "b.mp4 is not below" in capsys.readouterr().out
    assert not list((tmp_path / "out").iterdir())
    write_video_file(tmp_path / "index" / "d.mp4", 12)
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "left out a.mp4: there is no such file" in said
    assert "b.mp4 is not below" in said
    assert "left out c.gif: FiftyOne takes no .gif for a video" in said
    assert "1 video" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model=shapes"], "required: --data, --out"),
        (["--duplicates"], "go with --index INDEX"),
        (["--index=x"], "--index goes with --duplicates"),
        (["--index=x", "--outliers", "--model=m"], "leave out --model, --data and --out"),
    ],
)
def test_one_task_at_a_time(arguments, said, capsys):
    with pytest.raises(SystemExit):
        main(arguments)
    assert said in capsys.readouterr().err


def test_an_index_that_is_not_there_is_told(tmp_path, capsys):
    assert main([f"--index={tmp_path / 'nowhere'}", "--duplicates"]) == 2
    assert "there is no such folder" in capsys.readouterr().out
