"""The fine-tuning job: its command and settings, the three tasks, how they are measured."""

from simvtp.pipelines.early_stops import stop_at_once

# The imports below take seconds.
stop_at_once()

from simvtp.pipelines.finetune.command import build_parser, main  # noqa: E402
from simvtp.pipelines.finetune.job import Finetuned, finetune, load_model  # noqa: E402
from simvtp.pipelines.finetune.settings import (  # noqa: E402
    AugmentConfig,
    FinetuneConfig,
    TaskDataConfig,
    TuneConfig,
)
from simvtp.pipelines.finetune.tasks import Task, build_task  # noqa: E402

__all__ = [
    "AugmentConfig",
    "FinetuneConfig",
    "Finetuned",
    "Task",
    "TaskDataConfig",
    "TuneConfig",
    "build_parser",
    "build_task",
    "finetune",
    "load_model",
    "main",
]
