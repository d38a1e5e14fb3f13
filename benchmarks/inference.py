"""Time attention and the encoding of clips in half precision: `python -m benchmarks.inference`.

Contestants take turns in one process: attention by torch's flash kernel and by products of a few
heads, forward and both ways, over the tokens that pre-training sees of a clip and over all of them;
`encode_video` in fp32 and bf16, and transformers' VideoMAE of the same sizes. Ratios are taken
within a round.
"""

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import Tensor
from torch.nn import functional

from benchmarks.contestants import build_model, videomae_sizes
from benchmarks.measure import (
    CLOCKS,
    Spread,
    command_line,
    interleave,
    machine,
    timed,
)
from simvtp.config import PRESETS, ModelConfig
from simvtp.layers.blocked_attention import attend_in_blocks
from simvtp.layers.precision import products_in
from simvtp.printing import Console
from simvtp.training import keep_freed_memory

_CPU = torch.device("cpu")
_FLASH, _BLOCKS = "flash", "blocks"
_FP32, _BF16 = "encode_video, fp32", "encode_video, bf16"
_VIDEOMAE = "VideoMAE, {}"


def main() -> int:
    """Measure, print the tables and write the JSON file."""
    options = _parser().parse_args()
    keep_freed_memory()
    config = ModelConfig.preset(options.preset)
    contestants: dict[str, Callable[[], object]] = {}
    if "attention" in options.parts:
        contestants |= _attention(config, clips=options.clips)
    if "encoding" in options.parts:
        contestants |= _encoding(config, clips=options.clips)
    timings = {name: partial(timed, run, _CPU, options.clock) for name, run in contestants.items()}
    # Within it weights are cast once, as the commands have it.
    with products_in("bf16", _CPU):
        figures = interleave(timings, rounds=options.rounds, warmup=options.warmup)
    result = {
        "command": command_line("benchmarks.inference"),
        "machine": machine(_CPU),
        "settings": {**vars(options), "json": None},
        "seconds": figures,
    }
    _print(Console(), result)
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m benchmarks.inference", description=__doc__)
    add = parser.add_argument
    both = ("attention", "encoding")
    add("--parts", nargs="+", choices=both, default=both, help="what to measure; both")
    add("--preset", choices=tuple(PRESETS), default="base")
    add("--clips", type=int, choices=range(1, 65), default=4, metavar="N")
    add("--rounds", type=int, choices=range(1, 101), default=5, metavar="N")
    add("--warmup", type=int, choices=range(1, 101), default=1, metavar="N")
    add(
        "--clock",
        choices=tuple(CLOCKS),
        default="wall",
        help="processor: of a shared machine only what is computed; with OMP_NUM_THREADS=1",
    )
    add("--json", type=Path, metavar="FILE", help="file for the figures")
    return parser


def _attention(config: ModelConfig, *, clips: int) -> dict[str, Callable[[], object]]:
    """In bf16, by the heads of the encoder and of the decoder."""
    found: dict[str, Callable[[], object]] = {}
    encoder = (config.num_heads, config.width // config.num_heads)
    decoder = (config.decoder_heads, config.decoder_width // config.decoder_heads)
    num_tokens = config.num_video_tokens
    for tokens, (heads, width) in (
        (num_tokens // 10, encoder),
        (num_tokens, encoder),
        (num_tokens, decoder),
    ):
        generator = torch.Generator().manual_seed(0)
        projected = torch.randn((clips, tokens, 3, heads, width), generator=generator).bfloat16()
        parts = [part.detach().requires_grad_() for part in projected.unbind(2)]
        for name, attend in ((_FLASH, _flash), (_BLOCKS, attend_in_blocks)):
            about = f"{tokens} tokens, {heads} heads"
            found[f"{about}, forward, {name}"] = partial(_forward, attend, parts)
            found[f"{about}, both ways, {name}"] = partial(_both_ways, attend, parts)
    return found


def _flash(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    query, key, value = (part.transpose(1, 2) for part in (query, key, value))
    return functional.scaled_dot_product_attention(query, key, value).transpose(1, 2)


@torch.no_grad()
def _forward(attend: Callable[..., Tensor], parts: list[Tensor]) -> Tensor:
    return attend(*parts)


def _both_ways(attend: Callable[..., Tensor], parts: list[Tensor]) -> tuple[Tensor, ...]:
    output = attend(*parts)
    return torch.autograd.grad(output, parts, torch.ones_like(output))


def _encoding(config: ModelConfig, *, clips: int) -> dict[str, Callable[[], object]]:
    from transformers import VideoMAEModel

    size = (clips, config.num_frames, 3, config.image_size, config.image_size)
    generator = torch.Generator().manual_seed(0)
    video = torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)
    model = build_model(config, _CPU).eval()
    peer, pixels = VideoMAEModel(videomae_sizes(config)).eval(), video.float() / 255
    return {
        _FP32: partial(_encode, model.encode_video, video, "fp32"),
        _BF16: partial(_encode, model.encode_video, video, "bf16"),
        _VIDEOMAE.format("fp32"): partial(_encode, peer, pixels, "fp32"),
        _VIDEOMAE.format("bf16"): partial(_encode, peer, pixels, "bf16"),
    }


@torch.no_grad()
def _encode(function: Callable[[Tensor], object], clips: Tensor, precision: Any) -> object:
    with products_in(precision, _CPU):
        return function(clips)


def _print(console: Console, result: dict[str, Any]) -> None:
    seconds = result["seconds"]
    table = Table("", "ms", "against", title="median (low to high) of the rounds")
    for name, spent in seconds.items():
        table.add_row(
            name, Spread.of([1000 * one for one in spent]).text(0), *_against(name, seconds)
        )
    console.print(table)


def _against(name: str, seconds: dict[str, list[float]]) -> list[str]:
    """How many times as fast as what it replaces, round by round."""
    if name in (_FP32, _BF16):
        others = [_VIDEOMAE.format(name.rpartition(" ")[2]), *([_FP32] if name == _BF16 else [])]
    else:
        others = [name.replace(_BLOCKS, _FLASH)] if name.endswith(_BLOCKS) else []
    ratios = {
        other: [b / a for a, b in zip(seconds[name], seconds[other], strict=True)]
        for other in others
    }
    said = (f"{Spread.of(each).text()} x {other.split(', ')[-1]}" for other, each in ratios.items())
    return ["; ".join(said)]


if __name__ == "__main__":
    raise SystemExit(main())
