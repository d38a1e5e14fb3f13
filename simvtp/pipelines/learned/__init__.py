"""What a model has learned, measured on held-out clips beside what it is to be read against."""

from simvtp.pipelines.learned.figures import Figure, Learned, learned_table
from simvtp.pipelines.learned.measures import measure_learned
from simvtp.pipelines.learned.video_alone import measure_pixels

__all__ = ["Figure", "Learned", "learned_table", "measure_learned", "measure_pixels"]
