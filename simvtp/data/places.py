"""Where clips lie, as the user named it: a path, a URL, or a command that prints a file.

What a user types is read once, by `named_place`, and is of its own type from then on. A string
that comes out of a file is never read so: it stands for a file below a folder and nothing else.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

_PIPE = "pipe:"
# What ends a path there, or stands for several files; `quote` disarms the rest.
_STRANGE_IN_HTTP = re.compile(r"[\x00-\x1f\x7f\\]")
_STRANGE_IN_STORE = re.compile(r"[\x00-\x1f\x7f\\*?\[\]{}#%]")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


@dataclass(frozen=True, slots=True)
class Url:
    """An address that fsspec opens, such as `https://host/clips/000.tar`."""

    address: str

    def __str__(self) -> str:
        return self.address

    def file(self, name: str) -> "Url":
        """The file of this name in the folder that the address is of.

        Raises:
            ValueError: the name may mean something else in a URL.
        """
        if not _PLAIN_NAME.fullmatch(name):
            raise ValueError(
                f"a file at {self.address} must have a name of letters, digits, '.', '_' and '-', "
                f"got {name!r}"
            )
        return Url(f"{self.address.rstrip('/')}/{name}")

    def below(self, name: str) -> "Url":
        """The file of this name, as `name_below` gives it, below the address."""
        self.name_below(name)
        is_http = self.address.startswith(("http://", "https://"))
        return Url(f"{self.address.rstrip('/')}/{quote(name) if is_http else name}")

    def name_below(self, written: str) -> str:
        """A file's name below the address, from what stands in a table: that name, or its URL.

        What a table says opens nothing but single files below what a user typed.

        Raises:
            ValueError: it is a URL elsewhere, or may mean something else than one such file.
        """
        begin, name = self.address.rstrip("/") + "/", written
        is_http = begin.startswith(("http://", "https://"))
        if "://" in written:
            if not written.startswith(begin):
                raise ValueError(f"it does not begin with {begin}, the root")
            name = written.removeprefix(begin)
            name = unquote(name, errors="strict") if is_http else name
        parts = name.split("/")
        strange = _STRANGE_IN_HTTP if is_http else _STRANGE_IN_STORE
        if strange.search(name) or "::" in name or any(part in ("", ".", "..") for part in parts):
            raise ValueError("it names no single file below the root")
        return name


@dataclass(frozen=True, slots=True)
class Command:
    """A command that a shell runs and that prints a file; a user writes it as `pipe:COMMAND`."""

    text: str

    def __str__(self) -> str:
        return f"{_PIPE}{self.text}"


@dataclass(frozen=True, slots=True)
class RowGroup:
    """Rows of a Parquet file on this machine, one of whose columns holds the bytes of videos."""

    file: Path
    number: int
    column: str

    def __str__(self) -> str:
        return f"{self.file}#{self.number}"


@dataclass(frozen=True, slots=True)
class LanceColumn:
    """A column of videos' bytes in a version of a table of Lance on this machine.

    `stamp` changes with what is in there.
    """

    folder: Path
    version: int
    stamp: str
    name: str

    def __str__(self) -> str:
        return str(self.folder)

    def row(self, written: str) -> "LanceRow":
        """The row of the number that stands in a table of clips.

        Raises:
            ValueError: it is no number.
        """
        if not (written.isascii() and written.isdecimal()):
            raise ValueError("it is no number of a row")
        return LanceRow(self, int(written))


@dataclass(frozen=True, slots=True)
class LanceRow:
    """One row of such a column."""

    column: LanceColumn
    number: int

    def __str__(self) -> str:
        return f"{self.column}#{self.number}"


Place = Path | Url | Command | RowGroup | LanceRow
Root = Path | Url | LanceColumn


def named_root(named: str | Path | Url) -> Path | Url:
    """What a user means by a root: a folder, or an address that clips lie below.

    Raises:
        ValueError: it is a command.
    """
    place = named_place(named)
    if not isinstance(place, Path | Url):
        raise ValueError(f"a root must be a folder or an address, got {place}")
    return place


def named_place(named: str | Place) -> Place:
    """What a user means by a source: give it what was typed, never a string out of a file.

    A string that begins with `pipe:` is a command, one with `://` in it a URL, every other one a
    path (a file called `pipe:x` is `./pipe:x`).
    """
    if not isinstance(named, str):
        return named
    if named.startswith(_PIPE):
        return Command(named.removeprefix(_PIPE))
    return Url(named) if "://" in named else Path(named)


def cache_folder(folder: str | Path | None = None) -> Path:
    """The folder given, else `$SIMVTP_CACHE`, else `~/.cache/simvtp`; it need not exist yet."""
    chosen = folder if folder is not None else os.environ.get("SIMVTP_CACHE") or "~/.cache/simvtp"
    return Path(chosen).expanduser().resolve()
