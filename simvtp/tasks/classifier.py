"""Video classification: the mean of the encoded tubelets and a linear layer."""

from collections.abc import Sequence
from typing import Self, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional

from simvtp.config import DEFAULT_SPACING, FrameSpacing, ModelConfig
from simvtp.layers import clips_on, full_precision, require_tensor
from simvtp.losses import Losses
from simvtp.model import SimVTP
from simvtp.parts import ModelParts
from simvtp.tasks.batches import LabelledBatch
from simvtp.tasks.task_model import TaskModel, check_names


class VideoClassifier(
    TaskModel,
    library_name="simvtp",
    tags=["video-classification"],
):
    """Tells the class of a clip.

    Args:
        config: sizes of the pre-trained model.
        classes: names of the classes, in the order of their numbers.
        frame_spacing: time or frames of the source video between two frames of a clip.
        **parts: parts of one's own, as for `TaskModel`.

    Raises:
        ValueError: there is no class, or one occurs twice, or a part does not fit.
    """

    task = "classification"

    def __init__(
        self,
        config: ModelConfig,
        *,
        classes: Sequence[str],
        frame_spacing: FrameSpacing = DEFAULT_SPACING,
        **parts: Unpack[ModelParts],
    ) -> None:
        names = check_names("classes", classes)
        super().__init__(config, num_outputs=len(names), frame_spacing=frame_spacing, **parts)
        self.classes = names

    @property
    def usage(self) -> str:
        """Lines of Python for the model card."""
        return (
            'chances = model.classify(read_video("clip.mp4", model))  # (clips, classes)\n'
            "model.classes[chances.mean(dim=0).argmax()]"
        )

    @classmethod
    def from_model(cls, model: SimVTP, *, classes: Sequence[str]) -> Self:
        """A pre-trained model with a new head, in training mode; they share no weights.

        Raises:
            ValueError: there is no class, or one occurs twice.
        """
        return cls._of(model, classes=classes)

    def forward(self, video: Tensor) -> Tensor:
        """Logits of clips.

        Args:
            video: `(batch, frames, channels, height, width)` uint8.

        Returns:
            `(batch, classes)`.

        Raises:
            ValueError: the clip is not uint8 or not of the model's size.
        """
        return self.head(self.features(video))

    def features(self, video: Tensor) -> Tensor:
        """What the head sees of clips: `(batch, width)`, at least float32, of any norm."""
        with self.backbone_gradients():
            tokens = self.encoder.encode_padded(self.video_embedding(clips_on(video, self.device)))
            return self.encoder.pool(tokens)

    def classify(self, video: Tensor) -> Tensor:
        """Probabilities of the classes.

        Args:
            video: `(batch, frames, channels, height, width)` uint8.

        Returns:
            `(batch, classes)`, at least float32.

        Raises:
            ValueError: the clip is not uint8 or not of the model's size.
        """
        return full_precision(self(video)).softmax(dim=-1)

    def classify_views(self, views: Tensor) -> Tensor:
        """Probabilities of the classes, the mean over several views of each video.

        Args:
            views: `(batch, views, frames, channels, height, width)` uint8.

        Returns:
            `(batch, classes)`, at least float32.

        Raises:
            ValueError: there is no view, or a clip is not uint8 or not of the model's size.
        """
        axes = "(batch, views, frames, channels, height, width)"
        require_tensor("views", views, axes, fix="add an axis to single clips")
        if views.shape[1] == 0:
            raise ValueError(
                "views must be (batch, views, frames, channels, height, width) with a view or "
                f"more, got shape {tuple(views.shape)}; add an axis to single clips"
            )
        return self.classify(views.flatten(0, 1)).unflatten(0, views.shape[:2]).mean(dim=1)


class ClassificationObjective(nn.Module):
    """Cross-entropy of clips against targets, which mixing and smoothing may have softened.

    Args:
        classifier: the model to train; kept as `model`.
    """

    def __init__(self, classifier: VideoClassifier) -> None:
        super().__init__()
        self.model = classifier

    def forward(self, batch: LabelledBatch, *, generator: torch.Generator | None = None) -> Losses:
        """Losses of a batch on the model's device.

        Args:
            batch: the batch.
            generator: not used, nothing is drawn but dropout.

        Returns:
            Terms `cross_entropy` and `accuracy`, the share of clips whose likeliest class is that
            of the greatest target; the total is the first.
        """
        logits = full_precision(self.model(batch.video))
        loss = functional.cross_entropy(logits, batch.targets.to(logits.dtype))
        hits = logits.detach().argmax(dim=1) == batch.targets.argmax(dim=1)
        return Losses(total=loss, terms={"cross_entropy": loss, "accuracy": hits.float().mean()})

    def flops(self, batch: LabelledBatch) -> float | None:
        """Operations of a step on the batch by formula, as `TaskModel.flops`."""
        clips = len(batch.video)
        sequences = [self.model.config.num_video_tokens] * clips
        return self.model.flops(num_clips=clips, sequences=sequences)
