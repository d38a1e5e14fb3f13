"""A folder of videos as a source: which files are taken, and what is said about them."""

import json
from pathlib import Path

import pytest

from simvtp.data import ManifestError, load_clips
from simvtp.data.sources import require_captions


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SIMVTP_CACHE", str(tmp_path / "cache"))


def fill(folder: Path, **contents: str) -> Path:
    """Files of a folder by name, `__` for a slash and `_` before the ending."""
    for name, content in contents.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return folder


def pairs(source: Path, *, follow_links: bool = False) -> dict[str, tuple[str, ...]]:
    return {clip.video_id: clip.captions for clip in load_clips(source, follow_links=follow_links)}


def test_videos_in_all_folders_with_the_captions_beside_them(tmp_path: Path):
    folder = fill(
        tmp_path / "v",
        b_MP4="",
        a_mp4="",
        a_txt="a dog\n\n a cat \n",
        sub__c_webm="",
        sub__c_json=json.dumps({"captions": ["one", "two"], "fps": 25}),
        sub__d_mov="",
        sub__d_mov_txt="\ufeffnamed after the whole file",
        e_mkv="",
        e_json=json.dumps({"camera": "X100"}),
        notes_txt="not of a video",
        image_png="",
    )
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "x.mp4").touch()
    (folder / "._a.mp4").touch()
    assert pairs(folder) == {
        "a.mp4": ("a dog", "a cat"),
        "b.MP4": (),
        "e.mkv": (),
        "sub/c.webm": ("one", "two"),
        "sub/d.mov": ("named after the whole file",),
    }
    clips = load_clips(folder)
    assert [clip.path for clip in clips][-1] == folder / "sub" / "d.mov"
    expected = "5 clips, 5 captions; videos of a folder, captions in 2 .txt and 2 .json beside them"
    assert clips.summary() == expected
    nothing = load_clips(folder / "b.MP4").summary()
    assert nothing == "1 clip, no captions; videos of a folder, no .txt or .json beside them"
    with pytest.raises(ManifestError, match=r"2 of 5 clips have no caption, such as .*b\.MP4, and"):
        require_captions(clips, source=folder, purpose="training")


def test_captions_of_windows_notepad(tmp_path: Path):
    folder = fill(tmp_path / "v", a_mp4="", b_mp4="")
    (folder / "a.txt").write_bytes("ein süßer Hund\r\nzwei\r\n".encode("utf-16"))
    (folder / "b.TXT").write_bytes("ein Hund".encode("utf-8-sig"))
    assert pairs(folder) == {"a.mp4": ("ein süßer Hund", "zwei"), "b.mp4": ("ein Hund",)}


def test_the_table_of_a_folder_is_kept_until_it_changes(tmp_path: Path):
    folder = fill(tmp_path / "v", a_mp4="", a_txt="a dog")
    first = load_clips(folder)
    assert load_clips(folder).file == first.file
    fill(folder, a_txt="another dog")
    assert pairs(folder) == {"a.mp4": ("another dog",)}
    fill(folder, b_mp4="")
    assert list(pairs(folder)) == ["a.mp4", "b.mp4"]
    (folder / "a.mp4").unlink()
    assert list(pairs(folder)) == ["b.mp4"]
    assert [*first.file.parent.iterdir()] == [load_clips(folder).file]


def test_links_are_followed_where_that_is_asked_for(tmp_path: Path):
    elsewhere = fill(tmp_path / "elsewhere", x_mp4="", x_txt="a secret", deep__y_mp4="")
    folder = fill(tmp_path / "v", a_mp4="", in__b_mp4="")
    (folder / "in" / "again.mp4").symlink_to(folder / "a.mp4")
    (folder / "far").symlink_to(elsewhere)
    (folder / "loop").symlink_to(folder)
    assert list(pairs(folder)) == ["a.mp4", "in/again.mp4", "in/b.mp4"]
    assert "2 linked folders not entered" in load_clips(folder).summary()
    (folder / "a.txt").symlink_to(elsewhere / "x.txt")
    with pytest.raises(ManifestError, match=r"'a\.txt' is a link out of the root.*--follow-links"):
        load_clips(folder)
    found = pairs(folder, follow_links=True)
    assert list(found) == ["a.mp4", "far/deep/y.mp4", "far/x.mp4", "in/again.mp4", "in/b.mp4"]
    assert found["a.mp4"] == found["far/x.mp4"] == ("a secret",)
    (folder / "a.txt").unlink()
    (folder / "out.mp4").symlink_to(elsewhere / "x.mp4")
    left_out: list[str] = []
    assert len(load_clips(folder, left_out=left_out)) == 3
    assert [message.partition(" is ")[0] for message in left_out] == ["path 'out.mp4'"]


@pytest.mark.parametrize(
    ("contents", "expected"),
    [
        ({"a_txt": "words"}, r"no video in it or in its folders; a video ends in \.mp4"),
        ({"a_mp4": "", "a_json": "{"}, r"a\.json is no json in UTF-8"),
        ({"a_mp4": "", "a_json": '{"caption": 3}'}, "caption must be a text, got 3"),
        ({"a_mp4": "", "a_json": '{"captions": []}'}, "list of captions is empty"),
        ({"a_mp4": "", "a_txt": "x" * 10_001}, "has 10001 characters"),
    ],
)
def test_faults_are_named(tmp_path: Path, contents: dict[str, str], expected: str):
    with pytest.raises(ManifestError, match=expected):
        load_clips(fill(tmp_path / "v", **contents))


def test_a_folder_below_the_root_is_named_from_there(tmp_path: Path):
    fill(tmp_path / "v", train__a_mp4="")
    (clip,) = load_clips(tmp_path / "v" / "train", root=tmp_path / "v")
    assert (clip.video_id, clip.path) == ("train/a.mp4", tmp_path / "v" / "train" / "a.mp4")
    with pytest.raises(ManifestError, match="lies outside the root"):
        load_clips(tmp_path / "v", root=tmp_path / "v" / "train")


def test_tables_in_the_folder_are_spoken_of(tmp_path: Path):
    folder = fill(tmp_path / "v", a_mp4="", captions_csv="path,caption\n")
    with pytest.raises(ManifestError, match=r"name a table that has them, such as captions\.csv"):
        require_captions(load_clips(folder), source=folder, purpose="training")
