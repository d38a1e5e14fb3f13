"""Annotations of video benchmarks, read as they are published."""

from simvtp.data.annotations.classification import load_labelled
from simvtp.data.annotations.questions import load_questions, with_known_answers
from simvtp.data.annotations.retrieval import load_retrieval
from simvtp.data.annotations.video_files import Missing, MissingVideosWarning

__all__ = [
    "Missing",
    "MissingVideosWarning",
    "load_labelled",
    "load_questions",
    "load_retrieval",
    "with_known_answers",
]
