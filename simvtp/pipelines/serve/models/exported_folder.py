"""An exported folder behind HTTP: `export.runtime` computes, and torch is not needed."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from export.runtime import Runtime
from export.runtime.captions import load_tokenizer
from export.runtime.clips import decode_clip
from export.runtime.folder import ExportedFolder, Range
from export.runtime.json_fields import json_field, read_json_object
from simvtp.config.spacing import FrameSpacing
from simvtp.pipelines.serve.models.served_model import ClipJob, Pair, padded_ids, require_finite
from simvtp.pipelines.serve.settings import TASKS, Task

_SIZES = ("num_frames", "image_size")


class ExportedModel:
    """An exported folder as a `ServedModel`; a graph is opened at its first use.

    Args:
        runtime: runs the folder.
        max_batch: rows at a time at most, where a graph's range does not say less.

    Raises:
        ValueError: the folder lacks its tokenizer, how clips are cut, or every graph.
    """

    def __init__(self, runtime: Runtime, *, max_batch: int) -> None:
        folder = runtime.folder
        self.runtime = runtime
        place = "" if runtime.provider is None else f" on {runtime.provider}"
        self.kind = f"{runtime.backend}, {folder.precision}{place}"
        self.tasks: dict[Task, int] = {
            task: min(max_batch, folder.graph(task).ranges["batch"].largest)
            for task in TASKS
            if task in folder.graphs
        }
        if not self.tasks:
            raise ValueError(f"{folder.path} holds none of the graphs {', '.join(TASKS)}")
        self.width = _width(folder)
        self.cut = _cut(folder)
        self.read_clip = read_exported_clip
        self.num_video_tokens = folder.num_tubelets
        self.max_text_length = folder.max_text_length
        with_text = [folder.graph(task) for task in ("text", "match") if task in self.tasks]
        self.max_tokens = min((graph.ranges["tokens"].largest for graph in with_text), default=None)
        self.tokenizer: Any = load_tokenizer(folder.path / "tokenizer.json") if with_text else None

    def encode_text(self, captions: Sequence[np.ndarray]) -> np.ndarray:
        """As `ServedModel` says."""
        rows = self._filled("text", captions)
        values = self.runtime.encode_text(self._ids("text", rows))
        return require_finite(values[: len(captions)])

    def encode_video(self, clips: Sequence[np.ndarray]) -> np.ndarray:
        """As `ServedModel` says."""
        values = self.runtime.encode_video(np.stack(self._filled("video", clips)))
        return require_finite(values[: len(clips)])

    def match(self, pairs: Sequence[Pair]) -> np.ndarray:
        """As `ServedModel` says."""
        rows = self._filled("match", pairs)
        ids = self._ids("match", [pair.token_ids for pair in rows])
        values = self.runtime.match(np.stack([pair.clip for pair in rows]), ids)
        return require_finite(values[: len(pairs)])

    def _filled(self, task: Task, rows: Sequence[Any]) -> list[Any]:
        """The rows, repeated where a graph takes no fewer."""
        missing = self._range(task, "batch").smallest - len(rows)
        return [*rows, *[rows[-1]] * max(0, missing)]

    def _ids(self, task: Task, captions: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        padding = self.tokenizer.token_to_id("[PAD]")
        return padded_ids(captions, padding=padding, columns=self._range(task, "tokens").smallest)

    def _range(self, task: Task, dimension: str) -> Range:
        return self.runtime.folder.graph(task).ranges[dimension]


def read_exported_clip(job: ClipJob) -> np.ndarray:
    """The middle clip of a video, as `export.runtime` cuts it.

    Raises:
        ClipError: it cannot be read.
    """
    return decode_clip(job.file, **job.cut, time_limit=job.seconds, limits=job.limits)


def _width(folder: ExportedFolder) -> int:
    width = folder.model["config"].get("width")
    if not isinstance(width, int):
        raise ValueError(f"report.json of {folder.path} tells no width; export the folder anew")
    return width


def _cut(folder: ExportedFolder) -> dict[str, Any]:
    file = folder.path / "preprocessor.json"
    values = read_json_object(file)
    sizes = {name: json_field(values, name, int, file.name) for name in _SIZES}
    try:
        return sizes | FrameSpacing.of(values).named()
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
