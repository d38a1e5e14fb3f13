from pathlib import Path

import pytest

from simvtp.data import ManifestError, load_retrieval
from testing.data.annotations import Write, error_of, load


def test_the_file_that_is_meant(write: Write, tmp_path: Path):
    table = "key,vid_key,video_id,sentence\nr,m,one,x\n"
    source = write("t.csv", table, "frames/one.mp4", "one.webm", "one.txt")
    # An earlier ending comes first; of two places with one name the root itself does.
    assert load(source)[0].path == tmp_path / "videos/frames/one.mp4"
    write("t.csv", table, "small/one.mp4")
    assert "one.mp4 lies in several folders (frames/one.mp4, small/one.mp4)" in error_of(source)
    write("t.csv", table, "one.mp4")
    assert load(source)[0].path == tmp_path / "videos/one.mp4"
    both = write("both.csv", table + "r,m,one.mp4,y\n")
    assert "line 3: line 2 already names its file one.mp4" in error_of(both)


def test_paths_stay_below_the_root(write: Write, tmp_path: Path):
    (tmp_path / "secret.mp4").touch()
    source = write("m.json", {"../secret.mp4": "x", "a.mp4": "y"}, "a.mp4")
    assert "line 1: path '../secret.mp4' leaves the root" in error_of(source, missing="leave out")
    table = write("t.csv", "key,vid_key,video_id,sentence\nr,m,../secret,x\n")
    assert "leaves the root" in error_of(table)
    (tmp_path / "videos" / "linked.mp4").symlink_to(tmp_path / "secret.mp4")
    table = write("t.csv", "key,vid_key,video_id,sentence\nr,m,linked,x\n")
    assert "is a link out of the root" in error_of(table)
    (tmp_path / "videos" / "folder").symlink_to(tmp_path)
    table = write("t.csv", "key,vid_key,video_id,sentence\nr,m,secret,x\n")
    assert "1 of 1 videos are not under" in error_of(table)


def test_an_address_is_no_folder_to_look_in(write: Write):
    source = write("t.csv", "key,vid_key,video_id,sentence\nr,m,one,x\n")
    with pytest.raises(ManifestError, match=r"root https://host/clips is an address: .* copy them"):
        load_retrieval(source, root="https://host/clips")


TEST_HEADER = "key,vid_key,video_id,sentence\n"
FAULTS = [
    ("", "it is empty"),
    ("   \n", "it is empty"),
    (TEST_HEADER, "it lists nothing"),
    (TEST_HEADER + "r,m,a\n", "line 2: it has 3 cells, the header has 4"),
    (TEST_HEADER + "r,m,a,x,y\n", "line 2: it has 5 cells"),
    (TEST_HEADER + "r,m,a,x\n\nr,m,,x\n", "line 4: video_id '' is empty"),
    (TEST_HEADER + "r,m,a, \n", "line 2: sentence ' ' is empty"),
    (TEST_HEADER + 'r,m,a,"x\n', "every quote is closed"),
    (TEST_HEADER.encode() + "r,m,a,собака\n".encode("cp1251"), "line 2: byte b'\\xf1' is not UTF"),
    (TEST_HEADER.encode("utf-16"), "it lists nothing"),
    (b"\0\0", "line 1: it holds a NUL byte"),
    ('{"sentences": [{"caption": "x"', "it is no JSON"),
    ("[" * 100_000, "it is no JSON"),
    ({"sentences": [{"caption": "x"}]}, "sentence 1: it must be an object with video_id"),
    ({"sentences": ["x"]}, "sentence 1: it must be an object with video_id, got 'x'"),
    ({"sentences": [{"caption": 3, "video_id": "a"}]}, "caption must be a text, got 3"),
    ({"sentences": [{"caption": "\ud800", "video_id": "a"}]}, "half a surrogate pair"),
    ({"videos": ["a"], "sentences": []}, "video 1: it must be an object with video_id"),
    ({"sentences": []}, "it lists nothing"),
    ({"v_a": {"sentences": "one"}}, "video 'v_a': sentences must be a list of texts, got 'one'"),
    ({"v_a": {"sentences": []}}, "video 'v_a': sentences must be a list"),
    ({"v_a": {"sentences": [""]}}, "video 'v_a': sentence '' is empty"),
    ({"v_a": {"timestamps": []}}, "it must be an object with sentences"),
    ({"a.mp4": 5}, "line 1: caption must be a text, got 5"),
    ({}, "it lists nothing"),
    ([], "which no known format does"),
    ([1], "which no known format does"),
    ([{"video": "a", "caption": 5}], "entry 1: caption must be a text, got 5"),
    ([{"video": "a", "label": "x"}], "entry 1: it must be an object with path and either caption"),
    ({"train": [{"video": "a"}]}, "train entry 1: it must be an object with path"),
    ({"train": [{"video": "a", "caption": "x"}], "val": 3}, "val must be a list"),
    ({"a": [["a", "dog"]], "b": [["a", 3]]}, "video 'b': it must be lists of words"),
    ({"videos": 5, "sentences": []}, "videos must be a list, got 5"),
    ({"videos": [{"video_id": "a", "split": []}], "sentences": []}, "video 1: split must be a"),
    ([{"video": "a", "description": "x"}, {"video": "a"}], "entry 2: it must be an object with de"),
    ("# only a comment\n", "it lists nothing"),
    ("# c\nabc a caption\n", "line 2: it must be ID_START_END and a caption"),
    ("a\tb\tc\td\te\tf\na\tb\n", "line 2: it must have 6 cells between tabs"),
    ("hello world\n", "begins with 'hello world', which no known format does; give MSR-VTT"),
]


@pytest.mark.parametrize(("content", "expected"), FAULTS)
def test_faults_are_named(write: Write, content: object, expected: str):
    assert expected in error_of(write("annotation", content, "a.mp4"))


def test_faults_are_counted_and_the_first_are_shown(write: Write):
    source = write("t.csv", TEST_HEADER + "r,m,,x\n" * 7, "a.mp4")
    message = error_of(source)
    assert "7 problems" in message
    assert "line 6" in message
    assert "line 7" not in message
    assert "... and 2 more" in message


def test_unreadable_places(write: Write, tmp_path: Path):
    source = write("t.csv", TEST_HEADER + "r,m,a,x\n", "a.mp4")
    with pytest.raises(ManifestError, match=r"root .*nowhere is not a folder"):
        load_retrieval(source, root=tmp_path / "nowhere")
    with pytest.raises(ManifestError, match="No such file or directory"):
        load_retrieval(tmp_path / "gone.json", root=tmp_path)
    assert "No such file" in error_of(source, split=tmp_path / "gone.txt")
    assert "must be a JSON list" in error_of(source, split=write("s.json", {"a": 1}))
