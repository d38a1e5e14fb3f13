"""Which columns of a table, or fields of an object, name the video and say what it shows."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from simvtp.data.manifests.names import VIDEO_ENDINGS
from simvtp.data.manifests.problems import shown
from simvtp.data.manifests.rows import Row

# Letters of the names that published and people's own tables have. A name of an earlier tier wins.
_PATHS = (
    ("path",),
    ("videopath", "filepath", "clippath", "fullpath", "relativepath"),
    ("file", "filename", "videofile", "clipfile"),
    ("video", "videoname", "clip", "clipname"),
)
# A table of videos may hold these of a picture of each, so they come last.
_PICTURES = (("imagepath", "imagefile", "image", "imagename", "photo", "picture"),)
_ID = "videoid"
_CAPTIONS = (
    ("caption", "captions"),
    ("goldencaption", "goldencaptions"),
    ("sentence", "sentences", "text", "texts", "description", "descriptions"),
)
_WEBVID = ("videoid", "page_dir", "name")
_MAX_NAMED = 8
_ASKED = ("path", "caption", "videoid")
VIDEO_FIELDS = (*(name for tier in _PATHS for name in tier), _ID)
CAPTION_FIELDS = tuple(name for tier in _CAPTIONS for name in tier)


class ColumnsError(ValueError):
    """Columns that cannot be told apart; the message says what to type."""


class NoPathError(ColumnsError):
    """None of the columns has a name that paths have."""


class Columns(NamedTuple):
    """The columns of a row that count, by their names or, for rows of cells, by their places.

    Attributes:
        path: holds the file, from the root.
        caption: holds one caption, or a list of them; None where there is none.
        video_id: holds the clip's name; None for the path.
        folder: WebVid's: holds the folder of the file, which is named by the id.
    """

    path: Any
    caption: Any = None
    video_id: Any = None
    folder: Any = None

    def row(self, line: int, cells: Any) -> Row:
        """The row as it is written on a line."""
        video_id = None if self.video_id is None else cells[self.video_id]
        captions = () if self.caption is None else cells[self.caption]
        path = cells[self.path]
        if self.folder is not None:
            name = f"{video_id}.mp4" if video_id else ""
            return Row(line, video_id, (f"{cells[self.folder]}/{name}", name), captions)
        if self.video_id == self.path and isinstance(path, str) and path.strip():
            # An id is the name of a file without its ending, more often than not.
            return Row(line, video_id, (path, *(path + end for end in VIDEO_ENDINGS)), captions)
        return Row(line, video_id, (path,), captions)

    def placed(self, names: Sequence[str]) -> "Columns":
        """The same by their places among the names."""
        return Columns(*(None if name is None else names.index(name) for name in self))

    def form(self, names: Sequence[str]) -> str:
        """Which of the names of a table they are, in words."""
        said = f"path from column {self.path!r}"
        if self.folder is not None:
            said = f"path from columns {self.folder!r} and {self.path!r}"
        if self.caption is None:
            others = [name for name in names if name and name not in self]
            if not others:
                return f"{said}, no captions"
            listed = ", ".join(others[:_MAX_NAMED])
            fix = f"columns caption={others[0]} if it holds them"
            return f"{said}, no column is known as captions (there is {listed}; {fix})"
        return f"{said}, caption from {self.caption!r}"


def parse_columns(asked: str | None) -> dict[str, str]:
    """Columns as a user names them: `path=file,caption=text`, perhaps `videoid=key`.

    Raises:
        ColumnsError: it is anything else.
    """
    columns: dict[str, str] = {}
    for part in asked.split(",") if asked else ():
        name, equals, column = (word.strip() for word in part.partition("="))
        if name not in _ASKED or not equals or not column or name in columns:
            raise ColumnsError(
                f"columns must be like path=file,caption=text, of {', '.join(_ASKED)} each at most "
                f"once, got {asked!r}"
            )
        columns[name] = column
    return columns


def option(columns: str) -> str:
    """What to type for columns, in any command."""
    return f"--columns {columns} (of pretrain and finetune: --data.columns)"


def plain_name(name: object) -> str:
    """Small letters of a name alone, `video_id` as `videoid`."""
    return re.sub(r"[\s_.-]", "", str(name)).lower()


def plain_fields(row: object) -> dict[str, Any]:
    """Fields of an object by their plain names; none of anything else."""
    return {plain_name(name): row[name] for name in row} if isinstance(row, dict) else {}


def choose_caption(names: Sequence[str], asked: Mapping[str, str]) -> str | None:
    """The field that holds captions among these; None where there is none.

    Raises:
        ColumnsError: several could be meant, or one that was named is not there.
    """
    if "caption" in asked:
        return _asked_column(asked["caption"], names)
    return _best(names, _CAPTIONS, "caption")


def choose_columns(names: Sequence[str], asked: Mapping[str, str]) -> Columns:
    """The columns that count among these, those that a user named before all others.

    Raises:
        ColumnsError: none holds paths, several could be meant, or one that was named is not there.
    """
    named = {each: _asked_column(asked[each], names) for each in asked}
    rest = [name for name in names if name not in named.values()]
    if not asked and set(_WEBVID) <= set(names) and not {"path", "caption"} <= set(names):
        return Columns(_once("videoid", names), _once("name", names), "videoid", "page_dir")
    path = named.get("path") or _best(rest, _PATHS, "path")
    video_id = named.get("videoid") or _best(rest, ((_ID,),), "videoid")
    caption = named.get("caption") or _best(
        [name for name in rest if name != path], _CAPTIONS, "caption"
    )
    path = path or video_id or _best([name for name in rest if name != caption], _PICTURES, "path")
    if path is None:
        raise NoPathError(
            f"no column of paths among {shown(list(names))}; say which it is: "
            f"{option('path=NAME,caption=NAME')}"
        )
    return Columns(*(name and _once(name, names) for name in (path, caption, video_id)))


def _asked_column(wanted: str, names: Sequence[str]) -> str:
    found = [name for name in names if name == wanted] or [
        name for name in names if plain_name(name) == plain_name(wanted)
    ]
    if not found:
        raise ColumnsError(f"there is no column {wanted!r}; the columns are {', '.join(names)}")
    return found[0]


def _best(names: Sequence[str], tiers: Sequence[Sequence[str]], wanted: str) -> str | None:
    """The one name of the first tier that has any."""
    for tier in tiers:
        found = list(dict.fromkeys(name for name in names if plain_name(name) in tier))
        if len(found) > 1:
            typed = option(" or ".join(f"{wanted}={name}" for name in found))
            raise ColumnsError(
                f"several columns could be the {wanted}: {', '.join(found)}; say which: {typed}"
            )
        if found:
            return found[0]
    return None


def _once(name: str, names: Sequence[str]) -> str:
    if list(names).count(name) > 1:
        raise ColumnsError(f"the column {name!r} is there twice; rename one")
    return name
