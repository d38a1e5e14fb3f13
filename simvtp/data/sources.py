"""Clips from whatever a setting names: a manifest, or tar shards."""

from pathlib import Path

from simvtp.data.clip_table import ClipTable
from simvtp.data.manifests.loading import load_manifest
from simvtp.data.manifests.rows import READERS
from simvtp.data.places import Place, named_place
from simvtp.data.shards.fetch import ShardCache
from simvtp.data.shards.index import ShardError
from simvtp.data.shards.listing import load_shards


def load_clips(
    source: str | Place,
    *,
    root: str | Path | None = None,
    cache: ShardCache | None = None,
    left_out: list[str] | None = None,
) -> ClipTable:
    """Read a manifest, or list the clips of shards where `source` is no manifest's name.

    Args:
        source: as `load_manifest` or `load_shards` takes it. A string is what a user typed:
            it may be a URL or a `pipe:` command, so never pass one that stands in a file.
        root: folder of a manifest's clips.
        cache: holds copies of remote shards.
        left_out: gets what is wrong with the rows of a manifest, or the clips of shards, that are
            left out.

    Raises:
        ManifestError, ShardError, FetchError: as those two.
    """
    place = named_place(source)
    if isinstance(place, Path):
        if place.suffix.lower() in READERS:
            return load_manifest(place, root=root, left_out=left_out)
        if not place.is_dir() and ".tar" not in str(place):
            raise ShardError(
                f"{source}: neither a manifest ({', '.join(READERS)}), nor a folder of prepared "
                "shards, nor .tar shards; check the path"
            )
    return load_shards(place, cache=cache, left_out=left_out)
