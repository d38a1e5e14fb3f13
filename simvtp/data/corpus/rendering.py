"""The embedded corpus: captioned clips rendered into a cache, so that a first run needs no data.

The clips are ordinary H.264 files beside ordinary manifests, read like any user's own data. A file
has its name only when it is whole, so that it does not matter who else renders, or is killed.
"""

import csv
import hashlib
import json
import math
import multiprocessing
import secrets
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, cast

import av
import numpy as np
from numpy.typing import NDArray
from rich.progress import BarColumn, MofNCompleteColumn, TimeRemainingColumn

from simvtp.data.clip_table import ClipTable
from simvtp.data.corpus import drawing, scenes
from simvtp.data.corpus.drawing import draw_scene
from simvtp.data.corpus.scenes import Scene, Split, sample_scenes
from simvtp.data.manifests.loading import load_manifest
from simvtp.data.places import Place, cache_folder
from simvtp.data.processes import end_with_parent, num_usable_cores
from simvtp.data.x264 import steady_options
from simvtp.printing import PlainColumn, Progress, progress_console

FRAMES_PER_SECOND = 16
_ENCODER = {"preset": "ultrafast", "crf": "17", "g": "16", "bf": "0"}
_CLIPS_PER_PROCESS = 64
_LEFTOVER_SECONDS = 24 * 3600
_DESCRIPTION = "corpus.json"


class _Job(NamedTuple):
    path: Path
    scene: Scene
    num_frames: int
    size: int


@dataclass(frozen=True)
class DrawnClips:
    """Files of a split, each of which is drawn when it is first asked for.

    Any number of processes may do so at the same time: they draw the same bytes.

    Args:
        root: folder of the corpus.
        split: part of it.
        num_clips: clips of the split.
        num_frames: frames of a clip.
        size: height and width of a frame, pixels.
        seed: seed of the scenes.
    """

    root: Path
    split: Split
    num_clips: int
    num_frames: int
    size: int
    seed: int

    @property
    def manifest(self) -> Path:
        """Table of all clips, whether they are drawn or not; paths are relative to `root`."""
        return self.root / f"{self.split}.csv"

    @cached_property
    def scenes(self) -> list[Scene]:
        """What is to be drawn. Workers that are forked after the first use share it."""
        return sample_scenes(self.num_clips, split=self.split, seed=self.seed)

    def local(self, place: Place | str) -> Path:
        """The file of a clip, drawn unless it is there."""
        path = Path(str(place))
        if not _is_drawn(path):
            _render_clip(_Job(path, self.scenes[int(path.stem)], self.num_frames, self.size))
        return path

    def write_manifest(self) -> None:
        """Write the table, if it is missing, and delete what killed processes left."""
        folder = self.root / self.split
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob(".*"):
            _delete_old(leftover)
        if self.manifest.is_file():
            return
        with _whole(self.manifest) as partial, partial.open("w", encoding="utf-8", newline="") as f:
            writer = csv.writer(f)
            writer.writerow(["videoid", "path", "caption"])
            for number, scene in enumerate(self.scenes):
                path = self._path(number).relative_to(self.root)
                writer.writerow([f"{self.split}-{number:06d}", path, scene.caption])

    def jobs(self) -> list[_Job]:
        """What is still to be drawn."""
        missing = [n for n in range(self.num_clips) if not _is_drawn(self._path(n))]
        return [_Job(self._path(n), self.scenes[n], self.num_frames, self.size) for n in missing]

    def _path(self, number: int) -> Path:
        return self.root / self.split / f"{number:06d}.mp4"


class Corpus(NamedTuple):
    """Where a corpus lies; the manifests' paths are relative to `root`.

    Attributes:
        root: its folder.
        train: manifest of the training clips.
        validation: manifest of the held-out clips, which are all there.
        files: gives the training clips' files, and draws those that are not there.
    """

    root: Path
    train: Path
    validation: Path
    files: DrawnClips

    def train_clips(self) -> ClipTable:
        """The training clips; only `files` knows that theirs will be there."""
        return load_manifest(self.train, check_files=False)

    def validation_clips(self) -> ClipTable:
        """The held-out clips."""
        return load_manifest(self.validation)


def render_corpus(
    folder: str | Path | None = None,
    *,
    num_train: int = 4096,
    num_validation: int = 256,
    size: int = 64,
    num_frames: int = 32,
    seed: int = 0,
    num_up_front: int | None = None,
    num_processes: int | None = None,
    progress: bool = True,
) -> Corpus:
    """Render what is missing of the embedded corpus; other calls may do the same meanwhile.

    Scripts that call this with more than one process need the usual
    `if __name__ == "__main__":` guard.

    Args:
        folder: cache that gets one sub-folder per set of parameters; without one
            `$SIMVTP_CACHE`, else `~/.cache/simvtp`.
        num_train: training clips; one is the same whatever their number.
        num_validation: held-out clips; their sentences do not occur in training.
        size: height and width of a frame, pixels.
        num_frames: frames of a clip; 16 a second.
        seed: seed of the scenes.
        num_up_front: how many of the missing training clips to render now, without a number all;
            `files` of the result draws the others as they are asked for.
        num_processes: processes that render; without a number one per usable core.
        progress: show a progress bar on the terminal.

    Raises:
        ValueError: a number is out of its range.
        RuntimeError: a rendering process died.
    """
    _check(num_train, num_validation, size, num_frames, seed, num_processes)
    parameters = {"counts": [num_train, num_validation], "size": size, "frames": num_frames}
    root = cache_folder(folder) / f"synthetic-{_digest(**parameters, seed=seed)}"
    shape = {"num_frames": num_frames, "size": size, "seed": seed}
    train = DrawnClips(root, "train", num_train, **shape)
    validation = DrawnClips(root, "validation", num_validation, **shape)
    for clips in (train, validation):
        clips.write_manifest()
    if not (root / _DESCRIPTION).is_file():
        with _whole(root / _DESCRIPTION) as partial:
            partial.write_text(json.dumps({**parameters, "seed": seed}) + "\n", "utf-8")
    jobs = [*validation.jobs(), *train.jobs()[:num_up_front]]
    if jobs:
        _render(jobs, num_processes=num_processes, progress=progress)
    return Corpus(root, train.manifest, validation.manifest, train)


