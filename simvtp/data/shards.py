"""Tar shards of clips (WebDataset's layout), listed in a table that finds any clip at once."""

import glob
import hashlib
import json
import tarfile
import warnings
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import fsspec
from braceexpand import braceexpand
from rich.console import Console
from rich.progress import track

from simvtp.data.cache import cache_folder
from simvtp.data.clip_table import ByteSpan, ClipRecord, ClipTable, write_clip_table
from simvtp.data.fetch import FetchError, ShardCache, is_remote
from simvtp.data.manifest_checks import checked_captions
from simvtp.data.manifest_rows import ProblemError, Row

INDEX_NAME = "index.json"
TABLE_NAME = "clips.arrow"
VIDEO_SUFFIXES = ("mp4", "m4v", "mov", "webm", "mkv", "avi", "gif")
_FORMAT = 1
_SHARDS_WITH_PROGRESS = 8


class ShardError(ValueError):
    """Shards that cannot be used; the message names the file and the fix."""


class ShardWarning(UserWarning):
    """Samples of a shard were left out, because they lack a video or a caption."""


class IndexedShard(NamedTuple):
    """What an index says of one shard."""

    file: str
    clips: int
    bytes: int
    sha256: str


def load_shards(source: str, *, cache: ShardCache | None = None) -> ClipTable:
    """List the clips of tar shards, each found by its place in its shard.

    A shard holds `{key}.mp4` (or another video) followed or preceded by `{key}.txt` with one
    caption, or `{key}.json` with `caption` or `captions`. Nothing is ever unpacked.

    Args:
        source: a folder that `simvtp.pipelines.prepare` wrote, or the URL of its index.json; else
            the shards themselves: paths with braces and stars (`clips/{000..099}.tar`), URLs that
            fsspec opens (`https:`, `s3:`, ...), or `pipe:` and a command that prints a shard.
            Without an index every shard is read through once, and the list kept in the cache.
        cache: holds copies of remote shards; its default is 50 GB in the cache folder.

    Raises:
        ShardError: there is no shard, or one is damaged.
        FetchError: a remote shard or index cannot be copied.
    """
    cache = ShardCache() if cache is None else cache
    if not is_remote(source) and Path(source).is_dir():
        return _from_index(source.rstrip("/"), cache)
    if is_remote(source) and source.endswith(f"/{INDEX_NAME}"):
        return _from_index(source.removesuffix(f"/{INDEX_NAME}"), cache)
    shards = expand_shards(source)
    file = _cached_list(shards)
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=file.parent, prefix=".") as scratch:
            partial = Path(scratch, TABLE_NAME)
            write_clip_table(partial, _scan_all(shards, cache))
            if not len(ClipTable(partial, root="/", source=source)):
                raise ShardError(
                    f"{source}: no clip in {len(shards)} shard(s); a clip is a file "
                    f"KEY.{'|'.join(VIDEO_SUFFIXES)} beside KEY.txt or KEY.json"
                )
            partial.replace(file)
    return ClipTable(file, root="/", source=source)


def expand_shards(source: str) -> list[str]:
    """Shards that a pattern with braces and stars stands for, local ones as absolute paths.

    Raises:
        ShardError: a shard is missing, compressed or named twice.
    """
    shards: list[str] = []
    for pattern in braceexpand(source):
        if is_remote(pattern):
            shards.extend(_remote_matches(pattern))
        else:
            # Path.glob takes no absolute pattern.
            found = sorted(glob.glob(str(Path(pattern).expanduser())))  # noqa: PTH207
            if not found:
                raise ShardError(f"{pattern}: there is no such shard; check the path")
            shards.extend(str(Path(path).absolute()) for path in found)
    if len(set(shards)) < len(shards):
        raise ShardError(f"{source}: a shard is named twice; name each once")
    packed = [shard for shard in shards if shard.endswith((".gz", ".tgz", ".bz2", ".xz", ".zst"))]
    if packed:
        raise ShardError(
            f"{packed[0]}: a compressed shard has to be unpacked up to each clip; use plain .tar "
            "(videos do not shrink any further)"
        )
    return shards


def scan_shard(file: Path, *, shard: str) -> Iterator[ClipRecord]:
    """Clips of one shard in the order of their files; what lacks a video or caption is left out.

    Raises:
        ShardError: the shard is damaged or cut off.
    """
    left_out: list[str] = []
    num_bytes = file.stat().st_size
    try:
        with tarfile.open(file, "r:") as tar:
            for key, members in groupby(_files(tar), key=lambda member: _split(member.name)[0]):
                parts = {_split(member.name)[1]: member for member in members}
                try:
                    yield _sample(tar, key, parts, shard=shard, num_bytes=num_bytes)
                except ProblemError as problem:
                    left_out.append(f"{key}: {problem.message}")
            end = tar.offset
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ShardError(f"{shard}: damaged shard ({error}); copy or make it again") from error
    # tarfile takes a file that was cut between two members for a whole one.
    with file.open("rb") as tail:
        tail.seek(end)
        if tail.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
            raise ShardError(f"{shard}: damaged shard (no end mark); copy or make it again")
    if left_out:
        warnings.warn(
            f"{shard}: {len(left_out)} sample(s) left out; the first: {left_out[0]}",
            ShardWarning,
            stacklevel=2,
        )


