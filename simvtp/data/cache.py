"""The folder for what is made once and used by many runs."""

import os
from pathlib import Path


def cache_folder(folder: str | Path | None = None) -> Path:
    """The folder given, else `$SIMVTP_CACHE`, else `~/.cache/simvtp`; it need not exist yet."""
    chosen = folder if folder is not None else os.environ.get("SIMVTP_CACHE") or "~/.cache/simvtp"
    return Path(chosen).expanduser().resolve()
