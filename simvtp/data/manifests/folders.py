"""A folder of videos: its files and those of its folders, each with the captions beside it.

A folder of numbered pictures is a video, too, where `fps.txt` says how many a second they are.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from simvtp.data.manifests.checks import checked_path
from simvtp.data.manifests.columns import ColumnsError, choose_caption
from simvtp.data.manifests.names import VIDEO_ENDINGS, is_video
from simvtp.data.manifests.problems import ManifestError, ProblemError
from simvtp.data.manifests.rows import Listing, Row, Rows
from simvtp.data.manifests.text import marked_encoding
from simvtp.decoding.frame_names import RATE_NAME, frame_names

_SIDECARS = (".txt", ".json")
_MAX_SIDECAR_BYTES = 1 << 22


class FoundVideos(NamedTuple):
    """What a folder holds.

    Attributes:
        base: the root, absolute and without dots.
        names: videos, from the root, in alphabetical order; some may be folders of pictures.
        sidecars: file of captions of a video, by the video's name.
        num_links: folders that are links and were not entered.
        num_pictured: videos that are folders of pictures.
        follow_links: files and folders may lie anywhere.
    """

    base: str
    names: list[str]
    sidecars: dict[str, str]
    num_links: int
    num_pictured: int
    follow_links: bool

    def state(self) -> str:
        """Changes with the names of the videos, and with their captions' files."""
        digest = hashlib.sha256()
        for name in self.names:
            digest.update(os.fsencode(name) + b"\0")
        for sidecar in dict.fromkeys(self.sidecars.values()):
            status = os.stat(f"{self.base}/{sidecar}", follow_symlinks=self.follow_links)  # noqa: PTH116
            said = f"\n{sidecar} {status.st_size} {status.st_mtime_ns}"
            digest.update(os.fsencode(said))
        return digest.hexdigest()

    def listing(self, asked: Mapping[str, str]) -> Listing:
        """A row for each video.

        Args:
            asked: field of captions in JSON, as a user named it.
        """
        kinds = [sidecar[sidecar.rindex(".") :].lower() for sidecar in self.sidecars.values()]
        counts = [f"{kinds.count(kind)} {kind}" for kind in _SIDECARS if kind in kinds]
        found = f"captions in {' and '.join(counts)}" if counts else "no .txt or .json"
        links = f"; {self.num_links} linked folders not entered" if self.num_links else ""
        pictured = f", {self.num_pictured} of them folders of pictures" if self.num_pictured else ""
        return Listing(
            f"videos of a folder{pictured}, {found} beside them{links}", self._rows(asked)
        )

    def _rows(self, asked: Mapping[str, str]) -> Rows:
        for name in self.names:
            try:
                sidecar = self.sidecars.get(name)
                captions = () if sidecar is None else self._captions(sidecar, asked)
                yield Row(0, None, (name,), captions)
            except ProblemError as problem:
                yield problem

    def _captions(self, sidecar: str, asked: Mapping[str, str]) -> Any:
        """What a file says of the video beside it: the lines of a text, or an object's captions."""
        row = Row(0, None, (sidecar,), ())
        # Or a link named like captions would make any file of this machine a part of the table.
        checked_path(row, self.base, check_files=True, follow_links=self.follow_links)
        with Path(self.base, sidecar).open("rb") as file:
            content = file.read(_MAX_SIDECAR_BYTES + 1)
        if len(content) > _MAX_SIDECAR_BYTES:
            raise ProblemError(0, f"{sidecar} has more than {_MAX_SIDECAR_BYTES} bytes; shorten it")
        try:
            text = content.decode(marked_encoding(content))
            if sidecar.lower().endswith(".txt"):
                return [line for line in text.splitlines() if line.strip()] or ()
            written = json.loads(text)
            # Others write other things about a video beside it.
            field = choose_caption(list(written), asked) if isinstance(written, dict) else None
        except ColumnsError as error:
            raise ProblemError(0, f"{sidecar}: {error}") from error
        except (ValueError, RecursionError) as error:
            message = f"{sidecar} is no {sidecar[-4:].lstrip('.')} in UTF-8 ({error}); mend it"
            raise ProblemError(0, message) from error
        if isinstance(written, dict):
            return () if field is None else written[field]
        return written


