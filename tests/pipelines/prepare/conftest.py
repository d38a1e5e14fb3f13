"""Seven clips, good and with two bad ones, and the shards that they become."""

import csv
import hashlib
from pathlib import Path

import pytest
import torch

from simvtp.data import ClipRecord, read_clip
from simvtp.pipelines.prepare import command as prepare
from tests.data.conftest import write_video_file

NUM_CLIPS = 7
CAPTIONS = {n: [f"clip number {n}", "a row of, bars"][: 1 + n % 2] for n in range(NUM_CLIPS)}


def write_manifest(path: Path, rows: list[tuple[str, str, str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("videoid", "path", "caption"), *rows])
    return path


@pytest.fixture(scope="session")
def manifest(tmp_path_factory):
    """Seven clips of different lengths, some with two captions, one with an odd id."""
    folder = tmp_path_factory.mktemp("clips")
    rows = []
    for number, captions in CAPTIONS.items():
        write_video_file(folder / f"{number}.mp4", 12 + 3 * number)
        video_id = "a/b.c é" if number == 3 else f"id{number}"
        rows += [(video_id, f"{number}.mp4", caption) for caption in captions]
    return write_manifest(folder / "clips.csv", rows)


def run(*arguments: object) -> int:
    return prepare.main([str(argument) for argument in ("--workers=1", *arguments)])


@pytest.fixture(scope="session")
def prepared(manifest, tmp_path_factory):
    out = tmp_path_factory.mktemp("prepared") / "shards"
    assert run("--data", manifest, "--out", out, "--clips-per-shard=3") == 0
    return out


def tree(folder: Path) -> dict[str, str]:
    """Digest of every file below a folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def drawn(record: ClipRecord) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    return read_clip(record.path, num_frames=4, stride=2, generator=generator, span=record.span)


@pytest.fixture(scope="session")
def with_bad_clips(manifest, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    rows = []
    for number in range(NUM_CLIPS):
        data = (manifest.parent / f"{number}.mp4").read_bytes()
        if number == 1:
            data = b"this is no video"
        if number == 4:
            # Its start can be read, but the header promises pictures whose bytes are gone.
            start, end = data.index(b"mdat") + 900, data.rindex(b"moov") - 4
            data = data[:start] + bytes(end - start) + data[end:]
        (folder / f"{number}.mp4").write_bytes(data)
        rows.append((f"id{number}", f"{number}.mp4", f"words of {number}"))
    (folder / "copy.mp4").write_bytes((folder / "2.mp4").read_bytes())
    return write_manifest(folder / "clips.csv", [*rows, ("copy", "copy.mp4", "words of 2")])
