"""Samples for training and evaluation: clips decoded, cropped and paired with a caption."""

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import torch
from tokenizers import Tokenizer
from torch.utils.data import Dataset

from simvtp.config import FrameSpacing
from simvtp.data.clip_table import ClipRecord
from simvtp.data.datasets.quarantine import KILLED, Quarantine, TooManyBadClips
from simvtp.data.datasets.reading_places import ReadingPlaces, ended_if_stuck
from simvtp.data.mixtures.clips import ClipMixture
from simvtp.data.shards.fetch import ClipFiles, ShardCache, local_clip
from simvtp.data.streaming.clips import ClipStream
from simvtp.data.tokenizer import encode_caption
from simvtp.data.video.clips import ClipError, read_clip
from simvtp.data.video.decoded_clips import DecodedClips
from simvtp.seeding import derive_generator

_MAX_REPLACEMENTS = 100
# Where other streams of (seed, epoch, ...) have the epoch.
_STARTS_STREAM = 2**32 - 2
T = TypeVar("T")


class Sample(NamedTuple):
    """One clip with one caption.

    Attributes:
        video: `(frames, channels, size, size)` uint8, contiguous.
        token_ids: `(tokens,)` int64, from [CLS] to [SEP].
        word_ids: `(tokens,)` int64, number of the word, -1 for special tokens.
        noise: `(num_noise,)` float32 in [0, 1), from which the masks are drawn.
        caption: the caption as text.
        index: number of the record that was used.
    """

    video: torch.Tensor
    token_ids: torch.Tensor
    word_ids: torch.Tensor
    noise: torch.Tensor
    caption: str
    index: int  # pyright: ignore[reportIncompatibleMethodOverride]


class ClipTransform(Protocol):
    """A crop such as MultiScaleCrop or CentreCrop."""

    @property
    def short_side(self) -> int:
        """Short side, pixels, to which much larger frames may be shrunk while they are decoded."""
        ...

    def __call__(self, video: torch.Tensor, *, generator: torch.Generator) -> torch.Tensor:
        """Cut uint8 `(frames, channels, height, width)` to a square."""
        ...


class ClipCut(NamedTuple):
    """How long a clip is, and how it is cropped.

    Attributes:
        num_frames: its frames.
        transform: crop, the same for all frames.
    """

    num_frames: int
    transform: ClipTransform


class CutBySource(NamedTuple):
    """How clips are cut where each source has its own size.

    Attributes:
        ends: the number after the last clip of each source.
        cuts: how each source's clips are cut.
    """

    ends: tuple[int, ...]
    cuts: tuple[ClipCut, ...]

    def __call__(self, index: int) -> ClipCut:
        """How the clip of an index is cut."""
        return self.cuts[bisect_right(self.ends, index)]


