"""Blocks of clips of a stream, in a folder that all processes of a machine share."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import Any

from simvtp.data.byte_columns import ByteColumns
from simvtp.data.clip_table import ByteSpan, ClipRecord, ClipTable, write_clip_table
from simvtp.data.manifests.problems import ProblemError
from simvtp.data.shards.fetch import ShardCache, touched
from simvtp.data.streaming.rows import StreamPlace, StreamRows, clip_of, columns_of
from simvtp.files import publish, write_whole

CLIPS_OF_BLOCK = 64
_MOST_LEFT_OUT = 1000


class Blocks:
    """What has been taken from a stream so far, by the block, and the place at which each begins.

    A block is a file with the videos and a table of its clips. Files that were not used for the
    longest time are deleted where all together are too large; where one is wanted again, the stream
    is read again from the block's place, and must give the same clips.

    Args:
        folder: of one stream and no other.
        name: of the stream, for clips and messages.
        max_bytes: bytes that the videos may take up.
    """

    def __init__(self, folder: Path, *, name: str, max_bytes: int) -> None:
        self.folder = folder
        self.name = name
        self.videos = ShardCache(folder / "videos", max_bytes=max_bytes)

    def video_file(self, number: int) -> Path:
        """The file with the videos of a block."""
        return self.videos.folder / f"{number:08}"

    def is_there(self, number: int) -> bool:
        """Whether a block can be read now; it is noted as used then."""
        return self._table_file(number).exists() and touched(self.video_file(number))

    def table(self, number: int) -> ClipTable:
        """The clips of a block."""
        video = self.video_file(number)
        shards = {video.name: video}
        return ClipTable(self._table_file(number), root="/", source=self.name, shards=shards)

    def written(
        self, stream: Iterable[Mapping[str, Any]], asked: Mapping[str, str], *, wanted: int
    ) -> Iterator[int]:
        """Write blocks from the nearest place that is known before a block, and from it on.

        Yields:
            the number of each block, once it can be read.

        Raises:
            ValueError: the stream gives other clips than before, or none, or its columns cannot be
                told apart.
        """
        # From a block earlier, which shows whether the stream goes on where it was.
        first = max(0, wanted - 1)
        while first and not self._place_file(first).exists():
            first -= 1
        place = self._place(first)
        try:
            yield from self._written_from(stream, asked, first, place)
        except _OtherClipsError:
            # Such as of a shuffle buffer, which a state does not hold. What has been written since
            # then is as it was, and is written over.
            skipping = place._replace(state=None)
            try:
                yield from self._written_from(stream, asked, first, skipping)
            except _OtherClipsError as error:
                raise ValueError(
                    f"the stream gives other clips than before at clip "
                    f"{error.number * CLIPS_OF_BLOCK}; it must give the same ones each time "
                    f"(shuffle with a seed), and {self.folder} must be its own"
                ) from error

    def _written_from(
        self,
        stream: Iterable[Mapping[str, Any]],
        asked: Mapping[str, str],
        number: int,
        place: StreamPlace,
    ) -> Iterator[int]:
        rows = StreamRows(stream, place)
        found = iter(rows)
        first = next(found)
        columns = columns_of(stream, first, asked)
        found = chain([first], found)
        while True:
            self._write(number, found, columns, rows)
            yield number
            number += 1

    def _write(
        self,
        number: int,
        found: Iterator[Mapping[str, Any]],
        columns: ByteColumns,
        rows: StreamRows,
    ) -> None:
        video = self.video_file(number)
        for folder in (video.parent, self._table_file(number).parent):
            folder.mkdir(parents=True, exist_ok=True)
        partial, table = video.with_suffix(".partial"), video.with_suffix(".arrow")
        digest, left_out = hashlib.sha256(), []
        with partial.open("wb") as target:
            records: list[ClipRecord] = []
            for content, captions in islice(_clips(found, columns, left_out), CLIPS_OF_BLOCK):
                key = f"{self.name}-{number * CLIPS_OF_BLOCK + len(records)}"
                span = ByteSpan(target.tell(), len(content))
                records.append(ClipRecord(key, video.name, captions, span))
                target.write(content)
                digest.update(json.dumps([len(content), captions]).encode() + content)
        known = self._digest_file(number)
        if known.exists() and known.read_text() != digest.hexdigest():
            raise _OtherClipsError(number)
        write_clip_table(table, records)
        after = rows.place._asdict() | {"left_out": left_out}
        write_whole(self._place_file(number + 1), json.dumps(after))
        write_whole(known, digest.hexdigest())
        publish(table, self._table_file(number))
        publish(partial, video)
        self.videos.make_room()

    def _place(self, number: int) -> StreamPlace:
        if not number:
            return StreamPlace()
        told = json.loads(self._place_file(number).read_text())
        return StreamPlace(told["time"], told["taken"], told["state"])

    def _table_file(self, number: int) -> Path:
        return self.folder / "clips" / f"{number:08}.arrow"

    def _place_file(self, number: int) -> Path:
        return self.folder / "clips" / f"{number:08}.json"

    def _digest_file(self, number: int) -> Path:
        return self.folder / "clips" / f"{number:08}.sha256"


class _OtherClipsError(Exception):
    """A block is not what it was.

    Args:
        number: of the block.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def _clips(
    found: Iterator[Mapping[str, Any]], columns: ByteColumns, left_out: list[str]
) -> Iterator[tuple[bytes, tuple[str, ...]]]:
    """Videos and captions of rows that have both, and why others are left out."""
    for row in found:
        try:
            yield clip_of(row, columns)
        except ProblemError as problem:
            left_out.append(problem.message)
            if len(left_out) >= _MOST_LEFT_OUT:
                raise ValueError(
                    f"{_MOST_LEFT_OUT} rows in {CLIPS_OF_BLOCK} clips are left out, such as: "
                    f"{left_out[0]}"
                ) from problem
