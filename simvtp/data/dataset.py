"""Samples for training and evaluation: clips decoded, cropped and paired with a caption."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from tokenizers import Tokenizer
from torch.utils.data import Dataset

from simvtp.data.clips import ClipError, read_clip
from simvtp.data.manifest import ClipRecord
from simvtp.data.tokenizer import encode_caption
from simvtp.seeding import derive_generator

_MIN_TRIED = 20
_MAX_REPLACEMENTS = 100


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


class TooManyBadClips(RuntimeError):
    """So many clips cannot be read that the data, not single files, must be at fault."""


class Quarantine:
    """Keeps the list of bad clips, and stops the run when there are too many.

    Each process counts on its own, so a share is over the limit only when chance no longer
    explains it: by three standard deviations of a draw of that many clips.

    Args:
        path: JSONL file to add each bad clip to once; None keeps no list.
        max_bad_share: largest share of bad clips among those tried.
    """

    def __init__(self, path: Path | None, *, max_bad_share: float) -> None:
        if not 0 <= max_bad_share <= 1:
            raise ValueError(f"max_bad_share must lie in [0, 1], got {max_bad_share}")
        self.path = path
        self.max_bad_share = max_bad_share
        self.num_tried = 0
        self.num_bad = 0
        self._listed: set[str] = set()

    def count(self, *, bad: bool, reason: str = "") -> None:
        """Count one more clip that was tried.

        Raises:
            TooManyBadClips: the share of bad clips is beyond `max_bad_share`.
        """
        self.num_tried += 1
        self.num_bad += bad
        expected = self.max_bad_share * self.num_tried
        chance = 3 * (expected * (1 - self.max_bad_share)) ** 0.5
        if self.num_tried >= _MIN_TRIED and self.num_bad > expected + chance:
            raise TooManyBadClips(
                f"{self.num_bad} of the {self.num_tried} clips tried cannot be read, the limit "
                f"max_bad_share is {self.max_bad_share:.0%}; repair the data or raise the limit. "
                f"The bad clips are listed in {self.path}; the latest: {reason}"
            )

    def add(self, record: ClipRecord, *, reason: str, epoch: int) -> None:
        """List a bad clip, unless this or another worker has done so before."""
        written = str(record.path)
        if self.path is None or written in self._listed:
            return
        self._listed.add(written)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        entry = {"path": written, "video_id": record.video_id, "reason": reason, "epoch": epoch}
        if written in self._paths_in_file():
            return
        # One write to a file opened for appending is not torn by other workers' writes.
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, (json.dumps(entry) + "\n").encode())
        finally:
            os.close(descriptor)

    def _paths_in_file(self) -> set[str]:
        if self.path is None or not self.path.exists():
            return set()
        lines = self.path.read_text(encoding="utf-8").splitlines()
        return {json.loads(line)["path"] for line in lines if line.endswith("}")}


class ClipDataset(Dataset[Sample]):
    """Random clips for training; item `(epoch, index)` depends on that pair and the seed alone.

    A clip that cannot be read is listed in the quarantine file and replaced by another record,
    drawn from the same seed, epoch and index: neither the number of workers nor a resume changes
    any sample.

    Args:
        records: the clips.
        tokenizer: turns captions into ids.
        num_frames: frames of a clip.
        stride: frames of the video between two frames of a clip.
        transform: crop, the same for all frames.
        max_text_length: longest caption in tokens.
        num_noise: uniform random numbers that come with each sample.
        seed: seed of everything random.
        quarantine: file that lists the bad clips; None keeps no list.
        max_bad_share: largest share of bad clips before TooManyBadClips is raised.
    """

    def __init__(
        self,
        records: Sequence[ClipRecord],
        *,
        tokenizer: Tokenizer,
        num_frames: int,
        stride: int,
        transform: ClipTransform,
        max_text_length: int,
        num_noise: int,
        seed: int,
        quarantine: Path | None = None,
        max_bad_share: float = 0.1,
    ) -> None:
        _require_records(records)
        self.records = records
        self.tokenizer = tokenizer
        self.num_frames = num_frames
        self.stride = stride
        self.transform = transform
        self.max_text_length = max_text_length
        self.num_noise = num_noise
        self.seed = seed
        self.quarantine = Quarantine(quarantine, max_bad_share=max_bad_share)
        self._unreadable: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        epoch, index = key
        generator = derive_generator(self.seed, epoch, index)
        reason = self._unreadable.get(index)
        used = index
        for attempt in range(1, _MAX_REPLACEMENTS + 1):
            if reason is None:
                try:
                    sample = self._sample(used, generator)
                except ClipError as error:
                    reason = str(error)
                    self.quarantine.add(self.records[used], reason=reason, epoch=epoch)
                    if error.unreadable:
                        self._unreadable[used] = reason
                else:
                    self.quarantine.count(bad=False)
                    return sample
            self.quarantine.count(bad=True, reason=reason)
            # A generator of its own, so that it does not matter how far the last attempt got.
            generator = derive_generator(self.seed, epoch, index, attempt)
            used = int(torch.randint(len(self.records), (), generator=generator))
            reason = self._unreadable.get(used)
        raise TooManyBadClips(
            f"none of {_MAX_REPLACEMENTS} clips tried in a row can be read; the latest: {reason}"
        )

    def _sample(self, index: int, generator: torch.Generator) -> Sample:
        record = self.records[index]
        noise = torch.rand(self.num_noise, generator=generator)
        choice = int(torch.randint(len(record.captions), (), generator=generator))
        caption = record.captions[choice]
        video = read_clip(
            record.path,
            num_frames=self.num_frames,
            stride=self.stride,
            generator=generator,
            short_side=self.transform.short_side,
        )
        video = self.transform(video, generator=generator).contiguous()
        encoded = encode_caption(self.tokenizer, caption, max_length=self.max_text_length)
        return Sample(video, encoded.token_ids, encoded.word_ids, noise, caption, index)


class EvaluationDataset(Dataset[EvaluationClip]):
    """The middle clip of each video; a bad clip is never replaced but returned as such.

    Args:
        records: the clips.
        num_frames: frames of a clip.
        stride: frames of the video between two frames of a clip.
        transform: crop that draws nothing, e.g. CentreCrop.
    """

    def __init__(
        self,
        records: Sequence[ClipRecord],
        *,
        num_frames: int,
        stride: int,
        transform: ClipTransform,
    ) -> None:
        _require_records(records)
        self.records = records
        self.num_frames = num_frames
        self.stride = stride
        self.transform = transform

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> EvaluationClip:
        try:
            video = read_clip(
                self.records[index].path,
                num_frames=self.num_frames,
                stride=self.stride,
                short_side=self.transform.short_side,
            )
        except ClipError as error:
            return EvaluationClip(None, index, str(error))
        generator = torch.Generator().manual_seed(index)
        return EvaluationClip(self.transform(video, generator=generator), index, None)


def _require_records(records: Sequence[ClipRecord]) -> None:
    if not records:
        raise ValueError("a dataset needs at least one clip, got no records; check the manifest")
