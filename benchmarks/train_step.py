"""Time a training step against the plain one: `python -m benchmarks.train_step`.

Contestants run in turn in one process over the same weights, masks and negatives: the library's
step, the step as the formulas state it, the library's step with running cells, and for the video
part alone transformers' VideoMAE. Ratios are taken within a round.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.components import component_seconds
from benchmarks.contestants import (
    Contestant,
    build_model,
    negatives_of,
    packed_step,
    random_batch,
    reference_step,
    videomae_step,
)
from benchmarks.flops import packed_step_flops, reference_step_flops
from benchmarks.measure import (
    Spread,
    command_line,
    interleave,
    machine,
    matrix_peak,
    peak_memory,
)
from benchmarks.reference import reference_losses
from simvtp.batch import Batch
from simvtp.config import PRESETS, ModelConfig
from simvtp.model import SimVTP
from simvtp.training import keep_freed_memory

PACKED, CELLS, PLAIN = "packed", "packed, running cells", "reference"
VIDEO, VIDEOMAE = "packed, video only", "VideoMAE"
PEAK = "matrix product"
OURS = (PACKED, CELLS, VIDEO)


def main() -> int:
    """Measure, print the tables and write the JSON file."""
    options = _parser().parse_args()
    keep_freed_memory()
    device = torch.device(options.device)
    config = ModelConfig.preset(options.preset, text_dropout=0.0)
    lengths = caption_lengths(options.captions, options.clips)
    batch = random_batch(config, caption_lengths=lengths).to(device)
    cells = random_batch(config, caption_lengths=lengths, decode_ratio=0.5).to(device)
    model = build_model(config, device)
    contestants = _contestants(options, config, model, batch, cells)
    result: dict[str, Any] = {
        "command": command_line("benchmarks.train_step"),
        "machine": machine(device),
        "settings": {**vars(options), "json": None, "captions": list(lengths)},
    }
    if PLAIN in contestants:
        result["agreement"] = agreement(model, batch, contestants[PACKED], options.negatives)
    result |= _timings(options, device, contestants)
    result["steps"] = _figures(config, batch, cells, contestants, result["seconds"], device)
    packed = contestants[PACKED].step
    assert packed is not None
    result["components"] = component_seconds(packed, batch)
    _print(Console(width=None if Console().is_terminal else 130), result)
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m benchmarks.train_step", description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--preset", choices=tuple(PRESETS), default="base")
    parser.add_argument("--clips", type=_positive, default=4, help="clips in a batch")
    parser.add_argument(
        "--captions", default="16", help="tokens of a caption: one number, or a range as 6-40"
    )
    parser.add_argument("--negatives", choices=("hard", "random"), default="hard")
    parser.add_argument("--compile", action="store_true", help="compile the packed step's blocks")
    parser.add_argument("--rounds", type=_positive, default=5)
    parser.add_argument("--warmup", type=_positive, default=2)
    parser.add_argument(
        "--only", choices=("packed",), help="leave the other contestants out (large batches)"
    )
    parser.add_argument("--json", type=Path, help="file for the figures")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number


def caption_lengths(text: str, count: int) -> tuple[int, ...]:
    """Lengths of captions spread evenly over a range such as `6-40`; `16` is one length.

    Raises:
        SystemExit: the text is no number and no range, or below the two special tokens.
    """
    low, _, high = text.partition("-")
    if not low.isdigit() or (high and not high.isdigit()) or int(low) < 2:
        raise SystemExit(f"--captions must be a number from 2 on or a range as 6-40, got {text!r}")
    spread = torch.linspace(int(low), int(high or low), count)
    return tuple(int(length) for length in spread.round().tolist())


def _contestants(
    options: argparse.Namespace, config: ModelConfig, model: SimVTP, batch: Batch, cells: Batch
) -> dict[str, Contestant]:
    choices = {"precision": options.precision, "negatives": options.negatives}
    packed = packed_step(model, batch, **choices, compiled=options.compile)
    contestants = {PACKED: packed}
    contestants[CELLS] = packed_step(model, cells, **choices, compiled=options.compile)
    if options.only == "packed":
        return contestants
    assert packed.step is not None
    negatives = negatives_of(model, batch, step=packed.step, negatives=options.negatives)
    contestants[PLAIN] = reference_step(model, batch, negatives=negatives)
    contestants[VIDEO] = packed_step(
        model, batch, **choices, compiled=options.compile, video_only=True
    )
    try:
        contestants[VIDEOMAE] = videomae_step(
            config, batch, precision=options.precision, device=batch.video.device
        )
    except ImportError:
        Console(stderr=True).print("transformers is not installed: VideoMAE is left out")
    return contestants


def agreement(
    model: SimVTP, batch: Batch, packed: Contestant, negatives: str
) -> dict[str, dict[str, float]]:
    """Losses of both steps on the same weights, and how far losses and gradients are apart."""
    assert packed.step is not None
    step, objective = packed.step, packed.step.objective
    chosen = negatives_of(model, batch, step=step, negatives=negatives)  # pyright: ignore[reportArgumentType]
    expected = reference_losses(model, batch, negatives=chosen)
    got = objective(batch, generator=step.seed_draws(0, 0)).terms
    torch.stack(list(expected.values())).sum().backward()
    torch.stack(list(got.values())).sum().backward()
    rows = {
        name: {
            "packed": got[name].item(),
            "reference": value.item(),
            "relative": abs((got[name] / value).item() - 1),
        }
        for name, value in expected.items()
    }
    pairs = zip(objective.model.parameters(), model.parameters(), strict=True)
    gradients = [(_gradient(mine), _gradient(theirs)) for mine, theirs in pairs]
    apart = [(mine - theirs).norm().item() for mine, theirs in gradients]
    norms = [theirs.norm().item() for _, theirs in gradients]
    whole = sum(norm**2 for norm in norms) ** 0.5
    rows["gradient"] = {
        "packed": sum(mine.norm().item() ** 2 for mine, _ in gradients) ** 0.5,
        "reference": whole,
        "relative": sum(distance**2 for distance in apart) ** 0.5 / whole,
        # Of a gradient that is next to nothing only rounding is left, so small ones do not count.
        "worst parameter": max(
            distance / norm
            for distance, norm in zip(apart, norms, strict=True)
            if norm > 1e-5 * whole
        ),
    }
    for parameter in (*model.parameters(), *objective.parameters()):
        parameter.grad = None
    return rows


def _gradient(parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def _timings(
    options: argparse.Namespace, device: torch.device, contestants: dict[str, Contestant]
) -> dict[str, Any]:
    dtype = torch.bfloat16 if options.precision == "bf16" else torch.float32
    measure_peak = matrix_peak(device, dtype)
    rates: list[float] = []
    functions = {name: contestant.run for name, contestant in contestants.items()}
    functions[PEAK] = lambda: rates.append(measure_peak())
    seconds = interleave(functions, rounds=options.rounds, warmup=options.warmup, device=device)
    del seconds[PEAK]
    return {"seconds": seconds, "peak_flops": rates[-options.rounds :]}


def _figures(
    config: ModelConfig,
    batch: Batch,
    cells: Batch,
    contestants: dict[str, Contestant],
    seconds: dict[str, list[float]],
    device: torch.device,
) -> dict[str, dict[str, Any]]:
    clips = len(batch.video)
    formulas = {
        PACKED: _packed_formula(config, batch),
        CELLS: _packed_formula(config, cells),
        PLAIN: reference_step_flops(
            config,
            num_keep=batch.keep.shape[1],
            num_decode=batch.decode.shape[1],
            caption_lengths=batch.text_lengths,
        ),
    }
    figures: dict[str, dict[str, Any]] = {}
    for name, contestant in contestants.items():
        with FlopCounterMode(display=False) as counter:
            contestant.run()
        figures[name] = {
            "clips_per_second": [clips / spent for spent in seconds[name]],
            "gflop_per_clip_counted": counter.get_total_flops() / clips / 1e9,
            "gflop_per_clip_formula": formulas[name] / clips / 1e9 if name in formulas else None,
            "peak_memory": peak_memory(contestant.run, device),
        }
    return figures


def _packed_formula(config: ModelConfig, batch: Batch) -> float:
    return packed_step_flops(
        config,
        num_keep=batch.keep.shape[1],
        num_decode=batch.decode.shape[1],
        caption_lengths=batch.text_lengths,
        num_masked_words=len(batch.masked_index),
    )


def _print(console: Console, result: dict[str, Any]) -> None:
    facts, settings = result["machine"], result["settings"]
    console.print(f"{facts['device']}, {facts['threads']} threads, torch {facts['torch']}")
    console.print(
        f"{settings['preset']}, {settings['clips']} clips, captions {settings['captions']}, "
        f"{settings['precision']}, {settings['negatives']} negatives, "
        f"{settings['rounds']} rounds; matrix products "
        f"{Spread.of([rate / 1e9 for rate in result['peak_flops']]).text(0)} GFLOP/s",
        highlight=False,
    )
    console.print(_step_table(result))
    if "agreement" in result:
        console.print(_agreement_table(result["agreement"]))
    table = Table("part of the packed step", "seconds", "share", title="where the time goes")
    total = sum(result["components"].values())
    for name, spent in result["components"].items():
        table.add_row(name, f"{spent:.4f}", f"{spent / total:.1%}")
    console.print(table)


def _step_table(result: dict[str, Any]) -> Table:
    table = Table(title="a training step: median (low to high) of the rounds")
    for column in ("", "s", "clips/s", "of the peak", "GFLOP/clip", "memory", "speed"):
        table.add_column(column, justify="left" if not column else "right")
    seconds = result["seconds"]
    for name, step in result["steps"].items():
        flops = step["gflop_per_clip_counted"] * result["settings"]["clips"] * 1e9
        shares = [
            flops / spent / peak
            for spent, peak in zip(seconds[name], result["peak_flops"], strict=True)
        ]
        other = VIDEOMAE if name == VIDEO else PLAIN
        ratios = [b / a for a, b in zip(seconds[name], seconds.get(other, []), strict=False)]
        formula = step["gflop_per_clip_formula"]
        table.add_row(
            name,
            Spread.of(seconds[name]).text(3),
            Spread.of(step["clips_per_second"]).text(),
            Spread.of(shares).text(),
            f"{step['gflop_per_clip_counted']:.1f}" + (f" / {formula:.1f}" if formula else ""),
            f"{step['peak_memory'] / 2**30:.2f} GiB",
            f"{Spread.of(ratios).text()} x {other}" if name in OURS and ratios else "",
        )
    table.caption = (
        "GFLOP a clip: counted / by formula. The share of the peak counts what runs, so work that "
        "attention kernels do again in the backward pass is in it."
    )
    return table


def _agreement_table(rows: dict[str, dict[str, float]]) -> Table:
    table = Table("", "packed", "reference", "relative difference", title="same losses")
    for name, row in rows.items():
        worst = f", worst parameter {row['worst parameter']:.1e}" if name == "gradient" else ""
        difference = f"{row['relative']:.1e}{worst}"
        table.add_row(name, f"{row['packed']:.6f}", f"{row['reference']:.6f}", difference)
    return table


if __name__ == "__main__":
    raise SystemExit(main())
