"""Seven clips, good and with two bad ones, and the shards that they become."""

import pytest

from testing.data.video_files import write_video_file
from testing.pipelines.prepared_clips import CAPTIONS, NUM_CLIPS, run, write_manifest


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


@pytest.fixture(scope="session")
def prepared(manifest, tmp_path_factory):
    out = tmp_path_factory.mktemp("prepared") / "shards"
    assert run("--data", manifest, "--out", out, "--clips-per-shard=3") == 0
    return out


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
