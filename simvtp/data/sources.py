"""Clips from whatever a setting names: a manifest, a folder of videos, or tar shards."""

import glob
from collections.abc import Sequence
from pathlib import Path

from simvtp.data.byte_columns import holds_videos
from simvtp.data.clip_table import ClipRecord, ClipTable
from simvtp.data.lance.listing import load_lance_videos
from simvtp.data.lance.tables import LANCE_ENDING, is_lance_table, lance_table
from simvtp.data.manifests.arrow import PARQUET_ENDINGS
from simvtp.data.manifests.loading import LISTERS, MANIFEST_ENDINGS, load_manifest
from simvtp.data.manifests.names import VIDEO_ENDINGS
from simvtp.data.manifests.problems import ManifestError
from simvtp.data.places import Place, Url, named_place
from simvtp.data.saved_dataset import is_saved_dataset, saved_files
from simvtp.data.shards.fetch import ShardCache
from simvtp.data.shards.index import TABLE_NAME, ShardError
from simvtp.data.shards.listing import load_shards, local_matches
from simvtp.data.shards.row_groups import load_row_groups, parquet_schema
from simvtp.data.shards.saved_videos import load_saved_videos

_CAPTIONED = (".csv", ".tsv", ".jsonl", ".parquet")


def load_clips(
    source: str | Place,
    *,
    root: str | Path | Url | None = None,
    columns: str | None = None,
    follow_links: bool = False,
    cache: ShardCache | None = None,
    left_out: list[str] | None = None,
) -> ClipTable:
    """Read a manifest or a folder of videos, or list the clips of shards or in tables of Arrow.

    Args:
        source: as `load_manifest` or `load_shards` takes it, or a table with a column of videos'
            bytes: Parquet files, named by stars if there are several, a folder that `save_to_disk`
            of Hugging Face `datasets` wrote, a table of Lance (`clips.lance`). A string is what a
            user typed: it may be a URL or a `pipe:` command, so never pass one that stands in a
            file.
        root: folder of a manifest's clips, or the address that they lie below.
        columns: columns of a table, as `path=file,caption=text`.
        follow_links: clips and folders of them may be links that lead out of the root.
        cache: holds copies of remote shards.
        left_out: gets what is wrong with the rows of a manifest, or the clips of shards, that are
            left out.

    Raises:
        ManifestError, ShardError, FetchError: as those two.
    """
    place = named_place(source)
    if isinstance(place, Path):
        if (clips := _videos_within(place, columns, left_out)) is not None:
            return clips
        is_file = place.suffix.lower() in (*MANIFEST_ENDINGS, *VIDEO_ENDINGS)
        if not _is_prepared(place) if place.is_dir() else is_file:
            return load_manifest(
                place, root=root, columns=columns, follow_links=follow_links, left_out=left_out
            )
        if not place.exists() and not glob.has_magic(str(place)) and "{" not in str(place):
            raise ShardError(
                f"{source}: there is no such file or folder (from {Path.cwd()}); check the path"
            )
        if not place.is_dir() and ".tar" not in str(place):
            raise ShardError(
                f"{source}: neither a manifest ({', '.join(LISTERS)}), nor a folder of videos or "
                "of prepared shards, nor .tar shards; check the path"
            )
    elif str(place).rstrip("/").endswith(LANCE_ENDING):
        raise ShardError(f"{place}: a table of Lance must lie on this machine; copy or mount it")
    return load_shards(place, cache=cache, left_out=left_out)


def _videos_within(
    place: Path, columns: str | None, left_out: list[str] | None
) -> ClipTable | None:
    """Clips of a table in which the videos themselves lie; None where it is none."""
    said = {"source": str(place), "columns": columns, "left_out": left_out}
    if is_lance_table(place):
        table = lance_table(place)
        return load_lance_videos(table, **said) if holds_videos(table.schema, columns) else None
    if place.is_dir() and is_saved_dataset(place):
        saved = saved_files(place)
        return load_saved_videos(saved, **said) if holds_videos(saved.schema, columns) else None
    if place.suffix.lower() not in PARQUET_ENDINGS:
        return None
    files = [place] if place.is_file() else local_matches(str(place))
    schema = parquet_schema(files[0]) if files else None
    if schema is None or not holds_videos(schema, columns):
        return None
    return load_row_groups(files, **said)


def _is_prepared(folder: Path) -> bool:
    """Whether a folder is one of shards, or should have been, rather than of videos."""
    return (folder / TABLE_NAME).exists() or any(folder.glob("*.tar"))


def require_captions(clips: Sequence[ClipRecord], *, source: str | Place, purpose: str) -> None:
    """Refuse clips of which some have no caption.

    Args:
        clips: the clips.
        source: where they come from, for the message.
        purpose: what needs the captions, such as "training".

    Raises:
        ManifestError: there are such clips.
    """
    without = (
        clips.without_captions()
        if isinstance(clips, ClipTable)
        else ([number for number, clip in enumerate(clips) if not clip.captions])
    )
    if not without:
        return
    first = clips[without[0]]
    raise ManifestError(
        f"{source}: {len(without)} of {len(clips)} clips have no caption, such as {first.name}, "
        f"and {purpose} needs one of each: {_where_captions_go(named_place(source))}"
    )


def _where_captions_go(source: Place) -> str:
    is_table = isinstance(source, Path) and (is_lance_table(source) or is_saved_dataset(source))
    if not isinstance(source, Path) or is_table or not source.is_dir():
        return "say which column has them (columns caption=NAME), or name a table that has them"
    tables = sorted(path.name for path in source.glob("*.*") if path.suffix.lower() in _CAPTIONED)
    named = f", such as {', '.join(tables[:3])} in there" if tables else ""
    return f"write them as lines of a .txt beside each video, or name a table that has them{named}"
