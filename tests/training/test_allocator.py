import os
import platform
import subprocess
import sys

import pytest

# Counts the pages that the system had to clear for a tensor of 200 MB, the median of ten rounds:
# a small block that lands in the freed one makes the heap grow once more, in that round alone.
COUNT_FAULTS = """
import resource
import statistics

import torch

from simvtp.training import keep_freed_memory


def faults_of_a_round():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.empty(200_000_000, dtype=torch.uint8).fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


by_default = [faults_of_a_round() for _ in range(10)]
keep_freed_memory()
kept = [faults_of_a_round() for _ in range(11)][1:]
print(statistics.median_low(by_default), statistics.median_low(kept))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator is glibc's")
def test_freed_memory_is_used_again_instead_of_asked_for_anew():
    # Allocators that are preloaded, or set up by the environment, would answer for glibc's.
    kept_out = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD", "THP_MEM_ALLOC_ENABLE")
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(kept_out)
    }
    done = subprocess.run(
        [sys.executable, "-c", COUNT_FAULTS],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    by_default, kept = map(int, done.stdout.split())
    # Pages of 2 MB at the largest: about a hundred.
    assert by_default >= 90
    assert kept <= by_default / 10


def test_nothing_is_called_without_glibc(monkeypatch):
    from simvtp.training import allocator

    def refuse(*_):
        raise AssertionError("no library may be opened")

    monkeypatch.setattr(allocator.platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(allocator.ctypes, "CDLL", refuse)
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "0")
    allocator.keep_freed_memory()
    # What the user has chosen stays.
    assert os.environ["THP_MEM_ALLOC_ENABLE"] == "0"
    monkeypatch.delenv("THP_MEM_ALLOC_ENABLE")
    allocator.keep_freed_memory()
    assert os.environ.pop("THP_MEM_ALLOC_ENABLE") == "1"
