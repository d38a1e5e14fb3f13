"""Time a training step against the plain one: `python -m benchmarks.train_step`.

Contestants take turns over the same weights, masks and negatives, each in a process of its own: the
library's step (on CUDA with each attention there is, compiled, and as CUDA graphs), the step as the
formulas state it (in fp32, as anybody would run it, and with the library's allocator setting), the
library's step with running cells, and for the video part alone transformers' VideoMAE. Ratios are
taken within a round.
"""

import argparse
import importlib.util
import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from benchmarks.agreement import agreement
from benchmarks.contestants import (
    Contestant,
    Workload,
    build_packed,
    build_reference,
    build_videomae,
)
from benchmarks.flops import reference_step_flops
from benchmarks.measure import (
    CLOCKS,
    command_line,
    interleave,
    machine,
    sustained_rate,
)
from benchmarks.remote import RemoteStep
from benchmarks.train_step_report import PACKED, PLAIN, VIDEO, VIDEOMAE, print_result
from simvtp.batch import Batch
from simvtp.config import PRESETS, ModelConfig
from simvtp.printing import Console
from simvtp.step_flops import packed_step_flops

CELLS = "packed, running cells"
PLAIN_KEPT = "reference, kept memory"
COMPILED, COMPILED_CELLS = "packed, compiled", "packed, running cells, compiled"
GRAPHS = "packed, CUDA graphs"
VARLEN, SDPA = "packed, varlen_attn", "packed, SDPA by length"
COMPILED_SDPA = "packed, SDPA by length, compiled"
PEAK = "matrix product"
NAMES = {
    "packed": PACKED,
    "cells": CELLS,
    "compiled": COMPILED,
    "compiled-cells": COMPILED_CELLS,
    "graphs": GRAPHS,
    "varlen": VARLEN,
    "sdpa": SDPA,
    "compiled-sdpa": COMPILED_SDPA,
    "reference": PLAIN,
    "reference-kept": PLAIN_KEPT,
    "video": VIDEO,
    "videomae": VIDEOMAE,
}


def main() -> int:
    """Measure, print the tables and write the JSON file."""
    options = _parser().parse_args()
    device = torch.device(options.device)
    options.contestants = options.contestants or _all_contestants(device)
    workload = Workload(
        config=ModelConfig.preset(options.preset, text_dropout=0.0),
        caption_lengths=caption_lengths(options.captions, options.clips),
        device=options.device,
        precision=options.precision,
        negatives=options.negatives,
    )
    result: dict[str, Any] = {
        "command": command_line("benchmarks.train_step"),
        "machine": machine(device),
        "settings": {**vars(options), "json": None},
    }
    with ExitStack() as stack:
        steps = _contestants(options, workload, stack)
        result |= _timings(options, device, steps)
        result["steps"] = _figures(workload, steps, result["seconds"])
        if PACKED in steps:
            result["components"] = steps[PACKED].components()
    # Only now, when the others have left their memory.
    if PLAIN in options.contestants:
        result["agreement"] = agreement(workload)
    print_result(Console(width=None if Console().is_terminal else 130), result)
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
    parser.add_argument(
        "--bucket", type=_positive, default=256, help="what the packs of CUDA graphs are filled to"
    )
    parser.add_argument("--rounds", type=_positive, default=5)
    parser.add_argument("--warmup", type=_positive, default=2)
    parser.add_argument(
        "--contestants",
        type=_contestant_names,
        help=f"comma-separated, of {','.join(NAMES)}; each needs memory of its own; all of them",
    )
    parser.add_argument(
        "--clock",
        choices=tuple(CLOCKS),
        default="wall",
        help="processor: of a shared machine only what the steps compute; with OMP_NUM_THREADS=1",
    )
    parser.add_argument("--json", type=Path, help="file for the figures")
    return parser


def _contestant_names(text: str) -> tuple[str, ...]:
    chosen = text.split(",")
    if unknown := sorted(set(chosen) - set(NAMES)):
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)} is none of {', '.join(NAMES)}")
    return tuple(NAMES[name] for name in chosen)


