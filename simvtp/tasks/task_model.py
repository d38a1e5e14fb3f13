"""What models for a task have in common: SimVTP's encoder under a linear head."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any, Literal, Self

import torch
from torch import nn

from simvtp.config import DEFAULT_SPACING, FrameSpacing, ModelConfig
from simvtp.encoders import build_encoder, build_video_embedding
from simvtp.layers import initialize
from simvtp.model import SimVTP
from simvtp.model_card import DocumentedModel
from simvtp.model_folder import describe_preprocessing


class TaskModel(nn.Module, DocumentedModel):
    """SimVTP's tubelet embedding and encoder under a new linear head.

    The head sees the pooled features that pre-training's contrast and matching see. The paper's
    fine-tuning drops the encoder's last norm and learns a new one behind the mean, which changes
    the very features that pre-training shaped.

    Args:
        config: sizes of the pre-trained model.
        num_outputs: outputs of the head.
        frame_spacing: time or frames of the source video between two frames of a clip.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        num_outputs: int,
        frame_spacing: FrameSpacing = DEFAULT_SPACING,
    ) -> None:
        super().__init__()
        self.config = config
        self.frame_spacing = frame_spacing
        self.video_embedding = build_video_embedding(config)
        self.encoder = build_encoder(config)
        initialize(self.encoder)
        self.head = nn.Linear(config.width, num_outputs)
        # Small, so that fine-tuning starts from even odds and small gradients for the encoder.
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.head.weight.device

    @property
    def is_backbone_frozen(self) -> bool:
        """Whether the head alone can learn."""
        parameters = (each for part in self.backbone() for each in part.parameters())
        return not any(parameter.requires_grad for parameter in parameters)

    def backbone(self) -> list[nn.Module]:
        """All parts but the head."""
        return [part for name, part in self.named_children() if name != "head"]

    def train(self, mode: bool = True) -> Self:
        """Set the training mode; a frozen backbone stays in evaluation mode."""
        super().train(mode)
        if self.is_backbone_frozen:
            for part in self.backbone():
                part.eval()
        return self

    def preprocessor(self) -> dict[str, Any]:
        """How a clip is cut and what the model does to its pixels, as in preprocessor.json."""
        return describe_preprocessing(self.config, frame_spacing=self.frame_spacing)

    def backbone_gradients(self) -> torch.set_grad_enabled:
        """Context of the backbone's pass: a frozen one keeps no activations."""
        return torch.set_grad_enabled(torch.is_grad_enabled() and not self.is_backbone_frozen)

    def take_backbone(self, model: SimVTP) -> None:
        """Replace the backbone by copies of a pre-trained model's parts, free to learn."""
        self.facts = model.facts
        for name, _ in list(self.named_children()):
            if name != "head":
                setattr(self, name, deepcopy(getattr(model, name)).requires_grad_(True))
        weight = model.encoder.transformer.norm.weight
        self.head.to(device=weight.device, dtype=weight.dtype)
        self.train()


def train_parts(model: TaskModel, parts: Literal["all", "head"]) -> None:
    """Choose what learns: everything, or the head on frozen features (a linear probe).

    A frozen backbone draws no dropout, keeps no activations and gets no gradients. Call this
    before the optimiser is built, which leaves frozen parameters out.

    Args:
        model: the model.
        parts: what learns.

    Raises:
        ValueError: `parts` is neither.
    """
    if parts not in ("all", "head"):
        raise ValueError(f"parts must be all or head, got {parts!r}")
    for part in model.backbone():
        part.requires_grad_(parts == "all")
    model.head.requires_grad_(True)
    model.train(model.training)


def check_names(kind: str, names: Sequence[str]) -> tuple[str, ...]:
    """Names of outputs as a tuple.

    Raises:
        ValueError: there is none, one occurs twice, or they are a single string.
    """
    listed = tuple(names)
    repeated = len(listed) - len(set(listed))
    if isinstance(names, str) or not listed or repeated:
        raise ValueError(
            f"{kind} must be one or more different names, got {names!r:.80}"
            + (f" with {repeated} repeated" if repeated else "")
        )
    return listed
