"""A sheet to look at: the best, the worst and the most confused text-to-video queries."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor

from simvtp.data import ClipRecord
from simvtp.data.datasets.clip_batches import clip_batches
from simvtp.metrics import QueryRanks
from simvtp.model import SimVTP
from simvtp.printing import Progress
from simvtp.retrieval.gallery import Gallery

_FRAMES_SHOWN = 4
_FRAME_SIDE = 112


class SheetClip(NamedTuple):
    """A clip as it stands beside a query.

    Attributes:
        name: its id.
        score: its cosine with the query.
        is_own: whether the query is its caption.
        frames: `(height, width, 3)` uint8, some of its frames side by side.
    """

    name: str
    score: float
    is_own: bool
    frames: np.ndarray


class SheetQuery(NamedTuple):
    """A caption, its clip and what was retrieved.

    Attributes:
        caption: the query.
        rank: expected rank of its clip, ties averaged.
        own: its clip.
        retrieved: the clips of the highest scores, highest first.
    """

    caption: str
    rank: float
    own: SheetClip
    retrieved: tuple[SheetClip, ...]


class Sheet(NamedTuple):
    """Queries by what they show: best, worst, most confused.

    Attributes:
        title: what was evaluated.
        sections: queries by the section's heading.
    """

    title: str
    sections: dict[str, tuple[SheetQuery, ...]]


def select_queries(
    similarity: Tensor, *, owners: Tensor, rank: Tensor, count: int
) -> dict[str, list[int]]:
    """Numbers of the queries to show, at most one of each clip in a section, none twice.

    The margin of a query is the score of its clip less the highest of another clip. The best
    have the lowest rank, and then the largest margin; the worst the highest rank, and then the
    lowest margin; the most confused are those left whose margin is closest to 0: the model can
    hardly tell the right clip from a wrong one.

    Args:
        similarity: `(captions, clips)` scores.
        owners: `(captions,)` int64 place of each caption's clip.
        rank: `(captions,)` expected rank of that clip.
        count: queries of a section.
    """
    own = similarity.gather(1, owners[:, None]).squeeze(1)
    foreign = similarity.scatter(1, owners[:, None], float("-inf")).amax(dim=1)
    margin = (own - foreign).double().numpy()
    ranks = rank.numpy()
    orders = {
        "best": np.lexsort((-margin, ranks)),
        "worst": np.lexsort((margin, -ranks)),
        "most confused": np.argsort(np.abs(margin), kind="stable"),
    }
    clips = owners.tolist()
    shown: set[int] = set()
    chosen: dict[str, list[int]] = {}
    for name, order in orders.items():
        of_clip: dict[int, int] = {}
        for query in order.tolist():
            if query not in shown and len(of_clip) < count:
                of_clip.setdefault(clips[query], query)
        chosen[name] = list(of_clip.values())
        shown.update(chosen[name])
    return chosen


def make_sheet(
    model: SimVTP,
    records: Sequence[ClipRecord],
    gallery: Gallery,
    *,
    ranks: QueryRanks,
    title: str,
    count: int = 5,
    top: int = 3,
    num_workers: int = 0,
    progress: Progress | None = None,
) -> Sheet:
    """Choose queries, and read the frames that the model sees of the clips beside them.

    Args:
        model: knows what clips it takes.
        records: the clips of the manifest.
        gallery: their features.
        ranks: of the text-to-video queries, by cosine.
        title: what was evaluated.
        count: queries of a section.
        top: retrieved clips to show of each.
        num_workers: processes that decode.
        progress: where progress is shown.

    Raises:
        ValueError: a clip that has been read cannot be read again.
    """
    similarity = gallery.text @ gallery.video.T
    chosen = select_queries(similarity, owners=gallery.owners, rank=ranks.rank, count=count)
    owners = gallery.owners.tolist()
    best = similarity.topk(min(top, similarity.shape[1]), dim=1).indices.tolist()
    queries = [query for section in chosen.values() for query in section]
    places = sorted({place for query in queries for place in (owners[query], *best[query])})
    numbers = [int(gallery.clip_index[place]) for place in places]
    frames = _read_frames(
        model, [records[number] for number in numbers], num_workers=num_workers, progress=progress
    )
    of_place = dict(zip(places, frames, strict=True))

    def clip(query: int, place: int) -> SheetClip:
        name = records[int(gallery.clip_index[place])].video_id
        score = float(similarity[query, place])
        return SheetClip(name, score, place == owners[query], of_place[place])

    def shown(query: int) -> SheetQuery:
        retrieved = tuple(clip(query, place) for place in best[query])
        rank = float(ranks.rank[query])
        return SheetQuery(gallery.captions[query], rank, clip(query, owners[query]), retrieved)

    sections = {name: tuple(map(shown, section)) for name, section in chosen.items()}
    return Sheet(title, sections)


def _read_frames(
    model: SimVTP, records: Sequence[ClipRecord], *, num_workers: int, progress: Progress | None
) -> list[np.ndarray]:
    strips: list[np.ndarray] = []
    task = None if progress is None else progress.add_task("sheet", total=len(records))
    for batch in clip_batches(model, records, batch_size=8, num_workers=num_workers):
        for number, reason in batch.errors:
            raise ValueError(f"{records[number].name} was read once, but not again: {reason}")
        strips += [_strip(video) for video in batch.video]
        if progress is not None and task is not None:
            progress.advance(task, len(batch.numbers))
    return strips


def _strip(video: Tensor) -> np.ndarray:
    """Evenly spread frames of a clip `(frames, channels, size, size)` side by side."""
    count = min(_FRAMES_SHOWN, len(video))
    numbers = np.linspace(0, len(video) - 1, count).round().astype(int)
    frames = [Image.fromarray(video[n].permute(1, 2, 0).numpy()) for n in numbers.tolist()]
    size = (_FRAME_SIDE, _FRAME_SIDE)
    return np.concatenate([np.asarray(frame.resize(size)) for frame in frames], axis=1)
