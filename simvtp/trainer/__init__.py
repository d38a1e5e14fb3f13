"""Training of any objective: steps, checks, log, checkpoints, stops, resumes. It knows no model."""

from simvtp.trainer.optimizer_step import OptimizerStep, StepResult, TrainingBatch
from simvtp.trainer.run_plan import RunPlan, TrainingLoader
from simvtp.trainer.trainer import Trainer

__all__ = [
    "OptimizerStep",
    "RunPlan",
    "StepResult",
    "Trainer",
    "TrainingBatch",
    "TrainingLoader",
]
