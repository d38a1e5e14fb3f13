"""Contrastive losses as modules that own their temperature."""

import math

import torch
from torch import Tensor, nn

from simvtp.layers import Over, gather_rows, num_ranks, require_temperature
from simvtp.losses.contrast import Contrast, contrastive_loss, sigmoid_loss
from simvtp.losses.memory import FeatureMemory


class PairLoss(nn.Module):
    """What ties each video to its text, with a temperature of its own.

    A loss of one's own derives from it and has a `forward` that gives a `Contrast`.

    Args:
        temperature: divides the cosines; where it is learnt, its start.
        learn: make the loss's own numbers parameters.
        negatives_over: pairs of all ranks, or of a rank alone, are each other's negatives.

    Raises:
        ValueError: the temperature is not above 0, or `negatives_over` is no such choice.
    """

    log_temperature: Tensor

    def __init__(
        self, *, temperature: float, learn: bool = False, negatives_over: Over = "ranks"
    ) -> None:
        super().__init__()
        require_temperature(temperature)
        num_ranks(negatives_over)
        self.negatives_over: Over = negatives_over
        self.own_number("log_temperature", math.log(temperature), learn=learn)

    @property
    def temperature(self) -> Tensor:
        """`()`."""
        return self.log_temperature.exp()

    def own_number(self, name: str, value: float, *, learn: bool) -> None:
        """Make a number an attribute: a parameter where it is learnt, else a constant."""
        number = torch.tensor(value)
        if learn:
            self.register_parameter(name, nn.Parameter(number))
        else:
            self.register_buffer(name, number, persistent=False)

    def forward(self, video: Tensor, text: Tensor, *, keys: Tensor | None = None) -> Contrast:
        """The loss of pairs and what it was computed from.

        Args:
            video: `(batch, width)` pooled video features; pair i belongs to text i.
            text: `(batch, width)` pooled text features.
            keys: `(batch,)` int64, equal for pairs that are no negatives of each other, on all
                ranks; None when all are.
        """
        raise NotImplementedError


class ContrastiveLoss(PairLoss):
    """Symmetric InfoNCE over the global batch: `contrastive_loss` with its state.

    Args:
        temperature: divides the cosines; where it is learnt, its start.
        learn: make the temperature a parameter.
        negatives_over: pairs of all ranks, or of a rank alone, are each other's negatives.
        memory: features of earlier steps, further negatives. Each call that records gradients
            adds its pairs.

    Raises:
        ValueError: as for `PairLoss`, or there is a memory, which holds pairs of all ranks, and
            negatives are of a rank alone.
    """

    def __init__(
        self,
        *,
        temperature: float = 0.05,
        learn: bool = False,
        negatives_over: Over = "ranks",
        memory: FeatureMemory | None = None,
    ) -> None:
        super().__init__(temperature=temperature, learn=learn, negatives_over=negatives_over)
        if memory is not None and negatives_over == "rank":
            raise ValueError(
                "a memory holds pairs of all ranks, got negatives_over 'rank'; leave one out"
            )
        self.memory = memory

    def forward(self, video: Tensor, text: Tensor, *, keys: Tensor | None = None) -> Contrast:
        """As `PairLoss` says."""
        contrast = contrastive_loss(
            video,
            text,
            temperature=self.temperature,
            keys=keys,
            memory=self.memory,
            negatives_over=self.negatives_over,
        )
        if self.memory is not None and keys is not None and torch.is_grad_enabled():
            features = contrast.video.detach(), contrast.text.detach()
            self.memory.add(*features, keys=gather_rows(keys))
        return contrast


class SigmoidLoss(PairLoss):
    """Each pair by itself (SigLIP): `sigmoid_loss` with its temperature and its bias.

    Args:
        temperature: divides the cosines; where it is learnt, its start, as is the bias.
        bias: added to them.
        learn: make both parameters, as the paper does.
        negatives_over: pairs of all ranks, or of a rank alone, are each other's negatives.
    """

    bias: Tensor

    def __init__(
        self,
        *,
        temperature: float = 0.1,
        bias: float = -10.0,
        learn: bool = True,
        negatives_over: Over = "ranks",
    ) -> None:
        super().__init__(temperature=temperature, learn=learn, negatives_over=negatives_over)
        self.own_number("bias", bias, learn=learn)

    def forward(self, video: Tensor, text: Tensor, *, keys: Tensor | None = None) -> Contrast:
        """As `PairLoss` says."""
        return sigmoid_loss(
            video,
            text,
            temperature=self.temperature,
            bias=self.bias,
            keys=keys,
            negatives_over=self.negatives_over,
        )
