"""Pre-trained models with a head for a task: classification and question answering."""

from simvtp.tasks.answering import AnsweringObjective, VideoAnswerer
from simvtp.tasks.batches import LabelledBatch, LabelledCollator, QuestionBatch, QuestionCollator
from simvtp.tasks.classifier import ClassificationObjective, VideoClassifier
from simvtp.tasks.linear_probe import FittedHead, fit_head
from simvtp.tasks.lora import add_lora, freeze_parts, merge_lora
from simvtp.tasks.task_model import TaskModel, train_parts

__all__ = [
    "AnsweringObjective",
    "ClassificationObjective",
    "FittedHead",
    "LabelledBatch",
    "LabelledCollator",
    "QuestionBatch",
    "QuestionCollator",
    "TaskModel",
    "VideoAnswerer",
    "VideoClassifier",
    "add_lora",
    "fit_head",
    "freeze_parts",
    "merge_lora",
    "train_parts",
]
