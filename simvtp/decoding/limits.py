"""What a video may cost to read: beyond that it is refused, if possible before the work."""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, TypeVar

TOO_SLOW = "it takes longer to read than the time limit"
# Sound and subtitles have entries of their own in an index, more than the pictures.
_ENTRIES_PER_FRAME = 8

Item = TypeVar("Item")


class ClipError(ValueError):
    """A file that a clip cannot be read from; the message names the file and the reason.

    Args:
        message: file and reason.
        unreadable: True when no clip of the file can be read, whatever its start.
    """

    def __init__(self, message: str, *, unreadable: bool = False) -> None:
        super().__init__(message)
        self.unreadable = unreadable


class Limits(NamedTuple):
    """The most that a video may have; the defaults let everything through that is a video.

    Attributes:
        num_bytes: size of the file; None for any.
        num_frames: frames of the whole video.
        num_pixels: pixels of a frame; the default just holds 7,680 x 4,320.
        num_decoded: pixels to decode for one reading, over all frames up to the last one wanted,
            where no seek spares any.
    """

    num_bytes: int | None = None
    num_frames: int = 1 << 20
    num_pixels: int = 1 << 25
    num_decoded: int = 1 << 36

    def check_size(self, num_bytes: int) -> None:
        """Refuse a file that is too large.

        Raises:
            ClipError: it is.
        """
        if self.num_bytes is not None and num_bytes > self.num_bytes:
            self._refuse(f"{num_bytes:,} bytes", f"{self.num_bytes:,}")

    def check_entries(self, num_entries: int) -> None:
        """Refuse an index of too many entries, of pictures and sound, by a ClipError."""
        if num_entries > _ENTRIES_PER_FRAME * self.num_frames:
            self._refuse(
                f"an index of {num_entries:,} entries", f"{_ENTRIES_PER_FRAME * self.num_frames:,}"
            )

    def check_frames(self, num_frames: int) -> None:
        """Refuse a video of too many frames, by a ClipError."""
        if num_frames > self.num_frames:
            self._refuse(f"{num_frames:,} frames", f"{self.num_frames:,}")

    def check_pixels(self, width: int, height: int) -> None:
        """Refuse too large a frame, by a ClipError."""
        if width * height > self.num_pixels:
            self._refuse(f"frames of {width:,} x {height:,} pixels", f"{self.num_pixels:,}")

    def check_decoding(self, num_frames: int, width: int, height: int) -> None:
        """Refuse to decode so many frames of such a size, by a ClipError."""
        if num_frames * width * height > self.num_decoded:
            self._refuse(
                f"{num_frames:,} frames of {width:,} x {height:,} pixels to decode",
                f"{self.num_decoded:,} pixels",
            )

    @staticmethod
    def _refuse(found: str, most: str) -> None:
        raise ClipError(f"it has {found}, the limit is {most}", unreadable=True)


DEFAULT_LIMITS = Limits()


class Deadline:
    """The moment by which a clip must have been read, and what else it may cost.

    Args:
        seconds: from now on; None sets no limit.
        limits: what the video may have.
    """

    def __init__(self, seconds: float | None, limits: Limits = DEFAULT_LIMITS) -> None:
        if seconds is not None and seconds <= 0:
            raise ValueError(f"time_limit must be above 0 seconds, got {seconds}")
        self.seconds = seconds
        self.limits = limits
        self._end = None if seconds is None else time.monotonic() + seconds

    def watch(self, items: Iterable[Item]) -> Iterator[Item]:
        """Hand on packets or frames until the time is up.

        Raises:
            ClipError: the time is up.
        """
        for item in items:
            if self._end is not None and time.monotonic() > self._end:
                raise ClipError(f"{TOO_SLOW} ({self.seconds:g} s)", unreadable=True)
            yield item


class Patience(Deadline):
    """The longest time without progress, for files that may be hours long.

    Args:
        seconds: without a packet or a frame.
        limits: what the video may have.
        beat: called at every packet and frame.
    """

    def __init__(self, seconds: float, limits: Limits, *, beat: Callable[[], None]) -> None:
        super().__init__(seconds, limits)
        self._beat = beat

    def watch(self, items: Iterable[Item]) -> Iterator[Item]:
        """Hand on packets or frames as long as they come.

        Raises:
            ClipError: one took too long.
        """
        assert self.seconds is not None
        for item in super().watch(items):
            self._end = time.monotonic() + self.seconds
            self._beat()
            yield item
