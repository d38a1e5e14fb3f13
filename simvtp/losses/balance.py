"""How much each loss term weighs: fixed weights, or shares of the gradient on the encoder."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from simvtp.layers import mean_over_ranks


class GradientBalance(nn.Module):
    """Weighs loss terms so that each has its share of the gradient on the shared encoder.

    From scratch the terms' gradients differ by orders of magnitude. Their norms are measured now
    and then, averaged over time, and divided out. A term's gradient is taken on the encoder's
    output `h`, and its norm is that of `h^T dL/dh`: the gradient that a linear layer at the end
    of the encoder would get (the last shared layer of GradNorm, arXiv 1711.02257). That costs a
    backward pass through the heads alone, and no parameter is touched.

    Args:
        shares: each term's share by name, of any sum.
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

    def measure(self, terms: Mapping[str, Tensor], shared: Sequence[Tensor]) -> None:
        """Take the norm of each term's gradient into the running norms.

        Args:
            terms: `()` each, with their graphs, which are kept.
            shared: `(tokens, width)` each, what the encoder gave; the terms follow from them.
        """
        for place, name in enumerate(self.shares):
            if name in terms and terms[name].requires_grad:
                norm = gradient_norm(terms[name], shared)
                before = self.norms[place]
                kept = self.decay * before + (1 - self.decay) * norm
                usable = torch.isfinite(norm) & (norm > 0)
                self.norms[place] = torch.where(usable, torch.where(before > 0, kept, norm), before)

    def weights(self, names: Sequence[str]) -> Tensor:
        """Weights of some terms, `(terms,)`: their weighted gradients' norms sum to 1.

        A term that was never measured, for want of a gradient, has weight 0.
        """
        places = [list(self.shares).index(name) for name in names]
        shares = self.norms.new_tensor([self.shares[name] for name in names])
        norms = self.norms[places]
        weights = torch.where(norms > 0, shares / norms, 0.0)
        return weights / shares.sum()

    def running_norms(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Running norms of some terms' gradients, `()` each, for the log."""
        # Steps are logged later, when the norms may have been measured again.
        norms = self.norms.clone()
        return {f"gradient {name}": norms[list(self.shares).index(name)] for name in names}


def gradient_norm(term: Tensor, shared: Sequence[Tensor]) -> Tensor:
    """Norm of a term's gradient on a linear layer over the encoder's output, `()` float32.

    The gradient is that of the term's mean over all ranks; every rank must call it.

    Args:
        term: `()` with its graph, which is kept.
        shared: `(tokens, width)` each, parts of the encoder's output.
    """
    gradients = torch.autograd.grad(term, list(shared), retain_graph=True, allow_unused=True)
    width = shared[0].shape[-1]
    total = torch.zeros(width, width, device=term.device)
    for values, gradient in zip(shared, gradients, strict=True):
        if gradient is not None:
            total = total + values.detach().float().T @ gradient.float()
    return mean_over_ranks(total).norm()
