"""Tensors in shares over the ranks: each rank writes its own, and reads what it needs of all.

`torch.distributed.checkpoint` (DCP) plans who writes and reads what. The files are those of its
writer for safetensors: each names its pieces and their places in the whole tensors in JSON, while
DCP's own format has them in a pickle, which could run code.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import IOBase
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystem
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.checkpoint.storage import WriteResult
from torch.distributed.tensor import DTensor
from torch.futures import Future

from simvtp.files import HashingFile, publish

# What a file holds is in memory twice more while it is made.
_FILE_BYTES = 1_000_000_000


class WrittenFile(NamedTuple):
    """A file of a checkpoint, beside its manifest, and what it must hold."""

    file: str
    num_bytes: int
    sha256: str


def split_shares(state: Any, place: str = "") -> tuple[Any, dict[str, DTensor]]:
    """A nested state with an empty (meta) tensor for each sharded one, and those by their place."""
    if isinstance(state, DTensor):
        return torch.empty(state.shape, dtype=state.dtype, device="meta"), {place: state}
    if not isinstance(state, dict):
        return state, {}
    rest: dict[Any, Any] = {}
    shares: dict[str, DTensor] = {}
    for key, value in state.items():
        rest[key], found = split_shares(value, _inside(place, key))
        shares |= found
    return rest, shares


def write_shares(
    folder: Path,
    shares: Mapping[str, DTensor],
    *,
    group: ProcessGroup,
    finish: Callable[[Sequence[WrittenFile]], None],
) -> None:
    """Write this rank's shares into new files of the folder; all ranks call it.

    Args:
        folder: one that all ranks see.
        shares: by their place in the state, on the CPU.
        group: all ranks, over gloo; nothing else uses it meanwhile.
        finish: called on rank 0 with the files of all ranks, once all are on the disk.

    Raises:
        OSError: a rank could not write; on all ranks, as is what `finish` raises.
        RuntimeError: a rank is gone.
    """
    numbers, num_bytes = {}, 0
    for place, share in shares.items():
        numbers[place] = 1 + num_bytes // _FILE_BYTES
        num_bytes += share.nbytes // group.size()
    writer = _ShareWriter(folder, finish, numbers=numbers)
    with _failures_of_one():
        save(dict(shares), storage_writer=writer, process_group=group)


def read_shares(saved: Any, own: Any, *, files: Sequence[Path], group: ProcessGroup | None) -> Any:
    """Read what `write_shares` wrote into tensors of the same whole shapes; all ranks call it.

    They may be sharded over other ranks or whole; a rank reads no more than it holds.

    Args:
        saved: a nested state, with a meta tensor for what is in the files.
        own: a state with a tensor to read into at each of these places.
        files: those of all ranks that wrote.
        group: all ranks, over gloo; None reads without the others.

    Returns:
        `saved`, with the tensors of `own` for the meta tensors.

    Raises:
        ValueError: a tensor has no place in `own`, or another shape or type there.
        OSError, RuntimeError: a rank cannot read, or finds no such tensor; on all ranks.
    """
    targets: dict[str, Tensor] = {}
    whole = _with_targets(saved, own, targets=targets, place="")
    reader = HuggingFaceStorageReader(str(files[0].parent))
    reader.fs = _ListedFiles(files)
    with _failures_of_one(), warnings.catch_warnings():
        # That one process reads for itself is meant so.
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        load(
            cast(dict[str, Any], targets),
            storage_reader=reader,
            process_group=group,
            no_dist=group is None,
        )
    return whole


@contextmanager
def _failures_of_one() -> Iterator[None]:
    """What DCP says of all ranks that failed, as what the first of them said."""
    try:
        yield
    except CheckpointException as error:
        raise next(iter(error.failures.values()))[0] from None


def _with_targets(saved: Any, own: Any, *, targets: dict[str, Tensor], place: str) -> Any:
    if isinstance(saved, Tensor) and saved.is_meta:
        if not isinstance(own, Tensor) or (own.shape, own.dtype) != (saved.shape, saved.dtype):
            found = f"{own.dtype} of {tuple(own.shape)}" if isinstance(own, Tensor) else "no tensor"
            raise ValueError(f"{place} is {saved.dtype} of {tuple(saved.shape)}, here {found}")
        targets[place] = own
        return own
    if not isinstance(saved, dict):
        return saved
    inner = own if isinstance(own, dict) else {}
    return {
        key: _with_targets(value, inner.get(key), targets=targets, place=_inside(place, key))
        for key, value in saved.items()
    }


def _inside(place: str, key: Any) -> str:
    return f"{place}/{key}" if place else str(key)


class _HashedFiles(FileSystem):
    """Files that count once they are whole, and whose names tell what they hold."""

    def __init__(self) -> None:
        self.written: list[WrittenFile] = []

    @contextmanager
    def create_stream(self, path: str | PathLike[str], mode: str) -> Iterator[IOBase]:
        """A new file; `mode` is that of writing."""
        partial = Path(path).with_suffix(".partial")
        with HashingFile(partial) as file:
            yield file
        digest = file.hash.hexdigest()
        name = f"share-{digest[:12]}.safetensors"
        publish(partial, partial.with_name(name))
        self.written.append(WrittenFile(name, file.num_bytes, digest))


class _ListedFiles(FileSystem):
    """A folder in which nothing lies but the files of a manifest."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = files

    def ls(self, path: str | PathLike[str]) -> list[str]:
        """The files, wherever they are."""
        return [str(file) for file in self.files]


class _ShareWriter(HuggingFaceStorageWriter):
    """Writes hashed files, and has rank 0 told of all of them."""

    def __init__(
        self,
        folder: Path,
        finish: Callable[[Sequence[WrittenFile]], None],
        *,
        numbers: dict[str, int],
    ) -> None:
        super().__init__(str(folder), fqn_to_index_mapping=numbers, save_distributed=True)
        self.fs = _HashedFiles()
        self._finish = finish
        # The files see to it; and there is nothing to copy ahead from a GPU.
        self.sync_files, self.per_thread_copy_ahead = False, 0

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write this rank's files."""
        super().write_data(plan, planner).wait()
        results: Future[list[WriteResult]] = Future()
        results.set_result(
            [WriteResult(MetadataIndex(each.file), each.num_bytes, each) for each in self._files()]
        )
        return results

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Hand all files on, on rank 0."""
        self._finish([written.storage_data for rank in results for written in rank])

    def _files(self) -> list[WrittenFile]:
        return cast(_HashedFiles, self.fs).written
