"""Pixel decoder: from the encoded visible tubelets to the pixels of the dropped ones."""

from typing import Literal

import torch
from torch import Tensor, nn

from simvtp.config.checks import require_sizes
from simvtp.layers import (
    Transformer,
    attend_padded,
    require_tensor,
    sincos_axes,
    sincos_positions,
)


class PixelDecoder(nn.Module):
    """Small transformer that fills dropped tubelets in (paper section 3).

    Visible tokens are projected to the decoder's width, mask tokens with the positions of the
    tubelets to decode follow, and only these are turned into pixels.

    Args:
        encoder_width: width of the encoder's tokens.
        grid: tubelets along time, height and width of a clip.
        tubelet: frames, height and width of a tubelet, in pixels.
        num_channels: colour channels.
        width: width of the decoder.
        depth: number of blocks.
        num_heads: attention heads.
        positions: a formula over the flat tubelet number (the paper's), or along each axis.

    Raises:
        ValueError: a size is no whole number above 0.
    """

    positions: Tensor

    def __init__(
        self,
        encoder_width: int = 768,
        *,
        grid: tuple[int, int, int] = (8, 14, 14),
        tubelet: tuple[int, int, int] = (2, 16, 16),
        num_channels: int = 3,
        width: int = 384,
        depth: int = 4,
        num_heads: int = 6,
        positions: Literal["formula", "axes"] = "formula",
    ) -> None:
        super().__init__()
        require_sizes("grid", grid, "time, height, width")
        require_sizes("tubelet", tubelet, "frames, height, width")
        frames, rows, columns = tubelet
        num_tokens = grid[0] * grid[1] * grid[2]
        self.from_encoder = nn.Linear(encoder_width, width, bias=False)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        self.transformer = Transformer(width, depth=depth, num_heads=num_heads)
        self.head = nn.Linear(width, frames * rows * columns * num_channels)
        if positions == "axes":
            table = sincos_axes(grid, width)
        else:
            table = sincos_positions(num_tokens, width)
        self.register_buffer("positions", table, persistent=False)

    def forward(self, visible: Tensor, *, keep: Tensor, decode: Tensor) -> Tensor:
        """Predict the pixels of the tubelets at `decode`.

        Args:
            visible: `(batch, num_keep, encoder_width)` encoded visible tubelets.
            keep: `(batch, num_keep)` int64 flat numbers of the visible tubelets.
            decode: `(batch, num_decode)` int64 flat numbers of the tubelets to predict.

        Returns:
            `(batch, num_decode, frames * rows * columns * channels)`, channel last.

        Raises:
            TypeError: one of them is no tensor.
            ValueError: there is not a visible token for each number in `keep`, or the two have
                different numbers of clips.
        """
        _check(visible, keep=keep, decode=decode)
        known = self.from_encoder(visible) + self.positions[keep]
        hidden = self.mask_token + self.positions[decode]
        tokens = torch.cat([known, hidden.to(known.dtype)], dim=1)
        decoded = self.transformer(tokens, attend_padded)
        return self.head(decoded[:, keep.shape[1] :])


def _check(visible: Tensor, *, keep: Tensor, decode: Tensor) -> None:
    fix = "give the numbers of one TubeMask and the tokens that were kept by it"
    require_tensor("visible", visible, "(batch, num_keep, width)", kind="float", fix=fix)
    require_tensor("keep", keep, "(batch, num_keep)", kind="int64", fix=fix)
    require_tensor("decode", decode, "(batch, num_decode)", kind="int64", fix=fix)
    if keep.shape != visible.shape[:2] or decode.shape[0] != keep.shape[0]:
        raise ValueError(
            f"visible, keep and decode must be of the same clips and tubelets, got "
            f"{tuple(visible.shape)}, {tuple(keep.shape)} and {tuple(decode.shape)}; {fix}"
        )
