import multiprocessing
import os
import pickle
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from simvtp.config import DataConfig
from simvtp.data import ClipDataset, ClipRecord, EpochSampler, Sample, build_loader
from simvtp.data.datasets import clips as dataset_module
from simvtp.data.video.decoded_clips import DecodedClips

AssertSame = Callable[[Sequence[Sample], Sequence[Sample]], None]
NUM_STARTS = 2
KEPT = {"num_starts": NUM_STARTS, "decoded_bytes": 10**8}
KEYS = [(epoch, index) for epoch in range(2 * NUM_STARTS) for index in range(10)]
# Four frames of 128 x 32 pixels, as `numbered_frame` makes them.
CLIP_BYTES = 4 * 128 * 32 * 3


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SIMVTP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "clips"


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Videos that were decoded, in turn."""
    paths: list[str] = []
    read_clip = dataset_module.read_clip

    def read(path: Path, **settings: Any) -> torch.Tensor:
        paths.append(str(path))
        return read_clip(path, **settings)

    monkeypatch.setattr(dataset_module, "read_clip", read)
    return paths


def samples(dataset: ClipDataset) -> list[Sample]:
    return [dataset[key] for key in KEYS]


def kept_file(folder: Path) -> Path:
    (file,) = folder.glob("*.clips")
    return file


def test_kept_clips_are_the_decoded_ones_bit_for_bit(
    records: list[ClipRecord],
    make_dataset: Callable[..., ClipDataset],
    assert_same: AssertSame,
    opened: list[str],
):
    plain = samples(make_dataset(records, num_starts=NUM_STARTS))
    assert len(opened) == len(KEYS)
    opened.clear()
    dataset = make_dataset(records, **KEPT)
    assert_same(samples(dataset), plain)
    assert len(opened) == NUM_STARTS * len(records)
    later = pickle.loads(pickle.dumps(dataset)), make_dataset(records, **KEPT)
    opened.clear()
    for again in later:
        assert_same(samples(again), plain)
    assert not opened
    # Another seed has other starts.
    make_dataset(records, seed=4, **KEPT)[0, 0]
    assert len(opened) == 1


def test_epochs_take_the_starts_of_a_video_in_turn(
    records: list[ClipRecord],
    make_dataset: Callable[..., ClipDataset],
    numbers_of: Callable[[torch.Tensor], list[int]],
):
    def whole(video: torch.Tensor, *, generator: torch.Generator) -> torch.Tensor:
        return video

    whole.short_side = None  # pyright: ignore[reportFunctionMemberAccess]
    dataset = make_dataset(records, num_starts=3, transform=whole)
    first = [[numbers_of(dataset[epoch, index].video)[0] for epoch in range(6)] for index in (1, 2)]
    for starts in first:
        assert starts[:3] == starts[3:]
    assert len(set(first[0] + first[1])) > 2
    assert first[0] != first[1]


@pytest.mark.parametrize(("before", "after"), [(0, 2), (2, 0)])
def test_kept_clips_leave_a_resume_exact_for_any_number_of_workers(
    before: int,
    after: int,
    with_bad_clips: list[ClipRecord],
    make_dataset: Callable[..., ClipDataset],
    assert_same: AssertSame,
):
    def run(num_workers: int, state: dict[str, Any] | None, steps: int, **settings: Any):
        dataset = make_dataset(with_bad_clips, max_bad_share=1.0, **settings)
        sampler = EpochSampler(len(dataset), seed=7, batch_size=5)
        if state is not None:
            sampler.load_state_dict(state)
        loader = build_loader(dataset, sampler=sampler, num_workers=num_workers, collate=list)
        seen: list[Sample] = []
        while True:
            for batch in loader:
                seen += batch
                sampler.advance()
                if len(seen) == 5 * steps:
                    return seen, sampler.state_dict()

    whole, end = run(0, None, 8, num_starts=NUM_STARTS)
    first, state = run(before, None, 3, **KEPT)
    second, state = run(after, state, 5, **KEPT)
    assert_same(first + second, whole)
    assert state == end


@pytest.mark.parametrize("at", ["in the frames", "before the entry", "in the entry"])
def test_what_a_killed_writer_leaves_is_not_believed(
    at: str,
    records: list[ClipRecord],
    make_dataset: Callable[..., ClipDataset],
    assert_same: AssertSame,
    opened: list[str],
    folder: Path,
):
    dataset = make_dataset(records, **KEPT)
    write = os.pwrite

    def half(descriptor: int, data: Any, offset: int) -> int:
        is_entry = len(data) < CLIP_BYTES
        if is_entry != (at == "in the frames"):
            share = 2 if at != "before the entry" else len(data)
            write(descriptor, data[: len(data) // share] if share < len(data) else b"", offset)
            os.kill(os.getpid(), signal.SIGKILL)
        return write(descriptor, data, offset)

    def die() -> None:
        os.pwrite = half
        dataset[0, 3]

    process = multiprocessing.get_context("fork").Process(target=die)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert kept_file(folder).stat().st_size > CLIP_BYTES
    plain = make_dataset(records, num_starts=NUM_STARTS)[0, 3]
    opened.clear()
    for expected in (1, 1):
        assert_same([make_dataset(records, **KEPT)[0, 3]], [plain])
        assert len(opened) == expected


def test_damaged_bytes_are_decoded_again(
    records: list[ClipRecord],
    make_dataset: Callable[..., ClipDataset],
    assert_same: AssertSame,
    folder: Path,
):
    plain = samples(make_dataset(records, num_starts=NUM_STARTS))
    samples(make_dataset(records, **KEPT))
    whole = kept_file(folder).read_bytes()
    generator = torch.Generator().manual_seed(0)
    for size in (len(whole), len(whole) - CLIP_BYTES // 2, 300, 0):
        damaged = bytearray(whole[:size])
        for _ in range(size // 1000):
            damaged[int(torch.randint(size, (), generator=generator))] ^= 0x40
        kept_file(folder).write_bytes(damaged)
        assert_same(samples(make_dataset(records, **KEPT)), plain)


def test_clips_that_no_longer_fit_are_decoded_each_time(
    records: list[ClipRecord],
    make_dataset: Callable[..., ClipDataset],
    assert_same: AssertSame,
    opened: list[str],
    folder: Path,
):
    plain = samples(make_dataset(records, num_starts=NUM_STARTS))
    few = {**KEPT, "decoded_bytes": 7 * CLIP_BYTES}
    assert_same(samples(make_dataset(records, **few)), plain)
    assert 5 * CLIP_BYTES < kept_file(folder).stat().st_size <= 7 * CLIP_BYTES
    opened.clear()
    assert_same(samples(make_dataset(records, **few)), plain)
    assert len(KEYS) - 14 <= len(opened) < len(KEYS)


def test_room_is_made_by_deleting_what_no_process_uses(
    records: list[ClipRecord],
    make_dataset: Callable[..., ClipDataset],
    folder: Path,
):
    few = {**KEPT, "decoded_bytes": 7 * CLIP_BYTES}
    used = make_dataset(records, seed=5, **few)
    used[0, 0]
    (in_use,) = folder.glob("*.clips")
    samples(make_dataset(records, seed=6, **few))
    (unused,) = set(folder.glob("*.clips")) - {in_use}
    samples(make_dataset(records, seed=7, **few))
    assert in_use.exists()
    assert not unused.exists()
    assert sum(file.stat().st_size for file in folder.glob("*.clips")) <= 7 * CLIP_BYTES


def test_a_video_that_changed_or_went_is_noticed(
    records: list[ClipRecord],
    make_dataset: Callable[..., ClipDataset],
    write_video: Callable[..., Path],
    assert_same: AssertSame,
    tmp_path: Path,
):
    path = write_video(tmp_path / "own.mp4", 24)
    own = [*records[:3], ClipRecord("own", path, ("x",)), *records[4:]]
    before = make_dataset(own, **KEPT)[0, 3]
    write_video(path, list(torch.full((24, 32, 128, 3), 90, dtype=torch.uint8).numpy()))
    plain = make_dataset(own, num_starts=NUM_STARTS)[0, 3]
    assert not torch.equal(before.video, plain.video)
    for _ in range(2):
        assert_same([make_dataset(own, **KEPT)[0, 3]], [plain])
    path.unlink()
    replaced = make_dataset(own, **KEPT)[0, 3]
    assert replaced.index != 3
    assert_same([replaced], [make_dataset(own, num_starts=NUM_STARTS)[0, 3]])


def test_an_upright_clip_of_a_turned_video_is_kept_as_it_is_decoded(tmp_path: Path):
    record = ClipRecord("one", tmp_path, ("x",))
    turned = torch.rot90(torch.arange(240, dtype=torch.uint8).view(2, 4, 10, 3), 1, (1, 2))
    frames = turned.permute(0, 3, 1, 2)
    decoded = DecodedClips({}, num_slots=3, num_frames=2, max_bytes=10**6)
    assert decoded.frames(2, lambda: record, lambda: frames) is frames
    kept = decoded.frames(2, lambda: record, lambda: pytest.fail("decoded again"))
    assert torch.equal(kept, frames)
    assert kept.shape == (2, 3, 10, 4)
    assert kept.permute(0, 2, 3, 1).is_contiguous()


def test_clips_are_only_kept_where_they_come_again(
    records: list[ClipRecord], make_dataset: Callable[..., ClipDataset]
):
    with pytest.raises(ValueError, match="set num_starts to 1 or more"):
        make_dataset(records, decoded_bytes=1)
    with pytest.raises(ValueError, match=r"cache_gb 2 needs .* set clip_starts to 1 or more"):
        DataConfig(cache_gb=2.0)
    assert DataConfig(cache_gb=2.0, clip_starts=1).cache_gb == 2
