"""Drawing of the embedded corpus: scenes become anti-aliased RGB frames, all frames at once.

Places and lengths are shares of the frame's side, y points down, so a growing angle turns
clockwise.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from simvtp.data.corpus.scenes import COLOURS, Actor, Scene

Floats = NDArray[np.floating[Any]]
Window = tuple[float, float]

RADII = {"small": 0.15, "large": 0.23}
_RADIUS_SHRUNK, _RADIUS_GROWN = 0.12, 0.26
_FIRST_HALF, _SECOND_HALF, _WHOLE = (0.05, 0.46), (0.54, 0.95), (0.08, 0.92)
_DIRECTIONS = {"left": (0, -1), "right": (0, 1), "up": (1, -1), "down": (1, 1)}
_HOP_HEIGHT = 0.3
_REACH = 1.27
_NUM_LAYOUTS = 24
# Heights of a bump under each object: the light finds a bright and a dark side on every shape.
_BULGE = 1.3


class Track(NamedTuple):
    """Path of one object; each field has one row per frame."""

    centre: Floats
    radius: Floats
    angle: Floats
    opacity: Floats


class Light(NamedTuple):
    """Where the light of a scene comes from: a unit vector; x to the right, y down, z to us."""

    x: float
    y: float
    z: float


def draw_scene(scene: Scene, *, num_frames: int = 32, size: int = 64) -> NDArray[np.uint8]:
    """Draw a scene as `(frames, 3, size, size)` RGB; the same scene gives the same pixels."""
    generator = np.random.default_rng(scene.seed)
    tracks = plan_tracks(scene, num_frames=num_frames, generator=generator)
    light = _draw_light(generator)
    ground = _draw_ground(scene.background, size, light=light, generator=generator)
    painters = [
        _Painter(actor, track, size=size, light=light, tint=generator.uniform(-8, 8, 3))
        for actor, track in zip(scene.actors, tracks, strict=True)
    ]
    # An apron around the frame lets objects be drawn without clipping at its border.
    apron = max(painter.half for painter in painters) + 1
    inside = slice(apron, apron + size)
    canvas = np.zeros((3, size + 2 * apron, size + 2 * apron), np.float32)
    video = np.empty((num_frames, 3, size, size), np.uint8)
    for frame in range(num_frames):
        canvas[:, inside, inside] = ground
        for painter in painters:
            painter.paint(canvas, frame, apron=apron)
        video[frame] = canvas[:, inside, inside] + 0.5
    return video


def cover_scene(scene: Scene, *, num_frames: int = 32, size: int = 64) -> Floats:
    """Share of each pixel that objects cover, `(frames, size, size)` in [0, 1], as drawn."""
    generator = np.random.default_rng(scene.seed)
    tracks = plan_tracks(scene, num_frames=num_frames, generator=generator)
    light = Light(0, 0, 1)
    painters = [
        _Painter(actor, track, size=size, light=light, tint=np.zeros(3))
        for actor, track in zip(scene.actors, tracks, strict=True)
    ]
    apron = max(painter.half for painter in painters) + 1
    inside = slice(apron, apron + size)
    ground = np.ones((num_frames, size + 2 * apron, size + 2 * apron), np.float32)
    for frame in range(num_frames):
        for painter in painters:
            painter.hide(ground[frame], frame, apron=apron)
    return 1 - ground[:, inside, inside]


def plan_tracks(scene: Scene, *, num_frames: int, generator: np.random.Generator) -> list[Track]:
    """Lay out the objects' paths: of several random layouts the one with the least overlap."""
    times = np.linspace(0, 1, num_frames, dtype=np.float32)
    if scene.order == "collide":
        return _plan_collision(scene.actors, times, generator)
    windows = (_FIRST_HALF, _SECOND_HALF) if scene.order == "then" else (_WHOLE, _WHOLE)
    steps: list[list[tuple[str, Window]]] = [[] for _ in scene.actors]
    for event, window in zip(scene.events, windows, strict=False):
        steps[event.actor].append((event.motion, window))
    best: list[Track] = []
    least = math.inf
    for _ in range(_NUM_LAYOUTS):
        tracks = [
            _plan_track(actor, own, times, generator)
            for actor, own in zip(scene.actors, steps, strict=True)
        ]
        overlap = _overlap(tracks)
        if overlap < least:
            best, least = tracks, overlap
        if least == 0:
            break
    return best


