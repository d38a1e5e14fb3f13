"""One of several sources of training clips."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath

from simvtp.config.checks import require, require_at_least, require_positive, require_sound
from simvtp.config.model import ModelConfig

_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_NOT_PLAIN = re.compile(r"[^A-Za-z0-9_.-]+")


@dataclass(frozen=True, kw_only=True)
class DataSource:
    """One of the sources that training clips are mixed from.

    Args:
        path: a folder of videos, a table, or tar shards, as data.train names a single one.
        weight: its share of an epoch's clips over the sum of all weights; null for all sources
            takes the number of their clips.
        name: what the log calls it; null takes the path's.
        root: folder that its paths are relative to; null takes data.root.
        columns: columns of its table that count; null takes data.columns.
        num_frames: frames of its clips, up to the model's: those of one tubelet for photographs;
            null takes the model's.
        image_size: height and width of its clips in pixels, likewise.
    """

    path: str
    weight: float | None = None
    name: str | None = None
    root: str | None = None
    columns: str | None = None
    num_frames: int | None = None
    image_size: int | None = None

    def __post_init__(self) -> None:
        require_sound(self)
        require_at_least(1, num_frames=self.num_frames, image_size=self.image_size)
        require(bool(self.path.strip()), "the path of a source is empty; name its clips")
        if self.weight is not None:
            require_positive(self, "weight")
        require(
            self.name is None or _PLAIN_NAME.fullmatch(self.name) is not None,
            f"the name of a source must be letters, digits, '.', '_' and '-', got {self.name!r}",
        )


def require_mixable(sources: Sequence[DataSource]) -> None:
    """Refuse sources that make no mixture: none, some of them without weight, names taken twice.

    Raises:
        ValueError: it is so.
    """
    require(bool(sources), "data.train is an empty list; name one source or more")
    without = [source.path for source in sources if source.weight is None]
    require(
        len(without) in (0, len(sources)),
        f"data.train: {', '.join(without[:3])} has no weight and other sources have one; give each "
        "a weight, or none, which takes the number of their clips",
    )
    counts = Counter(source.name for source in sources if source.name is not None)
    twice = [name for name, count in counts.items() if count > 1]
    require(not twice, f"data.train: two sources are named {twice[:1]}; name them differently")


def sizes_of(source: DataSource, model: ModelConfig) -> ModelConfig:
    """The model's sizes with those of a source's clips.

    Raises:
        ValueError: they are no whole number of tubelets, larger than the model's, or others than
            the model's where it takes one size only.
    """
    named = {"num_frames": source.num_frames, "image_size": source.image_size}
    own = {name: size for name, size in named.items() if size is not None}
    for name, size in own.items():
        most = getattr(model, name)
        require(
            size == most or (size < most and model.clip_sizes == "up_to"),
            f"the source {source.path} has {name} {size} and the model {most}: a source may have "
            "less, with model.clip_sizes up_to",
        )
    return replace(model, **own)


def names_of(sources: Sequence[DataSource]) -> list[str]:
    """What the log calls each source: the name given, else its path's, with a number if taken."""
    taken = {source.name for source in sources if source.name is not None}
    names: list[str] = []
    for source in sources:
        if source.name is not None:
            names.append(source.name)
            continue
        stem = _NOT_PLAIN.sub("-", PurePath(source.path).stem).strip("-.") or "source"
        tried = (stem if count == 1 else f"{stem}-{count}" for count in range(1, len(sources) + 2))
        names.append(next(name for name in tried if name not in taken))
        taken.add(names[-1])
    return names
