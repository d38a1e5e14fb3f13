"""What a training loop needs around the model: optimiser, schedule, checkpoints, logs, ranks."""

from simvtp.training.allocator import keep_freed_memory
from simvtp.training.averaging import WeightAverage
from simvtp.training.checkpoint import CheckpointStore, CheckpointWarning
from simvtp.training.curves import plot_curves
from simvtp.training.device import choose_device, choose_precision
from simvtp.training.distributed import (
    Agreement,
    MainFailedError,
    ProcessGroupInfo,
    all_true,
    is_launched_first,
    is_main,
    main_first,
    process_group,
    rank,
    require_same,
    world_size,
)
from simvtp.training.loggers import (
    Logger,
    LoggerGroup,
    MlflowLogger,
    TrackioLogger,
    WandbLogger,
    open_loggers,
)
from simvtp.training.logging import RunLog
from simvtp.training.optim import build_optimizer
from simvtp.training.schedule import cosine_lr, peak_lr
from simvtp.training.sharding import (
    gather_parameters,
    gather_state,
    is_sharded,
    local_state,
    scatter_state,
    shard,
    whole,
)
from simvtp.training.state_folder import Checkpoint, CheckpointError

__all__ = [
    "Agreement",
    "Checkpoint",
    "CheckpointError",
    "CheckpointStore",
    "CheckpointWarning",
    "Logger",
    "LoggerGroup",
    "MainFailedError",
    "MlflowLogger",
    "ProcessGroupInfo",
    "RunLog",
    "TrackioLogger",
    "WandbLogger",
    "WeightAverage",
    "all_true",
    "build_optimizer",
    "choose_device",
    "choose_precision",
    "cosine_lr",
    "gather_parameters",
    "gather_state",
    "is_launched_first",
    "is_main",
    "is_sharded",
    "keep_freed_memory",
    "local_state",
    "main_first",
    "open_loggers",
    "peak_lr",
    "plot_curves",
    "process_group",
    "rank",
    "require_same",
    "scatter_state",
    "shard",
    "whole",
    "world_size",
]
