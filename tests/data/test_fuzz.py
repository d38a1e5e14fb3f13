"""Damaged videos give frames or a ClipError, in time, and leave no memory behind."""

import ctypes
import gc
import os
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.fuzz import damage, read_damaged, write_sources

NUM_CLIPS = int(os.environ.get("SIMVTP_FUZZ_CLIPS", "300"))


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return write_sources(tmp_path_factory.mktemp("sources"))


def test_damage_is_done_and_repeats(sources: dict[str, bytes]):
    kinds = Counter()
    for seed in range(200):
        name, kind, data = damage(sources, seed)
        assert (name, kind, data) == damage(sources, seed)
        kinds[kind] += data != sources[name]
    assert len(kinds) == 11
    assert min(kinds.values()) > 0


def test_sound_videos_are_read(sources: dict[str, bytes], tmp_path: Path):
    for name, data in sources.items():
        (tmp_path / name).write_bytes(data)
        assert read_damaged(tmp_path / name, seed=0)


def test_damaged_videos_are_read_or_refused(sources: dict[str, bytes], tmp_path: Path):
    results = Counter()
    for seed in range(NUM_CLIPS):
        name, _, data = damage(sources, seed)
        path = tmp_path / f"damaged{Path(name).suffix}"
        path.write_bytes(data)
        results[read_damaged(path, seed)] += 1
    # Neither all nor none: the damage is neither harmless nor total.
    assert min(results[True], results[False]) > NUM_CLIPS // 10


@pytest.mark.slow
def test_memory_stays_flat_over_a_thousand_clips(sources: dict[str, bytes], tmp_path: Path):
    def resident() -> int:
        # What the C library keeps for later is no leak.
        gc.collect()
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    after = {}
    for seed in range(1200):
        name, _, data = damage(sources, seed)
        path = tmp_path / f"clip{Path(name).suffix}"
        # Every second one sound.
        path.write_bytes(data if seed % 2 else sources[name])
        read_damaged(path, seed)
        if seed in (199, 1199):
            after[seed] = resident()
    # One decoder's frames that were not freed in each clip (30 x 64 x 48 x 1.5 bytes) would be
    # 138 MB; containers alone, at some 20 kB, 20 MB.
    assert after[1199] - after[199] < 10 * 2**20
