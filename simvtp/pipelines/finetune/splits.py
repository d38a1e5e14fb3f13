"""Which clips are kept out for validation, and which share of the others is used."""

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from simvtp.data import ClipRecord
from simvtp.pipelines.finetune.settings import FinetuneConfig
from simvtp.printing import printable

_SPLIT_STREAM, _SHARE_STREAM = 11, 12


class SharedVideosWarning(UserWarning):
    """Two splits of a benchmark hold the same videos."""


def keep_out(num_clips: int, *, share: float, seed: int) -> tuple[list[int], list[int]]:
    """Clips to train on and clips kept out, in rising order.

    Args:
        num_clips: clips in all.
        share: share that is kept out, at least one clip.
        seed: chooses them; more clips to train on never change which are kept out.

    Raises:
        ValueError: there are fewer than two clips.
    """
    if num_clips < 2:
        raise ValueError(f"keeping clips out for validation needs two or more, got {num_clips}")
    order = np.random.default_rng((seed, _SPLIT_STREAM)).permutation(num_clips)
    count = min(num_clips - 1, max(1, round(share * num_clips)))
    return sorted(order[count:].tolist()), sorted(order[:count].tolist())


def share_of(groups: Sequence[int], *, share: float, seed: int) -> list[int]:
    """A share of the items, the same of each group and at least one, in rising order.

    A smaller share of the same seed is part of a larger one.

    Args:
        groups: group of each item, such as its class.
        share: in (0, 1].
        seed: chooses them.
    """
    labels = np.asarray(groups)
    order = np.random.default_rng((seed, _SHARE_STREAM)).permutation(len(labels))
    chosen: list[int] = []
    for group in np.unique(labels):
        members = order[labels[order] == group]
        chosen += members[: max(1, round(share * len(members)))].tolist()
    return sorted(chosen)


def read_splits(
    config: FinetuneConfig,
    load: Callable[..., Any],
    *,
    pick: Callable[[Any, Sequence[int]], Any],
    groups: Callable[[Any], Sequence[int]],
    names: Callable[[Any], Mapping[str, Any]],
    records: Callable[[Any], Sequence[ClipRecord]],
) -> dict[str, Any]:
    """Annotations by split: train, validation and, if there are any, test.

    Args:
        config: where they are, and which share of them to use.
        load: reads one file; called with its path, the root, perhaps a split, and what `names`
            gives.
        pick: some of the annotations, by the numbers of their clips.
        groups: group of each clip, of each of which the same share is used.
        names: what the other splits are read with, such as the classes.
        records: the clips of some annotations.

    Raises:
        ValueError: annotations are faulty, or two splits hold the same video. Only questions may
            share videos, with a warning.
    """
    data, seed = config.data, config.run.seed

    def read(path: str, split: str | None, **known: Any) -> Any:
        chosen = {} if split is None else {"split": split}
        return load(path, root=data.root, missing=data.missing, **chosen, **known)

    train = read(data.train, data.train_split)
    known = names(train)
    splits: dict[str, Any] = {}
    if data.validation is None:
        kept, out = keep_out(len(groups(train)), share=data.validation_share, seed=seed)
        train, splits["validation"] = pick(train, kept), pick(train, out)
    else:
        splits["validation"] = read(data.validation, data.validation_split, **known)
    if data.label_share < 1:
        train = pick(train, share_of(groups(train), share=data.label_share, seed=seed))
    if data.test is not None:
        splits["test"] = read(data.test, data.test_split, **known)
    splits = {"train": train, **splits}
    _require_apart(
        {name: records(split) for name, split in splits.items()}, refuse=config.task != "qa"
    )
    return splits


def _require_apart(splits: Mapping[str, Sequence[ClipRecord]], *, refuse: bool) -> None:
    """Find videos that stand in two splits.

    Raises:
        ValueError: there are such videos, and they are refused.
    """
    # Formats differ in whether they give the root as it was written or as an absolute path.
    videos = {
        name: {
            record.name if record.span else os.path.abspath(str(record.path))  # noqa: PTH100
            for record in split
        }
        for name, split in splits.items()
    }
    found = []
    for first, second in combinations(videos, 2):
        shared = videos[first] & videos[second]
        if shared:
            count = f"{len(shared)} of the {len(videos[second])} {second} videos"
            found.append(f"{count} are {first} videos too, such as {printable(min(shared))}")
    if not found:
        return
    message = f"{'; '.join(found)}: figures of them would be too good"
    if refuse:
        raise ValueError(
            f"{message}; give splits that share no video, with data.train_split, "
            "data.validation_split and data.test_split where one file holds them all"
        )
    warnings.warn(message, SharedVideosWarning, stacklevel=2)