def find_videos(source: Path, base: str, *, follow_links: bool) -> FoundVideos:
    """Videos of a folder and of all folders in it, without hidden ones (`._a.mp4`), or one video.

    Numbered pictures are a video where there is none beside them and their rate is told.

    Args:
        source: the folder, or the video, below the root.
        base: the root, absolute and without dots.
        follow_links: enter folders that are links, each once.

    Raises:
        OSError: a folder cannot be read.
        ManifestError: there is no video.
    """
    found = FoundVideos(base, [], {}, 0, 0, follow_links)
    num_links, pictured, timeless = 0, 0, ""
    is_folder = source.is_dir()
    top = str(source if is_folder else source.parent)
    for place, files, links in _walk(top, follow_links=follow_links):
        num_links += links
        inside = os.path.relpath(place, base)
        begin = "" if inside == "." else f"{inside}/"
        sidecars = {name.lower(): name for name in files if name.lower().endswith(_SIDECARS)}
        videos = [name for name in (files if is_folder else [source.name]) if is_video(name)]
        for name in videos:
            found.names.append(begin + name)
            if (sidecar := _sidecar_of(name.lower(), sidecars)) is not None:
                found.sidecars[begin + name] = begin + sidecar
        if not is_folder:
            break
        if not videos and inside != "." and frame_names(files):
            if not _has_rate(place):
                timeless = timeless or inside
                continue
            pictured += 1
            found.names.append(inside)
            beside = (f"{inside}{ending}" for ending in _SIDECARS)
            if sidecar := next((name for name in beside if Path(base, name).is_file()), None):
                found.sidecars[inside] = sidecar
    if not found.names:
        raise ManifestError(
            f"{source}: no video in it or in its folders{_why_none(num_links, timeless)}"
        )
    found.names.sort()
    return found._replace(num_links=num_links if is_folder else 0, num_pictured=pictured)


def _why_none(num_links: int, timeless: str) -> str:
    """What to say where no video was found.

    Args:
        num_links: folders that are links and were not entered.
        timeless: a folder of pictures whose rate nobody tells; empty for none.
    """
    if timeless:
        return (
            f"; {timeless} holds numbered pictures: write how many a second they are into "
            f"{RATE_NAME} in there, or in the folder above"
        )
    linked = f" ({num_links} folders in it are links)" if num_links else ""
    return f"{linked}; a video ends in {', '.join(VIDEO_ENDINGS)}"


def _has_rate(folder: str) -> bool:
    return any((place / RATE_NAME).is_file() for place in (Path(folder), Path(folder).parent))


def _sidecar_of(video: str, sidecars: Mapping[str, str]) -> str | None:
    """The file of captions of a video, by its name in small letters: `a.txt` or `a.mp4.txt`."""
    stem = video.rpartition(".")[0]
    names = (f"{begin}{ending}" for ending in _SIDECARS for begin in (stem, video))
    return next((sidecars[name] for name in names if name in sidecars), None)


def _walk(top: str, *, follow_links: bool) -> Iterator[tuple[str, list[str], int]]:
    """Each folder with its files and the number of folders that are links and not entered."""

    def refuse(error: OSError) -> None:
        raise error

    seen = {os.path.realpath(top)}
    for place, folders, files in os.walk(top, onerror=refuse, followlinks=True):
        entered: list[str] = []
        num_links = 0
        for name in sorted(folders):
            path = os.path.join(place, name)  # noqa: PTH118
            if name.startswith("."):
                continue
            if not follow_links and os.path.islink(path):  # noqa: PTH114
                num_links += 1
                continue
            if follow_links:
                target = os.path.realpath(path)
                if target in seen:
                    continue
                seen.add(target)
            entered.append(name)
        folders[:] = entered
        yield place, sorted(name for name in files if not name.startswith(".")), num_links
