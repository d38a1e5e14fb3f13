"""A batch that a worker cannot hand over ends the loading with the reason; nobody waits for it."""

import errno
import gc
import os
import resource
import warnings

import pytest
import torch
from torch.utils.data import BatchSampler, Dataset, SequentialSampler

from simvtp.data import build_loader
from simvtp.data.datasets.reading_places import ReadingPlaces
from simvtp.trainer.faults import is_fault, reason_of
from simvtp.trainer.stopping import StopRequest

SHARED_MEMORY = -1


def no_room(*arguments: object) -> None:
    """What torch says in a container whose /dev/shm is full."""
    raise RuntimeError("unable to allocate shared memory(shm): No space left on device (28)")


class Limited(Dataset):
    """Tensors from a process that gets into want once it has handed over the first batch of two."""

    def __init__(self, limit: int, value: int) -> None:
        self.limit = limit
        self.value = value

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> torch.Tensor:
        if index == 4 and self.limit == SHARED_MEMORY:
            torch.UntypedStorage._share_fd_cpu_ = no_room  # pyright: ignore[reportAttributeAccessIssue]
        elif index == 4:
            resource.setrlimit(self.limit, (self.value, resource.getrlimit(self.limit)[1]))
        return torch.full((64, 64), float(index))


def batches_of(data: Limited):
    sampler = BatchSampler(SequentialSampler(range(8)), 2, drop_last=True)
    return build_loader(data, sampler=sampler, num_workers=1, collate=torch.stack)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("limit", "value", "fix"),
    [
        (SHARED_MEMORY, 0, "(for a container: --shm-size 8g)"),
        (resource.RLIMIT_FSIZE, 4096, "ulimit -f"),
        (resource.RLIMIT_NOFILE, 4, "ulimit -n"),
    ],
)
def test_a_batch_that_is_lost_is_noticed(tmp_path, limit, value, fix):
    with StopRequest() as stop, warnings.catch_warnings():
        # Of temporary files that torchdata makes when it looks for the fault.
        warnings.simplefilter("ignore", ResourceWarning)
        with pytest.raises(Exception) as raised, stop.interruptible():
            list(batches_of(Limited(limit, value)))
        stop.end_children()
        fault, said = is_fault(raised.value), reason_of(raised.value, folder=tmp_path)
        # Its traceback holds these files.
        del raised
        gc.collect()
    assert fault
    assert "/dev/shm" in said or limit != SHARED_MEMORY
    assert fix in said
    assert "num_workers" in said


def test_places_that_cannot_be_shared_are_a_fault(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "share_memory_", no_room)
    with pytest.raises(OSError, match=r"/dev/shm .*--shm-size 8g") as raised:
        ReadingPlaces()
    assert is_fault(raised.value)


def test_without_want_all_batches_come():
    assert len(list(batches_of(Limited(resource.RLIMIT_FSIZE, resource.RLIM_INFINITY)))) == 4


def test_a_file_over_the_limit_of_sizes_is_no_full_disk(tmp_path):
    said = reason_of(OSError(errno.EFBIG, os.strerror(errno.EFBIG), "log"), folder=tmp_path)
    assert "(log)" in said
    assert "ulimit -f" in said
    assert "free some space" not in said
