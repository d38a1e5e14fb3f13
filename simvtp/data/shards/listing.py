"""Tar shards of clips (WebDataset's layout), listed in a table that finds any clip at once."""

import glob
import hashlib
import json
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import fsspec
from braceexpand import braceexpand
from rich.progress import track

from simvtp.data.clip_table import ClipRecord, ClipTable, write_clip_table
from simvtp.data.places import Command, Place, Url, cache_folder, named_place
from simvtp.data.shards.fetch import FetchError, ShardCache
from simvtp.data.shards.index import INDEX_NAME, TABLE_NAME, ShardError, load_address, load_folder
from simvtp.data.shards.scan import VIDEO_SUFFIXES, scan_shard
from simvtp.files import publish
from simvtp.printing import printable, progress_console

# Changes when other clips are found in the same shards.
_FORMAT = 3
_SHARDS_WITH_PROGRESS = 8


class ShardWarning(UserWarning):
    """Clips of a shard were left out, because they lack a video or a caption."""


def load_shards(
    source: str | Place, *, cache: ShardCache | None = None, left_out: list[str] | None = None
) -> ClipTable:
    """List the clips of tar shards, each found by its place in its shard.

    A shard holds `{key}.mp4` (or another video) and, anywhere, `{key}.txt` with one caption, or
    `{key}.json` with `caption` or `captions`. Nothing is ever unpacked.

    Args:
        source: a folder that `simvtp.pipelines.prepare` wrote, or the URL of its index.json; else
            the shards themselves: paths with braces and stars (`clips/{000..099}.tar`), URLs that
            fsspec opens (`https:`, `s3:`, ...), or `pipe:` and a command that prints a shard.
            Without an index every shard is read through once, and the list kept in the cache.
            A string is what a user typed; never pass one that stands in a file.
        cache: holds copies of remote shards; its default is 50 GB in the cache folder.
        left_out: gets what is wrong with each clip that is left out; without it a warning says
            how many there are.

    Raises:
        ShardError: there is no shard, or one is damaged.
        FetchError: a remote shard or index cannot be copied.
    """
    cache = ShardCache() if cache is None else cache
    place = named_place(source)
    if isinstance(place, Path) and place.is_dir():
        return load_folder(place)
    if isinstance(place, Url) and place.address.endswith(f"/{INDEX_NAME}"):
        return load_address(place, cache)
    shards = {str(shard): shard for shard in expand_shards(place)}
    file = _cached_list(shards.values())
    reasons_file = file.with_suffix(".json")
    if not (file.is_file() and reasons_file.is_file()):
        _list_clips(place, shards, cache, file, reasons_file)
    report_left_out(json.loads(reasons_file.read_bytes()), place, left_out)
    return ClipTable(file, root="/", source=str(place), shards=shards)


def expand_shards(source: str | Place) -> list[Place]:
    """Shards that a pattern with braces and stars stands for, local ones as absolute paths.

    Raises:
        ShardError: a shard is missing, compressed or named twice.
    """
    place = named_place(source)
    shards: list[Place] = []
    for pattern in braceexpand(place.text if isinstance(place, Command) else str(place)):
        if isinstance(place, Command):
            shards.append(Command(pattern))
        elif isinstance(place, Url):
            shards += _remote_matches(pattern)
        else:
            found = local_matches(pattern)
            if not found:
                raise ShardError(f"{pattern}: there is no such shard; check the path")
            shards += found
    if len(set(shards)) < len(shards):
        raise ShardError(f"{source}: a shard is named twice; name each once")
    endings = (".gz", ".tgz", ".bz2", ".xz", ".zst")
    packed = [shard for shard in shards if str(shard).endswith(endings)]
    if packed:
        raise ShardError(
            f"{packed[0]}: a compressed shard has to be unpacked up to each clip; use plain .tar "
            "(videos do not shrink any further)"
        )
    return shards


def local_matches(pattern: str) -> list[Path]:
    """Files of a pattern; what is there as it is written, such as `clips [1]`, is no pattern."""
    written = Path(pattern).expanduser().absolute()
    place = escaped = Path(written.anchor)
    for part in written.parts[1:]:
        place /= part
        escaped /= glob.escape(part) if place.exists() else part
    # Path.glob takes no absolute pattern.
    return [Path(path) for path in sorted(glob.glob(str(escaped)))]  # noqa: PTH207


def _remote_matches(pattern: str) -> list[Place]:
    if "*" not in pattern:
        return [Url(pattern)]
    try:
        system, path = fsspec.core.url_to_fs(pattern)
        found = sorted(system.glob(path))
    except Exception as error:  # Every file system of fsspec raises its own kinds.
        raise FetchError(f"cannot list {pattern}: {error}") from error
    if not found:
        raise ShardError(f"{pattern}: no shard matches; check the address")
    # What a server lists is no more than names: none may lead fsspec to another place.
    begin = str(path).partition("*")[0]
    strange = [name for name in found if not name.startswith(begin) or "::" in name]
    if strange:
        raise ShardError(f"{pattern}: {strange[0]!r} in its list is no such shard; name each one")
    return [Url(system.unstrip_protocol(name)) for name in found]


def _cached_list(shards: Iterable[Place]) -> Path:
    """Name of the kept list; changes when a local shard does."""
    digest = hashlib.sha256(f"{_FORMAT}".encode())
    for shard in shards:
        digest.update(f"\n{shard}".encode())
        if isinstance(shard, Path):
            status = shard.stat()
            digest.update(f" {status.st_size} {status.st_mtime_ns}".encode())
    return cache_folder() / "manifests" / f"shards-{digest.hexdigest()[:32]}.arrow"


def _list_clips(
    source: Place, shards: Mapping[str, Place], cache: ShardCache, file: Path, reasons_file: Path
) -> None:
    """Read all shards through, and keep what they hold and what was left out."""
    left_out: list[str] = []
    file.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=file.parent, prefix=".") as scratch:
        partial, reasons = Path(scratch, TABLE_NAME), Path(scratch, "left_out.json")
        write_clip_table(partial, _scan_all(shards, cache, left_out))
        if not len(ClipTable(partial, root="/", source=str(source), shards=shards)):
            said = f"; left out: {left_out[0]}" if left_out else ""
            raise ShardError(
                f"{source}: no clip in {len(shards)} shard(s){said}; a clip is a file "
                f"KEY.{'|'.join(VIDEO_SUFFIXES)} beside KEY.txt or KEY.json"
            )
        reasons.write_text(json.dumps(left_out), "utf-8")
        publish(reasons, reasons_file)
        publish(partial, file)


def _scan_all(
    shards: Mapping[str, Place], cache: ShardCache, left_out: list[str]
) -> Iterator[ClipRecord]:
    few = len(shards) < _SHARDS_WITH_PROGRESS
    console = progress_console()
    listed = track(shards.items(), "Listing shards", console=console, transient=True, disable=few)
    for name, place in listed:
        for record in scan_shard(cache.local(place), shard=name, left_out=left_out):
            yield replace(record, path=name)


def report_left_out(reasons: list[str], source: Place | str, left_out: list[str] | None) -> None:
    """Hand on why clips were left out, or warn of how many there are."""
    if left_out is not None:
        left_out += reasons
    elif reasons:
        warnings.warn(
            f"{source}: {len(reasons)} clip(s) left out; the first: {printable(reasons[0])}",
            ShardWarning,
            stacklevel=3,
        )
