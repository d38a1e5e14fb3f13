"""Seven clips, and the command that packs them."""

import csv
import hashlib
from pathlib import Path

import torch

from simvtp.data import ClipRecord, read_clip
from simvtp.pipelines.prepare import command as prepare

NUM_CLIPS = 7
CAPTIONS = {n: [f"clip number {n}", "a row of, bars"][: 1 + n % 2] for n in range(NUM_CLIPS)}


def write_manifest(path: Path, rows: list[tuple[str, str, str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("videoid", "path", "caption"), *rows])
    return path


def run(*arguments: object) -> int:
    return prepare.main([str(argument) for argument in ("--workers=1", *arguments)])


def tree(folder: Path) -> dict[str, str]:
    """Digest of every file below a folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def drawn(record: ClipRecord) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    return read_clip(record.path, num_frames=4, stride=2, generator=generator, span=record.span)