class RandomClips(Dataset[T], ABC, Generic[T]):
    """Random clips for training; item `(epoch, index)` depends on that pair and the seed alone.

    Where sources are mixed, the epoch of a clip is how often it was taken before.

    A clip that cannot be read is listed in the quarantine file and replaced by another record,
    drawn from the same seed, epoch and index: neither the number of workers nor a resume changes
    any sample. Datasets of a kind of sample say what belongs to an index and make it.

    Args:
        num_frames: frames of a clip.
        spacing: time or frames of the video between two frames of a clip.
        transform: crop, the same for all frames.
        seed: seed of everything random.
        quarantine: file that lists the bad clips; None keeps no list.
        max_bad_share: largest share of bad clips before TooManyBadClips is raised.
        files: finds the clips' files on this machine; without it a ShardCache.
        time_limit: seconds after which a clip counts as unreadable. Twice as long, and the clip
            is listed and the process ended: a decoder that hangs cannot be stopped otherwise.
        num_starts: places at which the clips of a video may start, drawn once and taken in turn
            from epoch to epoch; 0 draws a new one each time.
        decoded_bytes: bytes of disk for decoded clips, as for DecodedClips; 0 keeps none. What a
            sample looks like does not depend on it.

    Raises:
        ValueError: clips are to be kept, but no two epochs have the same ones.
    """

    def __init__(
        self,
        *,
        num_frames: int,
        spacing: FrameSpacing,
        transform: ClipTransform,
        seed: int,
        quarantine: Path | None = None,
        max_bad_share: float = 0.1,
        files: ClipFiles | None = None,
        time_limit: float | None = None,
        num_starts: int = 0,
        decoded_bytes: int = 0,
    ) -> None:
        if decoded_bytes and not num_starts:
            raise ValueError(
                "decoded clips can only be kept where they start at fixed places, got num_starts "
                f"0 with decoded_bytes {decoded_bytes}; set num_starts to 1 or more"
            )
        self.num_frames = num_frames
        self.spacing = spacing
        self.transform = transform
        self.seed = seed
        self.num_starts = num_starts
        self.decoded_bytes = decoded_bytes
        self.files: ClipFiles = ShardCache() if files is None else files
        self.quarantine = Quarantine(quarantine, max_bad_share=max_bad_share)
        self.time_limit = time_limit
        self.places = ReadingPlaces()

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def record(self, index: int) -> ClipRecord:
        """The clip of an index."""

    def others_like(self, index: int) -> range:
        """Indices among which another one is drawn where the clip of this one cannot be read."""
        return range(len(self))

    @abstractmethod
    def sample(self, index: int, *, epoch: int, generator: torch.Generator) -> T:
        """What an index stands for in an epoch, what else is random drawn from `generator`.

        Raises:
            ClipError: its clip cannot be read.
        """

    def __getitem__(self, key: tuple[int, int]) -> T:
        epoch, index = key
        generator = derive_generator(self.seed, epoch, index)
        used = index
        reason = self._known_fault(used)
        for attempt in range(1, _MAX_REPLACEMENTS + 1):
            if reason is None:
                try:
                    sample = self.sample(used, epoch=epoch, generator=generator)
                except ClipError as error:
                    reason = str(error)
                    self.quarantine.add(
                        self.record(used),
                        reason=reason,
                        epoch=epoch,
                        unreadable=error.unreadable,
                    )
                else:
                    self.quarantine.count(bad=False)
                    return sample
            self.quarantine.count(bad=True, reason=reason)
            # A generator of its own, so that it does not matter how far the last attempt got.
            generator = derive_generator(self.seed, epoch, index, attempt)
            others = self.others_like(index)
            used = int(torch.randint(others.start, others.stop, (), generator=generator))
            reason = self._known_fault(used)
        raise TooManyBadClips(
            f"none of {_MAX_REPLACEMENTS} clips tried in a row can be read; the latest: {reason}"
        )

    def _known_fault(self, index: int) -> str | None:
        # Most runs list nothing; to read a record then is a tenth of a kept sample's time.
        return self.quarantine.reason(self.record(index)) if self.quarantine.lists_any else None

    def cut(self, index: int) -> ClipCut:
        """How the clip of an index is cut: all alike, unless a dataset says otherwise."""
        return ClipCut(self.num_frames, self.transform)

    def read(self, index: int, *, epoch: int, generator: torch.Generator) -> torch.Tensor:
        """A random clip of an index's video, cropped: `(frames, channels, size, size)` uint8."""
        frames = self._frames(index, epoch, generator)
        return self.cut(index).transform(frames, generator=generator).contiguous()

    def _frames(self, index: int, epoch: int, generator: torch.Generator) -> torch.Tensor:
        if not self.num_starts:
            return self._decode(index, epoch, generator)
        start = epoch % self.num_starts

        def decode() -> torch.Tensor:
            at_start = derive_generator(self.seed, _STARTS_STREAM, index, start)
            return self._decode(index, epoch, at_start)

        if self._decoded is None:
            return decode()
        slot = index * self.num_starts + start
        return self._decoded.frames(slot, partial(self.record, index), decode)

    @cached_property
    def _decoded(self) -> DecodedClips | None:
        """The clips kept, opened by each process for itself."""
        if not self.decoded_bytes:
            return None
        settings = {
            **self.spacing.named(),
            "short_side": self.transform.short_side,
            "seed": self.seed,
            "num_starts": self.num_starts,
            "ends": [self.record(index).name for index in (0, len(self) - 1)],
        }
        return DecodedClips(
            settings,
            num_slots=len(self) * self.num_starts,
            num_frames=self.num_frames,
            max_bytes=self.decoded_bytes,
        )

    def _decode(self, index: int, epoch: int, generator: torch.Generator) -> torch.Tensor:
        record, cut = self.record(index), self.cut(index)
        list_it = partial(self.quarantine.add, record, epoch=epoch, unreadable=True)
        seconds = None if self.time_limit is None else 2 * self.time_limit
        stuck = ended_if_stuck(record.name, seconds=seconds, report=list_it)
        with stuck, self.places.at(index, epoch):
            return read_clip(
                local_clip(self.files, record),
                num_frames=cut.num_frames,
                seconds=self.spacing.seconds,
                stride=self.spacing.stride,
                generator=generator,
                short_side=cut.transform.short_side,
                span=record.span,
                time_limit=self.time_limit,
            )

    def blame(self, process: int, *, killed: bool = False) -> str | None:
        """List the clip at which a worker ended, and leave it out from the next start on.

        Args:
            process: the worker.
            killed: it was killed, which may be chance: a clip is left out at the second time.

        Returns:
            Name of the clip that is left out; None if there is none.
        """
        if (place := self.places.of(process)) is None:
            return None
        record = self.record(place[0])
        is_left_out = not killed or self.quarantine.was_killed(record)
        reason = KILLED if killed else "decoder crash"
        self.quarantine.add(record, reason=reason, epoch=place[1], unreadable=is_left_out)
        return record.name if is_left_out else None


