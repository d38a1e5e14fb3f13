"""Folders that `save_to_disk` of Hugging Face `datasets` wrote, read by pyarrow alone.

They hold Arrow streams, mapped into memory: a video's bytes lie there in one piece, as they were.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from simvtp.named_files import file_beside

_STATE, _SPLITS = "state.json", "dataset_dict.json"
_MAX_STATE_BYTES = 1 << 24


class SavedFiles(NamedTuple):
    """What such a folder holds: files in their order, and their columns."""

    files: tuple[Path, ...]
    schema: pa.Schema


def is_saved_dataset(folder: Path) -> bool:
    """Whether `save_to_disk` wrote this folder, of one split or of several."""
    has_files = (folder / _STATE).is_file() and any(folder.glob("*.arrow"))
    return has_files or (folder / _SPLITS).is_file()


def saved_files(folder: Path) -> SavedFiles:
    """The files of a folder with one split.

    Raises:
        ValueError: it holds several splits, or is damaged.
    """
    state = folder / _STATE
    if not state.is_file():
        splits = ", ".join(sorted(path.parent.name for path in folder.glob(f"*/{_STATE}")))
        raise ValueError(f"{folder}: it holds several splits ({splits}); name the folder of one")
    try:
        with state.open("rb") as file:
            told = json.loads(file.read(_MAX_STATE_BYTES))
        names = [each["filename"] for each in told["_data_files"]]
        files = tuple(file_beside(state, name) for name in names)
        with pa.memory_map(str(files[0])) as first:
            schema = pa.ipc.open_stream(first).schema
    except (ValueError, TypeError, LookupError, OSError, RecursionError) as error:
        raise ValueError(f"{folder}: no folder of save_to_disk ({error}); save it anew") from error
    return SavedFiles(files, schema)


def batches_of_file(file: Path) -> Iterator[pa.RecordBatch]:
    """Rows of a file of Arrow, as they lie in it.

    Raises:
        pyarrow.ArrowException, OSError: it is damaged.
    """
    content = pa.memory_map(str(file)).read_buffer()
    for batch in pa.ipc.open_stream(pa.BufferReader(content)):
        batch.validate(full=True)
        yield batch


def placed_batches(file: Path, column: str) -> Iterator[tuple[pa.RecordBatch, np.ndarray]]:
    """Rows of a file of Arrow, and where in it the bytes of a column's cells lie.

    Args:
        file: the file.
        column: binary, or such as `{bytes, path}`.

    Yields:
        some rows, and the place and number of each one's bytes, `(rows, 2)` int64.

    Raises:
        pyarrow.ArrowException, OSError: it is damaged.
        ValueError: the bytes do not lie in it as they are, since it is compressed.
    """
    content = pa.memory_map(str(file)).read_buffer()
    for batch in pa.ipc.open_stream(pa.BufferReader(content)):
        batch.validate(full=True)
        held = batch.column(column)
        is_there = held.is_valid().to_numpy(zero_copy_only=False)
        while pa.types.is_struct(held.type):
            held = held.field("bytes")
            is_there &= held.is_valid().to_numpy(zero_copy_only=False)
        _, told, values = held.buffers()
        kind = np.int64 if pa.types.is_large_binary(held.type) else np.int32
        ends = np.frombuffer(told, kind)[held.offset :][: len(held) + 1].astype(np.int64)
        begin = values.address - content.address if values is not None and values.size else 0
        if not 0 <= begin <= begin + int(ends.max(initial=0)) <= content.size:
            raise ValueError(f"{file.name} is compressed; save it anew without")
        yield batch, np.stack([ends[:-1] + begin, np.where(is_there, np.diff(ends), 0)], axis=1)
