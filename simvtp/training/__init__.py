"""What a training loop needs around the model: optimiser, schedule, checkpoints, logs, ranks."""

from simvtp.training.allocator import keep_freed_memory
from simvtp.training.checkpoint import CheckpointStore, CheckpointWarning
from simvtp.training.curves import plot_curves
from simvtp.training.distributed import (
    ProcessGroupInfo,
    all_true,
    initialize,
    is_main,
    mean_over_ranks,
    rank,
    world_size,
)
from simvtp.training.logging import RunLog
from simvtp.training.optim import build_optimizer
from simvtp.training.schedule import cosine_lr, peak_lr
from simvtp.training.state_folder import Checkpoint, CheckpointError

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "CheckpointStore",
    "CheckpointWarning",
    "ProcessGroupInfo",
    "RunLog",
    "all_true",
    "build_optimizer",
    "cosine_lr",
    "initialize",
    "is_main",
    "keep_freed_memory",
    "mean_over_ranks",
    "peak_lr",
    "plot_curves",
    "rank",
    "world_size",
]