def read_index(text: str | bytes, *, source: str) -> list[IndexedShard]:
    """Shards as an index lists them.

    Raises:
        ShardError: it is no index, or names files outside its folder.
    """
    try:
        index = json.loads(text)
        if index["format"] != _FORMAT:
            raise ValueError(f"format {index['format']}, known is {_FORMAT}")
        shards = [IndexedShard(**entry) for entry in index["shards"]]
    except (ValueError, TypeError, KeyError) as error:
        raise ShardError(f"{source}: no index of shards ({error!r}); write it again") from error
    for shard in shards:
        if Path(shard.file).name != shard.file:
            raise ShardError(f"{source}: {shard.file!r} is not a file beside the index")
    return shards


def write_index(shards: Iterable[IndexedShard]) -> str:
    """Text of an index."""
    return json.dumps(
        {"format": _FORMAT, "shards": [shard._asdict() for shard in shards]}, indent=1
    )


def _from_index(root: str, cache: ShardCache) -> ClipTable:
    """Table that `prepare` wrote; it is only believed as far as the index goes."""
    source = f"{root}/{INDEX_NAME}"
    if is_remote(root):
        with fsspec.open(source, "rb") as file:
            text = file.read()  # pyright: ignore[reportAttributeAccessIssue]
        version = hashlib.sha256(text).hexdigest()[:16]
        table_file = cache.local(f"{root}/{TABLE_NAME}", version=version)
    else:
        try:
            text = Path(source).read_bytes()
        except OSError as error:
            raise ShardError(
                f"{source}: {error.strerror}; name the shards ({root}/*.tar), or a folder that "
                "simvtp.pipelines.prepare has finished"
            ) from error
        table_file = Path(root, TABLE_NAME)
    shards = read_index(text, source=source)
    table = ClipTable(table_file, root=root, source=source)
    named = [(shard.file, shard.clips) for shard in shards if shard.clips]
    if list(zip(table.shard_names(), table.shard_sizes() or [], strict=False)) != named:
        raise ShardError(f"{source}: {TABLE_NAME} is not the table of these shards; prepare again")
    if not is_remote(root):
        for shard in shards:
            path = Path(root, shard.file)
            if not path.is_file() or path.stat().st_size != shard.bytes:
                raise ShardError(f"{path}: missing, or not {shard.bytes} bytes; copy it again")
    return table


def _remote_matches(pattern: str) -> list[str]:
    if pattern.startswith("pipe:") or "*" not in pattern:
        return [pattern]
    try:
        system, _, paths = fsspec.get_fs_token_paths(pattern)
    except Exception as error:  # Every file system of fsspec raises its own kinds.
        raise FetchError(f"cannot list {pattern}: {error}") from error
    if not paths:
        raise ShardError(f"{pattern}: no shard matches; check the address")
    return [system.unstrip_protocol(path) for path in sorted(paths)]


def _cached_list(shards: list[str]) -> Path:
    """Name of the kept list; changes when a local shard does."""
    digest = hashlib.sha256(f"{_FORMAT}".encode())
    for shard in shards:
        digest.update(f"\n{shard}".encode())
        if not is_remote(shard):
            status = Path(shard).stat()
            digest.update(f" {status.st_size} {status.st_mtime_ns}".encode())
    return cache_folder() / "manifests" / f"shards-{digest.hexdigest()[:32]}.arrow"


def _scan_all(shards: list[str], cache: ShardCache) -> Iterator[ClipRecord]:
    few = len(shards) < _SHARDS_WITH_PROGRESS
    console = Console(stderr=True)
    for shard in track(shards, "Listing shards", console=console, transient=True, disable=few):
        # The table's root is "/": local paths in it are relative to that.
        name = shard if is_remote(shard) else shard.removeprefix("/")
        for record in scan_shard(cache.local(shard), shard=shard):
            yield ClipRecord(record.video_id, name, record.captions, record.span)


def _files(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Plain files one after the other; tarfile's own list of all of them is not kept."""
    while (member := tar.next()) is not None:
        tar.members.clear()  # pyright: ignore[reportAttributeAccessIssue]
        name = Path(member.name).name
        if member.isreg() and "." in name and not name.startswith("."):
            yield member


def _split(name: str) -> tuple[str, str]:
    """Key and kind: WebDataset cuts a name at the first dot after the last slash."""
    folder, slash, last = name.rpartition("/")
    key, _, kind = last.partition(".")
    return f"{folder}{slash}{key}", kind.lower()


def _sample(
    tar: tarfile.TarFile,
    key: str,
    parts: dict[str, tarfile.TarInfo],
    *,
    shard: str,
    num_bytes: int,
) -> ClipRecord:
    video = next((parts[kind] for kind in VIDEO_SUFFIXES if kind in parts), None)
    if video is None:
        raise ProblemError(0, f"no video among {', '.join(sorted(parts))}")
    if video.offset_data + video.size > num_bytes:
        raise ShardError(f"{shard}: cut off within {video.name}; copy or make it again")
    if "txt" in parts:
        captions: Any = _text(tar, parts["txt"])
    elif "json" in parts:
        try:
            written = json.loads(_text(tar, parts["json"]))
            captions = written["captions"] if "captions" in written else written["caption"]
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ProblemError(0, f"no caption in its .json ({error!r})") from error
    else:
        raise ProblemError(0, "neither .txt nor .json beside the video")
    row = Row(0, key, (), captions)
    return ClipRecord(key, shard, checked_captions(row), ByteSpan(video.offset_data, video.size))


def _text(tar: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    file = tar.extractfile(member)
    assert file is not None
    try:
        return file.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ProblemError(0, f"{member.name} is not UTF-8") from error
