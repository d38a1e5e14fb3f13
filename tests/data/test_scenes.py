from collections.abc import Iterator

import numpy as np
import pytest

from simvtp.data.drawing import RADII, draw_scene, plan_tracks
from simvtp.data.scenes import COLOURS, Actor, Event, Scene, sample_scenes


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
    assert 100 <= len(words(train)) <= 200


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


def opacity_of(video: np.ndarray, actor: Actor) -> np.ndarray:
    """Share of each pixel `(frames, rows, columns)` near the object's colour."""
    colour = np.array(COLOURS[actor.colour])[None, :, None, None]
    return np.abs(video - colour).max(axis=1) < 40


def scenes_of(train: list[Scene], motion: str, number: int) -> Iterator[tuple[np.ndarray, slice]]:
    """Masks of objects that do `motion`, and the frames in which they do it."""
    found = 0
    for scene in train:
        colours = [actor.colour for actor in scene.actors]
        if len(set(colours)) < len(colours):
            continue
        for index, event in enumerate(scene.events):
            if event.motion == motion and found < number:
                found += 1
                halves = (slice(0, 31), slice(33, 64))
                frames = halves[index] if scene.order == "then" else slice(0, 64)
                video = draw_scene(scene).astype(np.int16)
                yield opacity_of(video, scene.actors[event.actor]), frames
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
    mask = opacity_of(draw_scene(scene).astype(np.int16), actor)
    axes = []
    for frame in mask:
        row, column = np.nonzero(frame)
        # The tip of a heart is the point farthest from its centre.
        offset = np.stack([column - column.mean(), row - row.mean()])
        tip = offset[:, np.argmax(np.hypot(*offset))]
        axes.append(np.arctan2(tip[1], tip[0]))
    steps = np.diff(np.unwrap(axes))
    assert 3 < sign * steps.sum() < 7


def test_colliding_objects_meet_in_the_middle_of_the_clip(train: list[Scene]) -> None:
    scenes = [scene for scene in train if scene.order == "collide"][:30]
    for scene in scenes:
        first, second = plan_tracks(
            scene, num_frames=64, generator=np.random.default_rng(scene.seed)
        )
        gap = np.linalg.norm(first.centre - second.centre, axis=1) - first.radius - second.radius
        assert 24 < np.argmin(gap) < 40
        assert gap.min() < 0 < min(gap[0] - 0.1, gap[-1])


def test_events_in_order_happen_in_separate_halves(train: list[Scene]) -> None:
    scenes = [scene for scene in train if scene.order == "then" and len(scene.actors) == 2][:30]
    for scene in scenes:
        tracks = plan_tracks(scene, num_frames=64, generator=np.random.default_rng(scene.seed))
        paths = [np.column_stack(track) for track in tracks]
        assert np.ptp(paths[0][31:], axis=0).max() < 1e-6
        assert np.ptp(paths[1][:33], axis=0).max() < 1e-6
        assert min(np.ptp(path, axis=0).max() for path in paths) > 0.1


def test_objects_are_large_and_stay_in_the_frame(train: list[Scene]) -> None:
    assert min(RADII.values()) >= 0.12
    for scene in train[:100]:
        tracks = plan_tracks(scene, num_frames=16, generator=np.random.default_rng(scene.seed))
        for track in tracks:
            assert (track.centre - track.radius[:, None]).min() > 0
            assert (track.centre + track.radius[:, None]).max() < 1
