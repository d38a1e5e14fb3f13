"""What a server asks of a model, be it a model folder or an exported one."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from simvtp.decoding.limits import Limits
from simvtp.pipelines.serve.settings import Task


class ClipJob(NamedTuple):
    """A video to be decoded in a process of its own.

    Attributes:
        file: the video.
        cut: how clips are cut, as the model's `read_clip` takes it.
        seconds: after which the video is refused.
        limits: what it may have at most.
    """

    file: Path
    cut: Mapping[str, Any]
    seconds: float
    limits: Limits


class Pair(NamedTuple):
    """A clip `(frames, 3, size, size)` uint8, and the token ids `(tokens,)` int64 of a caption."""

    clip: np.ndarray
    token_ids: np.ndarray


class ServedModel(Protocol):
    """Embeds captions and clips, and matches them, several at a time.

    Attributes:
        kind: what runs it, in a word or two.
        width: of its embeddings.
        tasks: what it can do, each with the rows that it takes at a time.
        cut: how its clips are cut.
        read_clip: decodes a video, `(frames, 3, size, size)` uint8; a function of a module, whose
            ClipError says what is wrong with the video.
        num_video_tokens: tubelets of a clip.
        max_tokens: tokens that a caption may have, beyond those that are cut; None for any.
        max_text_length: tokens that captions are cut to.
        tokenizer: of the `tokenizers` library.
    """

    kind: str
    width: int
    tasks: dict[Task, int]
    cut: dict[str, Any]
    read_clip: Callable[[ClipJob], np.ndarray]
    num_video_tokens: int
    max_tokens: int | None
    max_text_length: int
    tokenizer: Any

    def encode_text(self, captions: Sequence[np.ndarray]) -> np.ndarray:
        """Embed captions, of which each is `(tokens,)` int64 ids: `(rows, width)` float32."""
        ...

    def encode_video(self, clips: Sequence[np.ndarray]) -> np.ndarray:
        """Embed clips, each `(frames, 3, size, size)` uint8: `(rows, width)` float32."""
        ...

    def match(self, pairs: Sequence[Pair]) -> np.ndarray:
        """Probabilities that clip and caption belong together, `(rows,)` float32."""
        ...


def padded_ids(
    captions: Sequence[np.ndarray], *, padding: int, columns: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Token ids of captions side by side, and 1 where an id is real: `(rows, tokens)` int64.

    Args:
        captions: `(tokens,)` int64 each.
        padding: fills up short ones.
        columns: the fewest of the result.
    """
    shape = (len(captions), max(columns, *(len(ids) for ids in captions)))
    token_ids = np.full(shape, padding, dtype=np.int64)
    real = np.zeros(shape, dtype=np.int64)
    for row, ids in enumerate(captions):
        token_ids[row, : len(ids)] = ids
        real[row, : len(ids)] = 1
    return token_ids, real


def require_finite(values: np.ndarray) -> np.ndarray:
    """The values, all of which must be numbers.

    Raises:
        RuntimeError: one is not.
    """
    if not np.isfinite(values).all():
        raise RuntimeError("the output is not finite: the weights or the precision are at fault")
    return values
