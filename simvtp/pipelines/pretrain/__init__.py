"""The pre-training job: its command, the parts it is made of, what it says and leaves."""

from simvtp.pipelines.early_stops import stop_at_once

# The imports below take seconds.
stop_at_once()

from simvtp.pipelines.pretrain.command import (  # noqa: E402
    FROM_SCRATCH,
    LAPTOP_RECIPE,
    SECTIONS,
    build_parser,
    main,
)
from simvtp.pipelines.pretrain.job import Pretrained, pretrain  # noqa: E402
from simvtp.pipelines.pretrain.setup import (  # noqa: E402
    TrainingData,
    build_model,
    build_objective,
    load_data,
)
from simvtp.pipelines.pretrain.step import PretrainStep  # noqa: E402

__all__ = [
    "FROM_SCRATCH",
    "LAPTOP_RECIPE",
    "SECTIONS",
    "PretrainStep",
    "Pretrained",
    "TrainingData",
    "build_model",
    "build_objective",
    "build_parser",
    "load_data",
    "main",
    "pretrain",
]
