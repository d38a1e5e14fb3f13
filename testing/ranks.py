"""A function on several gloo processes of this machine."""

from pathlib import Path

import torch
from torch import distributed, multiprocessing

from simvtp.data.processes import import_ahead

RANKS = 2


def run_ranks(function, folder: Path, *, ranks=RANKS, **group):
    """Results of `function(rank)` on each of some processes; `group` is how they join."""
    # Forked from a process that has imported the library: each would take seconds to do so.
    import_ahead("testing.sample_batches")
    multiprocessing.start_processes(
        _join_group, args=(function, folder, ranks, group), nprocs=ranks, start_method="forkserver"
    )
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(ranks)]


def _join_group(rank, function, folder, ranks, group):
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/group", rank=rank, world_size=ranks, **group
    )
    torch.save(function(rank), folder / f"{rank}.pt")
    distributed.destroy_process_group()
