"""Clips and texts through an encoder together."""

from collections.abc import Callable

import torch
from torch import Tensor

from simvtp.config.checks import require_whole
from simvtp.layers import (
    PackedLayout,
    PackedTokens,
    join_rows,
    require_packed,
    require_tensor,
    to_device,
)


def encode_pairs(
    encoder: Callable[[PackedTokens], PackedTokens],
    video: Tensor,
    text: PackedTokens,
    *,
    texts_per_clip: int = 1,
) -> tuple[PackedTokens, Tensor]:
    """Encode [clip ; text], one sequence per text.

    Args:
        encoder: encodes packed sequences.
        video: `(batch, tokens, width)` embedded tubelets.
        text: embedded texts, `texts_per_clip` for each clip in turn.
        texts_per_clip: sequences that a clip's tubelets stand in.

    Returns:
        The encoded pack, and `(video_tokens + text_tokens,)` int64 rows in it of the tubelets
        of all sequences and then of all words.

    Raises:
        TypeError: the clips are no tensor, or the texts are not packed.
        ValueError: there are more or fewer texts, or tokens are of different widths.
    """
    fix = "give embedded tokens; packed ones go to the encoder itself"
    require_tensor("video", video, "(batch, tokens, width)", kind="float", fix=fix)
    require_packed("text", text, width=video.shape[2])
    require_whole("texts_per_clip", texts_per_clip)
    num_tokens, device = video.shape[1], video.device
    clips = PackedLayout((num_tokens,) * (len(video) * texts_per_clip), device)
    rows = join_rows(clips, text.layout)
    pairs = zip(clips.lengths, text.layout.lengths, strict=True)
    layout = PackedLayout(tuple(first + second for first, second in pairs), device)
    # Sequences of one clip pick the same tubelets, which were embedded once.
    clip = rows // (num_tokens * texts_per_clip)
    picked = torch.where(
        rows < clips.total_tokens,
        clip * num_tokens + rows % num_tokens,
        rows - clips.total_tokens + len(video) * num_tokens,
    )
    sources = torch.cat([video.flatten(0, 1), text.values])
    encoded = encoder(PackedTokens(sources[to_device(picked, device)], layout))
    return encoded, to_device(rows.argsort(), device)
