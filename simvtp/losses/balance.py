"""How much each loss term weighs: fixed weights, or shares of the gradient on the encoder."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from simvtp.layers import mean_over_ranks
from simvtp.losses.terms import Losses


class GradientBalance(nn.Module):
    """Weighs loss terms so that each has its share of the gradient on the shared encoder.

    From scratch the terms' gradients differ by orders of magnitude. Their norms are measured now
    and then, averaged over time, and divided out. A term's gradient is taken on the encoder's
    output `h`, and its norm is that of `h^T dL/dh`: the gradient that a linear layer at the end
    of the encoder would get (the last shared layer of GradNorm, arXiv 1711.02257). It is noted in
    the step's own backward pass, where each term takes the encoder's output through `tap`;
    `update` then counts it, for the steps to come.

    Args:
        shares: each term's share by name, of any sum. A term that was not measured yet has it as
            its weight.
        decay: weight of the past in the running norms.

    Raises:
        ValueError: a share is negative, or `decay` is outside [0, 1).
    """

    norms: Tensor

    def __init__(self, shares: Mapping[str, float], *, decay: float = 0.8) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be in [0, 1), got {decay}")
        for name, share in shares.items():
            if not share >= 0:
                raise ValueError(f"the share of {name} must be >= 0, got {share}")
        self.shares = dict(shares)
        self.decay = decay
        # 0 is a term that was never measured.
        self.register_buffer("norms", torch.zeros(len(self.shares)))
        self._used: dict[str, Tensor] = {}
        self._noted: dict[str, Tensor] = {}

    def tap(self, values: Tensor, name: str) -> Tensor:
        """The encoder's output as one term sees it; the gradient that comes back is noted.

        Args:
            values: `(tokens, width)`, all of the encoder's output or a part of it.
            name: the term.

        Returns:
            The same values.
        """
        if not values.requires_grad:
            return values
        tapped, encoded = values.view_as(values), values.detach().float()
        width = values.shape[-1]
        self._noted.setdefault(name, encoded.new_zeros(width, width))

        def note(gradient: Tensor) -> None:
            self._noted[name] = self._noted[name] + encoded.T @ gradient.float()

        tapped.register_hook(note)
        return tapped

    def weights(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Weights of a step's terms, `()` each: their weighted gradients' norms sum to 1."""
        total = sum(self.shares.values())
        for name in names:
            norm, share = self.norms[self._place(name)], self.shares[name]
            self._used[name] = torch.where(norm > 0, share / norm, share) / total
        return {name: self._used[name] for name in names}

    @torch.no_grad()
    def update(self, *, scale: float = 1.0, valid: Tensor | None = None) -> None:
        """Take what was noted into the running norms; all ranks must call it.

        Args:
            scale: what the total was divided by before the backward pass.
            valid: `()` bool, False for a step that nothing is learnt from; None is True.
        """
        # In one order on all ranks, whatever came back first.
        for name in (name for name in self.shares if name in self._noted):
            # The gradient of the global batch, as data parallelism averages it.
            norm = mean_over_ranks(self._noted[name]).norm() * scale / self._used[name]
            place = self._place(name)
            before = self.norms[place]
            kept = torch.where(before > 0, self.decay * before + (1 - self.decay) * norm, norm)
            usable = torch.isfinite(norm) & (norm > 0)
            usable = usable if valid is None else usable & valid
            self.norms[place] = torch.where(usable, kept, before)
        self._noted.clear()

    def running_norms(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Running norms of some terms' gradients, `()` each, for the log."""
        return {f"gradient {name}": self.norms[self._place(name)].clone() for name in names}

    def _place(self, name: str) -> int:
        return list(self.shares).index(name)


def weigh(
    terms: dict[str, Tensor],
    *,
    weights: Mapping[str, float],
    balance: GradientBalance | None = None,
) -> Losses:
    """Terms and their weighted sum.

    Args:
        terms: `()` each.
        weights: factor of each term.
        balance: gives the factors instead, and figures of them for the log.
    """
    factors: Mapping[str, float | Tensor] = weights
    details: dict[str, Tensor] = {}
    if balance is not None:
        factors = by_name = balance.weights(tuple(terms))
        details = {f"weight {name}": weight for name, weight in by_name.items()}
        details |= balance.running_norms(tuple(terms))
    total = torch.stack([factors[name] * term for name, term in terms.items()]).sum()
    return Losses(total, terms, details)
