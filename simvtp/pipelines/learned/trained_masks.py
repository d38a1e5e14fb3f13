"""How much of clips and captions a model's training hid."""

from simvtp.config import MaskingConfig
from simvtp.model import SimVTP


def trained_ratio(model: SimVTP, name: str) -> float:
    """What the latest pre-training hid; the paper's share where the model does not say.

    Args:
        model: the model.
        name: video_ratio or text_ratio.
    """
    for stage in reversed(model.facts.stages):
        value = stage.recipe.get(f"masking.{name}")
        if isinstance(value, int | float) and not isinstance(value, bool):
            return value
    return getattr(MaskingConfig(), name)