def _overlap(tracks: list[Track]) -> float:
    if len(tracks) == 1:
        return 0.0
    first, second = tracks
    distance = np.linalg.norm(first.centre - second.centre, axis=1)
    return float(np.maximum(first.radius + second.radius - distance, 0).mean())


def _plan_track(
    actor: Actor,
    steps: list[tuple[str, Window]],
    times: Floats,
    generator: np.random.Generator,
) -> Track:
    motions = [motion for motion, _ in steps]
    radius = _plan_radius(actor, steps, times)
    margin = 1.1 * float(radius.max())
    # An object that also moves up or down hops where it has come from or gone to: the bottom.
    needs_headroom = "bounce" in motions and not {"up", "down"} & set(motions)
    low = np.array([margin, margin + (_HOP_HEIGHT if needs_headroom else 0)])
    high = np.array([1 - margin, 1 - margin])
    # Beta(1/2, 1/2) prefers the borders, which leaves a lane free for a second object.
    place = low + (high - low) * generator.beta(0.5, 0.5, 2)
    for axis, sign in (
        _DIRECTIONS[motion] for motion in reversed(motions) if motion in _DIRECTIONS
    ):
        place[axis] = high[axis] if sign < 0 else low[axis]
    centre = np.repeat(place[None], len(times), 0).astype(np.float32)
    angle = np.full_like(times, generator.uniform(-0.2, 0.2))
    opacity = np.ones_like(times)
    for motion, window in steps:
        share = _progress(times, window)
        smooth = share * share * (3 - 2 * share)
        if motion in _DIRECTIONS:
            axis, sign = _DIRECTIONS[motion]
            goal = low[axis] if sign < 0 else high[axis]
            centre[:, axis] += (goal - centre[-1, axis]) * smooth
        elif motion in ("clockwise", "counterclockwise"):
            angle += (1 if motion == "clockwise" else -1) * _turn(window) * share
        elif motion == "bounce":
            num_hops = 2 if window != _WHOLE else 3
            centre[:, 1] -= _HOP_HEIGHT * np.abs(np.sin(np.pi * num_hops * share))
        elif motion in ("appear", "disappear"):
            shown = np.clip(2 * share - 0.5, 0, 1)
            opacity *= shown if motion == "appear" else 1 - shown
    return Track(centre, radius, angle, opacity)


def _turn(window: Window) -> float:
    """Angle of a turn: some 25 degrees in half a second, so a square's sense still shows."""
    return math.radians(200) * (window[1] - window[0])


def _progress(times: Floats, window: Window) -> Floats:
    start, stop = window
    return np.clip((times - start) / (stop - start), 0, 1)


def _plan_radius(actor: Actor, steps: list[tuple[str, Window]], times: Floats) -> Floats:
    if actor.size is not None:
        return np.full_like(times, RADII[actor.size])
    changes = [step for step in steps if step[0] in ("grow", "shrink")]
    start = _RADIUS_SHRUNK if changes[0][0] == "grow" else _RADIUS_GROWN
    radius = np.full_like(times, start)
    for motion, window in changes:
        goal = _RADIUS_GROWN if motion == "grow" else _RADIUS_SHRUNK
        radius += (goal - radius[-1]) * _progress(times, window)
    return radius


