"""How the cost of a step grows: `python -m benchmarks.scaling`.

The step is timed while one setting at a time is varied; the slope of log seconds over log tokens,
clips or pixels says how it grows. Beside it: the encoder on captions of mixed lengths, packed
against filled up to the longest.
"""

import argparse
import json
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.table import Table
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from benchmarks.contestants import build_model, packed_step, random_batch
from benchmarks.measure import Spread, command_line, interleave, machine, timed
from simvtp.command_line import picture_file
from simvtp.config import PRESETS, ModelConfig
from simvtp.encoders import JointEncoder
from simvtp.extras import new_figure
from simvtp.layers import PackedTokens, pack
from simvtp.printing import Console
from simvtp.training import keep_freed_memory

_CAPTION = 16
_MIXED = (6, 40)
_PACKED_BATCHES = (1, 2, 4, 8, 16, 32)


class Point(NamedTuple):
    """One setting of the step: sizes that differ from the preset's, and the batch."""

    value: float
    sizes: dict[str, int]
    batch: dict[str, Any]


def sweeps(config: ModelConfig, clips: int) -> dict[str, list[Point]]:
    """What is varied, each over a factor of four or more, around `clips` clips of the preset."""
    captions = [_CAPTION] * clips
    frames = [config.num_frames * factor // 2 for factor in (1, 2, 4)]
    pixels = [round(config.image_size * factor) for factor in (0.5, 1, 1.5)]
    pixels = [side // config.patch_size * config.patch_size for side in pixels]
    return {
        "clips": [Point(n, {}, {"caption_lengths": [_CAPTION] * n}) for n in (1, 2, 4, 8)],
        "frames": [Point(n, {"num_frames": n}, {"caption_lengths": captions}) for n in frames],
        "pixels a frame": [
            Point(side**2, {"image_size": side}, {"caption_lengths": captions}) for side in pixels
        ],
        "share of tubes seen": [
            Point(1 - ratio, {}, {"caption_lengths": captions, "video_ratio": ratio})
            for ratio in (0.95, 0.9, 0.75, 0.5)
        ],
        "share of dropped tubelets decoded": [
            Point(ratio, {}, {"caption_lengths": captions, "decode_ratio": ratio})
            for ratio in (0.25, 0.5, 1.0)
        ],
        "caption tokens": [Point(n, {}, {"caption_lengths": [n] * clips}) for n in (8, 16, 32, 64)],
    }


def fitted_exponent(values: Sequence[float], seconds: Sequence[float]) -> float:
    """Slope of log seconds over log values: 1 is linear, 2 quadratic, 0 no growth."""
    slope, _ = np.polyfit(np.log(values), np.log(seconds), 1)
    return float(slope)


def main() -> int:
    """Measure, print, draw."""
    options = _parser().parse_args()
    keep_freed_memory()
    device = torch.device(options.device)
    config = ModelConfig.preset(options.preset, text_dropout=0.0)
    result: dict[str, Any] = {
        "command": command_line("benchmarks.scaling"),
        "machine": machine(device),
        "preset": options.preset,
        "precision": options.precision,
        "sweeps": {
            name: _sweep(name, points, config, options, device)
            for name, points in sweeps(config, options.clips).items()
        },
        "packing": _packing(config, options, device),
    }
    _print(Console(), result)
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if options.plot is not None:
        draw(result, out_png=options.plot)
        Console().print(f"drawn in {options.plot}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--preset", choices=tuple(PRESETS), default="tiny")
    parser.add_argument("--clips", type=int, choices=range(2, 1025), default=8, metavar="N")
    parser.add_argument("--rounds", type=int, choices=range(1, 101), default=5, metavar="N")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--plot", type=picture_file, help="PNG file for the picture")
    return parser


def _sweep(
    name: str,
    points: Sequence[Point],
    config: ModelConfig,
    options: argparse.Namespace,
    device: torch.device,
) -> dict[str, Any]:
    steps = {}
    for point in points:
        sizes = ModelConfig.from_dict({**vars(config), **point.sizes})
        batch = random_batch(sizes, **point.batch).to(device)
        model = build_model(sizes, device)
        step = packed_step(model, batch, precision=options.precision, negatives="hard")
        steps[f"{name} {point.value:g}"] = partial(timed, step.run, device)
    rounds = interleave(steps, rounds=options.rounds, warmup=1)
    values = [point.value for point in points]
    medians = [Spread.of(seconds).median for seconds in rounds.values()]
    exponent = fitted_exponent(values, medians)
    return {"values": values, "seconds": list(rounds.values()), "exponent": exponent}


def _packing(
    config: ModelConfig, options: argparse.Namespace, device: torch.device
) -> list[dict[str, Any]]:
    """Encoder over a step's joint, video and text sequences, packed and padded, per batch size."""
    encoder = JointEncoder(config.width, depth=config.depth, num_heads=config.num_heads).to(device)
    num_keep = random_batch(config, caption_lengths=[8]).keep.shape[1]
    rows = []
    for clips in _PACKED_BATCHES:
        captions = [round(n) for n in np.linspace(*_MIXED, clips)]
        generator = torch.Generator().manual_seed(0)
        kinds = [
            [torch.randn(length, config.width, generator=generator).to(device) for length in kind]
            for kind in ([num_keep + n for n in captions], [num_keep] * clips, captions)
        ]
        packed = pack([sequence for kind in kinds for sequence in kind])
        contestants = {
            f"packed, {clips} clips": partial(timed, _training_pass(encoder, packed), device),
            f"padded, {clips} clips": partial(timed, _padded_pass(encoder, kinds), device),
        }
        seconds = interleave(contestants, rounds=options.rounds, warmup=1)
        by_layout = zip(("packed", "padded"), seconds.values(), strict=True)
        rows.append({"clips": clips, **dict(by_layout)})
    return rows


def _training_pass(encoder: JointEncoder, tokens: PackedTokens) -> Any:
    def run() -> None:
        values = tokens.values.clone().requires_grad_()
        encoder(PackedTokens(values, tokens.layout)).values.sum().backward()

    return run


def _padded_pass(encoder: JointEncoder, kinds: Sequence[Sequence[Tensor]]) -> Any:
    padded = []
    for kind in kinds:
        lengths = torch.tensor([len(sequence) for sequence in kind])
        tokens = pad_sequence(list(kind), batch_first=True)
        real = torch.arange(tokens.shape[1]) < lengths[:, None]
        padded.append((tokens, None if bool(real.all()) else real.to(tokens.device)))

    def run() -> None:
        for tokens, real in padded:
            encoder.encode_padded(tokens.clone().requires_grad_(), real).sum().backward()

    return run


def draw(result: dict[str, Any], *, out_png: Path) -> None:
    """Seconds over each varied setting, and packed against padded."""
    panels = len(result["sweeps"]) + 1
    columns = 4
    figure = new_figure(3.4 * columns, 2.9 * math.ceil(panels / columns))
    figure.suptitle(f"{result['preset']}, {result['precision']}, {result['machine']['device']}")
    axes = figure.subplots(math.ceil(panels / columns), columns).flatten()
    for axis, (name, sweep) in zip(axes, result["sweeps"].items(), strict=False):
        medians = [Spread.of(seconds).median for seconds in sweep["seconds"]]
        axis.loglog(sweep["values"], medians, "o-")
        axis.set_xticks(sweep["values"], [f"{value:g}" for value in sweep["values"]])
        axis.set_yticks(medians, [f"{seconds:.2g}" for seconds in medians])
        axis.minorticks_off()
        axis.set_title(f"seconds ~ x^{sweep['exponent']:.2f}", fontsize=9)
        axis.set_xlabel(name)
        axis.set_ylabel("seconds a step")
    axis = axes[panels - 1]
    for name in ("packed", "padded"):
        medians = [Spread.of(row[name]).median for row in result["packing"]]
        axis.loglog([row["clips"] for row in result["packing"]], medians, "o-", label=name)
    axis.set_title(f"encoder, captions of {_MIXED[0]} to {_MIXED[1]} tokens", fontsize=9)
    axis.set_xlabel("clips")
    axis.legend()
    for axis in axes[panels:]:
        axis.set_visible(False)
    out_png.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out_png, dpi=110)


def _print(console: Console, result: dict[str, Any]) -> None:
    table = Table("varied", "seconds a step at each value", "exponent", title="growth of a step")
    for name, sweep in result["sweeps"].items():
        pairs = zip(sweep["values"], sweep["seconds"], strict=True)
        shown = ", ".join(f"{value:g}: {Spread.of(spent).median:.3f}" for value, spent in pairs)
        table.add_row(name, shown, f"{sweep['exponent']:.2f}")
    console.print(table)
    table = Table("clips", "packed s", "padded s", "padded / packed", title="mixed captions")
    for row in result["packing"]:
        ratios = [b / a for a, b in zip(row["packed"], row["padded"], strict=True)]
        spreads = [Spread.of(row[name]).text(4) for name in ("packed", "padded")]
        table.add_row(str(row["clips"]), *spreads, Spread.of(ratios).text())
    console.print(table)


if __name__ == "__main__":
    raise SystemExit(main())
