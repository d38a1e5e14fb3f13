"""Which graphs to export, for which sizes, and how close to the model they must be."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from export.drawn_inputs import SHORTEST_CAPTION, num_tubelets
from export.graphs import GRAPHS
from export.parity import Gate
from export.runtime.folder import PRECISIONS, Range
from simvtp.config.checks import require_choice

_USUAL_BATCH = Range(1, 4, 16)
# Probabilities and the parts of unit-norm embeddings lie in [-1, 1], so one bound fits both.
GATES = {
    "fp32": Gate(1e-5, 0.999999),
    "fp16": Gate(1e-2, 0.9995),
    "bf16": Gate(5e-2, 0.995),
    "int8": Gate(5e-2, 0.99),
}


@dataclass(frozen=True, kw_only=True)
class GraphSettings:
    """Settings that every export of graphs has.

    Args:
        precision: number format of the weights and of what lies between them.
        batch: sizes that a batch may have.
        tokens: lengths that captions may be padded to; None: from the shortest caption to 64, or
            to the model's longest.
        num_frames: frames of a clip; None: the model's.
        image_size: height and width of frames, pixels; None: the model's.
        graphs: which graphs.
        atol: largest absolute error; None: as the precision deserves.
        min_cosine: smallest cosine; None likewise.
        clips: folder of videos or manifest, for parity and calibration; None: drawn by a formula.
        repeats: rounds of the latency measurement; 0 for none.

    Raises:
        ValueError: a setting is out of its range.
    """

    PRECISIONS: ClassVar[tuple[str, ...]] = PRECISIONS

    precision: str = "fp32"
    batch: Range = _USUAL_BATCH
    tokens: Range | None = None
    num_frames: int | None = None
    image_size: int | None = None
    graphs: tuple[str, ...] = ("video", "text", "match")
    atol: float | None = None
    min_cosine: float | None = None
    clips: Path | None = None
    repeats: int = 0

    def __post_init__(self) -> None:
        require_choice("precision", self.precision, self.PRECISIONS)
        for name in self.graphs:
            require_choice("graphs", name, GRAPHS)
        if not self.graphs or len(set(self.graphs)) < len(self.graphs):
            raise ValueError(f"graphs must be some of {', '.join(GRAPHS)}, each once")
        if self.tokens is not None and self.graphs == ("video",):
            raise ValueError(
                "tokens are those of captions, which graph video has not; leave them out"
            )
        if self.atol is not None and not 0 < self.atol < math.inf:
            raise ValueError(
                f"atol must be above 0 and finite, got {self.atol}; 1e-5 is usual for fp32"
            )
        if self.min_cosine is not None and not -1 <= self.min_cosine <= 1:
            raise ValueError(f"min_cosine must lie in [-1, 1], got {self.min_cosine}")
        if self.repeats < 0:
            raise ValueError(f"repeats must be >= 0, got {self.repeats}; 0 measures no latency")

    @property
    def gate(self) -> Gate:
        """What was asked for, or what the precision deserves."""
        usual = GATES[self.precision]
        return Gate(
            usual.atol if self.atol is None else self.atol,
            usual.min_cosine if self.min_cosine is None else self.min_cosine,
        )

    def ranges(self, name: str, *, config: Mapping[str, Any]) -> dict[str, Range]:
        """Ranges of a graph's symbolic dimensions.

        Raises:
            ValueError: captions may be longer than the model takes, or too short for a word.
        """
        ranges = {"batch": self.batch}
        if name != "video":
            ranges["tokens"] = self._tokens(config["max_text_length"])
        if name == "reconstruct":
            total = num_tubelets(config)
            slices = config["num_frames"] // config["tubelet_frames"]
            # The usual number is that of pre-training, which hides 90 % of the tubes.
            tubes = total // slices
            ranges["kept"] = Range(1, slices * (tubes - int(0.9 * tubes)), total)
        return ranges

    def _tokens(self, longest: int) -> Range:
        if self.tokens is None:
            largest = min(64, longest)
            return Range(min(SHORTEST_CAPTION, largest), min(32, largest), largest)
        if self.tokens.largest > longest:
            raise ValueError(
                f"tokens must be at most {longest}, the model's max_text_length, got "
                f"{self.tokens.largest}; lower the range's end"
            )
        if self.tokens.smallest < SHORTEST_CAPTION:
            raise ValueError(
                f"tokens must be at least {SHORTEST_CAPTION} ([CLS], a word, [SEP]), got "
                f"{self.tokens.smallest}; raise the range's begin"
            )
        return self.tokens
