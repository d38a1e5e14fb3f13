"""Batches of as many clips as fit a budget of tokens, planned before anything is decoded."""

import hashlib
from bisect import bisect_left
from functools import cached_property

import torch
from torch import Tensor

from simvtp.config.checks import require, require_at_least
from simvtp.data.epoch_order import EpochOrder
from simvtp.data.loader import EpochSampler


class TokenPlan:
    """Cuts an epoch into steps, each a stretch of its order that is dealt out to micro-batches.

    The micro-batches of a step, those of all ranks, get the same number of clips: so a mean over
    them is a mean over clips, the contrastive loss is exact, and no rank waits for another. The
    number may be another in the next step. No micro-batch has more tokens than the budget. An
    epoch has no more steps than that takes, which are filled evenly.

    Each place of the order has the same number of tokens in every epoch. So all epochs have the
    same steps, and the length of a run is known beforehand.

    Args:
        tokens: `(num_samples,)` int64 of the clip at each place of the order, a whole number of
            clips for each micro-batch of a step.
        budget: most tokens of a micro-batch of one rank.
        num_ranks: ranks that the run was begun on.
        accumulate: micro-batches of a rank in a step.

    Raises:
        ValueError: a clip has more tokens than the budget; or there are no clips, or some are left
            over.
    """

    def __init__(
        self, tokens: Tensor, *, budget: int, num_ranks: int = 1, accumulate: int = 1
    ) -> None:
        require_at_least(1, budget=budget, num_ranks=num_ranks, accumulate=accumulate)
        self.tokens = tokens
        self.budget = budget
        self.num_ranks = num_ranks
        self.accumulate = accumulate
        self._parts = num_ranks * accumulate
        require(
            len(tokens) > 0 and len(tokens) % self._parts == 0,
            f"an epoch must have a whole number of clips for each of the {self._parts} "
            f"micro-batches of a step, got {len(tokens)}; leave out what is over",
        )
        largest = int(tokens.max())
        require(
            largest <= budget,
            f"a clip has {largest} tokens, which is more than the budget of {budget} for a batch; "
            "raise it, or make the clips smaller",
        )
        self._ends = self._filled_evenly(largest)

    def __len__(self) -> int:
        """Micro-batches of a rank in an epoch."""
        return (len(self._ends) - 1) * self.accumulate

    @property
    def num_samples(self) -> int:
        """Clips of an epoch."""
        return len(self.tokens)

    @cached_property
    def clips(self) -> range:
        """Fewest to most clips of a micro-batch of one rank."""
        counts = (torch.tensor(self._ends).diff() // self._parts).tolist()
        return range(min(counts), max(counts) + 1)

    @property
    def name(self) -> str:
        """Changes with everything that the batches depend on."""
        digest = hashlib.sha256(self.tokens.numpy().tobytes()).hexdigest()[:16]
        return f"{self.budget} tokens on {self.num_ranks} x {self.accumulate} ({digest})"

    def places(self, batch: int, *, rank: int = 0, world_size: int = 1) -> Tensor:
        """Places in an epoch's order of the clips of a micro-batch, `(clips,)` int64.

        Args:
            batch: number of the micro-batch in the epoch.
            rank: number of the process.
            world_size: processes, which take the micro-batches of `num_ranks` together.
        """
        step, micro_batch = divmod(batch, self.accumulate)
        first, last = self._ends[step : step + 2]
        dealt = deal(self.tokens[first:last], num_parts=self._parts)
        share = self.num_ranks // world_size
        own = micro_batch * self.num_ranks + rank * share
        return first + dealt[own : own + share].flatten()

    def _filled_evenly(self, largest: int) -> list[int]:
        """Where the steps end: as few as the budget allows, and each no fuller than it must be."""
        num_steps = len(self._cut(self.budget))
        least = max(largest, -(-int(self.tokens.sum()) // (num_steps * self._parts)))
        budgets = range(least, self.budget)
        found = bisect_left(budgets, True, key=lambda budget: len(self._cut(budget)) <= num_steps)
        return self._cut(least + found)

    def _cut(self, budget: int) -> list[int]:
        """Where the steps begin and end, each with as many clips as the budget allows."""
        sums = torch.cat([self.tokens.new_zeros(1), self.tokens.cumsum(0)])
        ends = [0]
        while (first := ends[-1]) < len(self.tokens):
            most = sums[first] + budget * self._parts
            last = int(torch.searchsorted(sums, most, right=True)) - 1
            last -= (last - first) % self._parts
            while _fullest(self.tokens[first:last], self._parts) > budget:
                last -= self._parts
            ends.append(last)
        return ends


class TokenSampler(EpochSampler):
    """An `EpochSampler` whose batches are those of a `TokenPlan`.

    Its `batch_size` and `global_batch` are what a batch has in the mean.

    Args:
        plan: the batches of every epoch.
        seed: seed of the order.
        rank: number of this process.
        world_size: number of processes; it divides that which the plan was made for.
        order: draws the order of an epoch, as for `EpochSampler`.
    """

    def __init__(
        self,
        plan: TokenPlan,
        *,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        order: EpochOrder | None = None,
    ) -> None:
        require(
            plan.num_ranks % world_size == 0,
            f"batches planned for {plan.num_ranks} processes cannot be shared out to {world_size}; "
            "take a number that divides it",
        )
        mean = plan.num_samples / (len(plan) * world_size)
        super().__init__(
            plan.num_samples,
            seed=seed,
            batch_size=round(mean),
            rank=rank,
            world_size=world_size,
            order=order,
        )
        self.plan = plan

    @property
    def global_batch(self) -> int:
        """Clips that all ranks together see in one micro-batch, in the mean."""
        return round(self.plan.num_samples / len(self.plan))

    def __len__(self) -> int:
        """Batches of a whole epoch, whatever has been consumed of it."""
        return len(self.plan)

    def places(self, batch: int) -> Tensor:
        """As `TokenPlan.places`, of this rank."""
        return self.plan.places(batch, rank=self.rank, world_size=self.world_size)

    def state_dict(self) -> dict[str, int | str]:
        """Place in the run and the settings under which it means anything."""
        plan = {"plan": self.plan.name, "planned_ranks": self.plan.num_ranks}
        return super().state_dict() | plan


def deal(tokens: Tensor, *, num_parts: int) -> Tensor:
    """Share clips out so that each part gets as many of them, and about as many tokens.

    The largest clips go first, to one part after the other and back again. Of clips with as many
    tokens each part then gets neighbours, which come from the same shards.

    Args:
        tokens: `(clips,)` int64, for each part equally many clips.
        num_parts: how many parts.

    Returns:
        `(num_parts, clips / num_parts)` int64 places, rising in each part.
    """
    sizes, order = tokens.sort(descending=True, stable=True)
    parts = _back_and_forth(torch.arange(num_parts).repeat(len(tokens) // num_parts), num_parts)
    kinds = sizes.unique_consecutive(return_inverse=True)[1]
    parts = (kinds * num_parts + parts.flatten()).sort().values % num_parts
    return order[parts.argsort(stable=True)].view(num_parts, -1).sort(dim=1).values


def _fullest(tokens: Tensor, num_parts: int) -> int:
    """Tokens of the fullest part, as `deal` shares them out."""
    return int(_back_and_forth(tokens.sort(descending=True).values, num_parts).sum(0).max())


def _back_and_forth(values: Tensor, num_parts: int) -> Tensor:
    """Rows of one value a part, every other row turned round."""
    rows = values.view(-1, num_parts).clone()
    rows[1::2] = rows[1::2].flip(1)
    return rows
