"""Videos that show the same as others, and videos like no other, from vectors of their moments.

All pairs are compared, exactly, in blocks: no more than a block of cosines is ever held.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from simvtp.config.checks import require_at_least

# docs/search.md tells what was measured.
COPY_THRESHOLD = 0.9
_COPY_DIFFERENCE = 8.0
# Moments of a block, but that a longer video is one by itself.
_BLOCK = 2048


class VideoVectors(NamedTuple):
    """Moments of videos, those of a video side by side.

    Attributes:
        vectors: `(moments, width)` float32, unit norm.
        pictures: `(moments, values)` uint8, small pictures of their middles.
        bounds: `(videos + 1,)` int64, place of each video's first moment, and the number of all.
    """

    vectors: Tensor
    pictures: Tensor
    bounds: Tensor

    def of_video(self, video: int) -> slice:
        """Places of a video's moments."""
        return slice(int(self.bounds[video]), int(self.bounds[video + 1]))

    def are_near(
        self, rows: slice, columns: slice, *, threshold: float, difference: float
    ) -> Tensor:
        """Which moments show the same as which others, `(rows, columns)` bool."""
        near = self.vectors[rows] @ self.vectors[columns].T >= threshold
        if not near.any():
            return near
        first, second = (self.pictures[places].float() for places in (rows, columns))
        squares = first.square().sum(1)[:, None] + second.square().sum(1) - 2 * first @ second.T
        return near & (squares <= difference**2 * first.shape[1])


def copy_groups(
    videos: VideoVectors,
    *,
    threshold: float = COPY_THRESHOLD,
    difference: float = _COPY_DIFFERENCE,
    share: float = 0.5,
    block: int = _BLOCK,
    told: Callable[[float], None] = lambda done: None,
) -> list[list[int]]:
    """Videos in groups of copies: a chain of copies leads from each to each other of its group.

    Two moments show the same where their vectors and their pictures are near: a vector alone tells
    no more apart than its model has learned to. A video is a copy of another where at least `share`
    of its moments show what some moment of the other shows. So a piece of a film is a copy of the
    film, and two films with one title card are none.

    Args:
        videos: their vectors and pictures.
        threshold: least cosine of two moments that show the same, in (0, 1].
        difference: largest difference of their pictures, root mean square of values of 0 to 255.
        share: of a video's moments, in (0, 1].
        block: moments that are compared with as many others at a time.
        told: hears what share of the work is done.

    Returns:
        Groups of two and more, each in order, by their first video.

    Raises:
        ValueError: a number is out of its range.
    """
    for name, value in {"threshold": threshold, "share": share}.items():
        if not 0 < value <= 1:
            raise ValueError(f"{name} must lie in (0, 1], got {value}")
    owner = _owners(videos.bounds)
    needed = share * videos.bounds.diff().numpy()
    group = np.arange(len(videos.bounds) - 1)
    for rows, columns in _pairs_of_blocks(videos.bounds, block, told):
        near = videos.are_near(rows, columns, threshold=threshold, difference=difference)
        first, second = (places.numpy() for places in near.nonzero(as_tuple=True))
        of_first, of_second = owner[rows][first], owner[columns][second]
        _join(group, *_links(rows.start + first, of_second, of_first, needed))
        _join(group, *_links(columns.start + second, of_first, of_second, needed))
    return _groups(group)


def neighbour_distances(
    videos: VideoVectors,
    *,
    neighbours: int = 10,
    block: int = _BLOCK,
    told: Callable[[float], None] = lambda done: None,
) -> Tensor:
    """How far each video is from what is nearest to it: large where nothing else is like it.

    The distance of a moment is 1 - cosine, in the mean over its nearest moments of other videos;
    that of a video is the mean over its moments.

    Args:
        videos: their vectors, of at least two videos.
        neighbours: how many are the nearest; fewer where there are not as many.
        block: moments that are compared with as many others at a time.
        told: hears what share of the work is done.

    Returns:
        `(videos,)` float64.

    Raises:
        ValueError: there is one video, or `neighbours` is below 1.
    """
    require_at_least(1, neighbours=neighbours)
    num_videos = len(videos.bounds) - 1
    if num_videos < 2:
        raise ValueError(f"a video has neighbours among at least two, got {num_videos}")
    owner = torch.from_numpy(_owners(videos.bounds))
    blocks = list(_blocks(videos.bounds, block))
    distances = torch.empty(len(owner), dtype=torch.float64)
    for number, rows in enumerate(blocks):
        nearest = torch.empty(rows.stop - rows.start, 0)
        for columns in blocks:
            cosines = videos.vectors[rows] @ videos.vectors[columns].T
            cosines[owner[rows][:, None] == owner[columns]] = -torch.inf
            both = torch.cat([nearest, cosines], dim=1)
            nearest = both.topk(min(neighbours, both.shape[1]), dim=1).values
        found = nearest.isfinite()
        total = nearest.where(found, 0.0).sum(dim=1, dtype=torch.float64)
        distances[rows] = 1 - total / found.sum(dim=1)
        told((number + 1) / len(blocks))
    sums = torch.zeros(num_videos, dtype=torch.float64).index_add_(0, owner, distances)
    return sums / videos.bounds.diff()


