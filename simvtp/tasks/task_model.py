"""What models for a task have in common: SimVTP's encoder under a linear head."""

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal, Self, Unpack

import torch
from tokenizers import Tokenizer
from torch import nn

from simvtp.config import DEFAULT_SPACING, FrameSpacing, ModelConfig
from simvtp.encoders import JointEncoder, VideoEmbedding
from simvtp.model import SimVTP
from simvtp.model_card import DocumentedModel
from simvtp.model_folder import describe_preprocessing
from simvtp.part_trial import require_parts
from simvtp.parts import (
    Encoder,
    ModelParts,
    TextEmbedder,
    VideoEmbedder,
    names_of_own,
    parts_of,
    usual_parts,
)
from simvtp.step_flops import linear_flops, parts_flops, passes_of
from simvtp.tasks.folder import read_task_folder, write_task_folder


class TaskModel(nn.Module, DocumentedModel):
    """SimVTP's tubelet embedding and encoder under a new linear head.

    The head sees the pooled features that pre-training's contrast and matching see. The paper's
    fine-tuning drops the encoder's last norm and learns a new one behind the mean, which changes
    the very features that pre-training shaped.

    Args:
        config: sizes of the pre-trained model.
        num_outputs: outputs of the head.
        frame_spacing: time or frames of the source video between two frames of a clip.
        **parts: parts of one's own, by their names, in the place of the usual ones.

    Raises:
        ValueError: a part does not fit the config, or the task has no use for it.
    """

    task: str
    part_names: tuple[str, ...] = ("video_embedding", "encoder")
    tokenizer: Tokenizer | None = None
    video_embedding: VideoEmbedder
    text_embedding: TextEmbedder
    encoder: Encoder

    def __init__(
        self,
        config: ModelConfig,
        *,
        num_outputs: int,
        frame_spacing: FrameSpacing = DEFAULT_SPACING,
        **parts: Unpack[ModelParts],
    ) -> None:
        super().__init__()
        self.config = config
        self.frame_spacing = frame_spacing
        if useless := sorted(set(parts) - set(self.part_names)):
            raise ValueError(
                f"{type(self).__name__} has {', '.join(self.part_names)}, got {useless[0]}; "
                "leave it out"
            )
        missing = [name for name in self.part_names if name not in parts]
        for name, part in (usual_parts(config, missing) | parts).items():
            setattr(self, name, part)
        require_parts(parts_of(self, self.part_names), config)
        self.head = nn.Linear(config.width, num_outputs)
        # Small, so that fine-tuning starts from even odds and small gradients for the encoder.
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    @property
    def own_parts(self) -> tuple[str, ...]:
        """Names of the parts that are not the usual ones, and must be given to load the model."""
        return names_of_own(parts_of(self, self.part_names), self.config)

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

    def flops(self, *, num_clips: int, sequences: Sequence[int]) -> float | None:
        """Operations of a training step, forward and backward, by formula.

        Args:
            num_clips: clips; each is embedded once.
            sequences: lengths of the sequences that the encoder sees.

        Returns:
            None where embedding or encoder are not the usual ones.
        """
        video_embedding, encoder = self.video_embedding, self.encoder
        if not (isinstance(video_embedding, VideoEmbedding) and isinstance(encoder, JointEncoder)):
            return None
        others = [self.get_submodule(name) for name in self.part_names[2:]]
        body = parts_flops(
            self.config,
            clips=num_clips,
            embedded=num_clips * self.config.num_video_tokens,
            sequences=sequences,
            num_keep=self.config.num_video_tokens,
            num_decode=0,
            words=0,
            passes=passes_of(video_embedding, *others, encoder=encoder),
        )
        outputs, width = self.head.weight.shape
        return body + 3 * linear_flops(len(sequences), inputs=width, outputs=outputs)

    def preprocessor(self) -> dict[str, Any]:
        """How a clip is cut and what the model does to its pixels, as in preprocessor.json."""
        return describe_preprocessing(self.config, frame_spacing=self.frame_spacing)

    def backbone_gradients(self) -> torch.set_grad_enabled:
        """Context of the backbone's pass: a frozen one keeps no activations."""
        return torch.set_grad_enabled(torch.is_grad_enabled() and not self.is_backbone_frozen)

    def _save_pretrained(self, save_directory: Path) -> None:
        write_task_folder(self, save_directory)

    @classmethod
    def from_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls, pretrained_model_name_or_path: str | Path, **options: Any
    ) -> Self:
        """Load a model folder, or a repository of the Hugging Face hub.

        Args:
            pretrained_model_name_or_path: folder written by `save_pretrained`, or a hub id.
            **options: parts that are not the library's, and what is passed to the hub's download,
                as for `SimVTP.from_pretrained`.

        Returns:
            The model, in evaluation mode, on the CPU.

        Raises:
            ValueError: a file is missing or damaged, the weights do not fit the config, or the
                folder holds another kind of model.
        """
        return read_task_folder(cls, pretrained_model_name_or_path, options)

    @classmethod
    def _of(cls, model: SimVTP, **settings: Any) -> Self:
        """A new head on copies of a pre-trained model's parts, free to learn, in training mode."""
        parts = {name: deepcopy(getattr(model, name)) for name in cls.part_names}
        task = cls(model.config, frame_spacing=model.frame_spacing, **settings, **parts)
        task.facts = model.facts
        weight = next(task.encoder.parameters())
        task.head.to(device=weight.device, dtype=weight.dtype)
        return task.requires_grad_(True).train()


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
