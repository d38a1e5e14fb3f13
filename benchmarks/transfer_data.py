"""Annotated clips of the embedded corpus' kind: motions, counts and captions."""

import csv
import random
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from simvtp.data.corpus.rendering import render_scenes
from simvtp.data.corpus.scenes import COLOURS, MOTIONS, Scene, Split, sample_scenes

# Seeds apart from the corpus' own: no clip here was ever pre-trained on.
_MIXED_SEED, _ALONE_SEED = 101, 202
_ALONE_SHARE = 0.08
_DONE = "done"


class Annotations(NamedTuple):
    """Files of a task."""

    train: Path
    test: Path


def render_tasks(folder: Path, *, num_train: int, num_test: int) -> dict[str, Annotations]:
    """Render the clips and write the annotations of all tasks, unless they are there already.

    Args:
        folder: where they go.
        num_train: labelled clips to fine-tune on, of each kind.
        num_test: clips to measure on.

    Returns:
        Annotations of classification, qa and retrieval.
    """
    tasks = {
        task: Annotations(folder / f"{task}_train.csv", folder / f"{task}_test.csv")
        for task in ("classification", "qa", "retrieval")
    }
    if (folder / _DONE).exists():
        return tasks
    splits: tuple[tuple[Split, int], ...] = (("train", num_train), ("validation", num_test))
    for place, (split, count) in enumerate(splits):
        mixed = sample_scenes(count, split=split, seed=_MIXED_SEED)
        clips = render_scenes(folder / f"mixed_{split}", mixed)
        names = [str(clip.relative_to(folder)) for clip in clips]
        _write(tasks["retrieval"][place], ("videoid", "path", "caption"), _captions(names, mixed))
        _write(tasks["qa"][place], ("path", "question", "answer"), _counts(names, mixed))
        alone = _alone(count, seed=_ALONE_SEED + place)
        clips = render_scenes(folder / f"alone_{split}", alone)
        rows = (
            (str(clip.relative_to(folder)), scene.events[0].motion)
            for clip, scene in zip(clips, alone, strict=True)
        )
        _write(tasks["classification"][place], ("path", "label"), rows)
    (folder / _DONE).touch()
    return tasks


def _alone(count: int, *, seed: int) -> list[Scene]:
    """Scenes of one object with one motion."""
    drawn = sample_scenes(round(1.5 * count / _ALONE_SHARE), split="train", seed=seed)
    kept = (scene for scene in drawn if scene.order == "alone")
    known = (scene for scene in kept if scene.events[0].motion in MOTIONS)
    return list(islice(known, count))


def _captions(names: Sequence[str], scenes: Sequence[Scene]) -> Iterable[tuple[str, str, str]]:
    for name, scene in zip(names, scenes, strict=True):
        yield name, name, scene.caption


def _counts(names: Sequence[str], scenes: Sequence[Scene]) -> Iterable[tuple[str, str, str]]:
    """For each clip how many objects have a colour: one that is there or, as often, any."""
    for name, scene in zip(names, scenes, strict=True):
        generator = random.Random(scene.seed)
        there = [actor.colour for actor in scene.actors]
        colour = generator.choice(there if generator.random() < 0.5 else list(COLOURS))
        yield name, f"how many {colour} objects are there", str(there.count(colour))


def _write(file: Path, header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(header)
        writer.writerows(rows)
