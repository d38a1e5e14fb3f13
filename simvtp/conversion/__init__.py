"""Weights of other programs: SimVTP's and VideoMAE's releases, image transformers, BERT."""

from simvtp.conversion.layouts import OWN, PARTS, Towers
from simvtp.conversion.loading import LoadReport, PartReport, fit_parts, load_parts, report_table
from simvtp.conversion.mapping import MappedWeights, map_weights
from simvtp.conversion.origin import (
    ORIGIN_FILE,
    Origin,
    origins_of,
    read_origins,
    write_origins,
)
from simvtp.conversion.positions import cut_text_positions, interpolate_positions
from simvtp.conversion.readers import ForeignWeights, read_weights
from simvtp.conversion.sizes import SOURCE_FRAMES, model_config, sizes_of
from simvtp.conversion.text_transformer import bert_transformer

__all__ = [
    "ORIGIN_FILE",
    "OWN",
    "PARTS",
    "SOURCE_FRAMES",
    "ForeignWeights",
    "LoadReport",
    "MappedWeights",
    "Origin",
    "PartReport",
    "Towers",
    "bert_transformer",
    "cut_text_positions",
    "fit_parts",
    "interpolate_positions",
    "load_parts",
    "map_weights",
    "model_config",
    "origins_of",
    "read_origins",
    "read_weights",
    "report_table",
    "sizes_of",
    "write_origins",
]
