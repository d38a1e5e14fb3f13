"""Whatever stands where in a file: it is read, or refused with a ValueError that names the file."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simvtp.config.json_file import changed_settings
from simvtp.data import (
    ClipRecord,
    Quarantine,
    load_labelled,
    load_manifest,
    load_questions,
    load_retrieval,
)
from simvtp.data.preparing.shard_writer import ShardFolder
from simvtp.data.shards.index import read_index
from simvtp.model_card import Stage, read_facts
from simvtp.training import RunLog
from simvtp.training.curves import _collect, _records
from testing.strange_json import strange

CAPTIONS: list[Any] = [
    {
        "videos": [{"video_id": "a", "split": "train"}],
        "sentences": [{"video_id": "a", "caption": "x"}],
    },
    {"annotations": [{"image_id": "a", "caption": "x"}]},
    {"a.mp4": ["x"], "b": "y"},
    {"v_a": {"duration": 1, "timestamps": [[0, 1]], "sentences": ["x", "y"]}},
    [{"video": "a", "description": "x"}],
    [{"video": "a", "caption": "x"}],
    {"train": [{"video": "a", "captions": ["x"]}]},
    {"a": [["x", "y"]]},
]
CLASSES: list[Any] = [
    [{"id": "1", "template": "Showing [x]", "placeholders": []}],
    {"train": [{"video": "a", "label": "x"}, {"video": "b", "label": 0}]},
]
QUESTIONS: list[Any] = [
    [{"video_id": 1, "question": "x", "answer": "y", "category_id": 2}],
    {"train": [{"video": "a", "question": "x", "answer": "y"}]},
]
INDEX = {"format": 1, "shards": [{"file": "0.tar", "clips": 1, "bytes": 1, "sha256": "0"}]}
STAGE = {"name": "x", "data": "y", "recipe": {"a.b": 1}, "metrics": {"m": 1.0}}
PART = {
    "shard": INDEX["shards"][0],
    "next_clip": 1,
    "durations": [1.0],
    "dropped": [["id", "name", "reason"]],
}
SETTINGS = {"clips": "x"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("strange")
    for name in ("a.mp4", "b.mp4", "1.webm", "video1.mp4"):
        (folder / name).touch()
    return folder


@contextmanager
def named(file: Path) -> Iterator[None]:
    """Nothing but a ValueError that names the file may come out."""
    message = str(file)
    try:
        yield
    except ValueError as error:
        message = str(error)
    assert str(file) in message


Reader = Callable[[Path], Any]
ANNOTATIONS: list[tuple[Reader, list[Any]]] = [
    (lambda file: load_retrieval(file, missing="refuse"), CAPTIONS),
    (lambda file: load_retrieval(file, split=file), CAPTIONS),
    (load_labelled, CLASSES),
    (load_questions, QUESTIONS),
    (load_manifest, CAPTIONS),
]


@pytest.mark.filterwarnings("ignore::simvtp.data.annotations.class_formats.ClassNumbersWarning")
@pytest.mark.parametrize(("read", "documents"), ANNOTATIONS)
@given(st.data())
def test_annotations(folder: Path, read: Reader, documents: list[Any], data: st.DataObject):
    file = folder / "list.json"
    file.write_text(json.dumps(data.draw(strange(documents))), "utf-8")
    with named(file):
        read(file)


@given(st.lists(strange([{"path": "a.mp4", "caption": "x"}, {"video": "a", "captions": ["x"]}])))
def test_lists_of_a_line_each(folder: Path, rows: list[Any]):
    file = folder / "list.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    for read in (load_manifest, load_retrieval):
        with named(file):
            read(file)


@pytest.mark.filterwarnings("ignore::simvtp.data.annotations.class_formats.ClassNumbersWarning")
@given(strange([{"Showing x": "0", "Holding y": "1"}]))
def test_numbered_classes(folder: Path, classes: Any):
    file = folder / "classes" / "list.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(CLASSES[0]), "utf-8")
    labels = file.with_name("labels.json")
    labels.write_text(json.dumps(classes), "utf-8")
    with named(file.parent):
        load_labelled(file, root=folder)


@given(strange([INDEX]))
def test_an_index_of_shards(folder: Path, index: Any):
    with named(folder / "index.json"):
        read_index(json.dumps(index), source=str(folder / "index.json"))


@given(strange([SETTINGS]), strange([PART]))
def test_a_folder_of_shards_that_was_begun(folder: Path, settings: Any, part: Any):
    progress = folder / "shards" / ".progress"
    progress.mkdir(parents=True, exist_ok=True)
    (progress / "settings.json").write_text(json.dumps(settings), "utf-8")
    with named(progress / "settings.json"):
        changed_settings(progress / "settings.json", SETTINGS)
    (progress / "settings.json").write_text(json.dumps(SETTINGS), "utf-8")
    (progress / "000000.json").write_text(json.dumps(part), "utf-8")
    with named(progress / "000000.json"):
        ShardFolder(folder / "shards", SETTINGS).close()


@given(st.lists(strange([{"path": "a", "reason": "x", "unreadable": True}]), max_size=3))
def test_a_quarantine_list_skips_lines_that_are_none(folder: Path, lines: list[Any]):
    file = folder / "quarantine.jsonl"
    good = {"path": "b.mp4", "reason": "broken", "unreadable": True}
    file.write_text("".join(json.dumps(line) + "\n" for line in [*lines, good]), "utf-8")
    quarantine = Quarantine(file, max_bad_share=0.5)
    assert quarantine.reason(ClipRecord("b", "b.mp4", ("x",))) == "broken"
    quarantine.add(ClipRecord("c", "c.mp4", ("x",)), reason="x", epoch=0, unreadable=False)
    assert "c.mp4" in file.read_text("utf-8").splitlines()[-1]


@given(st.lists(strange([{"step": 1, "loss": 0.5}, {"step": 1, "event": "e", "recall@1": 0.5}])))
def test_a_log_goes_on_and_is_drawn(folder: Path, lines: list[Any]):
    file = folder / "metrics.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    _collect(_records(file.read_text("utf-8")))
    with RunLog(folder, total_steps=2, resume_step=1):
        pass
    _collect(_records(file.read_text("utf-8")))


@given(strange([{"stages": [STAGE]}]))
def test_what_a_model_folder_tells_of_its_training(folder: Path, training: Any):
    file = folder / "training.json"
    file.write_text(json.dumps(training), "utf-8")
    with named(file):
        for stage in read_facts(folder).stages:
            assert isinstance(stage, Stage)
            assert isinstance(stage.recipe.get("x", ""), object)
            assert all(f"{value:.4g}" for value in stage.metrics.values())


def test_a_damaged_table_in_the_cache_is_made_again(folder: Path):
    file = folder / "kept.csv"
    file.write_text("videoid,path,caption\n1,a.mp4,x\n", "utf-8")
    kept = load_manifest(file).file
    kept.write_bytes(b"damaged")
    assert [record.video_id for record in load_manifest(file)] == ["1"]
