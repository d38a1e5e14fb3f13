"""Manifests as text: which bytes are."""

import codecs
from pathlib import Path

from simvtp.data.manifests.problems import ManifestError

_BLOCK_BYTES = 1 << 24


def require_plain_text(source: Path) -> None:
    """Refuse bytes that are no text before a reader stumbles over them without a line number."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    line = 1
    with source.open("rb") as file:
        while True:
            block = file.read(_BLOCK_BYTES)
            if (position := block.find(b"\0")) >= 0:
                line += block.count(b"\n", 0, position)
                raise ManifestError(
                    f"{source}: line {line}: it holds a NUL byte; save the manifest as plain "
                    "UTF-8 text"
                )
            try:
                decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                line += error.object.count(b"\n", 0, error.start)
                raise ManifestError(
                    f"{source}: line {line}: byte {error.object[error.start : error.start + 1]!r} "
                    "is not UTF-8; save the manifest as UTF-8"
                ) from error
            if not block:
                return
            line += block.count(b"\n")
