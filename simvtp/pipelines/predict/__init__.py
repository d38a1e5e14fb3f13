"""What fine-tuned models say of videos: the command, and the same from Python."""

from simvtp.pipelines.predict.command import build_parser, main
from simvtp.tasks.loading import load_task_model
from simvtp.tasks.predicting import Guess, Prediction, predict

__all__ = ["Guess", "Prediction", "build_parser", "load_task_model", "main", "predict"]
