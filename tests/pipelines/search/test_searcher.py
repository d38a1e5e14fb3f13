"""Searching from Python: the order is the cosine's, or that of evaluation's re-ranking."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from simvtp import SimVTP
from simvtp.data import ClipRecord, probe, read_clip
from simvtp.pipelines.index import main as index
from simvtp.pipelines.search import Searcher
from simvtp.pipelines.search.query import image_vector, video_place, video_vector
from simvtp.pipelines.search.results import save_moments
from simvtp.retrieval.embedding import embed
from simvtp.retrieval.gallery import embed_gallery
from simvtp.retrieval.reranking import match_best
from simvtp.retrieval.video_index import VideoIndex, VideoIndexError, model_digest
from simvtp.retrieval.video_index.tables import About
from simvtp.retrieval.video_index.writer import IndexWriter, Moment
from testing.data.shard_files import write_shard
from testing.data.video_files import write_video_file


@pytest.fixture(scope="session")
def records(videos, captions):
    return [ClipRecord(name, videos / name, (text,)) for name, text in sorted(captions.items())]


@pytest.fixture(scope="session")
def gallery(shapes, records):
    return embed_gallery(shapes, records)


def names(found):
    return [hit.file for hit in found.hits]


def test_words_find_what_the_cosine_finds(searcher, records, gallery):
    for number in range(0, len(records), 5):
        found = searcher.search(records[number].captions[0], top=len(records))
        cosine = gallery.text[number] @ gallery.video.T
        best = cosine.sort(descending=True)
        assert names(found) == [records[place].video_id for place in best.indices.tolist()]
        scores = [hit.score for hit in found.hits]
        assert scores == pytest.approx(best.values.tolist(), abs=1e-5)
        assert set(found.matches) == {None}


def test_re_ranking_is_that_of_evaluation(searcher, shapes, records, gallery):
    top = 4
    scores = match_best(shapes, records, gallery, top=top).by_matching_and_cosine().text_to_video
    for number in (0, 7):
        found = searcher.search(records[number].captions[0], top=10, rerank=top)
        expected = scores[number].sort(descending=True).indices.tolist()[:10]
        assert names(found) == [records[place].video_id for place in expected]
        assert found.matches[top:] == (None,) * 6
        assert all(match is not None and 0 < match < 1 for match in found.matches[:top])
    assert names(searcher.search(records[0].captions[0], top=3, rerank=top)) == [
        records[place].video_id for place in scores[0].sort(descending=True).indices.tolist()[:3]
    ]


def test_re_ranking_in_half_precision_is_close(searcher, shapes, captions):
    query = next(iter(captions.values()))
    half = Searcher(shapes, searcher.index, precision="bf16")
    full, close = (one.search(query, top=4, rerank=4) for one in (searcher, half))
    matches = dict(zip((hit.key for hit in full.hits), full.matches, strict=True))
    found = [matches[hit.key] for hit in close.hits]
    assert list(close.matches) != found
    assert list(close.matches) == pytest.approx(found, abs=0.1)


def test_a_video_that_is_gone_comes_after_those_that_were_read(searcher, monkeypatch, captions):
    query = captions["000003.mp4"]
    best, *others = names(searcher.search(query, rerank=4, top=4))
    source_of = searcher.index.source_of

    def moved(hit):
        source = source_of(hit)
        return source._replace(path=source.path.with_name("gone")) if hit.file == best else source

    monkeypatch.setattr(searcher.index, "source_of", moved)
    found = searcher.search(query, rerank=4, top=4)
    assert names(found) == [*others, best]
    assert found.matches[-1] is None


def test_more_like_a_moment_leaves_itself_out(searcher, gallery, records):
    hit = searcher.search(records[5].captions[0], top=1).hits[0]
    place = [record.video_id for record in records].index(hit.file)
    order = (gallery.video[place] @ gallery.video.T).sort(descending=True).indices.tolist()
    expected = [records[other].video_id for other in order if other != place]
    assert names(searcher.more_like(hit.key, top=5)) == expected[:5]


def test_words_of_captions_count_too(searcher, captions):
    query = captions["000002.mp4"]
    found = searcher.search(query, words=query, top=1, rerank=3)
    assert names(found) == ["000002.mp4"]
    where = "file IN ('000001.mp4', '000004.mp4')"
    assert set(names(searcher.search(query, where=where))) == {"000001.mp4", "000004.mp4"}


def test_a_clip_finds_itself(searcher, shapes, videos):
    vector = video_vector(shapes, videos / "000004.mp4")
    (batch,) = embed(shapes, [ClipRecord("a", videos / "000004.mp4", ("a",))])
    assert torch.allclose(vector, batch.features[0], atol=1e-6)
    (hit,) = searcher.search(vector, top=1).hits
    assert hit.file == "000004.mp4"
    assert hit.score == pytest.approx(1, abs=1e-5)


def test_a_moment_of_a_video_is_the_clip_that_begins_there(shapes, tmp_path):
    pictures = [np.full((64, 64, 3), 2 * number, np.uint8) for number in range(100)]
    path = write_video_file(tmp_path / "a.mp4", pictures, rate=10)
    whole = read_clip(path, num_frames=100, stride=1)
    clip = whole[(30 + 2.5 * torch.arange(8)).long()]
    with torch.no_grad():
        expected = shapes.encode_video(clip[None])[0]
    assert torch.allclose(video_vector(shapes, path, seconds=3), expected, atol=1e-5)
    assert not torch.allclose(video_vector(shapes, path, seconds=7), expected, atol=1e-2)


def test_a_picture_is_a_clip_of_equal_frames(shapes, videos, tmp_path):
    frame = read_clip(videos / "000001.mp4", num_frames=8)[0]
    Image.fromarray(frame.permute(1, 2, 0).numpy()).save(tmp_path / "a.png")
    vector = image_vector(shapes, tmp_path / "a.png")
    with torch.inference_mode():
        expected = shapes.encode_video(frame.expand(1, 8, 3, 64, 64))[0]
    assert torch.allclose(vector, expected, atol=1e-6)
    with pytest.raises(ValueError, match=r"has 32 frames and is no picture; .* --video"):
        image_vector(shapes, videos / "000001.mp4")


@pytest.mark.parametrize(
    ("time", "seconds"), [("3", 3), ("12.5", 12.5), ("1:02", 62), ("1:00:02.5", 3602.5)]
)
def test_a_place_in_a_video_is_typed_behind_an_at_sign(time, seconds, tmp_path):
    path = tmp_path / "me@home.mp4"
    path.touch()
    assert video_place(str(path)) == (path, None)
    assert video_place(f"{path}@{time}") == (path, seconds)


def test_refusals(searcher, shapes, videos, index_folder, tmp_path):
    for query in ("", "  "):
        with pytest.raises(ValueError, match="the query is empty; write what"):
            searcher.search(query)
    with pytest.raises(ValueError, match="only a query in words can be re-ranked"):
        searcher.search(torch.zeros(shapes.config.width), rerank=3)
    with pytest.raises(ValueError, match=r"000001\.mp4 is 2 s long, got 2\.5"):
        video_vector(shapes, videos / "000001.mp4", seconds=2.5)
    with pytest.raises(ValueError, match=r"nothing\.mp4: there is no such file"):
        video_place(str(tmp_path / "nothing.mp4"))
    with pytest.raises(ValueError, match=r"'-2' is no time; write the seconds behind the @"):
        video_place(f"{videos / '000001.mp4'}@-2")
    with pytest.raises(VideoIndexError, match="there is no such folder; make an index"):
        Searcher.open(tmp_path / "nowhere")


def test_another_model_is_refused_by_name(index_folder, tmp_path, shapes):
    other = SimVTP.from_pretrained("shapes")
    torch.nn.init.zeros_(other.match_head.weight)
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(VideoIndexError, match=r"vectors are of the model shapes .*other"):
        Searcher.open(index_folder, model=tmp_path / "other")


def test_a_model_that_is_not_here_is_asked_for(searcher, index_folder, monkeypatch):
    index = VideoIndex.open(index_folder)
    index.typed = index.typed._replace(model="someone/elses")
    monkeypatch.setattr(VideoIndex, "open", lambda place, roots: index)
    with pytest.raises(VideoIndexError, match=r"'someone/elses', which is not here .* --model"):
        Searcher.open(index_folder)
    assert Searcher.open(index_folder, model="shapes").name == "shapes"


def test_of_moments_that_overlap_the_best_is_shown(shapes, tmp_path):
    """Fifty windows of two videos, one every second, two seconds long."""
    random = torch.randn(50, shapes.config.width, generator=torch.Generator().manual_seed(0))
    vectors = torch.nn.functional.normalize(random, dim=-1)
    about = About("shapes", model_digest(shapes), shapes.config.width, (str(tmp_path),), {})
    writer = IndexWriter(tmp_path / "index", about)
    windows = [Moment(float(start), start + 2.0, b"") for start in range(25)]
    for number in range(2):
        writer.add(f"{number}.mp4", windows, vectors[25 * number :][:25], size=1, modified=1)
    writer.finish()
    searcher = Searcher(shapes, VideoIndex.open(tmp_path / "index"))
    query = vectors.mean(dim=0)
    expected: list[tuple[str, float]] = []
    for place in (vectors @ query).sort(descending=True).indices.tolist():
        file, start = f"{place // 25}.mp4", float(place % 25)
        if all(file != other or abs(start - begun) >= 2 for other, begun in expected):
            expected.append((file, start))
    for top in (1, 5, 50):
        found = searcher.search(query, top=top)
        assert [(hit.file, hit.start) for hit in found.hits] == expected[:top]
    own = searcher.index.search(vectors[30], top=1)[0]
    assert (own.file, own.start) == ("1.mp4", 5)
    like = searcher.more_like(own.key, top=50).hits
    assert all(hit.file == "0.mp4" or abs(hit.start - 5) >= 2 for hit in like)
    assert len(like) > 10


def test_videos_in_shards_are_re_ranked_and_saved(searcher, videos, captions, tmp_path):
    names = sorted(captions)[:4]
    members = [
        member
        for name in names
        for member in (
            (f"{Path(name).stem}.mp4", (videos / name).read_bytes()),
            (f"{Path(name).stem}.txt", captions[name].encode()),
        )
    ]
    shard, out = write_shard(tmp_path / "000.tar", members), tmp_path / "index"
    assert index(["--model=shapes", f"--data={shard}", f"--out={out}", "--workers=0"]) == 0
    packed = Searcher.open(out)
    query = captions[names[1]]
    found = packed.search(query, rerank=4)
    where = f"file IN ({', '.join(repr(name) for name in names)})"
    expected = searcher.search(query, rerank=4, where=where)
    stems = [Path(hit.file).stem for hit in expected.hits]
    assert [hit.file.rpartition(":")[2] for hit in found.hits] == stems
    assert found.matches == pytest.approx(expected.matches, abs=1e-5)
    saved = list(save_moments(found, packed.index, tmp_path / "clips"))
    assert all(one.file is not None and probe(one.file.path).num_frames == 32 for one in saved)
