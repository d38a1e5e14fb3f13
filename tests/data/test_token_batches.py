"""Batches under a budget of tokens: what fits, what each rank gets, where a resume goes on."""

import json
from bisect import bisect_right
from itertools import chain

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from simvtp.data import EpochSampler, MixtureOrder
from simvtp.data.mixtures.order import Share
from simvtp.data.token_batches import TokenPlan, TokenSampler, deal

EPOCHS = 2


@st.composite
def plans(draw: st.DrawFn) -> TokenPlan:
    sizes = draw(st.lists(st.integers(1, 60), min_size=1, max_size=4))
    ranks, accumulate = draw(st.sampled_from([1, 2, 4, 6])), draw(st.integers(1, 3))
    count = draw(st.integers(1, 12)) * ranks * accumulate
    tokens = draw(st.lists(st.sampled_from(sizes), min_size=count, max_size=count))
    budget = draw(st.integers(max(tokens), 4 * max(tokens)))
    return TokenPlan(torch.tensor(tokens), budget=budget, num_ranks=ranks, accumulate=accumulate)


def fits(tokens: list[int], *, num_parts: int, budget: int) -> bool:
    """Whether the largest dealt first, to and fro, leave all parts within the budget."""
    sums = [0] * num_parts
    for number, size in enumerate(sorted(tokens, reverse=True)):
        turn, place = divmod(number, num_parts)
        sums[num_parts - 1 - place if turn % 2 else place] += size
    return max(sums) <= budget


