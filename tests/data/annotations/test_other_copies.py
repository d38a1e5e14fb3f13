"""Copies of annotations as people pass them on: other containers, delimiters and accents."""

import json
import os
import pickle
import unicodedata
from collections import OrderedDict
from pathlib import Path
from typing import Literal

import pytest

from simvtp.data import load_labelled, load_manifest, load_questions
from testing.data.annotations import Write, error_of, load

Form = Literal["NFC", "NFD"]
CAPTIONS = {"one": ("a dog runs", "a dog"), "two": ("a cat",)}
ROWS = [{"video": name, "caption": text} for name, texts in CAPTIONS.items() for text in texts]
GOLDEN = [{"clip_name": name, "golden_caption": list(texts)} for name, texts in CAPTIONS.items()]


def lines(rows: list[dict]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("list.json", ROWS),
        ("lists.json", [{"video_path": n, "captions": list(t)} for n, t in CAPTIONS.items()]),
        ("split.json", {"train": ROWS[:2], "val": ROWS[2:]}),
        ("list.jsonl", lines(ROWS)),
        ("golden.jsonl", lines(GOLDEN)),
        ("words.pkl", {n: [text.split() for text in t] for n, t in CAPTIONS.items()}),
        ("texts.pickle", {n: list(t) for n, t in CAPTIONS.items()}),
    ],
)
def test_lists_of_captions_are_read_whatever_holds_them(write: Write, name: str, content: object):
    if name.endswith((".pkl", ".pickle")):
        content = pickle.dumps(content)
    records = load(write(name, content, "one.mp4", "deep/two.webm"))
    assert {record.video_id: record.captions for record in records} == CAPTIONS
    assert [Path(record.path).name for record in records] == ["one.mp4", "two.webm"]


def test_a_list_by_split_is_taken_apart(write: Write):
    source = write("s.json", {"train": ROWS[:2], "val": ROWS[2:]}, "one.mp4", "two.mp4")
    assert [record.video_id for record in load(source, split="val")] == ["two"]
    assert "split test is neither one of its own (train, val)" in error_of(source, split="test")


class Touch:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_are_read_and_never_run(write: Write, tmp_path: Path, protocol: int):
    plain = {"one": [["a", "dog", "ñ"]]}
    records = load(write("c.pkl", pickle.dumps(plain, protocol), "one.mp4"))
    assert records[0].captions == ("a dog ñ",)
    for harmful in (
        Touch(tmp_path / "made"),
        {"one": [Touch(tmp_path / "made")]},
        OrderedDict(a=1),
    ):
        message = error_of(write("bad.pkl", pickle.dumps(harmful, protocol)))
        assert "only pickles of plain lists, dictionaries, texts and numbers are read" in message
        assert "save it as JSON {video: [captions]}" in message
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no pickle",
        pickle.dumps({"one": [["a"]]})[:-4],
        pickle.dumps({1: [["a"]], ("b",): 2}),
        pickle.dumps({"one": b"bytes"}),
        # It asks for memory to remember two thousand million values.
        b"\x80\x02}r\xff\xff\xff\x7f.",
        b"\x80\x02cos\nmkdir\nX\x04\x00\x00\x00made\x85R.",
    ],
)
def test_damaged_and_other_pickles_are_refused(write: Write, content: bytes):
    assert str(write("c.pkl", content)) in error_of(write("c.pkl", content))


def test_a_pickle_that_stands_for_far_more_than_it_holds_is_refused(write: Write):
    once = "a dog runs" * 1000
    for value, most in (["a dog"] * 10, 10), ([once] * 1000, 2):
        for _ in range(most):
            value = [value] * 10
        source = write("c.pkl", pickle.dumps({"one.mp4": value}), "one.mp4")
        assert source.stat().st_size < 20_000
        assert "it stands for far more than it holds" in error_of(source)
    # A text that is said again is only referred to, as pickles are.
    name = "one.mp4"
    rows = [{"video": name, "caption": once[:20] + str(number)} for number in range(50)]
    assert len(load(write("c.pkl", pickle.dumps(rows), name))) == 1


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_manifests_with_other_delimiters(write: Write, tmp_path: Path, delimiter: str, ending: str):
    rows = [("videoid", "path", "caption"), ("1", "one.mp4", '"a dog, it; runs\there"')]
    text = "\n".join(delimiter.join(row) for row in rows) + "\n"
    source = write(f"m.{ending}", f"\n{text}", "one.mp4")
    for (record,) in (load_manifest(source, root=tmp_path / "videos"), load(source)):
        assert (record.video_id, record.captions) == ("1", ("a dog, it; runs\there",))


