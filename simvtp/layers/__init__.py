"""Building blocks that know nothing of video or text."""

from simvtp.layers.attention import (
    Attend,
    Attention,
    attend,
    attention_backend,
)
from simvtp.layers.block import (
    Activation,
    Block,
    Transformer,
    compile_blocks,
    initialize_weights,
    recompute_blocks,
    set_drop_path,
)
from simvtp.layers.gather import (
    Over,
    gather_rows,
    mean_count,
    mean_over_ranks,
    num_ranks,
    own_rows,
    rank,
    world_size,
)
from simvtp.layers.input_checks import (
    Kind,
    clips_on,
    describe,
    require_alike,
    require_temperature,
    require_tensor,
)
from simvtp.layers.packing import (
    PackedLayout,
    PackedTokens,
    join_rows,
    mean_tokens,
    pack,
    require_packed,
    segment_mean,
    to_device,
    unpack,
)
from simvtp.layers.padded_attention import attend_padded, check_key_mask
from simvtp.layers.positions import sincos_axes, sincos_positions
from simvtp.layers.precision import full_precision
from simvtp.layers.tubelets import (
    gather_tubelets,
    grid_of,
    place_tubelets,
    place_within,
    tubelet_contrast,
)

__all__ = [
    "Activation",
    "Attend",
    "Attention",
    "Block",
    "Kind",
    "Over",
    "PackedLayout",
    "PackedTokens",
    "Transformer",
    "attend",
    "attend_padded",
    "attention_backend",
    "check_key_mask",
    "clips_on",
    "compile_blocks",
    "describe",
    "full_precision",
    "gather_rows",
    "gather_tubelets",
    "grid_of",
    "initialize_weights",
    "join_rows",
    "mean_count",
    "mean_over_ranks",
    "mean_tokens",
    "num_ranks",
    "own_rows",
    "pack",
    "place_tubelets",
    "place_within",
    "rank",
    "recompute_blocks",
    "require_alike",
    "require_packed",
    "require_temperature",
    "require_tensor",
    "segment_mean",
    "set_drop_path",
    "sincos_axes",
    "sincos_positions",
    "to_device",
    "tubelet_contrast",
    "unpack",
    "world_size",
]
