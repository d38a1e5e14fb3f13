"""A model for clips of another size: the same weights, other positions."""

from dataclasses import replace

from simvtp.conversion import interpolate_positions
from simvtp.model import SimVTP

_LEARNED_POSITIONS = "video_embedding.positions"


def resized(
    model: SimVTP, *, num_frames: int | None = None, image_size: int | None = None
) -> SimVTP:
    """The model for clips of other sizes.

    Positions are formulas, computed anew; learned ones are interpolated. Parts of one's own stay
    as they are.

    Args:
        model: the model.
        num_frames: frames of a clip; None: as it is.
        image_size: height and width in pixels; None: as it is.

    Raises:
        ValueError: the sizes are no multiples of the model's tubelets, or do not fit a part of
            one's own.
    """
    asked = {"num_frames": num_frames, "image_size": image_size}
    config = replace(model.config, **{key: size for key, size in asked.items() if size is not None})
    if config == model.config:
        return model
    weights = model.state_dict()
    if _LEARNED_POSITIONS in weights and "video_embedding" not in model.own_parts:
        weights[_LEARNED_POSITIONS] = interpolate_positions(
            weights[_LEARNED_POSITIONS], source=model.config.grid, target=config.grid
        )
    return model.rebuilt(config, weights=weights).eval()
