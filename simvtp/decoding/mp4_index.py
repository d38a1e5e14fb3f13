"""How many entries the index of an MP4 or MOV file claims, read before FFmpeg makes room for them.

A count of four bytes stands for any number of samples of equal size, and an edit list repeats
them: without a look beforehand some bytes of a header take gigabytes.
"""

import re
import struct
from collections.abc import Iterator
from itertools import chain
from typing import BinaryIO

from simvtp.decoding.limits import Deadline

# FFmpeg takes any table in any of them.
_PARENTS = tuple(
    b"moov trak mdia minf stbl edts mvex moof traf udta dinf tref sinf schi ilst wave iprp ipco"
    b"".split()
)
# It gives up at ten levels.
_MOST_LEVELS = 16
# Where the number of entries stands in each table, after the box's header.
_COUNTS = {b"stsz": 8, b"stz2": 8, b"elst": 4, b"trun": 4, b"stco": 4, b"co64": 4}
# FFmpeg gives plain sound an entry for so many samples of a chunk.
_PLAIN_SAMPLES = 1024
_READ = (*_COUNTS, b"stts", b"stsc", b"hdlr", b"cmov", b"stsd")
# FFmpeg would take tables among the descriptions of codecs, where no other program puts any.
_MISPLACED = re.compile(b"trak|stsz|stz2|elst|trun|stco|co64|stsc|cmov")
_FAR_TOO_MANY = 1 << 32
# It takes this box and those after it, wherever it finds the name.
_HANDLER_OF_META = re.compile(b"(?:.{4})*?hdlr", re.DOTALL)


def claimed_entries(file: BinaryIO, *, start: int, end: int, deadline: Deadline) -> int:
    """Entries of the index, over all tracks and fragments; 0 for other kinds of files.

    Args:
        file: opened for reading.
        start: where the video begins in it.
        end: where it ends.
        deadline: by when it must have been read.

    Raises:
        ClipError: the time is up.
    """
    total = 0
    track: dict[bytes, int] = {}
    for kind, count in chain(_tables(file, start, end, deadline), [(b"trak", 0)]):
        if kind == b"trak":
            total += _entries(track)
            track = {}
        elif kind == b"trun":
            total += count
        else:
            track[kind] = max(track.get(kind, 0), count)
    return total


def _entries(track: dict[bytes, int]) -> int:
    samples = max(track.get(b"stsz", 0), track.get(b"stz2", 0))
    if b"plain" in track and b"vide" not in track:
        chunks = max(track.get(b"stco", 0), track.get(b"co64", 0))
        samples = chunks * (1 + track.get(b"stsc", 0) // _PLAIN_SAMPLES)
    return samples * max(1, track.get(b"elst", 1))


def _tables(
    file: BinaryIO, start: int, end: int, deadline: Deadline, *, level: int = 0
) -> Iterator[tuple[bytes, int]]:
    """What counts of all boxes: tables with their number of entries, and where tracks begin."""
    for kind, body, stop in deadline.watch(_boxes(file, start, end)):
        if kind in _PARENTS and level < _MOST_LEVELS:
            if kind == b"trak":
                yield kind, 0
            yield from _tables(file, body, stop, deadline, level=level + 1)
        elif kind == b"meta" and level < _MOST_LEVELS:
            file.seek(body)
            if found := _HANDLER_OF_META.match(file.read(stop - body)):
                body += max(0, found.end() - 8)
                yield from _tables(file, body, stop, deadline, level=level + 1)
        elif kind in _READ:
            file.seek(body)
            whole = kind in (b"stsc", b"stsd", b"cmov")
            content = file.read(stop - body if whole else 16).ljust(16, b"\0")
            yield from _counted(kind, content)


def _counted(kind: bytes, content: bytes) -> Iterator[tuple[bytes, int]]:
    if kind == b"stsd":
        yield b"trun", _FAR_TOO_MANY if _MISPLACED.search(content) else 0
    elif kind == b"cmov":
        # A header that is compressed, as no camera writes it any more.
        yield b"trun", len(content) << 10
    elif kind == b"hdlr":
        if content[8:12] == b"vide":
            yield b"vide", 1
    elif kind == b"stts":
        _, number, _, ticks = struct.unpack_from(">4I", content)
        if (number, ticks) == (1, 1):
            yield b"plain", 1
    elif kind == b"stsc":
        # Each entry: first chunk, samples of a chunk, kind of sample.
        largest = (content[place : place + 4] for place in range(12, len(content) - 3, 12))
        yield kind, max((int.from_bytes(samples) for samples in largest), default=0)
    else:
        yield kind, int.from_bytes(content[_COUNTS[kind] : _COUNTS[kind] + 4])


def _boxes(file: BinaryIO, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind, first byte of the content and end of each box, cut to where its parent ends."""
    while start + 8 <= end:
        file.seek(start)
        header = file.read(16)
        size, kind = struct.unpack_from(">I4s", header)
        body = start + 8
        if size == 1 and len(header) == 16:
            (size,) = struct.unpack_from(">Q", header, 8)
            body += 8
        stop = end if size == 0 else min(start + size, end)
        if stop < body:
            return
        yield kind, body, stop
        start = stop
