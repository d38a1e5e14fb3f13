"""The embedded corpus: captioned clips rendered into a cache, so that a first run needs no data.

The clips are ordinary H.264 files beside ordinary manifests, read like any user's own data.
"""

import csv
import hashlib
import json
import math
import multiprocessing
import os
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, cast

import av
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from simvtp.data import drawing, scenes
from simvtp.data.cache import cache_folder
from simvtp.data.drawing import draw_scene
from simvtp.data.processes import end_with_parent, num_usable_cores
from simvtp.data.scenes import Scene, Split, sample_scenes

FRAMES_PER_SECOND = 16
_ENCODER = {"preset": "ultrafast", "crf": "21", "g": "32", "bf": "0"}
_CLIPS_PER_PROCESS = 64
_LEFTOVER_SECONDS = 24 * 3600


class Corpus(NamedTuple):
    """Where a rendered corpus lies; the manifests' paths are relative to `root`."""

    root: Path
    train: Path
    validation: Path


class _Job(NamedTuple):
    path: Path
    scene: Scene
    num_frames: int
    size: int


def render_corpus(
    folder: str | Path | None = None,
    *,
    num_train: int = 2000,
    num_validation: int = 256,
    size: int = 80,
    num_frames: int = 64,
    seed: int = 0,
    num_processes: int | None = None,
    progress: bool = True,
) -> Corpus:
    """Render the embedded corpus, or find it where an earlier call left it.

    The corpus appears under its name only when it is whole. Scripts that call this with more
    than one process need the usual `if __name__ == "__main__":` guard.

    Args:
        folder: cache that gets one sub-folder per set of parameters; without one
            `$SIMVTP_CACHE`, else `~/.cache/simvtp`.
        num_train: training clips.
        num_validation: held-out clips; their sentences do not occur in training.
        size: height and width of a frame, pixels.
        num_frames: frames of a clip; 16 a second.
        seed: seed of the scenes.
        num_processes: processes that render; without a number one per usable core.
        progress: show a progress bar on the terminal.

    Raises:
        ValueError: a number is out of its range.
        RuntimeError: a rendering process died.
    """
    _check(num_train, num_validation, size, num_frames, seed, num_processes)
    counts: dict[Split, int] = {"train": num_train, "validation": num_validation}
    cache = cache_folder(folder)
    root = cache / f"synthetic-{_digest(counts=counts, size=size, frames=num_frames, seed=seed)}"
    if not _is_complete(root, counts):
        with _scratch_folder(root) as scratch:
            jobs = _write_manifests(scratch, counts, num_frames=num_frames, size=size, seed=seed)
            _render(jobs, num_processes=num_processes, progress=progress)
            _publish(scratch, root, counts)
    return Corpus(root, root / "train.csv", root / "validation.csv")


def render_scenes(
    folder: Path,
    scenes: Sequence[Scene],
    *,
    size: int = 80,
    num_frames: int = 64,
    num_processes: int | None = None,
    progress: bool = True,
) -> list[Path]:
    """Render scenes of one's own choice as `000000.mp4` and so on; arguments as `render_corpus`."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:06d}.mp4" for number in range(len(scenes))]
    jobs = [_Job(path, scene, num_frames, size) for path, scene in zip(paths, scenes, strict=True)]
    _render(jobs, num_processes=num_processes, progress=progress)
    return paths


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


def _is_complete(root: Path, counts: dict[Split, int]) -> bool:
    """Whether nobody has taken files away since the folder was published."""
    return all(
        (root / f"{split}.csv").is_file()
        and (root / split).is_dir()
        and sum(entry.name.endswith(".mp4") for entry in os.scandir(root / split)) == number
        for split, number in counts.items()
    )


def _scratch_name(root: Path) -> Path:
    return root.parent / f".{root.name}.{secrets.token_hex(6)}"


@contextmanager
def _scratch_folder(root: Path) -> Iterator[Path]:
    """Folder of this process beside `root`; gone at the end, with those that killed runs left."""
    for leftover in root.parent.glob(".synthetic-*"):
        with suppress(FileNotFoundError):
            if time.time() - leftover.stat().st_mtime > _LEFTOVER_SECONDS:
                shutil.rmtree(leftover, ignore_errors=True)
    scratch = _scratch_name(root)
    scratch.mkdir(parents=True)
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _write_manifests(
    scratch: Path, counts: dict[Split, int], *, num_frames: int, size: int, seed: int
) -> list[_Job]:
    jobs: list[_Job] = []
    for split, number in counts.items():
        (scratch / split).mkdir()
        with (scratch / f"{split}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["videoid", "path", "caption"])
            for index, scene in enumerate(sample_scenes(number, split=split, seed=seed)):
                path = f"{split}/{index:06d}.mp4"
                writer.writerow([f"{split}-{index:06d}", path, scene.caption])
                jobs.append(_Job(scratch / path, scene, num_frames, size))
    return jobs


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
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    console = Console(stderr=True)
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not progress) as bar:
        for _ in bar.track(rendered, total=total, description="Rendering the embedded corpus"):
            pass


def _render_clip(job: _Job) -> None:
    frames = draw_scene(job.scene, num_frames=job.num_frames, size=job.size)
    _write_video(job.path, frames)


def _write_video(path: Path, frames: NDArray[np.uint8]) -> None:
    """Encode `(frames, 3, height, width)` RGB as H.264, on one thread: the bytes are then fixed."""
    with av.open(str(path), "w", format="mp4") as container:
        stream = cast(
            av.VideoStream,
            container.add_stream("libx264", rate=FRAMES_PER_SECOND, options=_ENCODER),
        )
        stream.height, stream.width = frames.shape[2:]
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1
        # Stacking planes is eight times as fast as a transposed copy.
        for picture in np.stack([frames[:, 0], frames[:, 1], frames[:, 2]], axis=-1):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


def _publish(scratch: Path, root: Path, counts: dict[Split, int]) -> None:
    """Give the finished folder its name, unless another process has done so meanwhile."""
    if root.exists() and not _is_complete(root, counts):
        damaged = _scratch_name(root)
        root.rename(damaged)
        shutil.rmtree(damaged, ignore_errors=True)
    try:
        scratch.rename(root)
    except OSError:
        if not _is_complete(root, counts):
            raise
