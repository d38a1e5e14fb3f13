"""The tables of a video index: its moments, its files, and what it was made with."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

import pyarrow as pa

from simvtp.data.lance.manifest import names_other_places
from simvtp.data.places import Command, Url, named_place
from simvtp.extras import needs

with needs("search", "a video index"):
    import lancedb

MOMENTS, FILES, ABOUT = "moments", "files", "about"
_ABOUT_SCHEMA = pa.schema([("about", pa.string())])
_FORMAT = 1


class VideoIndexError(ValueError):
    """An index that cannot be read, searched or written; the message says what to do."""


class About(NamedTuple):
    """What an index was made with.

    Attributes:
        model: the model's name, as it was typed.
        model_hash: its digest, as `model_digest` gives it.
        width: of the vectors.
        roots: folders that names of files are relative to.
        settings: how videos are cut into moments.
    """

    model: str
    model_hash: str
    width: int
    roots: tuple[str, ...]
    settings: Mapping[str, Any]

    def to_table(self) -> pa.Table:
        """As the one row of a table."""
        row = {"about": [json.dumps(self._asdict() | {"format": _FORMAT})]}
        return pa.table(row, schema=_ABOUT_SCHEMA)

    @classmethod
    def of_table(cls, table: pa.Table) -> Self:
        """From the one row of a table.

        Raises:
            ValueError, TypeError, KeyError: it says something else.
        """
        values = json.loads(table["about"][0].as_py())
        if values.pop("format") != _FORMAT:
            raise ValueError("it is of another version of simvtp")
        checked = {"roots": tuple(map(str, values["roots"])), "width": int(values["width"])}
        return cls(**values | checked)


def moment_schema(width: int) -> pa.Schema:
    """Columns of the moments: times in seconds from the video's first frame, unit vectors."""
    return pa.schema(
        [
            ("key", pa.string()),
            ("root", pa.int32()),
            ("file", pa.string()),
            ("start", pa.float64()),
            ("end", pa.float64()),
            ("caption", pa.string()),
            ("thumbnail", pa.binary()),
            ("vector", pa.list_(pa.float32(), width)),
        ]
    )


def file_schema() -> pa.Schema:
    """Columns of the files.

    `shard` and `offset` say where in a shard one lies, `damaged` counts moments that were left out,
    and `error` says why there are none at all.
    """
    return pa.schema(
        [
            ("root", pa.int32()),
            ("file", pa.string()),
            ("size", pa.int64()),
            ("modified", pa.int64()),
            ("shard", pa.string()),
            ("offset", pa.int64()),
            ("sha256", pa.string()),
            ("duration", pa.float64()),
            ("num_moments", pa.int64()),
            ("damaged", pa.int64()),
            ("error", pa.string()),
        ]
    )


def connect(place: str | Path | Url) -> lancedb.DBConnection:
    """The data base in a folder, or at an address such as `s3://bucket/folder`, as typed.

    Raises:
        VideoIndexError: it is a command, or cannot be reached.
    """
    if isinstance(named_place(place), Command):
        raise VideoIndexError(f"{place}: an index is a folder or an address like s3://bucket/name")
    try:
        return lancedb.connect(str(place))
    except (ValueError, OSError, RuntimeError) as error:
        raise VideoIndexError(f"{place}: cannot be opened ({error})") from error


def own_table(
    database: lancedb.DBConnection, place: str | Path | Url, name: str, schema: pa.Schema
) -> Any:
    """A table, once it is seen that it makes LanceDB open and run nothing else.

    Its description could name functions, which LanceDB would make, and its manifest files that lie
    elsewhere. Tables at an address are looked at for the first alone.

    Raises:
        VideoIndexError: it does, or it is damaged.
    """
    try:
        table: Any = database.open_table(name)
        folder = named_place(place)
        is_elsewhere = isinstance(folder, Path) and names_other_places(
            folder / f"{name}.lance", table.version
        )
    except (ValueError, IndexError, OSError, RuntimeError) as error:
        raise VideoIndexError(f"{place}: damaged index ({error}); make it again") from error
    if is_elsewhere or not table.schema.equals(schema, check_metadata=True):
        what = "data that lie elsewhere" if is_elsewhere else "other columns than ours"
        raise VideoIndexError(
            f"{place}: its table {name} has {what}, so it is not opened; index the videos anew"
        )
    return table


def existing_about(database: lancedb.DBConnection, place: str | Path | Url) -> About | None:
    """What the index was made with; None where there is none.

    Raises:
        VideoIndexError: it is damaged.
    """
    if ABOUT not in database.list_tables().tables:
        return None
    try:
        return About.of_table(own_table(database, place, ABOUT, _ABOUT_SCHEMA).to_arrow())
    except VideoIndexError:
        raise
    except (ValueError, TypeError, KeyError, IndexError, OSError, RuntimeError) as error:
        raise VideoIndexError(f"{place}: damaged index ({error}); make it again") from error


def read_about(database: lancedb.DBConnection, place: str | Path | Url) -> About:
    """What the index was made with.

    Raises:
        VideoIndexError: there is none, or it is damaged.
    """
    about = existing_about(database, place)
    if about is None:
        raise VideoIndexError(
            f"{place}: there is no video index; make one with python -m simvtp.pipelines.index "
            f"--model M --data DIR --out {place}"
        )
    return about


def require_same(there: About, about: About, place: object) -> None:
    """Refuse to go on with an index that was made with something else.

    Raises:
        VideoIndexError: it was.
    """
    if there.model_hash != about.model_hash:
        raise VideoIndexError(
            f"{place}: its vectors are of the model {there.model} ({there.model_hash[:12]}), and "
            f"this one is {about.model} ({about.model_hash[:12]}); go on with {there.model}, or "
            "choose another --out"
        )
    changes = [
        f"{name} was {value} and is now {about.settings.get(name)}"
        for name, value in there.settings.items()
        if about.settings.get(name) != value
    ]
    if changes:
        raise VideoIndexError(
            f"{place}: it was made with something else: {', '.join(changes)}; leave these out to "
            "go on as it was begun, or choose another --out"
        )


def quoted(text: str) -> str:
    """A text as a value in a filter."""
    doubled = text.replace("'", "''")
    return f"'{doubled}'"
