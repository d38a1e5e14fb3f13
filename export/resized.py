"""A model for clips of another size: the same weights, positions computed anew."""

from dataclasses import replace

from simvtp.model import SimVTP


def resized(
    model: SimVTP, *, num_frames: int | None = None, image_size: int | None = None
) -> SimVTP:
    """The model for clips of other sizes; its positions are formulas, so every weight fits.

    Args:
        model: the model.
        num_frames: frames of a clip; None: as it is.
        image_size: height and width in pixels; None: as it is.

    Raises:
        ValueError: the sizes are no multiples of the model's tubelets.
    """
    asked = {"num_frames": num_frames, "image_size": image_size}
    config = replace(model.config, **{key: size for key, size in asked.items() if size is not None})
    if config == model.config:
        return model
    other = SimVTP(config, tokenizer=model.tokenizer, frame_stride=model.frame_stride)
    other.load_state_dict(model.state_dict())
    return other.eval()
