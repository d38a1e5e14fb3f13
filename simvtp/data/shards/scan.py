"""Clips of a tar shard (WebDataset's layout), found without unpacking it."""

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple, Self

from simvtp.data.clip_table import ByteSpan, ClipRecord
from simvtp.data.manifests.checks import checked_captions
from simvtp.data.manifests.problems import ProblemError
from simvtp.data.manifests.rows import Row
from simvtp.data.shards.index import ShardError

VIDEO_SUFFIXES = ("mp4", "m4v", "mov", "webm", "mkv", "avi", "gif")
_CAPTION_SUFFIXES = ("txt", "json")
_MAX_CAPTION_BYTES = 1 << 22
_MAX_HEADER_BYTES = 1 << 20
_TEXTS = (
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
)
# What tarfile lets through of numbers that are none and of headers of headers without end.
_STRANGE = (ValueError, ArithmeticError, RecursionError)
_BLOCK_BYTES = 1 << 20


class _Member(NamedTuple):
    """A file in a tar; `sparse` where its bytes do not lie there as they are."""

    name: str
    offset: int
    size: int
    sparse: bool


class _Header(tarfile.TarInfo):
    """A header whose name or comment, which tarfile reads whole, does not fill the memory."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        header = super().frombuf(buf, encoding, errors)
        if header.type in _TEXTS and header.size > _MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a name or comment of {header.size:,} bytes")
        return header


class _Pair(NamedTuple):
    """A video and its caption."""

    key: str
    video: _Member
    caption: _Member


_Parts = dict[str, list[_Member]]


def scan_shard(file: Path, *, shard: str, left_out: list[str]) -> Iterator[ClipRecord]:
    """Clips of one shard in the order of their videos.

    A video and its caption have one name up to the last dot, wherever they lie in the shard. A
    name that is there twice is two clips, paired in their order. Whatever else begins with a
    video's name and a dot belongs to that video and is not looked at.

    Args:
        file: the shard.
        shard: what messages call it.
        left_out: gets a line for each clip that lacks a video or a caption.

    Raises:
        ShardError: the shard is damaged or cut off.
    """
    clips: dict[str, _Parts] = {}
    for member in _members(file, shard):
        stem, _, kind = member.name.rpartition(".")
        clips.setdefault(stem, {}).setdefault(kind.lower(), []).append(member)
    with_video = {stem for stem, parts in clips.items() if _video_kind(parts)}
    pairs: list[_Pair] = []
    for stem, parts in clips.items():
        try:
            pairs += _pairs(stem, parts)
        except ProblemError as problem:
            if not _belongs_to_another(stem, with_video):
                left_out.append(f"{shard}: {stem}: {problem.message}")
    num_bytes = file.stat().st_size
    with file.open("rb") as opened:
        for key, video, caption in sorted(pairs, key=lambda pair: pair.video.offset):
            if video.offset + video.size > num_bytes:
                raise ShardError(f"{shard}: cut off within {video.name}; copy or make it again")
            try:
                captions = checked_captions(Row(0, key, (), _captions(opened, caption)))
            except ProblemError as problem:
                left_out.append(f"{shard}: {key}: {problem.message}")
            else:
                yield ClipRecord(key, file, captions, ByteSpan(video.offset, video.size))


def _members(file: Path, shard: str) -> Iterator[_Member]:
    """Plain files of a tar, and of those that were joined to it by `cat`."""
    start: int | None = 0
    try:
        with file.open("rb") as opened:
            while start is not None:
                opened.seek(start)
                with tarfile.open(fileobj=opened, mode="r:", tarinfo=_Header) as tar:
                    yield from _files(tar)
                    start = _next_archive(opened, tar.offset)
    except (tarfile.TarError, EOFError, OSError, *_STRANGE) as error:
        raise ShardError(f"{shard}: damaged shard ({error}); copy or make it again") from error


def _files(tar: tarfile.TarFile) -> Iterator[_Member]:
    """Plain files one after the other; tarfile's own list of all of them is not kept."""
    while (member := tar.next()) is not None:
        tar.members.clear()  # pyright: ignore[reportAttributeAccessIssue]
        if tar.offset <= member.offset:
            raise tarfile.ReadError(f"a member of {member.size:,} bytes")
        name = PurePosixPath(member.name).name
        if member.isreg() and "." in name and not name.startswith("."):
            yield _Member(member.name, member.offset_data, member.size, member.issparse())


def _next_archive(opened: BinaryIO, end: int) -> int | None:
    """Where another tar begins after the end mark of one; None at the end of the file."""
    opened.seek(end)
    # tarfile takes a file that was cut between two members for a whole one.
    if opened.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
        raise tarfile.ReadError("no end mark")
    while block := opened.read(_BLOCK_BYTES):
        if rest := block.lstrip(tarfile.NUL):
            place = opened.tell() - len(rest)
            return place - place % tarfile.BLOCKSIZE
    return None


def _video_kind(parts: _Parts) -> str | None:
    return next((kind for kind in VIDEO_SUFFIXES if kind in parts), None)


def _pairs(stem: str, parts: _Parts) -> Iterator[_Pair]:
    """Each video of one name with its caption; nothing for files that are neither."""
    kind = _video_kind(parts)
    caption_kind = next((kind for kind in _CAPTION_SUFFIXES if kind in parts), None)
    if kind is None:
        if caption_kind is not None:
            raise ProblemError(0, f"no video among {', '.join(sorted(parts))}")
        return
    if caption_kind is None:
        raise ProblemError(0, "neither .txt nor .json beside the video")
    videos, captions = parts[kind], parts[caption_kind]
    if len(videos) != len(captions):
        raise ProblemError(
            0,
            f"{len(videos)} .{kind} and {len(captions)} .{caption_kind} of this name, so which "
            "belong together is unknown; give each clip its own name",
        )
    for number, (video, caption) in enumerate(zip(videos, captions, strict=True), 1):
        if video.sparse or caption.sparse:
            raise ProblemError(0, "stored as a sparse file; pack the tar again without --sparse")
        yield _Pair(stem if number == 1 else f"{stem} ({number})", video, caption)


def _belongs_to_another(stem: str, with_video: set[str]) -> bool:
    """Whether a dot in the name ends the name of another video."""
    folder, slash, name = stem.rpartition("/")
    while "." in name:
        name = name.rpartition(".")[0]
        if f"{folder}{slash}{name}" in with_video:
            return True
    return False


def _captions(opened: BinaryIO, member: _Member) -> Any:
    """What a member says of its video."""
    if member.size > _MAX_CAPTION_BYTES:
        raise ProblemError(
            0,
            f"{member.name} has {member.size} bytes, a caption's file may have "
            f"{_MAX_CAPTION_BYTES}; shorten it",
        )
    opened.seek(member.offset)
    try:
        text = opened.read(member.size).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ProblemError(0, f"{member.name} is not UTF-8") from error
    if not member.name.lower().endswith(".json"):
        return text
    try:
        written = json.loads(text)
        return written["captions"] if "captions" in written else written["caption"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ProblemError(0, f"no caption in its .json ({error!r})") from error
