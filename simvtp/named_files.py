"""Files that stand in other files by name: they lie beside those, whatever the name says."""

from pathlib import Path


def require_plain_name(name: object, *, listing: str | Path) -> str:
    """The name of a file in a folder, and not a path.

    Args:
        name: as it stands in a file.
        listing: that file, for the message.

    Raises:
        ValueError: it is a path, or no text.
    """
    plain = isinstance(name, str) and name.isprintable() and not set(name) & set("/\\")
    if not plain or name in ("", ".", ".."):
        raise ValueError(
            f"{listing}: {name!r} is not a file beside it; only plain names of files in its own "
            "folder are followed"
        )
    return str(name)


def file_beside(listing: str | Path, name: object) -> Path:
    """The file that `listing` names, which must lie in the folder that `listing` lies in.

    Links count by where they lead, those of `listing` too: a folder of links into one other
    folder, as the hub's cache is, is whole.

    Args:
        listing: an index, a manifest of a checkpoint, or whatever else names files.
        name: the name in it.

    Raises:
        ValueError: the name is a path, no text, or a link that leads elsewhere.
    """
    listing = Path(listing)
    path = listing.parent / require_plain_name(name, listing=listing)
    if path.resolve().parent != listing.resolve().parent:
        raise ValueError(f"{path} is a link out of its folder; put the file itself there")
    return path
