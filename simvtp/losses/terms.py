"""The losses of a step by name."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from torch import Tensor

MASKED_TERMS = ("pixels", "words")


class Losses(NamedTuple):
    """Losses of a step.

    Attributes:
        total: `()` weighted sum.
        terms: `()` each, unweighted: pixels, words, vtc, vtm; only those that are on.
        details: `()` figures for the log: with a balance, each term's weight and the running norm
            of its gradient on the encoder.
        by_source: where sources are mixed, for each term `(2, sources)` float32: sums of its
            losses over each source's clips, and what to divide them by.
    """

    total: Tensor
    terms: dict[str, Tensor]
    details: Mapping[str, Tensor] = MappingProxyType({})
    by_source: Mapping[str, Tensor] = MappingProxyType({})
