"""Which of some copies is kept, and what an index gives to compare."""

import pytest

from simvtp.retrieval.video_index import VideoIndexError
from simvtp.retrieval.video_index.cleaning import find_copies, find_outliers, read_corpus
from testing.retrieval.made_index import axis, make


@pytest.fixture
def corpus(tmp_path):
    videos = {
        "z_long.mp4": (axis(0, 1, 2), 30.0, 10),
        "small.mp4": (axis(0, 1), 20.0, 99),
        "b_same.mp4": (axis(3), 5.0, 50),
        "a_same.mp4": (axis(3), 4.95, 50),
        "larger_but_a_frame_shorter.mp4": (axis(3), 4.9, 70),
        "other.mp4": ([[1.0, 1.0, 0, 1.0, 0, 0.3]], 5.0, 1),
        "alone.mp4": (axis(5), 5.0, 1),
        "repainted.mp4": (axis(0, 1), 20.0, 99),
    }
    return read_corpus(make(tmp_path / "index", videos))


def test_the_longest_is_kept_then_the_largest_then_the_first(corpus):
    groups = find_copies(corpus, threshold=0.9)
    named = {g.kept.file: [copy.video.file for copy in g.copies] for g in groups}
    assert named == {
        "larger_but_a_frame_shorter.mp4": ["a_same.mp4", "b_same.mp4"],
        "z_long.mp4": ["small.mp4"],
    }
    assert [copy.cosine for group in groups for copy in group.copies] == [1.0, 1.0, 1.0]
    names = [video.file for video in corpus.videos]
    chosen = {names.index(name) for name in ("a_same.mp4", "b_same.mp4", "small.mp4")}
    (group,) = find_copies(corpus, threshold=0.9, among=chosen)
    assert (group.kept.file, group.copies[0].video.file) == ("a_same.mp4", "b_same.mp4")


def test_the_farthest_from_all_comes_first(corpus):
    found = find_outliers(corpus, most=2)
    assert found[0].video.file == "alone.mp4"
    assert found[0].distance > found[1].distance


def test_an_empty_index_is_refused(tmp_path):
    with pytest.raises(VideoIndexError, match="holds no videos"):
        read_corpus(make(tmp_path / "index", {}))
