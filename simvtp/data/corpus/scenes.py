"""Scenes of the embedded corpus: who does what, in which order, and a caption that says so."""

import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice
from typing import Literal, NamedTuple

Split = Literal["train", "validation"]
Order = Literal["alone", "then", "while", "collide"]
Phrase = tuple[str, str]

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (225, 25, 30),
    "green": (20, 160, 50),
    "blue": (30, 50, 225),
    "yellow": (250, 220, 20),
    "pink": (245, 60, 210),
    "cyan": (20, 220, 235),
    "white": (252, 252, 252),
    "black": (8, 8, 8),
}
SHAPES = ("circle", "square", "triangle", "star", "ring", "cross", "heart", "moon")
SIZES = ("small", "large")
BACKGROUNDS = ("striped", "checked", "dotted", "cloudy", "plain")

# Order of the events, objects, and how many scenes in a hundred are of the kind.
_KINDS: tuple[tuple[Order, int, int], ...] = (
    *(("then", 2, 46), ("while", 2, 24), ("collide", 2, 8)),
    *(("then", 1, 14), ("alone", 1, 8)),
)
_HELD_OUT_ONE_IN = 8


def _phrases(verbs: str, tails: str) -> tuple[Phrase, ...]:
    """Every verb ("moves/moving") with every tail ("to the left"), as finite and -ing form."""
    pairs = [verb.split("/") for verb in verbs.split()]
    return tuple(
        (f"{finite} {tail}".strip(), f"{gerund} {tail}".strip())
        for finite, gerund in pairs
        for tail in tails.split("|")
    )


_MOVES = "moves/moving slides/sliding"
_TURNS = "spins/spinning turns/turning"

MOTIONS: dict[str, tuple[Phrase, ...]] = {
    "left": _phrases(_MOVES, "to the left"),
    "right": _phrases(_MOVES, "to the right"),
    "up": _phrases(_MOVES, "to the top"),
    "down": _phrases(_MOVES, "to the bottom"),
    "clockwise": _phrases(_TURNS, "clockwise"),
    "counterclockwise": _phrases(_TURNS, "counterclockwise"),
    "grow": _phrases("grows/growing", "") + _phrases("gets/getting", "bigger"),
    "shrink": _phrases("shrinks/shrinking", "") + _phrases("gets/getting", "smaller"),
    "appear": _phrases("appears/appearing", "slowly") + _phrases("fades/fading", "in"),
    "disappear": _phrases("disappears/disappearing", "slowly") + _phrases("fades/fading", "out"),
    "bounce": _phrases("bounces/bouncing hops/hopping", "up and down"),
    "still": _phrases("stays/staying rests/resting", "in place"),
}

_CAPTIONS_OF_ONE: dict[Order, tuple[str, ...]] = {
    "alone": (
        "there is {a} that {does_a}",
        "the video shows {a} {doing_a}",
    ),
    "then": (
        "{a} {does_a} and then {does_b}",
        "{a} {does_b} after {doing_a}",
        "first {a} {does_a}, then it {does_b}",
    ),
}
_CAPTIONS_OF_TWO: dict[Order, tuple[str, ...]] = {
    "then": (
        "{a} {does_a} and then {b} {does_b}",
        "first {a} {does_a}, then {b} {does_b}",
        "{b} {does_b} after {a} {does_a}",
        "{a} {does_a} before {b} {does_b}",
    ),
    "while": (
        "{a} {does_a} while {b} {does_b}",
        "{a} {does_a} and at the same time {b} {does_b}",
    ),
    "collide": (
        "{a} and {b} crash into each other",
        "{a} and {b} meet and bounce apart",
    ),
}


class Actor(NamedTuple):
    """One object; `size` is None where it changes, since then no one size describes it."""

    colour: str
    shape: str
    size: str | None

    @property
    def name(self) -> str:
        """Colour and shape, which no two objects of a scene share."""
        return f"{self.colour} {self.shape}"


class Event(NamedTuple):
    """What the object with this index does."""

    actor: int
    motion: str


@dataclass(frozen=True)
class Scene:
    """A clip in words and numbers: all that drawing it needs.

    Args:
        order: how the events lie in time: one `alone`, one `then` the other in the two halves of
            the clip, one `while` the other over all of it, or both objects `collide`.
        actors: one or two objects.
        events: who does what; the first to happen stands first.
        background: name of the texture.
        seed: seed of everything that the caption does not say (places, tints, drift).
        caption: the sentence.
    """

    order: Order
    actors: tuple[Actor, ...]
    events: tuple[Event, ...]
    background: str
    seed: int
    caption: str

    @property
    def meaning(self) -> str:
        """What every wording of the caption says: equal for scenes that captions cannot tell apart.

        Sizes and background are left out, because a caption need not mention them.
        """
        parts = [f"{self.actors[event.actor].name} {event.motion}" for event in self.events]
        if self.order in ("while", "collide"):
            parts.sort()
        return f"{self.order}: {', '.join(parts)}"