def _plan_collision(
    actors: tuple[Actor, ...], times: Floats, generator: np.random.Generator
) -> list[Track]:
    """Two approach from opposite sides, touch at half time and go back part of the way."""
    radii = [RADII[actor.size or "small"] for actor in actors]
    axis = int(generator.integers(2))
    sides = (-1, 1) if generator.random() < 0.5 else (1, -1)
    across = generator.uniform(0.35, 0.65)
    approach = _progress(times, (0.05, 0.5)) - 0.7 * _progress(times, (0.5, 0.95))
    middle = 0.5 - 0.45 * sum(side * radius for side, radius in zip(sides, radii, strict=True))
    tracks = []
    for side, radius in zip(sides, radii, strict=True):
        start = 0.5 + side * (0.48 - radius)
        touch = middle + side * 0.9 * radius
        centre = np.full((len(times), 2), across, np.float32)
        centre[:, axis] = start + (touch - start) * approach
        angle = np.full_like(times, generator.uniform(-0.2, 0.2))
        tracks.append(Track(centre, np.full_like(times, radius), angle, np.ones_like(times)))
    return tracks


class _Painter:
    """Blends one object into frames; while it rests, its last picture is used again."""

    def __init__(
        self, actor: Actor, track: Track, *, size: int, light: Light, tint: NDArray[np.float64]
    ) -> None:
        colour = np.clip(np.array(COLOURS[actor.colour]) + tint, 0, 255)
        self.colour = colour.astype(np.float32)[:, None, None]
        self.light = light
        self.distance = _SHAPES[actor.shape]
        self.half = math.ceil(float(track.radius.max()) * size * _REACH) + 1
        self.steps = np.arange(-self.half, self.half, dtype=np.float32) + 0.5
        self.corners = np.floor(track.centre * size).astype(int)
        rest = track.centre * size - self.corners
        states = np.column_stack([rest, track.radius * size, track.angle, track.opacity])
        self.states: list[list[float]] = states.tolist()
        self.drawn: tuple[list[float], Floats, Floats] | None = None

    def paint(self, canvas: Floats, frame: int, *, apron: int) -> None:
        """Draw the object as it stands in this frame over the canvas, in place."""
        cover, surface = self._draw(self.states[frame])
        patch = canvas[(slice(None), *self._place(frame, apron))]
        patch += (surface - patch) * cover

    def hide(self, ground: Floats, frame: int, *, apron: int) -> None:
        """Take what the object covers in this frame from the visible share of the ground."""
        ground[self._place(frame, apron)] *= 1 - self._draw(self.states[frame])[0]

    def _place(self, frame: int, apron: int) -> tuple[slice, slice]:
        left, top = (self.corners[frame] + apron - self.half).tolist()
        return slice(top, top + 2 * self.half), slice(left, left + 2 * self.half)

    def _draw(self, state: list[float]) -> tuple[Floats, Floats]:
        """Share of each pixel that is covered `(side, side)`, and colours `(3, side, side)`."""
        if self.drawn is None or self.drawn[0] != state:
            x, y, radius, angle, opacity = state
            across, down = (self.steps - x) / radius, (self.steps[:, None] - y) / radius
            cos, sin = math.cos(angle), math.sin(angle)
            signed = self.distance(cos * across + sin * down, cos * down - sin * across)
            cover = opacity * np.clip(0.5 - radius * signed, 0, 1)
            self.drawn = state, cover, self._shade(across, down)
        return self.drawn[1:]

    def _shade(self, across: Floats, down: Floats) -> Floats:
        """Colours of a surface that bulges like a ball towards the viewer."""
        height = np.sqrt(np.clip(_BULGE**2 - across**2 - down**2, 0.05, None))
        towards = across * self.light.x + down * self.light.y + height * self.light.z
        bright = np.clip(towards / _BULGE, 0, 1)
        # Dark objects shine where white ones are lit: every colour has its gradient.
        return self.colour * (0.45 + 0.55 * bright) + 60 * bright**4 * (1 - self.colour / 255)


def _draw_light(generator: np.random.Generator) -> Light:
    """From above, a little to the left or right, and from our side."""
    angle = generator.uniform(-0.9, 0.9)
    return Light(0.7 * math.sin(angle), -0.7 * math.cos(angle), math.sqrt(1 - 0.7**2))


