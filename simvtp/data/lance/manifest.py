"""Whether a table of Lance lies where it is, or names other folders and addresses as its own.

A table may share files with others ("shallow clones"): its manifest then has `base_paths`, which
Lance opens wherever they lead. See `table.proto` of https://github.com/lance-format/lance: a
manifest is a message behind its length, and the last 16 bytes of the file say where.
"""

from pathlib import Path

_BASE_PATHS = 18
_MOST_VERSIONS = 2**64 - 1
_ENDING = ".manifest"
_VARINT, _EIGHT_BYTES, _COUNTED, _FOUR_BYTES = 0, 1, 2, 5


def latest_version(table: Path) -> int:
    """Number of a table's newest version.

    Raises:
        ValueError: it has none.
    """
    names = [path.stem for path in table.glob(f"_versions/*{_ENDING}") if path.stem.isdecimal()]
    if not names:
        raise ValueError("it has no versions, so it is no table of Lance")
    return max(_MOST_VERSIONS - int(name) if len(name) == 20 else int(name) for name in names)


def manifests_of(table: Path, version: int) -> list[Path]:
    """The manifest of a version: counted down in its name or, by older writers, up."""
    names = (f"{_MOST_VERSIONS - version:020d}", str(version))
    files = [table / "_versions" / f"{name}{_ENDING}" for name in names]
    return [file for file in files if file.exists()] or files[:1]


def names_other_places(table: Path, version: int) -> bool:
    """Whether the manifest of a version of a table has base paths.

    Raises:
        ValueError, IndexError: it is no manifest.
        OSError: there is none.
    """
    return any(map(_has_base_paths, manifests_of(table, version)))


def _has_base_paths(file: Path) -> bool:
    content = file.read_bytes()
    start = int.from_bytes(content[-16:-8], "little")
    size = int.from_bytes(content[start : start + 4], "little")
    if start + 4 + size + 16 != len(content):
        raise ValueError(f"{file.name} is no manifest of Lance")
    return _has_field(content[start + 4 : -16], _BASE_PATHS)


def _has_field(message: bytes, wanted: int) -> bool:
    place = 0
    while place < len(message):
        key, place = _number(message, place)
        if key >> 3 == wanted:
            return True
        kind = key & 7
        if kind == _VARINT:
            _, place = _number(message, place)
        elif kind == _COUNTED:
            size, place = _number(message, place)
            place += size
        elif kind in (_EIGHT_BYTES, _FOUR_BYTES):
            place += 8 if kind == _EIGHT_BYTES else 4
        else:
            raise ValueError(f"a manifest of Lance has no fields of kind {kind}")
    return False


def _number(message: bytes, place: int) -> tuple[int, int]:
    """A number of seven bits a byte, and where it ends."""
    value, shift = 0, 0
    while True:
        byte = message[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place
