"""Where the objects of the embedded corpus end: tubelets that ground alone does not explain."""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from simvtp.config import FrameSpacing
from simvtp.data.clip_table import ClipRecord
from simvtp.data.corpus.drawing import cover_scene
from simvtp.data.corpus.rendering import FRAMES_PER_SECOND, read_description
from simvtp.data.corpus.scenes import Scene, Split, sample_scenes
from simvtp.data.video.transforms import CentreCrop
from simvtp.decoding.clips import frame_indices, frame_places

_INSIDE, _OUTSIDE = 0.7, 0.3


def corpus_contours(
    records: Sequence[ClipRecord],
    *,
    num_frames: int,
    spacing: FrameSpacing,
    image_size: int,
    tubelet: tuple[int, int, int],
) -> Tensor | None:
    """Tubelets of the clips' middles that hold part of an object's contour.

    Args:
        records: clips of the embedded corpus; None is returned for any others.
        num_frames: frames of a clip.
        spacing: time or frames of the video between two frames of a clip.
        image_size: height and width of the clip, which is the centre of the video, pixels.
        tubelet: frames, height and width of a tubelet.

    Returns:
        `(clips, tokens)` bool, True where objects cover a pixel of the tubelet by more than 0.7
        and another one by less than 0.3.
    """
    drawn = _scenes_of(records)
    if drawn is None:
        return None
    scenes, length, size = drawn
    indices = _middle(length, num_frames=num_frames, spacing=spacing)
    crop = CentreCrop(image_size)
    found = []
    for scene in scenes:
        cover = cover_scene(scene, num_frames=length, size=size)[indices]
        pixels = torch.from_numpy(cover * 255).round().to(torch.uint8)[:, None]
        found.append(holds_contour(crop(pixels)[:, 0].float() / 255, tubelet=tubelet))
    return torch.stack(found)


def holds_contour(cover: Tensor, *, tubelet: tuple[int, int, int]) -> Tensor:
    """Tubelets `(tokens,)` bool that are partly covered.

    Args:
        cover: `(frames, height, width)` share of each pixel that objects cover.
        tubelet: frames, height and width of a tubelet.
    """
    frames, height, width = tubelet
    parts = cover.unflatten(2, (-1, width)).unflatten(1, (-1, height)).unflatten(0, (-1, frames))
    inside = parts.amax(dim=(1, 3, 5)) > _INSIDE
    outside = parts.amin(dim=(1, 3, 5)) < _OUTSIDE
    return (inside & outside).flatten()


def _scenes_of(records: Sequence[ClipRecord]) -> tuple[list[Scene], int, int] | None:
    """Scenes of clips of one split of the corpus, frames of their files, and pixels of a side."""
    paths = [record.path for record in records]
    folders = {path.parent for path in paths if isinstance(path, Path)}
    if len(folders) != 1 or not all(isinstance(path, Path) for path in paths):
        return None
    folder = folders.pop()
    description = read_description(folder.parent)
    stems = [cast(Path, path).stem for path in paths]
    is_split = folder.name in ("train", "validation") and all(map(str.isdecimal, stems))
    if description is None or not is_split:
        return None
    numbers = [int(stem) for stem in stems]
    scenes = sample_scenes(
        max(numbers) + 1, split=cast(Split, folder.name), seed=description["seed"]
    )
    return [scenes[number] for number in numbers], description["frames"], description["size"]


def _middle(length: int, *, num_frames: int, spacing: FrameSpacing) -> list[int]:
    if spacing.seconds is None:
        assert spacing.stride is not None
        return frame_indices(length, num_frames=num_frames, stride=spacing.stride)
    step = spacing.seconds * FRAMES_PER_SECOND
    return [int(place) for place in frame_places(length, num_frames=num_frames, step=step)]
