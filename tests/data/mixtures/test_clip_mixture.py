"""Several sources as one list of clips, read from real files and shards."""

from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch

from simvtp.data import (
    ClipMixture,
    ClipRecord,
    EpochSampler,
    Sample,
    build_loader,
    load_clips,
    load_manifest,
)
from simvtp.data.mixtures.held_out import clips_in_both


@pytest.fixture
def folder(records: list[ClipRecord], tmp_path: Path) -> Path:
    """The first four of the ten clips as files with captions beside them."""
    folder = tmp_path / "files"
    folder.mkdir()
    for record in records[:4]:
        (folder / f"{record.video_id}.mp4").write_bytes(Path(str(record.path)).read_bytes())
        (folder / f"{record.video_id}.txt").write_text("\n".join(record.captions))
    return folder


@pytest.fixture
def mixture(folder: Path, shards: Path) -> ClipMixture:
    parts = [load_clips(str(folder)), load_clips(f"{shards}/*.tar")]
    return ClipMixture(parts, names=["files", "tar"], weights=[3, 1], epoch_clips=24)


def test_clips_stand_one_source_after_the_other(mixture: ClipMixture):
    files, tar = mixture.parts
    assert list(mixture) == [*files, *tar]
    assert mixture[-1] == tar[9]
    assert mixture[3:5] == (files[3], tar[0])
    assert [mixture.source_of(index) for index in (0, 3, 4, 13)] == [0, 0, 1, 1]
    assert [*mixture.captions()] == [*files.captions(), *tar.captions()]
    with pytest.raises(IndexError, match="clip 14 of 14"):
        mixture[14]
    swapped = ClipMixture([tar, files], names=["tar", "files"])
    assert swapped.digest() != mixture.digest()
    assert swapped.weights == (10, 4)


def test_an_epoch_has_whole_batches_of_each_share(mixture: ClipMixture):
    shares = mixture.shares(global_batch=5)
    assert [share.per_epoch for share in shares] == [15, 5]
    assert [share.shard_sizes for share in shares] == [None, (2, 1, 7)]
    with pytest.raises(ValueError, match=r"no batch of 30; set --run\.batch_size 24"):
        mixture.shares(global_batch=30)
    thin = ClipMixture(mixture.parts, names=["a", "b"], weights=[99, 1])
    with pytest.raises(ValueError, match="source b has a weight of 1 of 100, which is less"):
        thin.shares(global_batch=2)


def run(
    dataset: Any, order: Any, *, num_workers: int, state: dict | None = None, steps: int
) -> tuple[list[Sample], dict]:
    sampler = EpochSampler(order.num_samples, seed=3, batch_size=4, order=order)
    if state is not None:
        sampler.load_state_dict(state)
    loader = build_loader(dataset, sampler=sampler, num_workers=num_workers, collate=list)
    seen: list[Sample] = []
    while True:
        for batch in loader:
            seen += batch
            sampler.advance()
            if len(seen) == 4 * steps:
                return seen, sampler.state_dict()


def test_samples_are_the_same_on_other_workers_and_after_a_resume(
    mixture: ClipMixture, make_dataset: Callable[..., Any], assert_same: Callable[..., None]
):
    order = mixture.order(global_batch=4, shuffle_buffer=3)
    dataset = make_dataset(mixture)
    whole, _ = run(dataset, order, num_workers=0, steps=9)
    first, state = run(dataset, order, num_workers=2, steps=4)
    second, _ = run(dataset, order, num_workers=0, state=state, steps=5)
    assert_same(first + second, whole)
    # The small source comes again, each time with another view.
    views = [sample.video for sample in whole if sample.index == 0]
    assert len(views) > 3
    assert not any(torch.equal(views[0], view) for view in views[1:])


def test_what_cannot_be_read_is_replaced_from_its_own_source(
    mixture: ClipMixture, folder: Path, make_dataset: Callable[..., Any]
):
    (folder / "2.mp4").write_bytes(b"nothing")
    dataset = make_dataset(mixture, max_bad_share=1.0)
    used = {dataset[epoch, 2].index for epoch in range(12)}
    assert used == {0, 1, 3}


def test_held_out_clips_that_are_trained_on_are_found_in_each_kind_of_source(
    mixture: ClipMixture, folder: Path, shards: Path, tmp_path: Path
):
    for held_out in mixture.parts:
        assert list(clips_in_both(mixture, held_out)) == list(held_out)
        assert list(clips_in_both(held_out, held_out)) == list(held_out)
    assert not list(clips_in_both(*mixture.parts))
    table = tmp_path / "some.csv"
    table.write_text("path,caption\nfiles/1.mp4,a dog\n")
    some = load_manifest(table)
    assert [Path(str(clip.path)).name for clip in clips_in_both(mixture, some)] == ["1.mp4"]
    # The same names elsewhere are other clips.
    other = load_clips(str(copytree(folder, tmp_path / "elsewhere")))
    assert not list(clips_in_both(mixture, other))