def _all_contestants(device: torch.device) -> tuple[str, ...]:
    """All but the compiled ones, which take minutes to begin, and those the device cannot run."""
    on_cuda = (VARLEN, SDPA) if device.type == "cuda" else ()
    return (PACKED, CELLS, *on_cuda, PLAIN, PLAIN_KEPT, VIDEO, VIDEOMAE)


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
    options: argparse.Namespace, workload: Workload, stack: ExitStack
) -> dict[str, RemoteStep]:
    """Each in its own process; the plain ones as anybody would run them, and with kept memory."""
    chosen = {"workload": workload, "compiled": options.compile}
    compiled = {"workload": workload, "compiled": True}
    plans: dict[str, tuple[Callable[..., Contestant], dict[str, Any], bool]] = {
        PACKED: (build_packed, chosen, True),
        CELLS: (build_packed, {**chosen, "decode_ratio": 0.5}, True),
        COMPILED: (build_packed, compiled, True),
        COMPILED_CELLS: (build_packed, {**compiled, "decode_ratio": 0.5}, True),
        GRAPHS: (
            build_packed,
            {"workload": workload, "compiled": "graphs", "bucket_tokens": options.bucket},
            True,
        ),
        VARLEN: (build_packed, {**chosen, "attention": "varlen"}, True),
        SDPA: (build_packed, {**chosen, "attention": "sdpa"}, True),
        COMPILED_SDPA: (build_packed, {**compiled, "attention": "sdpa"}, True),
        PLAIN: (build_reference, {"workload": workload}, False),
        PLAIN_KEPT: (build_reference, {"workload": workload}, True),
        VIDEO: (build_packed, {**chosen, "video_only": True}, True),
        VIDEOMAE: (build_videomae, {"workload": workload}, True),
    }
    if importlib.util.find_spec("transformers") is None:
        del plans[VIDEOMAE]
    return {
        name: stack.enter_context(
            RemoteStep(build, arguments, keep_memory=kept, clock=options.clock)
        )
        for name, (build, arguments, kept) in plans.items()
        if name in options.contestants
    }


def _timings(
    options: argparse.Namespace, device: torch.device, steps: dict[str, RemoteStep]
) -> dict[str, Any]:
    """Seconds of each step in each round, and the matrix-product rate between them."""
    dtype = torch.bfloat16 if options.precision == "bf16" else torch.float32
    questions = {name: step.seconds for name, step in steps.items()}
    answers = interleave(
        {**questions, PEAK: sustained_rate(device, dtype, options.clock)},
        rounds=options.rounds,
        warmup=options.warmup,
    )
    rates = answers.pop(PEAK)
    return {"seconds": answers, "matrix_flops": rates}


def _figures(
    workload: Workload, steps: dict[str, RemoteStep], seconds: dict[str, list[float]]
) -> dict[str, dict[str, Any]]:
    config, batch = workload.config, workload.batch()
    plain = reference_step_flops(
        config,
        num_keep=batch.keep.shape[1],
        num_decode=batch.decode.shape[1],
        caption_lengths=batch.text_lengths,
    )
    packed = _packed_formula(config, batch)
    cells = _packed_formula(config, workload.batch(decode_ratio=0.5))
    formulas = {
        **dict.fromkeys((PACKED, COMPILED, GRAPHS, VARLEN, SDPA, COMPILED_SDPA), packed),
        **dict.fromkeys((CELLS, COMPILED_CELLS), cells),
        **dict.fromkeys((PLAIN, PLAIN_KEPT), plain),
    }
    clips = len(workload.caption_lengths)
    return {
        name: {
            "clips_per_second": [clips / spent for spent in seconds[name]],
            "gflop_per_clip_counted": step.flops() / clips / 1e9,
            "gflop_per_clip_formula": formulas[name] / clips / 1e9 if name in formulas else None,
            "peak_memory": step.memory(),
        }
        for name, step in steps.items()
    }


def _packed_formula(config: ModelConfig, batch: Batch) -> float:
    return packed_step_flops(
        config,
        num_keep=batch.keep.shape[1],
        num_decode=batch.decode.shape[1],
        caption_lengths=batch.text_lengths,
        num_masked_words=len(batch.masked_index),
    )


if __name__ == "__main__":
    raise SystemExit(main())