def held_out_manifest(*, progress: bool = True) -> Path:
    """Manifest of the corpus's held-out clips; those that are missing are rendered."""
    return render_corpus(num_up_front=0, progress=progress).validation


def render_scenes(
    folder: Path,
    scenes: Sequence[Scene],
    *,
    size: int = 64,
    num_frames: int = 32,
    num_processes: int | None = None,
    progress: bool = True,
) -> list[Path]:
    """Render scenes of one's own choice as `000000.mp4` and so on; arguments as `render_corpus`."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:06d}.mp4" for number in range(len(scenes))]
    jobs = [_Job(path, scene, num_frames, size) for path, scene in zip(paths, scenes, strict=True)]
    _render(jobs, num_processes=num_processes, progress=progress)
    return paths


def read_description(root: Path) -> dict[str, Any] | None:
    """Counts, size, frames and seed of the corpus in a folder.

    None where the folder is none, or was drawn by other code than this.
    """
    try:
        description = json.loads((root / _DESCRIPTION).read_text("utf-8"))
        digest = _digest(**description)
    except (OSError, ValueError, TypeError):
        return None
    return description if root.name == f"synthetic-{digest}" else None


def _check(
    num_train: int,
    num_validation: int,
    size: int,
    num_frames: int,
    seed: int,
    num_processes: int | None,
) -> None:
    at_least = {
        "num_train": (num_train, 1),
        "num_validation": (num_validation, 1),
        "size": (size, 32),
        "num_frames": (num_frames, 2),
        "seed": (seed, 0),
        "num_processes": (1 if num_processes is None else num_processes, 1),
    }
    for name, (value, least) in at_least.items():
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    if size % 2:
        raise ValueError(f"size must be even for H.264, got {size}; take {size + 1}")


def _digest(**parameters: object) -> str:
    """Name of a corpus: changes with the parameters and with the code that draws it."""
    digest = hashlib.sha256(json.dumps(parameters, sort_keys=True).encode())
    for source in (scenes.__file__, drawing.__file__, __file__):
        digest.update(Path(source).read_bytes())
    return digest.hexdigest()[:12]


def _is_drawn(path: Path) -> bool:
    try:
        # A crash of the machine may leave the name without the bytes.
        return path.stat().st_size > 0
    except FileNotFoundError:
        return False


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """Give a file its name when it is written."""
    partial = path.with_name(f".{path.stem}.{secrets.token_hex(6)}{path.suffix}")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _delete_old(leftover: Path) -> None:
    try:
        if time.time() - leftover.stat().st_mtime > _LEFTOVER_SECONDS:
            leftover.unlink()
    except FileNotFoundError:
        pass


def _render(jobs: list[_Job], *, num_processes: int | None, progress: bool) -> None:
    if num_processes is None:
        num_processes = min(num_usable_cores(), math.ceil(len(jobs) / _CLIPS_PER_PROCESS))
    if num_processes == 1:
        _follow(map(_render_clip, jobs), len(jobs), progress=progress)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_processes, context, initializer=end_with_parent) as pool:
        try:
            rendered = pool.map(_render_clip, jobs, chunksize=8)
            _follow(rendered, len(jobs), progress=progress)
        except BrokenProcessPool as error:
            raise RuntimeError(
                "a process that renders the embedded corpus died; guard the calling script with "
                'if __name__ == "__main__":, or render in one process with num_processes=1'
            ) from error
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _follow(rendered: Iterable[None], total: int, *, progress: bool) -> None:
    columns = (PlainColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    console = progress_console()
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not progress) as bar:
        for _ in bar.track(rendered, total=total, description="Rendering the embedded corpus"):
            pass


def _render_clip(job: _Job) -> None:
    frames = draw_scene(job.scene, num_frames=job.num_frames, size=job.size)
    with _whole(job.path) as partial:
        _write_video(partial, frames)


def _write_video(path: Path, frames: NDArray[np.uint8]) -> None:
    """Encode `(frames, 3, height, width)` RGB as H.264, on one thread: the bytes are then fixed."""
    with av.open(f"file:{path}", "w", format="mp4") as container:
        options = _ENCODER | steady_options()
        stream = cast(
            av.VideoStream, container.add_stream("libx264", rate=FRAMES_PER_SECOND, options=options)
        )
        stream.height, stream.width = frames.shape[2:]
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1
        # Stacking planes is eight times as fast as a transposed copy.
        for picture in np.stack([frames[:, 0], frames[:, 1], frames[:, 2]], axis=-1):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