def _draw_ground(name: str, side: int, *, light: Light, generator: np.random.Generator) -> Floats:
    """Muted ground `(3, side, side)`, brighter towards the light, with a slow texture on it."""
    rows, columns = np.mgrid[0:side, 0:side].astype(np.float32) / side - 0.5
    angle, phase = generator.uniform(0, math.pi), generator.uniform(0, 2 * math.pi)
    waves = 2 * math.pi * generator.uniform(0.8, 1.3)
    along = waves * (math.cos(angle) * columns + math.sin(angle) * rows) + phase
    aside = waves * (math.cos(angle) * rows - math.sin(angle) * columns) + phase
    if name == "striped":
        pattern = np.sin(along)
    elif name == "checked":
        pattern = 1.3 * np.sin(along) * np.sin(aside)
    elif name == "dotted":
        pattern = np.exp(1.5 * np.sin(along) * np.sin(aside)) - 1.5
    elif name == "cloudy":
        pattern = _draw_clouds(side, generator)
    else:
        pattern = np.zeros_like(rows)
    towards = (columns * light.x + rows * light.y) / 0.7
    grey = generator.uniform(105, 145) + generator.uniform(-14, 14, (3, 1, 1))
    slope = generator.uniform(70, 110) + generator.uniform(-10, 10, (3, 1, 1))
    contrast = generator.uniform(20, 30) + generator.uniform(-4, 4, (3, 1, 1))
    return np.clip(grey + slope * towards + contrast * pattern, 20, 235).astype(np.float32)


def _draw_clouds(side: int, generator: np.random.Generator) -> Floats:
    """Smooth noise: random values on a coarse grid, interpolated along both axes."""
    num_knots = 4
    knots = generator.uniform(-1.5, 1.5, (num_knots, num_knots))
    places, grid = np.linspace(0, num_knots - 1, side), np.arange(num_knots)
    weights = np.maximum(0, 1 - np.abs(places[:, None] - grid))
    return (weights @ knots @ weights.T).astype(np.float32)


def _circle(x: Floats, y: Floats) -> Floats:
    return np.hypot(x, y) - 1


def _ring(x: Floats, y: Floats) -> Floats:
    return np.abs(np.hypot(x, y) - 0.75) - 0.27


def _square(x: Floats, y: Floats) -> Floats:
    return np.maximum(np.abs(x), np.abs(y)) - 0.86


def _triangle(x: Floats, y: Floats) -> Floats:
    return np.maximum(y, 0.866 * np.abs(x) - 0.5 * y) - 0.62


def _star(x: Floats, y: Floats) -> Floats:
    """Five points: the plane folds into one tenth, where the edge is one straight line."""
    sector = 2 * math.pi / 5
    turned = np.arctan2(x, -y)
    folded = np.abs(turned - sector * np.rint(turned / sector))
    radius = np.hypot(x, y)
    tip, notch = 1.25, 0.56
    notch_x, notch_y = notch * math.sin(sector / 2), notch * math.cos(sector / 2)
    length = math.hypot(notch_x, tip - notch_y)
    normal_x, normal_y = (tip - notch_y) / length, notch_x / length
    return radius * (np.sin(folded) * normal_x + np.cos(folded) * normal_y) - tip * normal_y


def _cross(x: Floats, y: Floats) -> Floats:
    wide, narrow = np.maximum(np.abs(x), np.abs(y)), np.minimum(np.abs(x), np.abs(y))
    return np.maximum(wide - 1.05, narrow - 0.36)


def _heart(x: Floats, y: Floats) -> Floats:
    """Two discs on the upper sides of a square that stands on its corner."""
    side = np.abs(x)
    height = 1.0 - y
    diagonal = (side + height - 1.0) * math.sqrt(0.5)
    square = np.maximum(np.abs(diagonal), np.abs(side - height + 1.0) * math.sqrt(0.5)) - 0.62
    disc = np.hypot(side - 0.44, height - 1.44) - 0.62
    return np.minimum(square, disc)


def _moon(x: Floats, y: Floats) -> Floats:
    return np.maximum(np.hypot(x, y) - 1.1, 0.9 - np.hypot(x - 0.6, y))


_SHAPES: dict[str, Callable[[Floats, Floats], Floats]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "ring": _ring,
    "cross": _cross,
    "heart": _heart,
    "moon": _moon,
}
