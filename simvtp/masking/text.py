"""Text masking: words are replaced by [MASK] and stay in the sequence."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from simvtp.config.checks import is_in, require_whole
from simvtp.layers import Kind, require_tensor


class TextMask(NamedTuple):
    """Captions with words hidden.

    Attributes:
        token_ids: `(batch, tokens)` int64 with [MASK] in place of the hidden words.
        masked: `(batch, tokens)` bool, True where a word is hidden; the words to predict there
            are those of the captions that went in.
    """

    token_ids: Tensor
    masked: Tensor


class TextMasker:
    """Hides each word with a fixed chance, always behind [MASK] (paper section 3).

    Special tokens and padding are never hidden. In a caption with a word to hide at least one is
    hidden, unless the ratio is 0. The captions that went in are left untouched.

    Args:
        mask_id: id of [MASK].
        special_ids: ids that are never hidden: [CLS], [SEP], [PAD], [MASK], ...
        ratio: chance of a word to be hidden, in [0, 1].

    Raises:
        ValueError: the ratio is outside [0, 1], or an id is no whole number of at least 0.
    """

    def __init__(self, mask_id: int, *, special_ids: Sequence[int], ratio: float = 0.75) -> None:
        if not is_in(0, ratio, 1):
            raise ValueError(f"ratio must lie in [0, 1], got {ratio}")
        if not isinstance(special_ids, Sequence):
            raise TypeError(f"special_ids must be a list of ids, got {special_ids!r:.80}")
        for special_id in (mask_id, *special_ids):
            require_whole("an id of [MASK] or a special token", special_id, least=0)
        self.mask_id = mask_id
        self.special_ids = torch.tensor(sorted({mask_id, *special_ids}))
        self.ratio = ratio

    def __call__(
        self,
        token_ids: Tensor,
        *,
        attend: Tensor | None = None,
        word_ids: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> TextMask:
        """Hide words of a batch; arguments and errors as in `from_noise`."""
        _check("token_ids", token_ids, "int64")
        noise = torch.rand(token_ids.shape, generator=generator, device=token_ids.device)
        return self.from_noise(token_ids, noise=noise, attend=attend, word_ids=word_ids)

    def from_noise(
        self,
        token_ids: Tensor,
        *,
        noise: Tensor,
        attend: Tensor | None = None,
        word_ids: Tensor | None = None,
    ) -> TextMask:
        """Hide the words whose noise falls below the ratio.

        Args:
            token_ids: `(batch, tokens)` int64.
            noise: `(batch, tokens)` uniform draws; a row decides its own caption and no other.
            attend: `(batch, tokens)` bool, True where a token is real; None when all are.
            word_ids: `(batch, tokens)` int64 number of the word that each token is part of,
                counted from 0, anything below 0 for special tokens. Given, whole words are
                hidden; else each token for itself.

        Returns:
            The hidden captions.

        Raises:
            TypeError: one of them is no tensor.
            ValueError: one is of another number format, or the shapes differ.
        """
        _check("token_ids", token_ids, "int64")
        kinds: tuple[tuple[str, Tensor | None, Kind], ...] = (
            ("noise", noise, "float"),
            ("attend", attend, "bool"),
            ("word_ids", word_ids, "int64"),
        )
        for name, tensor, kind in kinds:
            if tensor is None:
                continue
            _check(name, tensor, kind)
            if tensor.shape != token_ids.shape:
                raise ValueError(
                    f"{name} must have the shape of token_ids {tuple(token_ids.shape)}, got "
                    f"{tuple(tensor.shape)}"
                )
        if not token_ids.numel():
            return TextMask(token_ids, torch.zeros_like(token_ids, dtype=torch.bool))
        maskable = ~torch.isin(token_ids, self.special_ids.to(token_ids.device))
        if attend is not None:
            maskable &= attend
        if word_ids is not None:
            maskable &= word_ids >= 0
            noise = noise.gather(1, word_ids.clamp(0, noise.shape[1] - 1))
        noise = noise.masked_fill(~maskable, float("inf"))
        # The smallest draw is hidden whatever its value, so that there is a word to predict.
        smallest = noise.amin(dim=1, keepdim=True)
        masked = maskable & ((noise < self.ratio) | (noise == smallest))
        if self.ratio == 0:
            masked = torch.zeros_like(masked)
        return TextMask(token_ids.masked_fill(masked, self.mask_id), masked)


def _check(name: str, tensor: object, kind: Kind) -> None:
    fix = "give one row for each caption, filled up to one length"
    require_tensor(name, tensor, "(batch, tokens)", kind=kind, fix=fix)
