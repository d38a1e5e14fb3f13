import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from simvtp.data import (
    ClipDataset,
    ClipRecord,
    EpochSampler,
    Sample,
    TooManyBadClips,
    build_loader,
)


def keep_list(samples: list[Sample]) -> list[Sample]:
    return samples


def run(
    dataset: ClipDataset, *, num_workers: int, state: dict | None = None, num_batches: int = 9
) -> tuple[list[Sample], dict]:
    """Train for so many batches from a state on; the samples seen and the state after them."""
    sampler = EpochSampler(len(dataset), seed=7, batch_size=3)
    if state is not None:
        sampler.load_state_dict(state)
    loader = build_loader(dataset, sampler=sampler, num_workers=num_workers, collate=keep_list)
    seen: list[Sample] = []
    for _ in range(num_batches):
        for batch in loader:
            seen.extend(batch)
            sampler.advance()
            if len(seen) == 3 * num_batches:
                return seen, sampler.state_dict()
    raise AssertionError("the loader ended early")


@given(st.integers(1, 60), st.integers(1, 8), st.integers(1, 4), st.integers(0, 3), st.data())
def test_each_sample_is_seen_once_an_epoch_by_one_rank(
    num_samples: int, batch_size: int, world_size: int, epoch: int, data: st.DataObject
):
    if batch_size * world_size > num_samples:
        with pytest.raises(ValueError, match=r"batch_size [1-9]|use fewer ranks"):
            EpochSampler(num_samples, seed=0, batch_size=batch_size, world_size=world_size)
        return
    seen: list[int] = []
    resume_at = data.draw(st.integers(0, num_samples // (batch_size * world_size) - 1))
    for rank in range(world_size):
        settings = {"seed": 5, "batch_size": batch_size, "rank": rank, "world_size": world_size}
        sampler = EpochSampler(num_samples, epoch=epoch, **settings)
        batches = list(sampler)
        assert len(batches) == len(sampler) == num_samples // (batch_size * world_size)
        assert all(len(batch) == batch_size for batch in batches)
        assert all(key[0] == epoch for batch in batches for key in batch)
        seen += [index for batch in batches for _, index in batch]
        for _ in range(resume_at):
            sampler.advance()
        resumed = EpochSampler(num_samples, **settings)
        resumed.load_state_dict(json.loads(json.dumps(sampler.state_dict())))
        assert list(resumed) == batches[resume_at:]
    assert len(seen) == len(set(seen)) == num_samples - num_samples % (batch_size * world_size)
    assert set(seen) <= set(range(num_samples))


def test_same_global_batch_means_the_same_clips_on_any_number_of_ranks():
    alone = list(EpochSampler(20, seed=1, batch_size=6))
    pair = [list(EpochSampler(20, seed=1, batch_size=3, rank=r, world_size=2)) for r in range(2)]
    assert [first + second for first, second in zip(*pair, strict=True)] == alone


def test_epochs_and_seeds_differ_and_the_last_batch_can_be_kept():
    sampler = EpochSampler(20, seed=1, batch_size=6, drop_last=False)
    first = list(sampler)
    assert [len(batch) for batch in first] == [6, 6, 6, 2]
    assert len(sampler) == 4
    for _ in first:
        sampler.advance()
    assert sampler.epoch == 1
    second = list(sampler)
    orders = [[index for batch in epoch for _, index in batch] for epoch in (first, second)]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(20))
    assert orders[0] != orders[1]
    other = EpochSampler(20, seed=2, batch_size=6, drop_last=False)
    assert [index for batch in other for _, index in batch] != orders[0]


def test_sampler_refuses_what_cannot_be_resumed():
    state = EpochSampler(20, seed=1, batch_size=4).state_dict()
    for changes in ({"seed": 2}, {"batch_size": 5}):
        sampler = EpochSampler(20, **{"seed": 1, "batch_size": 4, **changes})
        with pytest.raises(ValueError, match="must be the same on a resume"):
            sampler.load_state_dict(state)
    with pytest.raises(ValueError, match="num_samples must be the same"):
        EpochSampler(21, seed=1, batch_size=4).load_state_dict(state)
    sampler = EpochSampler(20, seed=1, batch_size=2, rank=1, world_size=2)
    sampler.load_state_dict(state)
    with pytest.raises(ValueError, match="one of its 5 batches"):
        sampler.load_state_dict(state | {"num_consumed": 5})
    with pytest.raises(ValueError, match="must hold epoch"):
        sampler.load_state_dict({})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"batch_size": 2, "rank": 2, "world_size": 2}, "rank must lie in"),
        ({"batch_size": 2, "drop_last": False, "world_size": 2}, "one rank only"),
        (
            {"batch_size": 30},
            "20 clips on 1 rank cannot fill batches of 30; set --run.batch_size 20",
        ),
    ],
)
def test_sampler_settings_are_checked(settings: dict, message: str):
    with pytest.raises(ValueError, match=message):
        EpochSampler(20, seed=0, **settings)


@pytest.mark.parametrize(("before", "after"), [(0, 0), (2, 2), (2, 0), (0, 1)])
def test_resume_in_mid_epoch_is_exact_for_any_number_of_workers(
    before: int,
    after: int,
    with_bad_clips: list[ClipRecord],
    make_dataset: Callable[..., ClipDataset],
    assert_same: Callable[..., None],
):
    whole, end = run(make_dataset(with_bad_clips, max_bad_share=1.0), num_workers=0)
    dataset = make_dataset(with_bad_clips, max_bad_share=1.0)
    first, state = run(dataset, num_workers=before, num_batches=4)
    assert state["epoch"] == 1
    assert state["num_consumed"] == 1
    fresh = make_dataset(with_bad_clips, max_bad_share=1.0)
    second, state = run(fresh, num_workers=after, state=state, num_batches=5)
    assert_same(first + second, whole)
    assert state == end


def test_loading_leaves_the_global_random_state_alone(
    records: list[ClipRecord], make_dataset: Callable[..., ClipDataset]
):
    before = torch.random.get_rng_state()
    run(make_dataset(records), num_workers=0, num_batches=2)
    assert torch.equal(torch.random.get_rng_state(), before)


class WorkerFacts(torch.utils.data.Dataset[tuple[int, bool, int]]):
    """Tells how the worker that loads it was set up."""

    def __getitem__(self, key: tuple[int, int]) -> tuple[int, bool, int]:
        ignores = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        info = torch.utils.data.get_worker_info()
        return torch.get_num_threads(), ignores, -1 if info is None else info.id


def test_workers_ignore_interrupts_and_use_one_thread():
    sampler = EpochSampler(4, seed=0, batch_size=2)
    loader = build_loader(WorkerFacts(), sampler=sampler, num_workers=2, collate=list)
    facts = [fact for batch in loader for fact in batch]
    assert {fact[:2] for fact in facts} == {(1, True)}
    assert {fact[2] for fact in facts} == {0, 1}
    with pytest.raises(ValueError, match="num_workers must be >= 0"):
        build_loader(WorkerFacts(), sampler=sampler, num_workers=-1, collate=list)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_too_many_bad_clips_stop_the_run(
    num_workers: int,
    with_bad_clips: list[ClipRecord],
    make_dataset: Callable[..., ClipDataset],
    tmp_path: Path,
):
    path = tmp_path / "quarantine.jsonl"
    dataset = make_dataset(with_bad_clips, quarantine=path, max_bad_share=0.0)
    with pytest.raises(TooManyBadClips, match="max_bad_share is 0%") as error:
        run(dataset, num_workers=num_workers, num_batches=20)
    assert str(path) in str(error.value)
