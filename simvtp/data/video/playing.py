"""Moments for browsers that do not play the file they lie in: cut out and encoded as H.264."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from simvtp.data.preparing.transcode import Encoding, transcode
from simvtp.data.processes import Lost, isolated
from simvtp.data.video.cutting import cut_moment

_MOST_SECONDS = 60.0
_TIME_LIMIT = 60.0
_SHORT_SIDE = 480


class _Moment(NamedTuple):
    path: Path
    start: float
    end: float
    span: tuple[int, int] | None


def encoded_moment(
    path: Path, *, start: float, end: float, span: tuple[int, int] | None = None
) -> bytes:
    """A moment of a video as an MP4 file that every browser plays, made in a process of its own.

    Args:
        path: the video.
        start: seconds from its first frame.
        end: likewise; of more than a minute the first is taken.
        span: offset and size, in bytes, of the video in the file; None when the file is the video.

    Raises:
        ValueError: it cannot be decoded in time.
    """
    moment = _Moment(path, start, min(end, start + _MOST_SECONDS), span)
    ((_, made),) = isolated(_encoded, [moment], num_processes=1, time_limit=_TIME_LIMIT)
    if isinstance(made, Lost):
        raise ValueError(f"{path.name}: {made.reason}")
    return made


def _encoded(moment: _Moment) -> bytes:
    with TemporaryDirectory(prefix="simvtp-moment-") as folder:
        cut = cut_moment(
            moment.path,
            Path(folder) / "cut",
            start=moment.start,
            end=moment.end,
            span=moment.span,
            time_limit=_TIME_LIMIT / 2,
        )
        target = Path(folder) / "moment.mp4"
        transcode(cut.path, target, encoding=Encoding(short_side=_SHORT_SIDE))
        return target.read_bytes()
