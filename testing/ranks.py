"""A function on several gloo processes of this machine."""

from pathlib import Path

import torch
from torch import distributed, multiprocessing

RANKS = 2


def run_ranks(function, folder: Path, *, ranks=RANKS):
    """Results of `function(rank)` on each of some processes."""
    multiprocessing.spawn(_join_group, args=(function, folder, ranks), nprocs=ranks)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(ranks)]


def _join_group(rank, function, folder, ranks):
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/group", rank=rank, world_size=ranks
    )
    torch.save(function(rank), folder / f"{rank}.pt")
    distributed.destroy_process_group()
