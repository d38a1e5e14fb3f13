"""What does not belong in a corpus: copies of videos, and videos that are like no other."""

import io
from collections.abc import Callable, Collection
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from simvtp.retrieval.copies import (
    COPY_THRESHOLD,
    VideoVectors,
    copies_of,
    copy_groups,
    neighbour_distances,
)
from simvtp.retrieval.video_index.index import VideoIndex
from simvtp.retrieval.video_index.tables import VideoIndexError

_PICTURE_SIDE = 16
# Encoding a video anew may change its length by a frame or two.
_SAME_SECONDS, _SAME_SHARE = 0.2, 0.02


class IndexedVideo(NamedTuple):
    """A video of an index.

    Attributes:
        root: number of the root that it lies below.
        file: its name there.
        duration: seconds.
        size: bytes.
    """

    root: int
    file: str
    duration: float
    size: int


class Copy(NamedTuple):
    """A copy, and the cosine of its moments to those of the kept one, in the mean."""

    video: IndexedVideo
    cosine: float


class CopyGroup(NamedTuple):
    """Videos that show the same: the one to keep, and the others in the order of their names."""

    kept: IndexedVideo
    copies: tuple[Copy, ...]


class Outlier(NamedTuple):
    """A video, and 1 - cosine to what is nearest to it, in the mean."""

    video: IndexedVideo
    distance: float


class Corpus(NamedTuple):
    """Videos of an index in the order of their names, and their moments in the same order."""

    videos: tuple[IndexedVideo, ...]
    moments: VideoVectors


def read_corpus(index: VideoIndex) -> Corpus:
    """All videos of an index, with the vectors of all moments in memory, and small pictures.

    Raises:
        VideoIndexError: the index has no video, or a picture is damaged.
    """
    files = index.files().filter(index.files()["num_moments"].to_numpy() > 0)
    columns = [files[name].to_pylist() for name in IndexedVideo._fields]
    videos = tuple(sorted(IndexedVideo(*row) for row in zip(*columns, strict=True)))
    if not videos:
        raise VideoIndexError(f"{index.place}: it holds no videos; add some first")
    numbers = {(video.root, video.file): number for number, video in enumerate(videos)}
    places: list[tuple[int, float]] = []
    vectors: list[np.ndarray] = []
    pictures: list[np.ndarray] = []
    for batch in index.moments("root", "file", "start", "thumbnail", "vector"):
        names = zip(batch["root"].to_pylist(), batch["file"].to_pylist(), strict=True)
        owners = [numbers.get(name, -1) for name in names]
        # A run that was stopped leaves moments of videos that it has not finished.
        batch = batch.filter(np.asarray(owners) >= 0)
        owners = [owner for owner in owners if owner >= 0]
        places += zip(owners, batch["start"].to_pylist(), strict=True)
        vectors.append(np.asarray(batch["vector"].flatten()).reshape(batch.num_rows, -1))
        pictures += [_small(thumbnail.as_py()) for thumbnail in batch["thumbnail"]]
    owner, start = (np.asarray(column) for column in zip(*places, strict=True))
    order = np.lexsort((start, owner))
    bounds = np.searchsorted(owner[order], np.arange(len(videos) + 1))
    moments = VideoVectors(
        torch.from_numpy(np.concatenate(vectors)[order]),
        torch.from_numpy(np.stack(pictures)[order]),
        torch.from_numpy(bounds),
    )
    return Corpus(videos, moments)


def find_copies(
    corpus: Corpus,
    *,
    threshold: float = COPY_THRESHOLD,
    among: Collection[int] | None = None,
    told: Callable[[float], None] = lambda done: None,
) -> list[CopyGroup]:
    """Groups of copies, each with the one to keep: the longest, then the largest, then by name.

    Lengths that differ by no more than 0.2 s or 2 % count as one. Each copy is a copy of the kept
    one itself: where videos are alike only by way of others, several are kept.

    Args:
        corpus: the videos.
        threshold: as for `copy_groups`.
        among: numbers of the videos that there is a choice of; all by default.
        told: hears what share of the work is done.

    Raises:
        ValueError: the threshold is out of its range.
    """
    found = []
    for group in copy_groups(corpus.moments, threshold=threshold, told=told):
        left = [number for number in group if among is None or number in among]
        while len(left) > 1:
            kept = _best(left, corpus.videos)
            left.remove(kept)
            cosines = copies_of(corpus.moments, kept, left, threshold=threshold)
            left = [number for number in left if number not in cosines]
            copies = tuple(Copy(corpus.videos[number], cosines[number]) for number in cosines)
            if copies:
                found.append(CopyGroup(corpus.videos[kept], copies))
    return found


def find_outliers(
    corpus: Corpus, *, most: int, told: Callable[[float], None] = lambda done: None
) -> list[Outlier]:
    """The videos that are farthest from their ten nearest neighbours, the farthest first.

    Args:
        corpus: the videos, at least two.
        most: how many at most.
        told: hears what share of the work is done.

    Raises:
        ValueError: there is one video.
    """
    distances = neighbour_distances(corpus.moments, told=told)
    values, places = distances.sort(descending=True, stable=True)
    pairs = zip(places[:most].tolist(), values[:most].tolist(), strict=True)
    return [Outlier(corpus.videos[number], distance) for number, distance in pairs]


def _small(thumbnail: bytes) -> np.ndarray:
    """A picture of 16 x 16 pixels: what two encodings of a frame have in common."""
    size = (_PICTURE_SIDE, _PICTURE_SIDE)
    try:
        # No other kind: for some of them, Pillow runs programs.
        with Image.open(io.BytesIO(thumbnail), formats=["JPEG"]) as picture:
            picture.draft("RGB", size)
            small = picture.convert("RGB").resize(size, Image.Resampling.BOX)
    except (OSError, Image.DecompressionBombError) as error:
        raise VideoIndexError(
            f"it has a picture that is no JPEG ({error}); index its videos anew"
        ) from error
    return np.asarray(small).reshape(-1)


def _best(numbers: Collection[int], videos: tuple[IndexedVideo, ...]) -> int:
    longest = max(videos[number].duration for number in numbers)
    least = longest - max(_SAME_SECONDS, _SAME_SHARE * longest)
    long = [number for number in numbers if videos[number].duration >= least]
    return min(long, key=lambda number: (-videos[number].size, number))
