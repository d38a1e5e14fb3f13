"""What several processes change about a step, which is nothing: `python -m benchmarks.parity`.

The same global batch goes through one process, and through two and four that share it out, under
DDP and FSDP2 over gloo. Shown is the largest relative difference of each loss, and of the gradient
of any parameter. The temperature is so low that a text's negative is its most similar other video,
wherever that lies: nothing that is drawn by rank could hide or make a difference.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from rich.table import Table
from torch import Tensor, distributed, nn
from torch.multiprocessing.spawn import spawn

from benchmarks.contestants import random_batch
from benchmarks.measure import command_line, machine
from simvtp.batch import Batch
from simvtp.config import ModelConfig
from simvtp.layers import Block
from simvtp.losses import ContrastiveLoss
from simvtp.model import SimVTP
from simvtp.objective import Objective
from simvtp.printing import Console
from simvtp.training import shard, whole

Parallel = Literal["ddp", "fsdp"]
_TEMPERATURE = 0.001
_CLIPS = 8


class StepFigures(NamedTuple):
    """Losses of one step by name, and gradients by the parameter's name."""

    terms: dict[str, float]
    gradients: dict[str, Tensor]


def main() -> int:
    """Compare, print the table, write the JSON file; 1 where anything differs by over 1e-5."""
    parser = argparse.ArgumentParser("python -m benchmarks.parity", description=__doc__)
    parser.add_argument("--ranks", type=int, nargs="+", choices=(2, 4, 8), default=[2, 4])
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    rows = []
    for double in (False, True):
        alone = step_alone(double=double)
        for ranks in options.ranks:
            for parallel in ("ddp", "fsdp"):
                several = step_of_ranks(ranks, parallel, double=double)
                name = f"{ranks} ranks, {parallel}, {'fp64' if double else 'fp32'}"
                rows.append({"": name, **differences(several, alone)})
    table = Table(title=f"relative difference to one process, {_CLIPS} clips")
    for column in rows[0]:
        table.add_column(column)
    for row in rows:
        table.add_row(*(each if isinstance(each, str) else f"{each:.1e}" for each in row.values()))
    Console().print(table)
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        report = {
            "command": command_line("benchmarks.parity"),
            "machine": machine(torch.device("cpu")),
            "relative_differences": rows,
        }
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    numbers = [each for row in rows for each in row.values() if isinstance(each, float)]
    return 0 if max(numbers) < 1e-5 else 1


def step_alone(*, double: bool) -> StepFigures:
    """The step of one process."""
    objective = _objective(double)
    return _step(objective, objective, _batch(0, 1))


def step_of_ranks(ranks: int, parallel: Parallel, *, double: bool) -> StepFigures:
    """The step of several processes: losses averaged over them, gradients as rank 0 has them."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = (ranks, parallel, double, folder)
        spawn(_join, args=arguments, nprocs=ranks)
        parts = [torch.load(f"{folder}/{rank}.pt", weights_only=True) for rank in range(ranks)]
    names = parts[0][0]
    terms = {name: sum(part[0][name] for part in parts) / ranks for name in names}
    return StepFigures(terms, parts[0][1])


def differences(step: StepFigures, other: StepFigures) -> dict[str, float]:
    """Relative difference of each loss, and the largest of all parameters' gradients."""
    if step.gradients.keys() != other.gradients.keys():
        raise ValueError("the steps have gradients of different parameters")
    found = {name: abs(step.terms[name] - own) / abs(own) for name, own in other.terms.items()}
    # Where a gradient is zero but for rounding, its own size says nothing.
    scale = max(float(gradient.norm()) for gradient in other.gradients.values())
    found["gradient"] = max(
        float((step.gradients[name] - own).norm() / own.norm().clamp(min=1e-6 * scale))
        for name, own in other.gradients.items()
    )
    return found


def _join(rank: int, ranks: int, parallel: Parallel, double: bool, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/group", rank=rank, world_size=ranks
    )
    objective = _objective(double)
    run: nn.Module = objective
    if parallel == "fsdp":
        blocks = [module for module in objective.modules() if isinstance(module, Block)]
        shard(objective, blocks=blocks)
    else:
        run = nn.parallel.DistributedDataParallel(objective)
    figures = _step(run, objective, _batch(rank, ranks))
    torch.save(tuple(figures), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def _step(run: nn.Module, objective: Objective, batch: Batch) -> StepFigures:
    result = run(batch, generator=torch.Generator().manual_seed(0))
    result.total.backward()
    terms = {name: float(term.detach()) for name, term in result.terms.items()}
    gradients = {
        name: whole(parameter.grad)
        for name, parameter in objective.named_parameters()
        if parameter.grad is not None
    }
    return StepFigures(terms, gradients)


def _config() -> ModelConfig:
    return ModelConfig(
        num_frames=4,
        image_size=32,
        patch_size=8,
        vocab_size=200,
        max_text_length=24,
        width=32,
        depth=2,
        num_heads=2,
        decoder_width=16,
        decoder_depth=1,
        decoder_heads=2,
        text_dropout=0.0,
    )


def _objective(double: bool) -> Objective:
    torch.manual_seed(0)
    model = SimVTP.from_config(_config()).to(torch.float64 if double else torch.float32)
    for parameter in model.parameters():
        # Large enough for every term to matter.
        nn.init.normal_(parameter, std=0.15)
    return Objective(model, contrast=ContrastiveLoss(temperature=_TEMPERATURE))


def _batch(rank: int, ranks: int) -> Batch:
    """A rank's share of the clips; captions of different lengths, so that none has equal work."""
    lengths = [6 + 2 * number for number in range(_CLIPS)]
    batch = random_batch(_config(), caption_lengths=lengths, video_ratio=0.75)
    first, end = rank * _CLIPS // ranks, (rank + 1) * _CLIPS // ranks
    # The clips stand in the order of their captions' lengths, and each caption is in one piece.
    start, stop = sum(batch.text_lengths[:first]), sum(batch.text_lengths[:end])
    hidden = batch.masked_index
    return Batch(
        video=batch.video[first:end],
        keep=batch.keep[first:end],
        decode=batch.decode[first:end],
        token_ids=batch.token_ids[start:stop],
        masked_ids=batch.masked_ids[start:stop],
        masked_index=hidden[(hidden >= start) & (hidden < stop)] - start,
        text_lengths=batch.text_lengths[first:end],
        keys=batch.keys[first:end],
        index=batch.index[first:end],
    )


if __name__ == "__main__":
    raise SystemExit(main())
