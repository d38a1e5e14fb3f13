"""Encoders of other libraries, which take padded batches, over packed sequences."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from simvtp.layers import (
    PackedLayout,
    PackedTokens,
    check_key_mask,
    mean_tokens,
    require_packed,
    require_tensor,
    to_device,
)


def _call(module: nn.Module, tokens: Tensor, key_mask: Tensor) -> Tensor:
    return module(tokens, key_mask)


class PaddedEncoder(nn.Module):
    """Encodes packed sequences with one's own module over padded batches.

    Sequences that are at least half as long as the longest go through the module together, filled
    up: it is called a few times, and less than half of its work is padding. A sequence's feature
    is the mean of its tokens.

    Drop path, compiled and recomputed blocks are settings of the library's own blocks; set the
    module up for them beforehand. FSDP gathers all of it at once.

    Args:
        module: any module that keeps `(batch, tokens, width)`, such as the blocks of a ViT.
        call: encodes tokens by `call(module, tokens, key_mask)`, where `key_mask` is
            `(batch, tokens)` bool, True at real tokens; `module(tokens, key_mask)` by default.
            For `nn.TransformerEncoder(..., enable_nested_tensor=False)` it is
            `lambda module, tokens, mask: module(tokens, src_key_padding_mask=~mask)`.
        blocks: layers of the module from input to output, where learning rates are to fall by
            layer.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        call: Callable[[nn.Module, Tensor, Tensor], Tensor] = _call,
        blocks: Sequence[nn.Module] = (),
    ) -> None:
        super().__init__()
        self.module = module
        self.call = call
        self.blocks = tuple(blocks)

    def forward(self, tokens: PackedTokens) -> PackedTokens:
        """Encode packed sequences; every token sees the tokens of its own sequence.

        Raises:
            TypeError: the tokens are not packed.
            ValueError: they are not as many as their layout says.
        """
        require_packed("tokens", tokens)
        groups, order = _groups(tokens.layout)
        encoded = []
        for group in groups:
            filled = tokens.values.index_select(0, group.take)
            output = self.encode_padded(filled.unflatten(0, group.is_real.shape), group.is_real)
            encoded.append(output.flatten(0, 1).index_select(0, group.real_rows))
        return PackedTokens(torch.cat(encoded).index_select(0, order), tokens.layout)

    def encode_padded(self, tokens: Tensor, key_mask: Tensor | None = None) -> Tensor:
        """Encode a padded batch; arguments and errors are those of `JointEncoder`."""
        require_tensor("tokens", tokens, "(batch, tokens, width)", kind="float", fix="pack others")
        check_key_mask(key_mask, tokens)
        if key_mask is None:
            key_mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        return self.call(self.module, tokens, key_mask)

    def pool(self, tokens: PackedTokens | Tensor, key_mask: Tensor | None = None) -> Tensor:
        """Mean of each sequence's encoded tokens, `(sequences, width)`, at least float32."""
        return mean_tokens(tokens, key_mask)

    def normed(self, tokens: Tensor) -> Tensor:
        """Encoded tokens as decoders take them: as they are."""
        return tokens


class _Group(NamedTuple):
    """Sequences that are filled up together: `take (sequences * longest,)` rows of the pack,
    `is_real (sequences, longest)`, and where real ones are in `take`, `real_rows (tokens,)`.
    """

    take: Tensor
    is_real: Tensor
    real_rows: Tensor


def _groups(layout: PackedLayout) -> tuple[list[_Group], Tensor]:
    """Groups of a pack, and the rows that bring their real tokens into its order."""
    lengths, starts = torch.tensor(layout.lengths), torch.tensor(layout.starts[:-1])
    left, groups, rows = lengths.argsort(descending=True, stable=True), [], []
    while len(left):
        longest = lengths[left[0]]
        num_alike = int((2 * lengths[left] >= longest).sum())
        chosen, left = left.split([num_alike, len(left) - num_alike])
        places, sizes = torch.arange(int(longest)), lengths[chosen][:, None]
        is_real = places < sizes
        # Padding repeats a sequence's last token, which is finite.
        take = starts[chosen][:, None] + torch.minimum(places, sizes - 1)
        rows.append(take[is_real])
        host = (take.flatten(), is_real, is_real.flatten().nonzero().squeeze(1))
        groups.append(_Group(*(to_device(tensor, layout.device) for tensor in host)))
    return groups, to_device(torch.cat(rows).argsort(), layout.device)
