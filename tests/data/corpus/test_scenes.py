from collections.abc import Iterator

import numpy as np
import pytest

from simvtp.data.corpus.drawing import RADII, cover_scene, draw_scene, plan_tracks
from simvtp.data.corpus.scenes import COLOURS, Actor, Event, Scene, sample_scenes


def words(scenes: list[Scene]) -> set[str]:
    return {word for scene in scenes for word in scene.caption.replace(",", "").split()}


@pytest.fixture(scope="module")
def train() -> list[Scene]:
    return sample_scenes(2000, split="train")


@pytest.fixture(scope="module")
def validation() -> list[Scene]:
    return sample_scenes(256, split="validation")


def test_a_scene_depends_only_on_seed_split_and_index(
    train: list[Scene], validation: list[Scene]
) -> None:
    assert sample_scenes(20, split="train") == train[:20]
    assert sample_scenes(20, split="validation") == validation[:20]
    assert sample_scenes(20, split="train", seed=1) != train[:20]
    with pytest.raises(ValueError, match="train or validation"):
        sample_scenes(1, split="test")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_held_out_captions_are_new_distinct_and_in_known_words(seed: int) -> None:
    train = sample_scenes(2000, split="train", seed=seed)
    held_out = sample_scenes(256, split="validation", seed=seed)
    assert len({scene.caption for scene in held_out}) == 256
    assert len({scene.meaning for scene in held_out}) == 256
    assert not {scene.caption for scene in held_out} & {scene.caption for scene in train}
    assert not {scene.meaning for scene in held_out} & {scene.meaning for scene in train}
    assert words(held_out) <= words(train)
    assert 60 <= len(words(train)) <= 120


def test_a_caption_says_one_meaning_in_6_to_24_words(
    train: list[Scene], validation: list[Scene]
) -> None:
    meanings: dict[str, str] = {}
    for scene in train + validation:
        assert 6 <= len(scene.caption.split()) <= 24, scene.caption
        assert meanings.setdefault(scene.caption, scene.meaning) == scene.meaning
        for actor in scene.actors:
            assert actor.colour in scene.caption.split()


def test_wording_of_simultaneous_events_does_not_change_their_meaning() -> None:
    actors = (Actor("red", "star", None), Actor("blue", "ring", "small"))
    events = (Event(0, "grow"), Event(1, "left"))
    one = Scene("while", actors, events, "plain", 0, "a red star grows while a blue ring ...")
    other = Scene("while", actors, events[::-1], "dotted", 5, "a blue ring moves left while ...")
    assert one.meaning == other.meaning
    in_order = Scene("then", actors, events, "plain", 0, "")
    reversed_order = Scene("then", actors, events[::-1], "plain", 0, "")
    assert in_order.meaning != reversed_order.meaning


def mask_of(video: np.ndarray, actor: Actor) -> np.ndarray:
    """Where `(frames, rows, columns)` the hue is the object's and far from the grey of the ground.

    A quarter covered and more shows; so does a shaded side and a bright one.
    """
    hue, chroma = hue_of(video.transpose(0, 2, 3, 1).astype(float))
    own, _ = hue_of(np.array(COLOURS[actor.colour], float))
    return (np.abs((hue - own + 180) % 360 - 180) < 25) & (chroma > 60)


