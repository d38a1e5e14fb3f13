"""Samples for training and evaluation: clips decoded, cropped and paired with a caption."""

import os
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import torch
from tokenizers import Tokenizer
from torch.utils.data import Dataset

from simvtp.data.clip_table import ClipRecord
from simvtp.data.clips import ClipError, read_clip
from simvtp.data.fetch import ShardCache
from simvtp.data.quarantine import Quarantine, TooManyBadClips
from simvtp.data.reading_places import ReadingPlaces
from simvtp.data.tokenizer import encode_caption
from simvtp.seeding import derive_generator

_MAX_REPLACEMENTS = 100
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


class EvaluationClip(NamedTuple):
    """One clip to evaluate; `video` is None, and `error` says why, where it cannot be read."""

    video: torch.Tensor | None
    index: int  # pyright: ignore[reportIncompatibleMethodOverride]
    error: str | None


class ClipTransform(Protocol):
    """A crop such as MultiScaleCrop or CentreCrop."""

    @property
    def short_side(self) -> int:
        """Short side, pixels, to which much larger frames may be shrunk while they are decoded."""
        ...

    def __call__(self, video: torch.Tensor, *, generator: torch.Generator) -> torch.Tensor:
        """Cut uint8 `(frames, channels, height, width)` to a square."""
        ...


class RandomClips(Dataset[T], ABC, Generic[T]):
    """Random clips for training; item `(epoch, index)` depends on that pair and the seed alone.

    A clip that cannot be read is listed in the quarantine file and replaced by another record,
    drawn from the same seed, epoch and index: neither the number of workers nor a resume changes
    any sample. Datasets of a kind of sample say what belongs to an index and make it.

    Args:
        num_frames: frames of a clip.
        stride: frames of the video between two frames of a clip.
        transform: crop, the same for all frames.
        seed: seed of everything random.
        quarantine: file that lists the bad clips; None keeps no list.
        max_bad_share: largest share of bad clips before TooManyBadClips is raised.
        cache: finds shards on this machine.
        time_limit: seconds after which a clip counts as unreadable. Twice as long, and the clip
            is listed and the process ended: a decoder that hangs cannot be stopped otherwise.
    """

    def __init__(
        self,
        *,
        num_frames: int,
        stride: int,
        transform: ClipTransform,
        seed: int,
        quarantine: Path | None = None,
        max_bad_share: float = 0.1,
        cache: ShardCache | None = None,
        time_limit: float | None = None,
    ) -> None:
        self.num_frames = num_frames
        self.stride = stride
        self.transform = transform
        self.seed = seed
        self.cache = ShardCache() if cache is None else cache
        self.quarantine = Quarantine(quarantine, max_bad_share=max_bad_share)
        self.time_limit = time_limit
        self.places = ReadingPlaces()

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def record(self, index: int) -> ClipRecord:
        """The clip of an index."""

    @abstractmethod
    def sample(self, index: int, generator: torch.Generator) -> T:
        """What an index stands for, all that is random in it drawn from `generator`.

        Raises:
            ClipError: its clip cannot be read.
        """

    def __getitem__(self, key: tuple[int, int]) -> T:
        epoch, index = key
        generator = derive_generator(self.seed, epoch, index)
        used = index
        reason = self.quarantine.reason(self.record(used))
        for attempt in range(1, _MAX_REPLACEMENTS + 1):
            if reason is None:
                try:
                    with self._watched(used, epoch), self.places.at(used, epoch):
                        sample = self.sample(used, generator)
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
            used = int(torch.randint(len(self), (), generator=generator))
            reason = self.quarantine.reason(self.record(used))
        raise TooManyBadClips(
            f"none of {_MAX_REPLACEMENTS} clips tried in a row can be read; the latest: {reason}"
        )

    def read(self, index: int, generator: torch.Generator) -> torch.Tensor:
        """A random clip of an index's video, cropped: `(frames, channels, size, size)` uint8."""
        record = self.record(index)
        video = read_clip(
            self.cache.local(record.path),
            num_frames=self.num_frames,
            stride=self.stride,
            generator=generator,
            short_side=self.transform.short_side,
            span=record.span,
            time_limit=self.time_limit,
        )
        return self.transform(video, generator=generator).contiguous()

    def blame(self, process: int) -> str | None:
        """List the clip at which a worker's decoder crashed; its name, None if it was at none."""
        if (place := self.places.of(process)) is None:
            return None
        record = self.record(place[0])
        self.quarantine.add(record, reason="decoder crash", epoch=place[1], unreadable=True)
        return record.name

    @contextmanager
    def _watched(self, index: int, epoch: int) -> Iterator[None]:
        """List a clip that takes far beyond its time, and end the process that is stuck in it."""
        if self.time_limit is None:
            yield
            return
        record, seconds = self.record(index), 2 * self.time_limit

        def end() -> None:
            reason = f"reading {record.name} hangs: not done after {seconds:g} s"
            self.quarantine.add(record, reason=reason, epoch=epoch, unreadable=True)
            sys.stderr.write(f"{reason}; it is left out from the next start on\n")
            sys.stderr.flush()
            os._exit(1)

        timer = threading.Timer(seconds, end)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