class ClipDataset(RandomClips[Sample]):
    """Random clips with one of their captions, for pre-training and retrieval.

    Args:
        records: the clips, of one source or a mixture.
        tokenizer: turns captions into ids.
        max_text_length: longest caption in tokens.
        num_noise: uniform random numbers that come with each sample.
        cut_of: how the clip of an index is cut; None: all as `reading` says.
        **reading: how clips are read, as for RandomClips.
    """

    def __init__(
        self,
        records: Sequence[ClipRecord],
        *,
        tokenizer: Tokenizer,
        max_text_length: int,
        num_noise: int,
        cut_of: Callable[[int], ClipCut] | None = None,
        **reading: Any,
    ) -> None:
        super().__init__(**reading)
        self.cut_of = cut_of
        require_records(records)
        self.records = records
        self.tokenizer = tokenizer
        self.max_text_length = max_text_length
        self.num_noise = num_noise

    def __len__(self) -> int:
        return len(self.records)

    def record(self, index: int) -> ClipRecord:
        """The clip of an index."""
        return self.records[index]

    def others_like(self, index: int) -> range:
        """The clips of the same source, or those beside it in a stream."""
        if isinstance(self.records, ClipMixture):
            return self.records.clips_of(self.records.source_of(index))
        if isinstance(self.records, ClipStream):
            return self.records.clips_of(index)
        return super().others_like(index)

    def cut(self, index: int) -> ClipCut:
        """How the clip of an index is cut."""
        return super().cut(index) if self.cut_of is None else self.cut_of(index)

    def sample(self, index: int, *, epoch: int, generator: torch.Generator) -> Sample:
        """A clip with one of its captions."""
        captions = self.record(index).captions
        noise = torch.rand(self.num_noise, generator=generator)
        caption = captions[int(torch.randint(len(captions), (), generator=generator))]
        video = self.read(index, epoch=epoch, generator=generator)
        encoded = encode_caption(self.tokenizer, caption, max_length=self.max_text_length)
        return Sample(video, encoded.token_ids, encoded.word_ids, noise, caption, index)


def require_records(records: Sequence[Any]) -> None:
    """Refuse to be without data, by a ValueError."""
    if not records:
        raise ValueError("a dataset needs at least one clip, got no records; check the manifest")
