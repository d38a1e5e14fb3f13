"""An index from a stranger: what it names is not opened, and what it brings along is not run."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import lancedb
import pyarrow as pa
import pytest
import torch
from lancedb.embeddings import EmbeddingFunction, register
from PIL import Image

from simvtp.pipelines.search import Searcher, searcher
from simvtp.retrieval.video_index import VideoIndex, VideoIndexError
from simvtp.retrieval.video_index.cleaning import read_corpus
from simvtp.retrieval.video_index.tables import About
from simvtp.retrieval.video_index.writer import IndexWriter, Moment

WIDTH = 4
ABOUT = About("some/model", "0" * 64, WIDTH, ("/",), {})
VECTOR = torch.eye(WIDTH)[0]


@pytest.fixture
def foreign(tmp_path):
    """An index whose one root is the root of the file system, brought here from elsewhere."""
    return brought(tmp_path, ABOUT)


def brought(tmp_path, about, thumbnail=b"jpeg"):
    with IndexWriter(tmp_path / "theirs", about) as writer:
        writer.add("etc/hostname", [Moment(0.0, 1.0, thumbnail)], VECTOR[None], duration=1.0)
        writer.finish()
    return Path(shutil.move(tmp_path / "theirs", tmp_path / "here"))


def replaced(place, table, metadata=None):
    """The same table, described otherwise."""
    database = lancedb.connect(place)
    rows = database.open_table(table).to_arrow()
    database.drop_table(table)
    database.create_table(table, rows.replace_schema_metadata(metadata))


def test_folders_that_an_index_names_open_nothing(foreign, tmp_path):
    index = VideoIndex.open(foreign)
    (hit,) = index.search(VECTOR)
    assert (hit.file, index.roots) == ("etc/hostname", ())
    with pytest.raises(VideoIndexError, match=r"say where the videos are with --root DIR .*'/'"):
        index.source_of(hit)
    index = VideoIndex.open(foreign, roots=[tmp_path / "videos"])
    assert index.path_of(hit) == tmp_path / "videos/etc/hostname"
    with pytest.raises(VideoIndexError, match="below 1 folders, '/'; say where each of them is"):
        VideoIndex.open(foreign, roots=["a", "b"])


def test_folders_count_that_were_typed_for_this_place(foreign, tmp_path):
    """A run of one's own adds one's own folder, and makes the stranger's no better."""
    with IndexWriter(foreign, ABOUT._replace(roots=(str(tmp_path),))):
        pass
    index = VideoIndex.open(foreign)
    assert index.about.roots == ("/", str(tmp_path))
    assert index.roots == (tmp_path,)
    with pytest.raises(VideoIndexError, match="--root DIR"):
        index.path_of(index.search(VECTOR)[0])


@pytest.mark.parametrize("number", [-1, 7])
def test_a_root_that_is_not_there(foreign, tmp_path, number):
    index = VideoIndex.open(foreign, roots=[tmp_path])
    with pytest.raises(ValueError, match="not in a folder"):
        index.file_below(number, "a.mp4")


def test_the_model_that_an_index_names_is_not_looked_for(foreign, monkeypatch):
    monkeypatch.setattr(searcher, "find_model_folder", lambda *_, **__: pytest.fail("looked for"))
    with pytest.raises(VideoIndexError, match=r"of the model 'some/model'; say where .* --model"):
        Searcher.open(foreign)


@pytest.mark.parametrize("table", ["about", "moments", "files"])
def test_functions_that_a_table_names_are_not_made(foreign, table):
    made = []

    @register("theirs")
    class _Theirs(EmbeddingFunction):
        def __init__(self, **settings):
            made.append(settings)

    function = {"name": "theirs", "model": {}, "source_column": "file", "vector_column": "vector"}
    replaced(foreign, table, {"embedding_functions": json.dumps([function])})
    for opened in (VideoIndex.open, lambda place: IndexWriter(place, ABOUT)):
        with pytest.raises(VideoIndexError, match=f"its table {table} has other columns than ours"):
            opened(foreign)
    assert made == []


@pytest.mark.parametrize("table", ["about", "moments", "files"])
def test_data_that_lie_elsewhere_are_not_read(foreign, tmp_path, table):
    database: Any = lancedb.connect(foreign)
    shutil.move(foreign / f"{table}.lance", tmp_path / f"{table}.lance")
    database.clone_table(table, str(tmp_path / f"{table}.lance"))
    assert database.open_table(table).count_rows() == 1
    for opened in (VideoIndex.open, lambda place: IndexWriter(place, ABOUT)):
        with pytest.raises(VideoIndexError, match=f"its table {table} has data that lie elsewhere"):
            opened(foreign)


def test_a_damaged_manifest_is_told(foreign, monkeypatch):
    damaged = "simvtp.data.lance.manifest.Path.read_bytes"
    for content in (b"", b"x" * 40, (16).to_bytes(4, "little") + b"\xff" * 16 + bytes(16)):
        monkeypatch.setattr(damaged, lambda _, content=content: content)
        with pytest.raises(VideoIndexError, match="damaged index"):
            VideoIndex.open(foreign)


def test_what_is_said_about_the_index_is_checked(foreign):
    database = lancedb.connect(foreign)
    for change in ({"width": "wide"}, {"roots": 1}, {"more": 1}):
        said = {"about": [json.dumps(ABOUT._asdict() | {"format": 1} | change)]}
        database.create_table("about", pa.table(said), mode="overwrite")
        with pytest.raises(VideoIndexError, match="damaged index"):
            VideoIndex.open(foreign)


def test_no_program_is_run_for_a_picture(tmp_path, monkeypatch):
    postscript = io.BytesIO()
    Image.new("RGB", (8, 8)).save(postscript, "EPS")
    run = "PIL.EpsImagePlugin.Ghostscript"
    monkeypatch.setattr(run, lambda *_, **__: pytest.fail("Ghostscript is run"))
    index = VideoIndex.open(brought(tmp_path, ABOUT, postscript.getvalue()))
    with pytest.raises(VideoIndexError, match="a picture that is no JPEG"):
        read_corpus(index)
