"""Floating-point operations of a step by formula, as matrix products do them (2 per multiply-add).

The backward pass does two products for each of the forward pass, so a step is three times its
forward pass, except that nothing flows back into pixels. Softmax, norms and activations are left
out; they are below one percent.
"""

from collections.abc import Callable, Sequence

import torch
from torch.utils.flop_counter import (
    FlopCounterMode,
    sdpa_backward_flop_count,
    sdpa_flop_count,
)

from simvtp.config import ModelConfig

Shape = Sequence[int]


def _attention(query: Shape, key: Shape, value: Shape, *_: object, **__: object) -> int:
    return sdpa_flop_count(query, key, value)


def _attention_backward(
    grad: Shape, query: Shape, key: Shape, value: Shape, *_: object, **__: object
) -> int:
    return sdpa_backward_flop_count(grad, query, key, value)


# Torch's counter knows the kernels of GPUs and, in some versions, not that of CPUs.
_CPU_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}


def count_flops(function: Callable[[], object]) -> float:
    """Operations of one call, counted as they run."""
    with FlopCounterMode(display=False, custom_mapping=_CPU_ATTENTION) as counter:
        function()
    return float(counter.get_total_flops())


def linear_flops(tokens: float, *, inputs: int, outputs: int) -> float:
    """One linear layer, forward."""
    return 2.0 * tokens * inputs * outputs


def transformer_flops(lengths: Sequence[int], *, width: int, depth: int, mlp_ratio: float) -> float:
    """A stack of blocks over sequences, forward: 4 projections, the MLP, scores and mixing."""
    tokens = sum(lengths)
    linear = linear_flops(tokens, inputs=width, outputs=4 * width)
    mlp = 2 * linear_flops(tokens, inputs=width, outputs=round(mlp_ratio * width))
    attention = sum(4.0 * length**2 * width for length in lengths)
    return depth * (linear + mlp + attention)


def packed_step_flops(
    config: ModelConfig,
    *,
    num_keep: int,
    num_decode: int,
    caption_lengths: Sequence[int],
    num_masked_words: int,
) -> float:
    """SimVTP's step: joint, video, text and non-matching sequences, nothing thrown away.

    Args:
        config: sizes of the model.
        num_keep: tubelets that the encoder sees, per clip.
        num_decode: tubelets that are reconstructed, per clip.
        caption_lengths: tokens of each caption; one clip each.
        num_masked_words: hidden words of all captions.

    Returns:
        Operations of the step, forward and backward.
    """
    clips = len(caption_lengths)
    joint = [num_keep + length for length in caption_lengths]
    sequences = [*joint, *[num_keep] * clips, *caption_lengths, *joint]
    return _step_flops(
        config,
        clips=clips,
        embedded=clips * num_keep,
        sequences=sequences,
        num_keep=num_keep,
        num_decode=num_decode,
        words=num_masked_words,
    )


def reference_step_flops(
    config: ModelConfig, *, num_keep: int, num_decode: int, caption_lengths: Sequence[int]
) -> float:
    """The plain step: four encoder calls on padded captions, every tubelet embedded each time."""
    clips, longest = len(caption_lengths), max(caption_lengths)
    padded = [longest] * clips
    joint = [num_keep + longest] * clips
    return _step_flops(
        config,
        clips=clips,
        embedded=4 * clips * config.num_video_tokens,
        sequences=[*joint, *[num_keep] * clips, *padded, *joint, *joint],
        num_keep=num_keep,
        num_decode=num_decode,
        words=clips * longest,
    )


def _step_flops(
    config: ModelConfig,
    *,
    clips: int,
    embedded: int,
    sequences: Sequence[int],
    num_keep: int,
    num_decode: int,
    words: int,
) -> float:
    pixels = config.tubelet_frames * config.patch_size**2 * 3
    width, narrow = config.width, config.decoder_width
    embedding = linear_flops(embedded, inputs=pixels, outputs=width)
    encoder = transformer_flops(
        sequences, width=width, depth=config.depth, mlp_ratio=config.mlp_ratio
    )
    decoder = transformer_flops(
        [num_keep + num_decode] * clips, width=narrow, depth=config.decoder_depth, mlp_ratio=4.0
    )
    decoder += linear_flops(clips * num_keep, inputs=width, outputs=narrow)
    decoder += linear_flops(clips * num_decode, inputs=narrow, outputs=pixels)
    head = linear_flops(words, inputs=width, outputs=config.vocab_size)
    return 2 * embedding + 3 * (encoder + decoder + head)
