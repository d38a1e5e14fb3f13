"""A linear layer over features of training clips that are computed once, nothing augmented."""

from collections.abc import Mapping

import torch
from torch import Tensor

from simvtp.data.datasets.quarantine import require_few_bad
from simvtp.data.datasets.tasks import LabelledClips
from simvtp.pipelines.finetune.measuring import view_batches
from simvtp.tasks import VideoClassifier, fit_head


def fit_frozen(
    classifier: VideoClassifier, splits: Mapping[str, LabelledClips], *, max_bad_share: float
) -> None:
    """Give a classifier the layer that logistic regression finds, chosen on the validation split.

    Args:
        classifier: its encoder stays as it is.
        splits: train and validation.
        max_bad_share: largest share of clips of a split that may be unreadable.

    Raises:
        ValueError: no clip of a split can be read.
        TooManyBadClips: more than `max_bad_share` cannot be read.
    """
    train, validation = (
        _features(classifier, splits[name], max_bad_share=max_bad_share)
        for name in ("train", "validation")
    )
    fitted = fit_head(*train, num_classes=len(classifier.classes), validation=validation)
    with torch.no_grad():
        classifier.head.weight.copy_(fitted.weight)
        classifier.head.bias.copy_(fitted.bias)


@torch.no_grad()
def _features(
    classifier: VideoClassifier, clips: LabelledClips, *, max_bad_share: float
) -> tuple[Tensor, Tensor]:
    """Pooled features of the middle clips that can be read, and their labels."""
    classifier.eval()
    features: list[Tensor] = []
    numbers: list[int] = []
    for videos, places in view_batches(classifier, clips.records, views=(1, 1)):
        features.append(classifier.features(videos[:, 0]).cpu())
        numbers += places
    if not features:
        raise ValueError(f"none of the {len(clips.records)} clips can be read")
    require_few_bad(
        len(clips.records) - len(numbers),
        len(clips.records),
        max_bad_share=max_bad_share,
        what="the features would be those",
        option="--data.max_bad_share",
    )
    return torch.cat(features), torch.from_numpy(clips.labels[numbers]).long()
