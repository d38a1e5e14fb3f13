"""A model folder behind HTTP: torch computes, and clips are cut as evaluation cuts them."""

from collections.abc import Sequence
from contextlib import ExitStack

import numpy as np
import torch

from simvtp.data import ClipRecord, ViewDataset
from simvtp.data.datasets.clip_batches import cut_for
from simvtp.decoding.limits import ClipError
from simvtp.model import SimVTP
from simvtp.pipelines.serve.models.served_model import ClipJob, Pair, padded_ids, require_finite
from simvtp.pipelines.serve.settings import TASKS, Task
from simvtp.retrieval.embedding import Precision


class FolderModel:
    """A SimVTP in memory as a `ServedModel`.

    Args:
        model: on its device.
        max_batch: rows of a forward pass at most.
        precision: number format of the matrix products.

    Raises:
        ValueError: the model has no tokenizer.
    """

    def __init__(self, model: SimVTP, *, max_batch: int, precision: Precision = "fp32") -> None:
        if model.tokenizer is None:
            raise ValueError("the model has no tokenizer, so it cannot be asked for captions")
        self.model = model.eval()
        self.kind = f"torch, {precision} on {model.device}"
        self.width = model.config.width
        self.tasks: dict[Task, int] = dict.fromkeys(TASKS, max_batch)
        self.cut = cut_for(model)
        self.read_clip = read_evaluated_clip
        self.num_video_tokens = model.config.num_video_tokens
        self.max_tokens: int | None = None
        self.max_text_length = model.config.max_text_length
        self.tokenizer = model.tokenizer
        self._precision = precision

    def encode_text(self, captions: Sequence[np.ndarray]) -> np.ndarray:
        """As `ServedModel` says."""
        with self._computing():
            ids, real = self._ids(captions)
            return require_finite(self.model.encode_text(ids, attend=real).cpu().numpy())

    def encode_video(self, clips: Sequence[np.ndarray]) -> np.ndarray:
        """As `ServedModel` says."""
        with self._computing():
            video = torch.from_numpy(np.stack(clips))
            return require_finite(self.model.encode_video(video).cpu().numpy())

    def match(self, pairs: Sequence[Pair]) -> np.ndarray:
        """As `ServedModel` says."""
        with self._computing():
            video = torch.from_numpy(np.stack([pair.clip for pair in pairs]))
            ids, real = self._ids([pair.token_ids for pair in pairs])
            return require_finite(self.model.match(video, ids, attend=real).cpu().numpy())

    def _ids(self, captions: Sequence[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
        ids, real = padded_ids(captions, padding=self.model.config.padding_id)
        return torch.from_numpy(ids), torch.from_numpy(real).bool()

    def _computing(self) -> ExitStack:
        stack = ExitStack()
        stack.enter_context(torch.inference_mode())
        is_half = self._precision == "bf16"
        device = self.model.device.type
        stack.enter_context(torch.autocast(device, torch.bfloat16, enabled=is_half))
        return stack


def read_evaluated_clip(job: ClipJob) -> np.ndarray:
    """The middle clip of a video, as `embed` and evaluation see it.

    Raises:
        ClipError: it cannot be read.
    """
    cut = {**job.cut, "time_limit": job.seconds, "limits": job.limits}
    viewed = ViewDataset([ClipRecord("video", job.file, ())], **cut)[0]
    if viewed.video is None:
        raise ClipError(str(viewed.error))
    return viewed.video[0].numpy()
