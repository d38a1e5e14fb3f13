"""Searching an index by vector, by words, by both, with conditions."""

import pytest
import torch

from benchmarks.video_index import random_index
from simvtp.model import SimVTP
from simvtp.retrieval.video_index import Hit, VideoIndex, VideoIndexError, indices, model_digest
from simvtp.retrieval.video_index.tables import About
from simvtp.retrieval.video_index.writer import IndexWriter, Moment

WIDTH = 8
CAPTIONS = ("a dog runs", None, "a cat sleeps")


@pytest.fixture
def vectors():
    random = torch.randn(12, WIDTH, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.normalize(random, dim=-1)


@pytest.fixture
def index(tmp_path, vectors):
    about = About("some/model", "0" * 64, WIDTH, (str(tmp_path / "videos"),), {})
    writer = IndexWriter(tmp_path / "index", about)
    for number, caption in enumerate(CAPTIONS):
        moments = [Moment(float(place), place + 2.0, b"jpeg") for place in range(4)]
        part = vectors[4 * number : 4 * number + 4]
        writer.add(f"{number}.mp4", moments, part, caption=caption, size=1, modified=1)
    writer.finish()
    return VideoIndex.open(tmp_path / "index")


def test_a_vector_finds_the_nearest(index, vectors):
    query = vectors[5]
    hits = index.search(query, top=12)
    expected = (vectors @ query).sort(descending=True)
    assert [(int(hit.file[0]), hit.start) for hit in hits] == [
        (place // 4, place % 4) for place in expected.indices.tolist()
    ]
    assert [hit.score for hit in hits] == pytest.approx(expected.values.tolist(), abs=1e-5)
    assert hits[0]._replace(score=1.0, key="") == Hit("1.mp4", 1.0, 3.0, 1.0, None, b"jpeg", "")
    assert torch.equal(index.vector_of(hits[0].key), query)


def test_words_and_conditions(index, vectors):
    assert {hit.file for hit in index.search(text="dogs running")} == {"0.mp4"}
    hits = index.search(vectors[0], text="sleeping cat", top=2)
    assert {hit.file for hit in hits} == {"0.mp4", "2.mp4"}
    found = index.search(vectors[0], where="file = '2.mp4' AND start >= 2")
    assert {(hit.file, hit.start) for hit in found} == {("2.mp4", 2.0), ("2.mp4", 3.0)}
    with pytest.raises(ValueError, match=r"where 'colour = 1' cannot be used.*colour"):
        index.search(vectors[0], where="colour = 1")


def test_what_an_index_tells(index, tmp_path):
    assert (index.num_moments, index.num_files) == (12, 3)
    assert index.roots == (tmp_path / "videos",)
    rows = index.moments().read_all()
    assert rows.num_rows == 12
    assert index.moments("file", "end").read_all().column_names == ["file", "end"]
    assert index.files()["file"].to_pylist() == ["0.mp4", "1.mp4", "2.mp4"]
    hit = index.search(text="dog", top=1)[0]
    assert index.path_of(hit) == tmp_path / "videos/0.mp4"


def test_other_models_are_refused_by_name(index):
    model = SimVTP.from_pretrained("shapes")
    with pytest.raises(VideoIndexError, match=r"some/model \(000000000000\).*is shapes \("):
        index.require_model(model, name="shapes")
    index.about = index.about._replace(model_hash=model_digest(model))
    index.require_model(model)


def test_where_there_is_no_index(tmp_path):
    with pytest.raises(VideoIndexError, match="there is no such folder; make an index with"):
        VideoIndex.open(tmp_path / "nowhere")
    with pytest.raises(VideoIndexError, match="there is no video index; make one"):
        VideoIndex.open(tmp_path)


def test_many_vectors_get_an_index_that_finds_the_nearest(tmp_path, monkeypatch):
    monkeypatch.setattr(indices, "EXACT_ROWS", 9000)
    index = random_index(tmp_path / "index", rows=10_000, width=WIDTH)
    assert [one.columns for one in index._moments.list_indices()] == [["vector"]]
    rows = index.moments("key", "vector").read_all()
    vectors = torch.tensor(rows["vector"].to_pylist())
    keys = rows["key"].to_pylist()
    shared = 0
    for number in range(10):
        nearest = (vectors @ vectors[number]).topk(10).indices.tolist()
        hits = index.search(vectors[number])
        shared += len({hit.key for hit in hits} & {keys[place] for place in nearest})
        exact = index.search(vectors[number], exact=True)
        assert [hit.key for hit in exact] == [keys[place] for place in nearest]
    assert shared >= 90
    few = index.search(vectors[0], where="file = '3.mp4' AND start < 20", top=30)
    assert sorted(hit.start for hit in few) == list(range(20))