def test_manifests_that_list_objects(write: Write, tmp_path: Path):
    rows = [{"video": f"{row['video']}.mp4", "caption": row["caption"]} for row in ROWS]
    source = write("m.json", rows, "one.mp4", "two.mp4")
    table = load_manifest(source, root=tmp_path / "videos")
    assert [record.captions for record in table] == list(CAPTIONS.values())
    write("m.json", json.dumps([*rows, {"video": "one.mp4"}], indent=1))
    with pytest.raises(ValueError, match="line 14: it must be an object with path and either"):
        load_manifest(source, root=tmp_path / "videos")


def test_tgif_with_quoted_commas(write: Write):
    header = "gif_name,question,answer,type\n"
    source = write("t.csv", header + 'tumblr_a,"what, if any, runs?",dog,object\n', "tumblr_a.gif")
    asked = load_questions(source, root=source.parent.parent / "videos")
    assert [question.text for question in asked.questions] == ["what, if any, runs?"]
    tabs = write("t.tsv", header.replace(",", "\t") + 'tumblr_a\tsay "hi"?\tdog\t1\n')
    asked = load_questions(tabs, root=source.parent.parent / "videos")
    assert [question.text for question in asked.questions] == ['say "hi"?']


@pytest.mark.parametrize("on_disk", ["NFC", "NFD"])
@pytest.mark.parametrize("written", ["NFC", "NFD"])
@pytest.mark.parametrize("name", ["één hond", "ệ/한국"])
def test_accents_in_or_beside_their_letters_are_the_same_name(
    write: Write, tmp_path: Path, on_disk: Form, written: Form, name: str
):
    file = unicodedata.normalize(on_disk, f"{name}.mp4")
    path = unicodedata.normalize(written, f"{name}.mp4")
    source = write("list.json", [{"video": path, "caption": "x"}], file)
    split = write("split.txt", unicodedata.normalize("NFC", path))
    (record,) = load(source, split=split)
    assert Path(record.path) == tmp_path / "videos" / file
    manifest = write("m.csv", f"videoid,path,caption\n1,{path},x\n")
    (clip,) = load_manifest(manifest, root=tmp_path / "videos")
    assert Path(clip.path) == tmp_path / "videos" / file


def test_what_a_list_of_videos_names_in_vain_is_told_of_the_annotation(write: Write):
    source = write("a.json", ROWS, "one.mp4", "two.mp4")
    message = error_of(source, split=write("test.txt", "three\nfour\n"))
    assert f"test.txt: 2 of 2 videos are not in {source}: 'three', 'four'" in message
    assert "check that the list is of this annotation" in message
    assert "the root" not in message


def test_questions_and_classes_by_split(write: Write):
    asked = [{"video": name, "question": "what", "answer": name} for name in ("one", "two")]
    source = write("qa.json", {"train": asked[:1], "val": asked[1:]}, "one.mp4", "two.mp4")
    root = source.parent.parent / "videos"
    assert load_questions(source, root=root, split="val").answers == ("two",)
    with pytest.raises(ValueError, match=r"qa.json: split must be one of 'train, val', got None"):
        load_questions(source, root=root)
    rows = [{"video": "one", "label": "up"}, {"video_name": "two.mp4", "label": "down"}]
    for content, split in ((rows, None), ({"train": rows}, "train"), ({"train": rows}, None)):
        clips = load_labelled(write("classes.json", content), root=root, split=split)
        assert [clips.classes[label] for label in clips.labels] == ["up", "down"]
    numbers = [{"video": "one", "label": 1}, {"video": "two", "label": 0}]
    assert load_labelled(write("n.json", numbers), root=root).labels.tolist() == [1, 0]
    with pytest.raises(ValueError, match="entry 2: it must be an object with video and label"):
        load_labelled(write("n.json", [*numbers[:1], {"label": 0}]), root=root)
