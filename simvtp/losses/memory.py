"""Features of earlier steps, kept as further negatives of the contrastive loss."""

import torch
from torch import Tensor, nn

from simvtp.layers import require_alike, require_tensor


class FeatureMemory(nn.Module):
    """The latest pairs of features, oldest replaced first (cross-batch memory, arXiv 1912.06798).

    All ranks keep the same: features are added after they were gathered. It is part of the
    state, so a resume goes on with it.

    Args:
        size: pairs to keep.
        width: width of the features.
    """

    video: Tensor
    text: Tensor
    keys: Tensor
    is_filled: Tensor
    place: Tensor

    def __init__(self, size: int, *, width: int) -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f"a memory needs at least 1 pair, got {size}; leave it out for none")
        self.register_buffer("video", torch.zeros(size, width))
        self.register_buffer("text", torch.zeros(size, width))
        self.register_buffer("keys", torch.zeros(size, dtype=torch.int64))
        self.register_buffer("is_filled", torch.zeros(size, dtype=torch.bool))
        self.register_buffer("place", torch.zeros((), dtype=torch.int64))

    def excluded(self, keys: Tensor) -> Tensor:
        """Kept pairs that are no negatives of these, `(batch, size)` bool: equal or not there yet.

        Args:
            keys: `(batch,)` int64, equal for equal captions.
        """
        return (keys[:, None] == self.keys) | ~self.is_filled

    @torch.no_grad()
    def add(self, video: Tensor, text: Tensor, *, keys: Tensor) -> None:
        """Keep pairs in place of the oldest; a step that is not finite leaves all as it is.

        Args:
            video: `(pairs, width)` unit norm.
            text: `(pairs, width)` unit norm.
            keys: `(pairs,)` int64.

        Raises:
            TypeError: features or keys are no tensors.
            ValueError: they are not of the same pairs, or not of the memory's width.
        """
        _check_pairs(video, text, keys, width=self.video.shape[1])
        size = len(self.keys)
        video, text, keys = video[-size:], text[-size:], keys[-size:]
        finite = torch.isfinite(video).all() & torch.isfinite(text).all()
        rows = (self.place + torch.arange(len(keys), device=keys.device)) % size
        kept = {
            "video": self.video.index_copy(0, rows, video.to(self.video.dtype)),
            "text": self.text.index_copy(0, rows, text.to(self.text.dtype)),
            "keys": self.keys.index_copy(0, rows, keys),
            "is_filled": self.is_filled.index_fill(0, rows, True),
            "place": (self.place + len(keys)) % size,
        }
        for name, value in kept.items():
            buffer = getattr(self, name)
            buffer.copy_(torch.where(finite, value, buffer))


def _check_pairs(video: Tensor, text: Tensor, keys: Tensor, *, width: int) -> None:
    fix = "give the pooled features of each pair"
    require_tensor("video", video, f"(pairs, {width})", kind="float", fix=fix)
    require_tensor("keys", keys, "(pairs,)", kind="int64", fix="give one number per pair")
    require_alike(("video", video), ("text", text), fix="pair i is video i and text i")
    if video.shape != (len(keys), width):
        raise ValueError(
            f"video must be ({len(keys)}, {width}), the keys by the memory's width, got "
            f"{tuple(video.shape)}; {fix}"
        )
