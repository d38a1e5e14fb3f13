"""Clips that show what another clip shows, as an index of them tells."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from simvtp.data.clip_table import ClipRecord, ClipTable, portable_name
from simvtp.data.places import Place, Url
from simvtp.printing import Console
from simvtp.retrieval.copies import COPY_THRESHOLD


class LeftOutCopy(NamedTuple):
    """A clip that is left out, and the one that is kept for it.

    Attributes:
        number: of the clip in the manifest.
        video_id: its id.
        name: its file, below the manifest's root.
        kept: file of the clip that is kept.
        cosine: of its moments to those of the kept one, in the mean.
    """

    number: int
    video_id: str
    name: str
    kept: str
    cosine: float


def copies_among(
    clips: ClipTable, place: str, *, threshold: float | None, console: Console
) -> list[LeftOutCopy]:
    """The clips of a manifest that are copies of others of it, in its order.

    Clips that are not in the index, or whose size is not what it was then, stay.

    Args:
        clips: the manifest.
        place: the index, as typed.
        threshold: as for `copy_groups`; None is the usual one.
        console: is told how many stay for not being known.

    Raises:
        ValueError: the index has none of the clips, or the threshold is out of its range.
        MissingPackageError: the data base is not installed.
    """
    from simvtp.retrieval.video_index import VideoIndex
    from simvtp.retrieval.video_index.cleaning import find_copies, read_corpus

    index = VideoIndex.open(place)
    corpus = read_corpus(index)
    roots = index.about.roots
    known = {
        (_named(f"{roots[video.root]}/{video.file}"), video.size): number
        for number, video in enumerate(corpus.videos)
    }
    numbers: dict[int, int] = {}
    for number, record in enumerate(clips):
        video = known.get((_named(record.name), _size(record)))
        if video is not None:
            numbers.setdefault(video, number)
    if not numbers:
        raise ValueError(
            f"{place}: it holds none of the {len(clips)} clips of {clips.source}, or they have "
            "changed since; index them first with python -m simvtp.pipelines.index"
        )
    if len(numbers) < len(clips):
        unknown = len(clips) - len(numbers)
        console.print(f"{unknown} of {len(clips)} clips are not in {place} as they are, and stay")
    threshold = COPY_THRESHOLD if threshold is None else threshold
    places = {corpus.videos[video]: number for video, number in numbers.items()}
    found = [
        LeftOutCopy(
            places[copy.video],
            clips[places[copy.video]].video_id,
            portable_name(clips[places[copy.video]], clips.root),
            portable_name(clips[places[group.kept]], clips.root),
            round(copy.cosine, 4),
        )
        for group in find_copies(corpus, threshold=threshold, among=numbers)
        for copy in group.copies
    ]
    return sorted(found)


def digest_of(copies: Sequence[LeftOutCopy]) -> str:
    """Tells whether the same clips are left out when a work goes on."""
    numbers = json.dumps([copy.number for copy in copies])
    return f"{len(copies)} copies, {hashlib.sha256(numbers.encode()).hexdigest()[:12]}"


def _named(name: str) -> str:
    """One name of a file, or of a clip in a shard, however the folders above it are written."""
    if "://" in name or name.startswith("pipe:"):
        return name
    folder, _, last = name.rpartition("/")
    return f"{Path(folder or '.').resolve()}/{last}"


def _size(record: ClipRecord) -> int:
    if record.span is not None:
        return record.span.size
    place: Place | str = record.path
    if isinstance(place, Path | str):
        try:
            return Path(place).stat().st_size
        except OSError:
            return -1
    return 0 if isinstance(place, Url) else -1