def hue_of(colours: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Hue in degrees and chroma of `(..., 3)` colours, by the hexagonal formula."""
    red, green, blue = np.moveaxis(colours, -1, 0)
    real, imaginary = red - (green + blue) / 2, np.sqrt(3) / 2 * (green - blue)
    chroma = colours.max(axis=-1) - colours.min(axis=-1)
    return np.degrees(np.arctan2(imaginary, real)), chroma


def scenes_of(train: list[Scene], motion: str, number: int) -> Iterator[tuple[np.ndarray, slice]]:
    """Masks of objects that do `motion`, and the frames in which they do it."""
    found = 0
    for scene in train:
        colours = [actor.colour for actor in scene.actors]
        if len(set(colours)) < len(colours) or {"white", "black"} & set(colours):
            continue
        for index, event in enumerate(scene.events):
            if event.motion == motion and found < number:
                found += 1
                halves = (slice(0, 15), slice(17, 32))
                frames = halves[index] if scene.order == "then" else slice(0, 32)
                yield mask_of(draw_scene(scene), scene.actors[event.actor]), frames
    assert found == number


def centroid(mask: np.ndarray) -> np.ndarray:
    row, column = np.nonzero(mask)
    return np.array([column.mean(), row.mean()]) / mask.shape[0]


@pytest.mark.parametrize(
    ("motion", "axis", "sign"), [("left", 0, -1), ("right", 0, 1), ("up", 1, -1), ("down", 1, 1)]
)
def test_objects_move_where_the_caption_says_and_only_then(
    train: list[Scene], motion: str, axis: int, sign: int
) -> None:
    for mask, frames in scenes_of(train, motion, 12):
        during = mask[frames]
        if during[0].any() and during[-1].any():
            step = centroid(during[-1]) - centroid(during[0])
            assert sign * step[axis] > 0.3
            assert abs(step[1 - axis]) < 0.15


@pytest.mark.parametrize(("motion", "sign"), [("grow", 1), ("shrink", -1)])
def test_objects_change_their_area_as_the_caption_says(
    train: list[Scene], motion: str, sign: int
) -> None:
    for mask, frames in scenes_of(train, motion, 12):
        first, last = mask[frames][0].sum(), mask[frames][-1].sum()
        small, large = sorted((first, last))
        assert large > 2 * small
        assert sign * (int(last) - int(first)) > 0


@pytest.mark.parametrize("motion", ["appear", "disappear"])
def test_objects_are_hidden_before_they_appear_and_after_they_disappear(
    train: list[Scene], motion: str
) -> None:
    for mask, frames in scenes_of(train, motion, 12):
        first, last = mask[frames][0].sum(), mask[frames][-1].sum()
        hidden, shown = (first, last) if motion == "appear" else (last, first)
        assert hidden == 0
        assert shown > 60


@pytest.mark.parametrize(("motion", "sign"), [("clockwise", 1), ("counterclockwise", -1)])
def test_objects_turn_as_the_caption_says(motion: str, sign: int) -> None:
    actor = Actor("red", "heart", "large")
    scene = Scene("alone", (actor,), (Event(0, motion),), "plain", 3, "")
    mask = mask_of(draw_scene(scene, size=160), actor)
    axes = []
    for frame in mask:
        row, column = np.nonzero(frame)
        # The tip of a heart is the point farthest from its centre.
        offset = np.stack([column - column.mean(), row - row.mean()])
        tip = offset[:, np.argmax(np.hypot(*offset))]
        axes.append(np.arctan2(tip[1], tip[0]))
    steps = np.diff(np.unwrap(axes))
    assert 2 < sign * np.median(steps) * len(steps) < 4


def test_colliding_objects_meet_in_the_middle_of_the_clip(train: list[Scene]) -> None:
    scenes = [scene for scene in train if scene.order == "collide"][:30]
    for scene in scenes:
        first, second = plan_tracks(
            scene, num_frames=32, generator=np.random.default_rng(scene.seed)
        )
        gap = np.linalg.norm(first.centre - second.centre, axis=1) - first.radius - second.radius
        assert 12 < np.argmin(gap) < 20
        assert gap.min() < 0 < min(gap[0] - 0.1, gap[-1])


def test_events_in_order_happen_in_separate_halves(train: list[Scene]) -> None:
    scenes = [scene for scene in train if scene.order == "then" and len(scene.actors) == 2][:30]
    for scene in scenes:
        tracks = plan_tracks(scene, num_frames=32, generator=np.random.default_rng(scene.seed))
        paths = [np.column_stack(track) for track in tracks]
        assert np.ptp(paths[0][15:], axis=0).max() < 1e-6
        assert np.ptp(paths[1][:17], axis=0).max() < 1e-6
        assert min(np.ptp(path, axis=0).max() for path in paths) > 0.1


def test_objects_are_large_and_stay_in_the_frame(train: list[Scene]) -> None:
    assert min(RADII.values()) >= 0.12
    for scene in train[:100]:
        tracks = plan_tracks(scene, num_frames=16, generator=np.random.default_rng(scene.seed))
        for track in tracks:
            assert (track.centre - track.radius[:, None]).min() > 0
            assert (track.centre + track.radius[:, None]).max() < 1


def test_the_cover_is_where_objects_stand_out_from_the_same_scene_without_them(
    train: list[Scene],
) -> None:
    for scene in train[:20]:
        video, cover = draw_scene(scene).astype(float), cover_scene(scene)
        assert cover.shape == (32, 64, 64)
        assert cover.min() >= 0
        assert cover.max() <= 1
        # The ground does not move: where nothing covers it, every frame shows the same.
        free = (cover < 1e-6)[:, None]
        lowest = np.where(free, video, np.inf).min(axis=0)
        highest = np.where(free, video, -np.inf).max(axis=0)
        known = np.isfinite(lowest).all(axis=0)
        assert (lowest == highest)[:, known].all()
        # And what covers it changes it.
        changed = np.abs(video - lowest).max(axis=1)
        covered = known & (cover > 0.9)
        assert (changed[covered] > 8).mean() > 0.97


def test_the_light_falls_from_above_and_every_surface_has_a_gradient(train: list[Scene]) -> None:
    for scene in train[:20]:
        video, cover = draw_scene(scene).astype(float).mean(axis=1), cover_scene(scene)
        upper, lower = video[:, :16][cover[:, :16] == 0], video[:, -16:][cover[:, -16:] == 0]
        assert upper.mean() > lower.mean() + 15