class ClipDataset(RandomClips[Sample]):
    """Random clips with one of their captions, for pre-training and retrieval.

    Args:
        records: the clips.
        tokenizer: turns captions into ids.
        max_text_length: longest caption in tokens.
        num_noise: uniform random numbers that come with each sample.
        **reading: how clips are read, as for RandomClips.
    """

    def __init__(
        self,
        records: Sequence[ClipRecord],
        *,
        tokenizer: Tokenizer,
        max_text_length: int,
        num_noise: int,
        **reading: Any,
    ) -> None:
        super().__init__(**reading)
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

    def sample(self, index: int, generator: torch.Generator) -> Sample:
        """A clip with one of its captions."""
        captions = self.records[index].captions
        noise = torch.rand(self.num_noise, generator=generator)
        caption = captions[int(torch.randint(len(captions), (), generator=generator))]
        video = self.read(index, generator)
        encoded = encode_caption(self.tokenizer, caption, max_length=self.max_text_length)
        return Sample(video, encoded.token_ids, encoded.word_ids, noise, caption, index)


class EvaluationDataset(Dataset[EvaluationClip]):
    """The middle clip of each video; a bad clip is never replaced but returned as such.

    Args:
        records: the clips.
        num_frames: frames of a clip.
        stride: frames of the video between two frames of a clip.
        transform: crop that draws nothing, e.g. CentreCrop.
        cache: finds shards on this machine.
        time_limit: seconds after which a clip counts as unreadable.
    """

    def __init__(
        self,
        records: Sequence[ClipRecord],
        *,
        num_frames: int,
        stride: int,
        transform: ClipTransform,
        cache: ShardCache | None = None,
        time_limit: float | None = 60.0,
    ) -> None:
        require_records(records)
        self.records = records
        self.num_frames = num_frames
        self.stride = stride
        self.transform = transform
        self.time_limit = time_limit
        self.cache = ShardCache() if cache is None else cache

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> EvaluationClip:
        record = self.records[index]
        try:
            video = read_clip(
                self.cache.local(record.path),
                num_frames=self.num_frames,
                stride=self.stride,
                short_side=self.transform.short_side,
                span=record.span,
                time_limit=self.time_limit,
            )
        except ClipError as error:
            return EvaluationClip(None, index, str(error))
        generator = torch.Generator().manual_seed(index)
        return EvaluationClip(self.transform(video, generator=generator), index, None)


def require_records(records: Sequence[Any]) -> None:
    """Refuse to be without data, by a ValueError."""
    if not records:
        raise ValueError("a dataset needs at least one clip, got no records; check the manifest")
