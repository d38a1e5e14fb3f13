"""Floating-point operations of a step: counted, and those of the reference by formula."""

from collections.abc import Callable, Sequence

import torch
from torch.utils.flop_counter import (
    FlopCounterMode,
    sdpa_backward_flop_count,
    sdpa_flop_count,
)

from simvtp.config import ModelConfig
from simvtp.step_flops import parts_flops

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


def reference_step_flops(
    config: ModelConfig, *, num_keep: int, num_decode: int, caption_lengths: Sequence[int]
) -> float:
    """The plain step: four encoder calls on padded captions, every tubelet embedded each time."""
    clips, longest = len(caption_lengths), max(caption_lengths)
    padded = [longest] * clips
    joint = [num_keep + longest] * clips
    return parts_flops(
        config,
        clips=clips,
        embedded=4 * clips * config.num_video_tokens,
        sequences=[*joint, *[num_keep] * clips, *padded, *joint, *joint],
        num_keep=num_keep,
        num_decode=num_decode,
        words=clips * longest,
    )