def copies_of(
    videos: VideoVectors,
    kept: int,
    others: Sequence[int],
    *,
    threshold: float = COPY_THRESHOLD,
    difference: float = _COPY_DIFFERENCE,
    share: float = 0.5,
) -> dict[int, float]:
    """Which of some videos are copies of one, as `copy_groups` says, and not by way of others.

    Args:
        videos: their vectors and pictures.
        kept: number of the one.
        others: numbers of the others.
        threshold: as for `copy_groups`.
        difference: as for `copy_groups`.
        share: as for `copy_groups`.

    Returns:
        The mean cosine of each copy's moments to the nearest of the one's, by its number.
    """
    own = videos.of_video(kept)
    found = {}
    for other in others:
        rows = videos.of_video(other)
        near = videos.are_near(rows, own, threshold=threshold, difference=difference)
        if near.any(dim=1).sum() >= share * len(near):
            nearest = (videos.vectors[rows] @ videos.vectors[own].T).amax(dim=1)
            found[other] = nearest.mean().item()
    return found


def _owners(bounds: Tensor) -> np.ndarray:
    return np.repeat(np.arange(len(bounds) - 1), bounds.diff().numpy())


def _blocks(bounds: Tensor, block: int) -> Iterator[slice]:
    """Moments of whole videos, about `block` of them at a time."""
    require_at_least(1, block=block)
    start = end = 0
    for bound in bounds[1:].tolist():
        if bound - start > block and end > start:
            yield slice(start, end)
            start = end
        end = bound
    if end > start:
        yield slice(start, end)


def _pairs_of_blocks(
    bounds: Tensor, block: int, told: Callable[[float], None]
) -> Iterator[tuple[slice, slice]]:
    blocks = list(_blocks(bounds, block))
    total, done = len(blocks) * (len(blocks) + 1) / 2, 0
    for number, rows in enumerate(blocks):
        for columns in blocks[number:]:
            yield rows, columns
            done += 1
            told(done / total)


def _links(
    moments: np.ndarray, others: np.ndarray, videos: np.ndarray, needed: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of a video and another that enough of its moments are near to, as two columns.

    Args:
        moments: `(near,)` numbers of moments, each near to some moment of another video.
        others: `(near,)` numbers of those videos.
        videos: `(near,)` numbers of the moments' own videos.
        needed: `(videos,)` how many of its moments must be near.
    """
    size = len(needed)
    _, places = np.unique(moments * size + others, return_index=True)
    pairs, counts = np.unique(videos[places] * size + others[places], return_counts=True)
    own, other = pairs // size, pairs % size
    linked = (own != other) & (counts >= needed[own])
    return own[linked], other[linked]


def _join(group: np.ndarray, videos: np.ndarray, others: np.ndarray) -> None:
    """Give each pair of videos, and all that share a group's number with them, one number."""
    while (group[videos] != group[others]).any():
        first, second = group[videos], group[others]
        number = np.arange(len(group))
        np.minimum.at(number, np.maximum(first, second), np.minimum(first, second))
        while (number[number] != number).any():
            number = number[number]
        group[:] = number[group]


def _groups(group: np.ndarray) -> list[list[int]]:
    members: dict[int, list[int]] = {}
    for video, number in enumerate(group.tolist()):
        members.setdefault(number, []).append(video)
    return [videos for videos in members.values() if len(videos) > 1]
