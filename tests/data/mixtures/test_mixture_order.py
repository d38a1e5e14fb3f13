"""What an epoch over several sources takes of each, on any number of ranks and after a resume."""

import json
from collections import Counter
from itertools import accumulate

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from simvtp.data import EpochSampler, MixtureOrder
from simvtp.data.mixtures.order import Share, share_out

EPOCHS = 3


@st.composite
def orders(draw: st.DrawFn) -> MixtureOrder:
    """Up to four sources, of files or of shards, some larger than their share, some repeated."""
    sizes: list[list[int]] = draw(
        st.lists(
            st.lists(st.integers(0, 9), min_size=1, max_size=5).filter(any), min_size=1, max_size=4
        )
    )
    global_batch = draw(st.sampled_from([2, 4, 6, 12]))
    batches = draw(st.integers(-(-len(sizes) // global_batch), 8))
    weights = draw(st.lists(st.integers(1, 9), min_size=len(sizes), max_size=len(sizes)))
    counts = share_out(batches * global_batch, weights)
    if 0 in counts:
        counts = share_out(batches * global_batch, [1] * len(sizes))
    shares = [
        Share(sum(size), count, tuple(size) if draw(st.booleans()) else None)
        for size, count in zip(sizes, counts, strict=True)
    ]
    buffer = draw(st.sampled_from([1, 3, 1000]))
    return MixtureOrder(tuple(shares), global_batch=global_batch, shuffle_buffer=buffer)


def source_of(order: MixtureOrder, clip: int) -> int:
    ends = accumulate(share.num_clips for share in order.shares)
    return next(number for number, end in enumerate(ends) if clip < end)


def sampler_of(order: MixtureOrder, *, rank: int = 0, world_size: int = 1) -> EpochSampler:
    return EpochSampler(
        order.num_samples,
        seed=5,
        batch_size=order.global_batch // world_size,
        rank=rank,
        world_size=world_size,
        order=order,
    )


def steps_of(
    order: MixtureOrder, world_size: int, *, state: dict | None = None, stop_at: int | None = None
) -> tuple[list[list[tuple[int, int]]], dict]:
    """The keys of all ranks at each step until the last epoch's end, or a stop; and the state."""
    samplers = [sampler_of(order, rank=rank, world_size=world_size) for rank in range(world_size)]
    steps: list[list[tuple[int, int]]] = []
    for sampler in samplers:
        if state is not None:
            sampler.load_state_dict(json.loads(json.dumps(state)))
    while samplers[0].epoch < EPOCHS:
        for parts in zip(*samplers, strict=True):
            if stop_at is not None and len(steps) == stop_at:
                return steps, samplers[0].state_dict()
            steps.append([key for part in parts for key in part])
            for sampler in samplers:
                sampler.advance()
    return steps, samplers[0].state_dict()


@settings(max_examples=40)
@given(order=orders(), worlds=st.tuples(*[st.sampled_from([1, 2])] * 2), data=st.data())
def test_shares_hold_in_each_epoch_and_across_a_resume_on_other_ranks(
    order: MixtureOrder, worlds: tuple[int, int], data: st.DataObject
):
    whole, _ = steps_of(order, 1)
    per_epoch = order.num_samples // order.global_batch
    assert len(whole) == EPOCHS * per_epoch

    stop = data.draw(st.integers(0, len(whole) - 1))
    before, state = steps_of(order, worlds[0], stop_at=stop)
    after, _ = steps_of(order, worlds[1], state=state)
    # The union of the ranks is the epoch, wherever it was cut and however it was shared out.
    assert before + after == whole

    for epoch in range(EPOCHS):
        keys = [key for step in whole[epoch * per_epoch : (epoch + 1) * per_epoch] for key in step]
        counts = Counter(source_of(order, clip) for _, clip in keys)
        for number, share in enumerate(order.shares):
            assert counts[number] == share.per_epoch
            # And in each stretch of it, to a clip of each source.
            mine = torch.tensor([source_of(order, clip) == number for _, clip in keys])
            exact = torch.arange(1, len(keys) + 1) * share.per_epoch / len(keys)
            assert (mine.cumsum(0) - exact).abs().max() <= 1 + len(order.shares)


@settings(max_examples=40)
@given(order=orders())
def test_no_clip_comes_twice_in_a_pass_and_no_pass_begins_before_the_last_is_through(
    order: MixtureOrder,
):
    whole, _ = steps_of(order, 1)
    keys = [key for step in whole for key in step]
    assert len(set(keys)) == len(keys) == EPOCHS * order.num_samples
    first = 0
    for number, share in enumerate(order.shares):
        mine = [key for key in keys if source_of(order, key[1]) == number]
        passes = Counter(time for time, _ in mine)
        full, rest = divmod(len(mine), share.num_clips)
        want = {**dict.fromkeys(range(full), share.num_clips), full: rest}
        assert passes == {time: count for time, count in want.items() if count}
        assert {clip for time, clip in mine if time < full} <= set(
            range(first, first + share.num_clips)
        )
        if share.shard_sizes is None:
            assert [time for time, _ in mine] == sorted(time for time, _ in mine)
        first += share.num_clips


@given(
    total=st.integers(0, 10_000),
    weights=st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=8),
)
def test_whole_shares_are_off_by_less_than_one_and_sum_up(total: int, weights: list[float]):
    counts = share_out(total, weights)
    assert sum(counts) == total
    for count, weight in zip(counts, weights, strict=True):
        assert abs(count - total * weight / sum(weights)) < 1 + 1e-6


def test_passes_and_epochs_are_shuffled_anew():
    order = MixtureOrder((Share(50, 100), Share(7, 20)), global_batch=4, shuffle_buffer=1)
    keys = order.keys(seed=0, epoch=0)
    assert torch.equal(keys, order.keys(seed=0, epoch=0))
    for other in (order.keys(seed=1, epoch=0), order.keys(seed=0, epoch=1)):
        assert not torch.equal(keys[:, 1], other[:, 1])
    passes = [keys[(keys[:, 0] == time) & (keys[:, 1] < 50)][:, 1] for time in (0, 1)]
    assert not torch.equal(*passes)
    assert torch.equal(*(each.sort().values for each in passes))


def test_an_epoch_reads_neighbouring_shards_and_a_rank_few_of_them():
    shards, size, batch = 64, 100, 64
    order = MixtureOrder(
        (Share(shards * size, 1600, (size,) * shards), Share(100, 1600)),
        global_batch=batch,
        shuffle_buffer=30,
    )
    seen: set[int] = set()
    for epoch in range(4):
        keys = order.keys(seed=0, epoch=epoch).view(-1, batch, 2)[..., 1]
        mine = [
            (part[part < shards * size] // size).unique().tolist() for part in keys.split(16, 1)
        ]
        # A quarter of the clips: a quarter of the shards, of which each of four ranks has its own.
        assert len({shard for part in mine for shard in part}) <= 16 + 1
        assert max(len(part) for part in mine) <= 16 / 4 + 2
        seen |= {shard for part in mine for shard in part}
    assert len(seen) == shards


def test_a_resume_with_other_shares_is_refused():
    order = MixtureOrder((Share(8, 6), Share(8, 2)), global_batch=4, shuffle_buffer=1)
    other = MixtureOrder((Share(8, 4), Share(8, 4)), global_batch=4, shuffle_buffer=1)
    with pytest.raises(ValueError, match=r"mixture of 4 of 8, 4 of 8 clips .* mixture of 6 of 8"):
        sampler_of(other).load_state_dict(sampler_of(order).state_dict())
