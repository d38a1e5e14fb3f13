"""A Parquet file of features, written so that a kill at any moment loses only the latest of them.

What is finished lies in the folder FILE.partial, part by part, until everything is there. Then
the parts are put together, and the file gets its name; the folder is gone.
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from simvtp.config.json_file import changed_settings
from simvtp.files import locked, publish, sync, write_whole
from simvtp.retrieval.feature_tables import ROWS_PER_GROUP, regrouped

QUARANTINE = ".quarantine.jsonl"
_SETTINGS_NAME = "settings.json"
_COMPLETE_NAME = "complete"
# Floats of a feature share no values and hardly any bytes.
_FORMAT = {"use_dictionary": False, "compression": "none", "write_page_checksum": True}


class FeatureFileError(ValueError):
    """A file of features that cannot be written or gone on with; the message says what to do."""


class Part(NamedTuple):
    """A finished part of a table.

    Attributes:
        file: its rows.
        next_clip: number of the first clip after it.
        num_rows: how many rows it has.
        unreadable: clips that are missing in it.
    """

    file: Path
    next_clip: int
    num_rows: int
    unreadable: int


class FeatureFile:
    """A file of features that is being made, by one process at a time.

    Args:
        file: its name, which ends in .parquet.
        settings: everything that the features depend on, by the name that messages call it. They
            are kept in the file's metadata, each under `simvtp.NAME`.
        tables: columns of each table, by the ending that its file gets in place of .parquet.
        overwrite: replace a finished file, once the new one is whole.

    Raises:
        FeatureFileError: the file is finished, in use, or was begun with other settings.
        OSError: it cannot be written to.
    """

    def __init__(
        self,
        file: Path,
        settings: Mapping[str, Any],
        *,
        tables: Mapping[str, pa.Schema],
        overwrite: bool = False,
    ) -> None:
        if file.suffix != ".parquet":
            raise FeatureFileError(f"{file}: the name of a file of features must end in .parquet")
        self.file = file
        self.tables = dict(tables)
        self.settings = json.loads(json.dumps(settings))
        self._folder = file.with_name(f"{file.name}.partial")
        self._gone = file.with_name(f"{file.name}.finished")
        shutil.rmtree(self._gone, ignore_errors=True)
        self._require_free(overwrite)
        self._folder.mkdir(parents=True, exist_ok=True)
        refusal = FeatureFileError(f"{file}: another process is writing it; wait for it")
        self._lock = locked(self._folder / "lock", refusal=refusal)
        try:
            # Once more: another process may have finished it before the lock was free.
            self._require_free(overwrite)
            self._keep_settings()
            self._parts = {ending: list(self._finished_parts(ending)) for ending in tables}
        except BaseException:
            if not (self._folder / _SETTINGS_NAME).exists():
                shutil.rmtree(self._folder, ignore_errors=True)
            self.close()
            raise

    @property
    def outputs(self) -> dict[str, Path]:
        """Every file that there may be in the end, by its ending."""
        endings = (QUARANTINE, ".text.parquet", ".parquet")
        return {ending: self.file.with_suffix(ending) for ending in endings}

    def next_clip(self, ending: str) -> int:
        """Number of the first clip that no finished part of a table is about."""
        return self._parts[ending][-1].next_clip if self._parts[ending] else 0

    def num_rows(self, ending: str) -> int:
        """Rows of a table that are finished."""
        return sum(part.num_rows for part in self._parts[ending])

    @property
    def num_unreadable(self) -> int:
        """Clips that are known to be missing."""
        return sum(part.unreadable for parts in self._parts.values() for part in parts)

    def unreadable(self) -> Iterator[dict[str, Any]]:
        """The clips that are known to be missing, as they were given to `save`."""
        for part in chain.from_iterable(self._parts.values()):
            with self._explained(part.file):
                listed = _unreadable(pq.read_schema(part.file).metadata)
            yield from listed

    def save(
        self,
        ending: str,
        rows: Sequence[pa.Table],
        *,
        next_clip: int,
        unreadable: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """Finish the part of a table that follows the latest.

        Args:
            ending: which table.
            rows: its rows.
            next_clip: number of the first clip after them.
            unreadable: clips that are missing among them, as they are to be listed.

        Raises:
            OSError: the disk is full or cannot be written to.
        """
        target = self._part(ending, self.next_clip(ending))
        about = {"next": str(next_clip), "unreadable": json.dumps(unreadable)}
        partial = self._folder / "part.writing"
        table = pa.concat_tables([self.tables[ending].empty_table(), *rows])
        pq.write_table(table.replace_schema_metadata(about), partial, **_FORMAT)
        publish(partial, target)
        self._parts[ending].append(Part(target, next_clip, table.num_rows, len(unreadable)))

    def finish(self) -> None:
        """Put the parts together, and give each file its name when all are whole.

        Raises:
            FeatureFileError: a part is damaged.
            OSError: the disk is full or cannot be written to.
        """
        complete = self._folder / _COMPLETE_NAME
        if not complete.exists():
            endings = [ending for ending in self.tables if self._assemble(ending)]
            if self._list_unreadable():
                endings.append(QUARANTINE)
            self._put(json.dumps(endings), complete)
        with self._explained(complete):
            endings = [str(ending) for ending in json.loads(complete.read_bytes())]
        for ending, output in self.outputs.items():
            whole = self._whole(ending)
            if ending not in endings:
                output.unlink(missing_ok=True)
            elif whole.exists():
                whole.replace(output)
        sync(self.file.parent)
        self.discard()

    def discard(self) -> None:
        """Take away the folder of what was begun."""
        # In one step, since a kill may come between any two files that rmtree removes.
        self._folder.rename(self._gone)
        shutil.rmtree(self._gone)

    def close(self) -> None:
        """Let another process go on with the file."""
        self._lock.release()

    def _require_free(self, overwrite: bool) -> None:
        there = [output for output in self.outputs.values() if output.exists()]
        if folders := [output for output in there if output.is_dir()]:
            raise FeatureFileError(f"{folders[0]}: it is a folder; choose another name")
        if overwrite or not there or (self._folder / _COMPLETE_NAME).exists():
            return
        if (self._folder / _SETTINGS_NAME).exists():
            raise FeatureFileError(
                f"{there[-1]}: it is there already, and {self._folder} was begun to replace it; go "
                "on with --overwrite, or remove one of the two"
            )
        raise FeatureFileError(
            f"{there[-1]}: it is there already; choose another name, or give --overwrite to "
            "replace it"
        )

    def _keep_settings(self) -> None:
        file = self._folder / _SETTINGS_NAME
        if not file.exists():
            self._put(json.dumps(self.settings, indent=1), file)
            return
        changes = changed_settings(file, self.settings)
        if changes:
            raise FeatureFileError(
                f"{self.file}: it was begun with something else: {changes}; use the same again to "
                f"go on, choose another name, or remove {self._folder} to start anew"
            )

    def _part(self, ending: str, start: int) -> Path:
        return self._folder / f"{start:012d}{ending}"

    def _whole(self, ending: str) -> Path:
        return self._folder / f"whole{ending}"

    def _put(self, text: str, target: Path) -> None:
        write_whole(target, text, scratch=self._folder / "text.writing")

    def _finished_parts(self, ending: str) -> Iterator[Part]:
        start = 0
        while (file := self._part(ending, start)).exists():
            with self._explained(file), pq.ParquetFile(file) as parquet:
                about = parquet.schema_arrow.metadata
                num_rows = parquet.metadata.num_rows
                following, unreadable = int(about[b"next"]), len(_unreadable(about))
                if following <= start:
                    raise ValueError(f"next is {following} in the part that begins at {start}")
            start = following
            yield Part(file, start, num_rows, unreadable)

    def _rows(self, ending: str) -> Iterator[pa.RecordBatch]:
        for part in self._parts[ending]:
            with (
                self._explained(part.file),
                pq.ParquetFile(part.file, page_checksum_verification=True) as parquet,
            ):
                yield from parquet.iter_batches(ROWS_PER_GROUP)

    def _assemble(self, ending: str) -> Path:
        values = {**self.settings, "unreadable": self.num_unreadable}
        about = {
            f"simvtp.{name}": value if isinstance(value, str) else json.dumps(value)
            for name, value in values.items()
        }
        target = self._whole(ending)
        with pq.ParquetWriter(target, self.tables[ending].with_metadata(about), **_FORMAT) as file:
            for group in regrouped(self._rows(ending)):
                file.write_table(group)
        sync(target)
        return target

    def _list_unreadable(self) -> bool:
        """Write the list of the clips that are missing; False where there are none."""
        if not self.num_unreadable:
            return False
        target = self._whole(QUARANTINE)
        with target.open("w", encoding="utf-8") as file:
            lines = (json.dumps(clip, ensure_ascii=False) + "\n" for clip in self.unreadable())
            file.writelines(lines)
        sync(target)
        return True

    @contextmanager
    def _explained(self, part: Path) -> Iterator[None]:
        try:
            yield
        except (pa.ArrowException, OSError, ValueError, TypeError, KeyError) as error:
            raise FeatureFileError(
                f"{part}: damaged ({error}); remove {self._folder} and start anew"
            ) from error


def _unreadable(about: Mapping[bytes, bytes]) -> list[dict[str, Any]]:
    """The clips that are missing in a part, by its metadata.

    Raises:
        ValueError, TypeError, KeyError: they are not listed there.
    """
    listed = json.loads(about[b"unreadable"])
    if not all(isinstance(clip, dict) and {"name", "reason"} <= clip.keys() for clip in listed):
        raise ValueError("unreadable must list clips with name and reason")
    return listed