@settings(max_examples=60)
@given(plan=plans())
def test_batches_keep_to_the_budget_and_hold_each_clip_once_in_order(plan: TokenPlan):
    tokens, parts = plan.tokens.tolist(), plan.num_ranks * plan.accumulate
    seen = 0
    for step in range(len(plan) // plan.accumulate):
        batches = [
            plan.places(step * plan.accumulate + number, rank=rank, world_size=plan.num_ranks)
            for number in range(plan.accumulate)
            for rank in range(plan.num_ranks)
        ]
        assert len({len(batch) for batch in batches}) == 1
        assert len(batches[0]) in plan.clips
        for batch in batches:
            assert sum(tokens[place] for place in batch) <= plan.budget
            assert batch.tolist() == sorted(batch.tolist())
        places = sorted(place for batch in batches for place in batch.tolist())
        assert places == list(range(seen, seen + len(places)))
        seen += len(places)
    assert seen == plan.num_samples
    # As few steps as taking all that fits, one step after the other.
    first, steps = 0, 0
    while first < len(tokens):
        ends = range(first + parts, len(tokens) + 1, parts)
        first = max(
            end for end in ends if fits(tokens[first:end], num_parts=parts, budget=plan.budget)
        )
        steps += 1
    assert len(plan) == steps * plan.accumulate


@given(
    tokens=st.lists(st.integers(1, 5), min_size=1, max_size=40),
    num_parts=st.integers(1, 5),
)
def test_parts_get_as_many_clips_and_about_as_many_tokens(tokens: list[int], num_parts: int):
    tokens = tokens[: len(tokens) // num_parts * num_parts]
    if not tokens:
        return
    sizes = torch.tensor(tokens)
    dealt = deal(sizes, num_parts=num_parts)
    assert sorted(dealt.flatten().tolist()) == list(range(len(tokens)))
    sums = sizes[dealt].sum(dim=1)
    assert sums.max() - sums.min() <= sizes.max() - sizes.min()
    for size in set(tokens):
        own = [[place for place in part.tolist() if tokens[place] == size] for part in dealt]
        # Neighbours, so that a rank keeps to its own shards.
        assert [place for part in own for place in part] == sorted(chain.from_iterable(own))


def sampler_of(plan: TokenPlan, *, rank: int, world_size: int) -> TokenSampler:
    return TokenSampler(plan, seed=3, rank=rank, world_size=world_size)


def batches_of(
    plan: TokenPlan, world_size: int, *, state: dict | None = None, stop_at: int | None = None
) -> tuple[list[list[list[tuple[int, int]]]], dict]:
    """The keys of each rank in each batch until the last epoch's end, or a stop; and the state."""
    samplers = [sampler_of(plan, rank=rank, world_size=world_size) for rank in range(world_size)]
    for sampler in samplers:
        if state is not None:
            sampler.load_state_dict(json.loads(json.dumps(state)))
    seen: list[list[list[tuple[int, int]]]] = []
    while samplers[0].epoch < EPOCHS:
        for parts in zip(*samplers, strict=True):
            if len(seen) == stop_at:
                return seen, samplers[0].state_dict()
            seen.append(list(parts))
            for sampler in samplers:
                sampler.advance()
    return seen, samplers[0].state_dict()


@settings(max_examples=30)
@given(plan=plans(), data=st.data())
def test_a_resume_on_other_ranks_goes_on_with_the_next_clip(plan: TokenPlan, data: st.DataObject):
    divisors = [ranks for ranks in (1, 2, 3, 4, 6) if plan.num_ranks % ranks == 0]
    whole, _ = batches_of(plan, plan.num_ranks)
    assert len(whole) == EPOCHS * len(plan)
    stop = data.draw(st.integers(0, len(whole) - 1))
    before, state = batches_of(plan, data.draw(st.sampled_from(divisors)), stop_at=stop)
    after, _ = batches_of(plan, data.draw(st.sampled_from(divisors)), state=state)
    # Rank after rank they are the same batch, whoever takes which part of it.
    flat = [[[key for part in batch for key in part] for batch in run] for run in (before, after)]
    assert flat[0] + flat[1] == [[key for part in batch for key in part] for batch in whole]
    for epoch in range(EPOCHS):
        keys = [key for batch in whole for part in batch for key in part if key[0] == epoch]
        assert sorted(index for _, index in keys) == list(range(plan.num_samples))


@given(
    per_batch=st.integers(1, 5),
    size=st.integers(1, 9),
    ranks=st.integers(1, 3),
    batches=st.integers(1, 4),
)
def test_clips_of_one_size_make_the_batches_of_a_fixed_number(
    per_batch: int, size: int, ranks: int, batches: int
):
    count = per_batch * ranks * batches
    plan = TokenPlan(
        torch.full((count,), size), budget=per_batch * size + size - 1, num_ranks=ranks
    )
    for rank in range(ranks):
        place = {"seed": 5, "rank": rank, "world_size": ranks}
        fixed = EpochSampler(count, batch_size=per_batch, **place)
        planned = TokenSampler(plan, **place)
        assert list(planned) == list(fixed)
        assert (len(planned), planned.global_batch) == (len(fixed), fixed.global_batch)


@pytest.mark.parametrize("shards", [None, (40, 60)])
def test_the_budget_holds_in_every_epoch_of_a_mixture(shards: tuple[int, ...] | None):
    order = MixtureOrder(
        (Share(100, 60, shards), Share(30, 48), Share(500, 12)), global_batch=8, shuffle_buffer=9
    )
    of_source = torch.tensor([192, 52, 72])
    plan = TokenPlan(of_source[order.sources(7)], budget=900, num_ranks=2)
    epochs = set()
    for epoch in range(3):
        shown: list[tuple[int, int]] = []
        for rank in range(2):
            place = {"seed": 7, "rank": rank, "world_size": 2}
            sampler = TokenSampler(plan, order=order, **place)
            sampler.epoch = epoch
            for batch in sampler:
                sources = [bisect_right([100, 130], index) for _, index in batch]
                assert sum(of_source[source] for source in sources) <= 900
                shown += batch
        assert len(shown) == len(set(shown)) == 120
        epochs.add(tuple(shown))
    assert len(epochs) == 3


@pytest.mark.parametrize(
    ("tokens", "settings", "reason"),
    [
        ([5, 9, 5, 5], {"budget": 8}, "a clip has 9 tokens, .* budget of 8 .*; raise it"),
        ([5, 5, 5], {"budget": 8, "num_ranks": 2}, "each of the 2 micro-batches .* got 3"),
        ([], {"budget": 8}, "got 0"),
        ([5], {"budget": 0}, "budget must be at least 1"),
    ],
)
def test_what_cannot_be_planned_is_refused(tokens: list[int], settings: dict, reason: str):
    with pytest.raises(ValueError, match=reason):
        TokenPlan(torch.tensor(tokens), **settings)


def test_another_plan_and_ranks_that_do_not_divide_it_are_refused():
    plan = TokenPlan(torch.full((12,), 5), budget=10, num_ranks=2)
    other = TokenPlan(torch.full((12,), 4), budget=10, num_ranks=2)
    state = sampler_of(plan, rank=0, world_size=1).state_dict()
    with pytest.raises(ValueError, match="plan must be the same on a resume"):
        sampler_of(other, rank=0, world_size=2).load_state_dict(state)
    with pytest.raises(ValueError, match="planned for 2 processes cannot be shared out to 3"):
        sampler_of(plan, rank=0, world_size=3)
