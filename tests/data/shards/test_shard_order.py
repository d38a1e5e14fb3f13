from itertools import accumulate

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from simvtp.data import EpochSampler, ShardOrder

sizes_lists = st.lists(st.integers(0, 30), min_size=1, max_size=12).filter(any)


def shards_of(sizes: list[int]) -> list[int]:
    return [shard for shard, size in enumerate(sizes) for _ in range(size)]


def keys_of_all_ranks(
    sizes: list[int], order: ShardOrder, *, world_size: int, seed: int
) -> list[list[list[tuple[int, int]]]]:
    """Batches of each rank over two epochs."""
    batches = []
    for rank in range(world_size):
        sampler = EpochSampler(
            sum(sizes),
            seed=seed,
            batch_size=order.global_batch // world_size,
            rank=rank,
            world_size=world_size,
            order=order,
        )
        mine = []
        while sampler.epoch < 2:
            for batch in sampler:
                mine.append(batch)
                sampler.advance()
        batches.append(mine)
    return batches


@given(
    sizes=sizes_lists,
    share=st.integers(1, 4),
    world_size=st.sampled_from([1, 2, 3, 4]),
    buffer=st.sampled_from([1, 5, 1000]),
    seed=st.integers(0, 9),
)
def test_ranks_share_an_epoch_without_doubles_or_gaps_and_end_together(
    sizes: list[int], share: int, world_size: int, buffer: int, seed: int
):
    global_batch = share * world_size
    if global_batch > sum(sizes):
        return
    order = ShardOrder(sizes, global_batch=global_batch, shuffle_buffer=buffer)
    ranks = keys_of_all_ranks(sizes, order, world_size=world_size, seed=seed)
    # All ranks have as many batches, so none waits for another for ever.
    assert {len(batches) for batches in ranks} == {2 * (sum(sizes) // global_batch)}
    for epoch in range(2):
        keys = [key for batches in ranks for batch in batches for key in batch if key[0] == epoch]
        assert len(set(keys)) == len(keys) == sum(sizes) // global_batch * global_batch
    # The steps of one process with the same global batch.
    single = keys_of_all_ranks(sizes, order, world_size=1, seed=seed)[0]
    assert [[key for part in step for key in part] for step in zip(*ranks, strict=True)] == single


@given(
    sizes=sizes_lists,
    global_batch=st.integers(1, 40),
    buffer=st.integers(1, 50),
    seed=st.integers(0, 9),
)
def test_order_is_a_permutation_that_keeps_near_the_shards(
    sizes: list[int], global_batch: int, buffer: int, seed: int
):
    order = ShardOrder(sizes, global_batch=global_batch, shuffle_buffer=buffer)
    drawn = order(torch.Generator().manual_seed(seed)).tolist()
    assert sorted(drawn) == list(range(sum(sizes)))
    assert drawn == order(torch.Generator().manual_seed(seed)).tolist()

    # The row that is mixed: shards in the order the same generator draws, clips in file order.
    starts = [0, *accumulate(sizes)]
    shuffled = torch.randperm(len(sizes), generator=torch.Generator().manual_seed(seed)).tolist()
    row = [starts[shard] + place for shard in shuffled for place in range(sizes[shard])]
    place_in_row = {clip: place for place, clip in enumerate(row)}
    lanes, length = order.num_lanes, sum(sizes) // order.num_lanes
    assert global_batch % lanes == 0
    share = global_batch // lanes
    for lane in range(lanes):
        mine = [
            clip
            for step in range(length // share)
            for clip in drawn[step * global_batch + lane * share :][:share]
        ]
        for place, clip in enumerate(mine):
            # From its own lane, and no further from its place than the buffer is long.
            assert abs(place_in_row[clip] - lane * length - place) < buffer


def test_a_buffer_of_one_keeps_the_order_of_each_lane():
    order = ShardOrder([4, 4], global_batch=2, shuffle_buffer=1)
    drawn = order(torch.Generator().manual_seed(0)).tolist()
    assert sorted(drawn[0::2]) == drawn[0::2]
    assert sorted(drawn[1::2]) == drawn[1::2]


def test_a_large_buffer_mixes_and_epochs_differ():
    order = ShardOrder([500] * 4, global_batch=4, shuffle_buffer=2000)
    generator = torch.Generator().manual_seed(0)
    first, second = order(generator), order(generator)
    assert not torch.equal(first, second)
    # In an unmixed lane a clip is followed by the next one of its shard; by chance hardly ever.
    assert int((first[::4].diff() == 1).sum()) < 10


def test_a_batch_reads_from_many_shards_and_a_rank_from_few():
    sizes = [100] * 64
    order = ShardOrder(sizes, global_batch=64, shuffle_buffer=50)
    assert order.num_lanes == 16
    owner = torch.tensor(shards_of(sizes))
    batches = owner[order(torch.Generator().manual_seed(0))].view(-1, 64)
    assert min(len(batch.unique()) for batch in batches) >= 16
    # A quarter of the batch, as one of four ranks gets it, over the whole epoch.
    ranks = [len(batches[:, 16 * rank : 16 * (rank + 1)].unique()) for rank in range(4)]
    assert max(ranks) <= 64 / 4 + 8


def test_settings_that_make_no_order_are_refused():
    for settings in ({"global_batch": 0}, {"shuffle_buffer": 0}):
        with pytest.raises(ValueError, match="must be at least 1"):
            ShardOrder([3], **{"global_batch": 1, "shuffle_buffer": 1} | settings)
    with pytest.raises(ValueError, match="counts of clips"):
        ShardOrder([], global_batch=1, shuffle_buffer=1)


def test_a_resume_with_another_order_is_refused():
    order = ShardOrder([8, 8], global_batch=4, shuffle_buffer=4)
    other = ShardOrder([8, 8], global_batch=4, shuffle_buffer=5)
    state = EpochSampler(16, seed=0, batch_size=4, order=order).state_dict()
    with pytest.raises(ValueError, match="order must be the same on a resume"):
        EpochSampler(16, seed=0, batch_size=4, order=other).load_state_dict(state)
