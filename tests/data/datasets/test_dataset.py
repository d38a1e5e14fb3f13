import json
import multiprocessing
import os
import pickle
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from simvtp.config import FrameSpacing
from simvtp.data import (
    ClipDataset,
    ClipRecord,
    Quarantine,
    TooManyBadClips,
    ViewDataset,
)
from simvtp.data.datasets import clips as dataset_module
from simvtp.data.datasets.reading_places import ended_if_stuck

AssertSame = Callable[..., None]


def test_samples_depend_on_seed_epoch_and_index_alone(
    records: list[ClipRecord],
    make_dataset: Callable[..., ClipDataset],
    assert_same: AssertSame,
):
    dataset = make_dataset(records)
    sample = dataset[0, 4]
    dataset[1, 3], dataset[0, 2]
    assert_same([sample], [dataset[0, 4]])
    assert sample.video.shape == (4, 3, 16, 16)
    assert sample.video.is_contiguous()
    assert sample.noise.dtype == torch.float32
    assert sample.noise.shape == (6,)
    assert 0 <= sample.noise.min() <= sample.noise.max() < 1
    assert {dataset[epoch, 4].caption for epoch in range(20)} == set(records[4].captions)
    assert not torch.equal(dataset[1, 4].noise, sample.noise)
    assert not torch.equal(make_dataset(records, seed=4)[0, 4].noise, sample.noise)
    assert_same([sample], [pickle.loads(pickle.dumps(dataset))[0, 4]])


def test_bad_clips_are_replaced_and_listed_once(
    with_bad_clips: list[ClipRecord],
    make_dataset: Callable[..., ClipDataset],
    tmp_path: Path,
    assert_same: AssertSame,
):
    path = tmp_path / "run" / "quarantine.jsonl"
    settings = {"quarantine": path, "max_bad_share": 1.0}
    dataset = make_dataset(with_bad_clips, **settings)
    samples = [dataset[epoch, 2] for epoch in range(12)]
    assert all(sample.index not in (2, 5) for sample in samples)
    assert len({sample.index for sample in samples}) > 1
    dataset[0, 5]
    assert_same(samples, [make_dataset(with_bad_clips, **settings)[e, 2] for e in range(12)])
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    assert sorted(entry["video_id"] for entry in entries) == ["empty", "gone"]
    assert entries[0] == {
        "path": str(with_bad_clips[2].path),
        "video_id": "empty",
        "reason": entries[0]["reason"],
        "epoch": 0,
        "unreadable": True,
    }
    assert "empty.mp4" in entries[0]["reason"]


def test_known_bad_clips_are_not_opened_again(
    with_bad_clips: list[ClipRecord],
    make_dataset: Callable[..., ClipDataset],
    monkeypatch: pytest.MonkeyPatch,
    assert_same: AssertSame,
):
    dataset = make_dataset(with_bad_clips, max_bad_share=1.0)
    before = dataset[0, 2], dataset[1, 2]
    opened: list[Path] = []
    read_clip = dataset_module.read_clip
    monkeypatch.setattr(
        dataset_module,
        "read_clip",
        lambda path, **settings: opened.append(path) or read_clip(path, **settings),
    )
    assert_same(before, (dataset[0, 2], dataset[1, 2]))
    assert with_bad_clips[2].path not in opened


def test_all_clips_bad(make_dataset: Callable[..., ClipDataset], tmp_path: Path):
    gone = [ClipRecord(str(n), tmp_path / f"{n}.mp4", ("x",)) for n in range(4)]
    with pytest.raises(TooManyBadClips, match="20 of the 20 clips tried"):
        make_dataset(gone)[0, 0]
    with pytest.raises(TooManyBadClips, match="none of 100 clips tried in a row"):
        make_dataset(gone, max_bad_share=1.0)[0, 0]


def outcomes(share: float, seed: int) -> Iterator[bool]:
    generator = torch.Generator().manual_seed(seed)
    yield from (torch.rand(2000, generator=generator) < share).tolist()