def sample_scenes(num_scenes: int, *, split: Split, seed: int = 0) -> list[Scene]:
    """First scenes of a split; scene i depends only on (seed, split, i), not on how many are drawn.

    No scene of one split means the same as a scene of the other, and no two held-out scenes
    mean the same. A caption determines its meaning, so held-out sentences are all distinct and
    none occurs in training.

    Raises:
        ValueError: `split` is unknown.
    """
    if split not in ("train", "validation"):
        raise ValueError(f"split must be train or validation, got {split!r}")
    return list(islice(_scenes(split, seed), num_scenes))


def _scenes(split: Split, seed: int) -> Iterator[Scene]:
    held_out = split == "validation"
    taken: set[str] = set()
    for index in count():
        scene = next(
            scene
            for scene in _candidates(seed, int(held_out), index)
            if _is_held_out(scene) == held_out and scene.meaning not in taken
        )
        if held_out:
            taken.add(scene.meaning)
        yield scene


def _candidates(seed: int, *keys: int) -> Iterator[Scene]:
    # Processes that only draw scenes need not wait seconds for torch, which this imports.
    from simvtp.seeding import derive_seed

    for attempt in count():
        yield _sample_scene(random.Random(derive_seed(seed, *keys, attempt)))


def _is_held_out(scene: Scene) -> bool:
    """Part the splits by a hash of the meaning, so that neither needs to know the other."""
    return zlib.crc32(scene.meaning.encode()) % _HELD_OUT_ONE_IN == 0


def _sample_scene(generator: random.Random) -> Scene:
    order, num_actors, _ = generator.choices(_KINDS, [weight for _, _, weight in _KINDS])[0]
    names = [(colour, shape) for colour in COLOURS for shape in SHAPES]
    chosen = generator.sample(names, num_actors)
    events = _sample_events(generator, order, [shape for _, shape in chosen])
    sizes = _sample_sizes(generator, order, events, num_actors)
    actors = tuple(
        Actor(colour, shape, size) for (colour, shape), size in zip(chosen, sizes, strict=True)
    )
    background = generator.choice(BACKGROUNDS)
    caption = _write_caption(generator, order, actors, events, background)
    return Scene(order, actors, events, background, generator.getrandbits(63), caption)


def _sample_events(generator: random.Random, order: Order, shapes: list[str]) -> tuple[Event, ...]:
    if order == "collide":
        return (Event(0, "collide"), Event(1, "collide"))
    num_events = 1 if order == "alone" else 2
    actors = [index % len(shapes) for index in range(num_events)]
    while True:
        motions = [
            generator.choice([name for name in MOTIONS if _can(name, shapes[actor], order)])
            for actor in actors
        ]
        if _fit_together(motions, same_actor=len(shapes) < num_events):
            return tuple(Event(*event) for event in zip(actors, motions, strict=True))


def _can(motion: str, shape: str, order: Order) -> bool:
    """Whether the motion shows: a turning circle looks at rest, and rest is no event of its own."""
    if motion in ("clockwise", "counterclockwise"):
        return shape not in ("circle", "ring")
    return motion != "still" or order == "while"


def _fit_together(motions: list[str], *, same_actor: bool) -> bool:
    if not same_actor:
        return motions != ["still", "still"]
    # The two pairs with "bounce" would hop out of the top of the frame.
    return (
        motions[0] not in (motions[1], "disappear")
        and motions[1] != "appear"
        and motions not in (["up", "bounce"], ["bounce", "down"])
    )


def _sample_sizes(
    generator: random.Random, order: Order, events: tuple[Event, ...], num_actors: int
) -> list[str | None]:
    sizes: list[str | None] = [generator.choice(SIZES) for _ in range(num_actors)]
    if order == "collide" and sizes == ["large", "large"]:
        # Two large objects fill the frame's width: there is no room to approach.
        sizes[generator.randrange(2)] = "small"
    for event in events:
        if event.motion in ("grow", "shrink"):
            sizes[event.actor] = None
    return sizes


def _write_caption(
    generator: random.Random,
    order: Order,
    actors: tuple[Actor, ...],
    events: tuple[Event, ...],
    background: str,
) -> str:
    templates = (_CAPTIONS_OF_ONE if len(actors) == 1 else _CAPTIONS_OF_TWO)[order]
    fields: dict[str, str] = {}
    for letter, actor in zip("ab", actors, strict=False):
        fields[letter] = _write_name(generator, actor)
    for letter, event in zip("ab", events, strict=False):
        phrase = generator.choice(MOTIONS.get(event.motion, (("", ""),)))
        fields[f"does_{letter}"], fields[f"doing_{letter}"] = phrase
    caption = generator.choice(templates).format(**fields)
    longer = f"{caption} on a {background} background"
    return longer if generator.random() < 0.3 and len(longer.split()) <= 24 else caption


def _write_name(generator: random.Random, actor: Actor) -> str:
    words = ["a", actor.colour, actor.shape]
    if actor.size is not None and generator.random() < 0.6:
        words.insert(1, actor.size)
    return " ".join(words)
