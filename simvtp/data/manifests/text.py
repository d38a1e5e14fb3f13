"""Manifests as text: the encoding of a file, found out before a reader stumbles over its bytes."""

import codecs
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO, TextIO

import rich.progress

from simvtp.data.manifests.problems import ManifestError
from simvtp.printing import progress_console

# Below this many bytes, a bar would be gone before it could be read.
_BYTES_WITH_PROGRESS = 1 << 23
_MAX_LINE = 65_536
_BLOCK_BYTES = 1 << 24
_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_NAMES = {"utf-8-sig": "UTF-8", "utf-16": "UTF-16", "cp1252": "cp1252, since it is no UTF-8"}
_ASCII = bytes(range(128))
# Letters, and the quotes, dashes and spaces that texts of western Europe have.
_WESTERN = bytes(range(0xC0, 0x100)) + "€…‘’“”–\xa0«»¿¡°".encode("cp1252")
_UTF8_CHARACTER = re.compile(
    rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}"
)
# Three accented letters in a row: another alphabet than that of western Europe.
_FOREIGN_WORD = re.compile(rb"[\xc0-\xff]{3}")


def encoding_of(source: Path) -> str:
    """What Python calls the encoding of a text: UTF-8, Excel's UTF-16, or Windows' cp1252.

    A text is taken for cp1252 if it is no UTF-8 and looks like a language of western Europe.

    Raises:
        ManifestError: it is none of these, or holds a NUL; the message names the line.
        OSError: it cannot be read.
    """
    with source.open("rb") as file:
        encoding = marked_encoding(file.read(2))
        line = 1
        try:
            for text in _decoded(file, encoding):
                if (position := text.find("\0")) >= 0:
                    line += text.count("\n", 0, position)
                    raise ManifestError(
                        f"{source}: line {line}: it holds a NUL byte; save it as plain UTF-8 text"
                    )
                line += text.count("\n")
        except UnicodeDecodeError as error:
            if encoding == "utf-8-sig" and _is_cp1252(file):
                return "cp1252"
            line += error.object.count(b"\n", 0, error.start)
            raise ManifestError(
                f"{source}: line {line}: byte {error.object[error.start : error.start + 1]!r} is "
                f"not {_NAMES[encoding]}; save it as UTF-8"
            ) from error
    return encoding


def marked_encoding(begin: bytes) -> str:
    """UTF-16 where the first bytes of a text say so; else UTF-8, with or without a mark."""
    return "utf-16" if begin[:2] in _UTF16_MARKS else "utf-8-sig"


def encoding_name(encoding: str) -> str:
    """What people call an encoding that `encoding_of` found."""
    return _NAMES[encoding]


def first_line(source: Path, encoding: str | None = None) -> str:
    """The first line that is not blank; empty where there is none.

    Args:
        source: the text.
        encoding: its encoding; without one, what its first bytes say, for a look at it.
    """
    with source.open("rb") as file:
        seen = encoding or marked_encoding(file.read(2))
    with source.open(encoding=seen, errors="replace") as file:
        lines = iter(lambda: file.readline(_MAX_LINE), "")
        return next((line for line in lines if line.strip()), "")


def opened_text(
    source: Path, encoding: str, *, newline: str = ""
) -> AbstractContextManager[TextIO]:
    """A text to be read through, with a bar on the standard error where it is long."""
    return rich.progress.open(
        source,
        "r",
        encoding=encoding,
        newline=newline,
        description="Checking the manifest",
        console=progress_console(),
        transient=True,
        disable=source.stat().st_size <= _BYTES_WITH_PROGRESS,
    )


def _decoded(file: BinaryIO, encoding: str) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder(encoding)()
    file.seek(0)
    while block := file.read(_BLOCK_BYTES):
        yield decoder.decode(block)
    yield decoder.decode(b"", final=True)


def _is_cp1252(file: BinaryIO) -> bool:
    """Whether it has letters of western Europe, far between, and hardly any are UTF-8 after all."""
    num_high = num_strange = 0
    file.seek(0)
    # Whole lines: a cut within a character would make it look like another.
    while lines := file.readlines(_BLOCK_BYTES):
        block = b"".join(lines)
        if _FOREIGN_WORD.search(block):
            return False
        try:
            block.decode("cp1252")
        except UnicodeDecodeError:
            return False
        high = block.translate(None, _ASCII)
        num_high += len(high)
        num_strange += len(high.translate(None, _WESTERN))
        num_strange += len(b"".join(_UTF8_CHARACTER.findall(block)))
    return 2 * num_strange < num_high