@pytest.mark.parametrize(("share", "stops"), [(0.05, False), (0.2, True)])
def test_chance_does_not_stop_a_run_below_the_limit(share: float, stops: bool):
    stopped = 0
    for seed in range(20):
        quarantine = Quarantine(None, max_bad_share=0.1)
        try:
            for bad in outcomes(share, seed):
                quarantine.count(bad=bad)
        except TooManyBadClips:
            stopped += 1
    assert stopped == (20 if stops else 0)


def test_evaluation_returns_bad_clips_as_such(with_bad_clips: list[ClipRecord]):
    cut = {"num_frames": 4, "spacing": FrameSpacing(stride=2), "image_size": 16}
    dataset = ViewDataset(with_bad_clips, **cut)
    clips = [dataset[index] for index in range(len(dataset))]
    assert [clip.index for clip in clips] == list(range(10))
    assert [clip.index for clip in clips if clip.video is None] == [2, 5]
    assert "empty.mp4" in str(clips[2].error)
    assert clips[0].error is None
    assert clips[0].video is not None
    assert clips[0].video.shape == (1, 4, 3, 16, 16)


def test_datasets_need_records(make_dataset: Callable[..., ClipDataset]):
    with pytest.raises(ValueError, match="at least one clip"):
        make_dataset([])
    with pytest.raises(ValueError, match="max_bad_share must lie"):
        Quarantine(None, max_bad_share=2.0)


def test_a_clip_that_hangs_ends_the_worker_and_is_passed_over_then(
    records: list[ClipRecord],
    make_dataset: Callable[..., ClipDataset],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
):
    # Opening a pipe that nobody writes to never returns to Python.
    os.mkfifo(tmp_path / "pipe.mp4")
    mixed = list(records)
    mixed[3] = ClipRecord("pipe", tmp_path / "pipe.mp4", ("x",))
    settings = {"quarantine": tmp_path / "quarantine.jsonl", "time_limit": 0.2}
    worker = multiprocessing.get_context("fork").Process(
        target=make_dataset(mixed, **settings).__getitem__, args=((0, 3),)
    )
    worker.start()
    worker.join(timeout=60)
    assert worker.exitcode == 1
    assert f"reading {tmp_path / 'pipe.mp4'} hangs" in capfd.readouterr().err
    again = make_dataset(mixed, **settings)
    gone = [*records[:3], ClipRecord("pipe", tmp_path / "gone.mp4", ("x",)), *records[4:]]
    # What stands in for it is what stands in for any other clip that cannot be read.
    assert again[0, 3].index == make_dataset(gone)[0, 3].index
    assert len((tmp_path / "quarantine.jsonl").read_text().splitlines()) == 1


def sleep_twice(started):
    with ended_if_stuck("a clip", seconds=1.0, report=lambda reason: None):
        started.set()
        time.sleep(0.3)
        time.sleep(0.3)


def test_time_in_which_a_process_is_stopped_does_not_count():
    context = multiprocessing.get_context("fork")
    started = context.Event()
    worker = context.Process(target=sleep_twice, args=(started,))
    worker.start()
    assert started.wait(30)
    os.kill(worker.pid, signal.SIGSTOP)
    time.sleep(1.5)
    os.kill(worker.pid, signal.SIGCONT)
    worker.join(timeout=60)
    assert worker.exitcode == 0


def test_only_what_is_unreadable_as_a_whole_is_passed_over_in_the_next_start(
    records: list[ClipRecord], make_dataset: Callable[..., ClipDataset], tmp_path: Path
):
    path = tmp_path / "quarantine.jsonl"
    quarantine = Quarantine(path, max_bad_share=0.1)
    quarantine.add(records[1], reason="a part is damaged", epoch=0, unreadable=False)
    quarantine.add(records[2], reason="no video", epoch=0, unreadable=True)
    with path.open("a") as file:
        file.write('{"path": "cut off by a full disk')
    dataset = make_dataset(records, quarantine=path)
    assert dataset[0, 1].index == 1
    assert dataset[0, 2].index != 2
    assert dataset.quarantine.reason(records[2]) == "no video"
