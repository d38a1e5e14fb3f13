"""From labelled clips and questions to one training batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from simvtp.batch import TensorBatch
from simvtp.data.datasets.tasks import LabelledSample, QuestionSample
from simvtp.layers import PackedLayout, PackedTokens

if TYPE_CHECKING:
    # At run time this would import torchvision for models that only answer.
    from simvtp.data.video.augment import MixAugment


@dataclass(frozen=True)
class LabelledBatch(TensorBatch):
    """Clips and their classes.

    Attributes:
        video: `(batch, frames, channels, height, width)` uint8.
        targets: `(batch, classes)` float32 probabilities.
        index: `(batch,)` int64 numbers of the clips.
    """

    video: Tensor
    targets: Tensor
    index: Tensor


class LabelledCollator:
    """Makes a batch of labelled clips: targets smoothed, clips perhaps mixed.

    Args:
        num_classes: number of classes.
        label_smoothing: share of each target that is spread evenly over all classes.
        mix: mixes the clips of a batch; drawn from the first sample's own seed.

    Raises:
        ValueError: the smoothing is no share below 1.
    """

    def __init__(
        self, num_classes: int, *, label_smoothing: float = 0.1, mix: "MixAugment | None" = None
    ) -> None:
        check_smoothing(label_smoothing)
        self.num_classes = num_classes
        self.label_smoothing = label_smoothing
        self.mix = mix

    def __call__(self, samples: Sequence[LabelledSample]) -> LabelledBatch:
        """Collate samples."""
        video = torch.stack([sample.video for sample in samples])
        labels = torch.tensor([sample.label for sample in samples])
        certain = functional.one_hot(labels, self.num_classes).float()
        spread = self.label_smoothing / self.num_classes
        targets = certain * (1 - self.label_smoothing) + spread
        if self.mix is not None:
            video, targets = self.mix(video, targets, seed=samples[0].seed)
        index = torch.tensor([sample.index for sample in samples])
        return LabelledBatch(video, targets, index)


@dataclass(frozen=True)
class QuestionBatch(TensorBatch):
    """Clips and questions about them, packed, without padding.

    Attributes:
        video: `(batch, frames, channels, height, width)` uint8.
        token_ids: `(text_tokens,)` int64, the questions one after the other, or each question
            with each of its options.
        text_lengths: tokens of each text, `batch * num_options` of them.
        answers: `(batch,)` int64 number of the right answer or option, -1 where it has none.
        num_options: texts of a question: 1 for an open one.
        index: `(batch,)` int64 numbers of the questions.
    """

    video: Tensor
    token_ids: Tensor
    text_lengths: tuple[int, ...]
    answers: Tensor
    num_options: int
    index: Tensor

    @property
    def text(self) -> PackedTokens:
        """The texts as a pack whose values are `(text_tokens,)` ids."""
        layout = PackedLayout(self.text_lengths, self.token_ids.device)
        return PackedTokens(self.token_ids, layout)


class QuestionCollator:
    """Packs questions; those of one length stand side by side, for attention takes them together.

    Evaluation must thus go by the batch's `index`.
    """

    def __call__(self, samples: Sequence[QuestionSample]) -> QuestionBatch:
        """Collate samples.

        Raises:
            ValueError: the questions have different numbers of options.
        """
        samples = sorted(samples, key=lambda sample: [len(ids) for ids in sample.token_ids])
        counts = sorted({len(sample.token_ids) for sample in samples})
        if len(counts) != 1:
            raise ValueError(
                f"the questions of a batch must have as many options each, got {counts}; fill "
                "the shorter lists up with wrong options, or train on each kind by itself"
            )
        texts = [ids for sample in samples for ids in sample.token_ids]
        return QuestionBatch(
            video=torch.stack([sample.video for sample in samples]),
            token_ids=torch.cat(texts),
            text_lengths=tuple(len(ids) for ids in texts),
            answers=torch.tensor([sample.answer for sample in samples]),
            num_options=counts[0],
            index=torch.tensor([sample.index for sample in samples]),
        )


def check_smoothing(label_smoothing: float) -> None:
    """Raise ValueError unless it is a share below 1."""
    if not 0 <= label_smoothing < 1:
        raise ValueError(
            f"label_smoothing must lie in [0, 1), got {label_smoothing}; 0.1 is usual, 0 is off"
        )
