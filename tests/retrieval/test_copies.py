"""Groups of copies and distances of neighbours against loops over all pairs."""

from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from simvtp.retrieval.copies import VideoVectors, copies_of, copy_groups, neighbour_distances


def make(counts, *, seed=0, width=3):
    """Vectors on few directions, so that there are copies, and chains of them."""
    generator = torch.Generator().manual_seed(seed)
    few = torch.randn(4, width, generator=generator)
    which = torch.randint(len(few), (sum(counts),), generator=generator)
    noise = torch.randn(sum(counts), width, generator=generator)
    vectors = functional.normalize(few[which] + 0.15 * noise, dim=-1)
    pictures = torch.randint(100, 114, (sum(counts), 4), generator=generator).byte()
    return VideoVectors(vectors, pictures, torch.tensor([0, *counts]).cumsum(0))


def plain(vectors, counts):
    """Vectors whose pictures are all alike."""
    pictures = torch.zeros(len(vectors), 4, dtype=torch.uint8)
    return VideoVectors(vectors, pictures, torch.tensor([0, *counts]).cumsum(0))


def is_copy(videos, one, other, threshold, share):
    rows, columns = videos.of_video(one), videos.of_video(other)
    near = videos.vectors[rows] @ videos.vectors[columns].T >= threshold
    squares = videos.pictures[rows].double()[:, None] - videos.pictures[columns].double()
    same = (near & (squares.square().mean(dim=-1) <= 6.01**2)).any(dim=1)
    return same.sum() >= share * len(same)


def groups_by_loops(videos, threshold, share):
    groups = [{number} for number in range(len(videos.bounds) - 1)]
    for one, other in combinations(range(len(groups)), 2):
        pairs = ((one, other), (other, one))
        if any(is_copy(videos, *pair, threshold, share) for pair in pairs):
            joined = {n for group in groups if {one, other} & group for n in group}
            groups = [group for group in groups if not group & joined] + [joined]
    return sorted(sorted(group) for group in groups if len(group) > 1)


counts_of = st.lists(st.integers(1, 5), min_size=2, max_size=12)


@given(counts_of, st.integers(0, 99), st.sampled_from([0.9, 0.97, 0.99]), st.integers(1, 9))
def test_groups_do_not_depend_on_blocks(counts, seed, threshold, block):
    videos = make(counts, seed=seed)
    for share in (0.2, 0.5, 1.0):
        settings = {"threshold": threshold, "share": share, "difference": 6.01}
        expected = groups_by_loops(videos, threshold, share)
        assert copy_groups(videos, block=block, **settings) == expected
        assert copy_groups(videos, **settings) == expected


@given(counts_of, st.integers(0, 99), st.integers(1, 4), st.integers(1, 9))
def test_distances_are_those_of_a_sort_of_all(counts, seed, neighbours, block):
    videos = make(counts, seed=seed)
    found = neighbour_distances(videos, neighbours=neighbours, block=block)
    for number in range(len(counts)):
        own = videos.of_video(number)
        others = torch.cat([videos.vectors[: own.start], videos.vectors[own.stop :]])
        cosines = (videos.vectors[own] @ others.T).sort(descending=True).values
        expected = 1 - cosines[:, :neighbours].double().mean()
        assert found[number].item() == pytest.approx(expected.item(), abs=1e-5)


def test_a_piece_is_a_copy_and_a_shared_title_card_is_not():
    one = torch.eye(9)
    film, piece, other = one[[0, 1, 2, 3, 4]], one[[2, 3]], one[[0, 5, 6, 7]]
    parts = [film, piece, other]
    videos = plain(torch.cat(parts), [*map(len, parts)])
    assert copy_groups(videos) == [[0, 1]]
    assert copy_groups(videos, share=0.25) == [[0, 1, 2]]
    assert copies_of(videos, 0, [1, 2]) == {1: 1.0}
    assert copies_of(videos, 1, [0, 2]) == {}
    assert copies_of(videos, 1, [0], share=0.4) == {0: pytest.approx(0.4)}


def test_what_the_model_takes_for_the_same_is_told_apart_by_its_pictures():
    videos = plain(torch.ones(3, 1), [1, 1, 1])
    videos.pictures[1] = 12
    assert copy_groups(videos) == [[0, 2]]
    assert copy_groups(videos, difference=12.0) == [[0, 1, 2]]


def test_thousands_of_copies_of_one_video_are_one_group():
    vectors = functional.normalize(torch.ones(1200, 4), dim=-1)
    told = []
    videos = plain(vectors, [1] * 1200)
    groups = copy_groups(videos, threshold=0.99, block=256, told=told.append)
    assert groups == [list(range(1200))]
    assert told == sorted(told)
    assert told[-1] == 1.0


def test_wrong_numbers_are_told():
    videos = make([1, 1])
    for name, value in (("threshold", 0.0), ("threshold", 1.5), ("share", 0.0)):
        with pytest.raises(ValueError, match=rf"{name} must lie in \(0, 1\], got {value}"):
            copy_groups(videos, **{"threshold": 0.9, name: value})
    with pytest.raises(ValueError, match="among at least two, got 1"):
        neighbour_distances(make([4]))
    with pytest.raises(ValueError, match="neighbours must be at least 1"):
        neighbour_distances(videos, neighbours=0)
    assert copy_groups(plain(torch.empty(0, 3), [])) == []
