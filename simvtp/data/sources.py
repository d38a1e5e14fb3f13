"""Clips from whatever a setting names: a manifest, or tar shards."""

from pathlib import Path

from simvtp.data.clip_table import ClipTable
from simvtp.data.fetch import ShardCache, is_remote
from simvtp.data.manifest import load_manifest
from simvtp.data.manifest_rows import READERS
from simvtp.data.shards import ShardError, load_shards


def load_clips(
    source: str | Path,
    *,
    root: str | Path | None = None,
    cache: ShardCache | None = None,
    left_out: list[str] | None = None,
) -> ClipTable:
    """Read a manifest, or list the clips of shards where `source` is no manifest's name.

    Args:
        source: as `load_manifest` or `load_shards` takes it.
        root: folder of a manifest's clips.
        cache: holds copies of remote shards.
        left_out: gets what is wrong with a manifest's faulty rows, as for `load_manifest`.

    Raises:
        ManifestError, ShardError, FetchError: as those two.
    """
    if not is_remote(source) and Path(source).suffix.lower() in READERS:
        return load_manifest(source, root=root, left_out=left_out)
    if not is_remote(source) and not Path(source).is_dir() and ".tar" not in str(source):
        raise ShardError(
            f"{source}: neither a manifest ({', '.join(READERS)}), nor a folder of prepared "
            "shards, nor .tar shards; check the path"
        )
    return load_shards(str(source), cache=cache)
