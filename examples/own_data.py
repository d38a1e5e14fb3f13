"""Folders of frames as clips, by `clips (folder, caption)` of a data base: own_data.py CLIPS.db"""

import sqlite3
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from simvtp import data
from simvtp.batch import Batch, Collator
from simvtp.config import FrameSpacing
from simvtp.masking import TextMasker, TubeMasker


class FrameFolders(data.RandomClips[data.Sample]):
    """Bad folders are listed and replaced, and a resume is exact, as for videos."""

    def __init__(self, data_base: str, *, bad: Path) -> None:
        reading = {"num_frames": 4, "spacing": FrameSpacing(stride=1), "seed": 0, "quarantine": bad}
        super().__init__(**reading, transform=data.MultiScaleCrop(64), max_bad_share=0.5)
        rows = sqlite3.connect(data_base)
        self.rows = rows.execute("SELECT folder, caption FROM clips").fetchall()
        self.tokenizer = data.train_tokenizer([row[1] for row in self.rows], vocab_size=200)

    def __len__(self) -> int:
        return len(self.rows)

    def record(self, index: int) -> data.ClipRecord:
        """What the list of bad clips says of a folder."""
        folder, caption = self.rows[index]
        return data.ClipRecord(Path(folder).name, folder, (caption,))

    def sample(self, index: int, *, epoch: int, generator: torch.Generator) -> data.Sample:
        """Neighbouring frames, cropped, and the caption; all that is random from `generator`."""
        folder, caption = self.rows[index]
        files = sorted(Path(folder).glob("*.jpg"))
        if len(files) < self.num_frames:
            raise data.ClipError(f"{folder} has only {len(files)} frames", unreadable=True)
        first = int(torch.randint(len(files) - self.num_frames + 1, (), generator=generator))
        files = files[first : first + self.num_frames]
        frames = torch.from_numpy(np.stack([Image.open(file).convert("RGB") for file in files]))
        video = self.transform(frames.permute(0, 3, 1, 2), generator=generator).contiguous()
        words = data.encode_caption(self.tokenizer, caption, max_length=32)
        return data.Sample(video, *words, torch.rand(16 + 32, generator=generator), caption, index)


def main(data_base: str) -> list[Batch]:
    """Batches of an epoch, as `Objective` and the trainer take them."""
    dataset = FrameFolders(data_base, bad=Path(data_base).with_suffix(".bad.jsonl"))
    special = data.special_token_ids(dataset.tokenizer)
    masker = TextMasker(special.mask, special_ids=list(special), ratio=0.5)
    collate = Collator(TubeMasker((2, 4, 4), ratio=0.75), text_masker=masker)
    sampler = data.EpochSampler(len(dataset), seed=0, batch_size=2)
    return list(data.build_loader(dataset, sampler=sampler, num_workers=0, collate=collate))


if __name__ == "__main__":
    print(main(sys.argv[1]))
