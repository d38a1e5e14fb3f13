"""Clips that a table names below an address: copied one by one, and nothing else is opened."""

import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from simvtp.config import FrameSpacing
from simvtp.data import (
    ClipDataset,
    ClipRecord,
    FetchError,
    ManifestError,
    ShardCache,
    Url,
    load_clips,
    load_manifest,
)
from simvtp.data.datasets.views import read_views
from simvtp.data.mixtures.held_out import clips_in_both
from simvtp.data.preparing.checks import check_clips
from simvtp.data.shards import fetch

BUCKET = "memory://bucket/clips"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SIMVTP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fetch.time, "sleep", lambda seconds: None)


class _Handler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@pytest.fixture
def served(records: list[ClipRecord], tmp_path: Path) -> Iterator[str]:
    """Three clips on a web server, one of them in a folder with a strange name."""
    folder = tmp_path / "served/clips/a b%"
    folder.mkdir(parents=True)
    for place, record in zip((folder.parent, folder, folder.parent), records, strict=False):
        video = Path(str(record.path)).read_bytes()
        (place / f"{record.video_id}.mp4").write_bytes(video)
    handler = partial(_Handler, directory=str(tmp_path / "served"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_address[1]}/clips/"
        http.shutdown()


def write_table(folder: Path, *paths: str) -> Path:
    table = folder / "clips.csv"
    table.write_text("path,caption\n" + "".join(f"{path},a dog\n" for path in paths))
    return table


def test_clips_come_over_http_one_by_one(
    served: str,
    records: list[ClipRecord],
    tmp_path: Path,
    make_dataset: Callable[..., ClipDataset],
):
    table = write_table(
        tmp_path, "0.mp4", "a b%/1.mp4", f"{served}2.mp4", f"{served}a%20b%25/1.mp4"
    )
    clips = load_clips(str(table), root=served)
    addresses = [f"{served}{name}" for name in ("0.mp4", "a%20b%25/1.mp4", "2.mp4")]
    assert [clip.path for clip in clips][:3] == [Url(address) for address in addresses]
    copies = tmp_path / "copies"
    dataset = make_dataset(clips, files=ShardCache(copies))
    local = make_dataset(records)
    for index in range(3):
        assert torch.equal(dataset[0, index].video, local[0, index].video)
    # Opened again, the table is that of the cache; the copies are not made again.
    assert list(load_manifest(table, root=served)) == list(clips)
    assert len([copy for copy in copies.iterdir() if not copy.suffix]) == 3
    assert len(list(clips_in_both(clips, clips))) == len(clips)


def test_what_is_not_there_costs_one_clip(
    served: str, records: list[ClipRecord], tmp_path: Path, make_dataset: Callable[..., ClipDataset]
):
    clips = load_clips(str(write_table(tmp_path, "0.mp4", "gone.mp4")), root=served)
    dataset = make_dataset(clips, quarantine=tmp_path / "bad.jsonl", max_bad_share=1.0)
    assert dataset[0, 1].index == 0
    assert "cannot fetch" in (tmp_path / "bad.jsonl").read_text()
    views = list(read_views(clips, num_frames=2, spacing=FrameSpacing(stride=1), image_size=16))
    assert views[0].video is not None
    assert "cannot fetch" in str(views[1].error)
    good, bad = check_clips(clips, num_processes=1, time_limit=60)
    assert good.inspection is not None
    assert "gone.mp4" in bad.reason


def test_a_store_is_read_likewise_and_a_file_larger_than_the_cache_is_refused(
    records: list[ClipRecord], tmp_path: Path
):
    video = Path(str(records[0].path)).read_bytes()
    fsspec.filesystem("memory").pipe("/bucket/clips/x/a.mp4", video)
    (clip,) = load_manifest(write_table(tmp_path, "x/a.mp4"), root=BUCKET)
    assert clip.path == Url(f"{BUCKET}/x/a.mp4")
    assert ShardCache().local(clip.path).read_bytes() == video
    small = ShardCache(tmp_path / "small", max_bytes=len(video) - 1)
    with pytest.raises(FetchError, match=r"raise the size of the cache \(--data.shard_cache_gb\)"):
        small.local(clip.path)
    assert not [copy for copy in small.folder.iterdir() if not copy.suffix]


@pytest.mark.parametrize(
    "path",
    [
        *("../a.mp4", "x/../../a.mp4", "/etc/passwd", "./a.mp4", "x//a.mp4", "x/"),
        *("https://elsewhere/a.mp4", "file:///etc/passwd", "s3://bucket/clips/a.mp4"),
        *("memory://bucket/clips-of-others/a.mp4", "memory://bucket/clips/../a.mp4"),
        *("a.zip::file.mp4", "*.mp4", "a[1].mp4", "a\\b.mp4", "%2e%2e/a.mp4"),
    ],
)
def test_nothing_but_files_below_the_root_is_opened(path: str, tmp_path: Path):
    with pytest.raises(ManifestError, match=r"line 2: path .*; give a name below memory://bucket"):
        load_manifest(write_table(tmp_path, path), root=BUCKET)


@pytest.mark.parametrize("path", ["%2e%2e/a.mp4", "a%2F..%2Fb.mp4", "..%2Fa.mp4", "a%5Cb.mp4"])
def test_encoded_ways_out_of_a_web_folder_are_none(path: str):
    root = Url("https://host/clips/")
    with pytest.raises(ValueError, match="no single file below the root"):
        root.name_below(f"https://host/clips/{path}")
    # A plain name means these letters.
    assert root.below(path).address == f"https://host/clips/{path.replace('%', '%25')}"


@given(st.text(max_size=20))
def test_whatever_a_table_says_stays_below_the_address(written: str):
    for root in (Url("https://host/clips"), Url("s3://bucket/clips/")):
        begin = f"{str(root).rstrip('/')}/"
        for name in (written, begin + written):
            try:
                address = str(root.below(root.name_below(name)))
            except ValueError:
                continue
            assert address.startswith(begin)
            rest = address.removeprefix(begin)
            assert rest
            assert "::" not in rest
            assert not {"..", ".", ""} & set(rest.split("/"))


def test_a_root_is_no_command(tmp_path: Path):
    with pytest.raises(ValueError, match="got pipe:cat x"):
        load_manifest(write_table(tmp_path, "a.mp4"), root="pipe:cat x")
