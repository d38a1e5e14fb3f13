"""Features of clips and captions: the command that writes them to a file, the same from Python."""

from simvtp.pipelines.embed.command import build_parser, main
from simvtp.retrieval.embedding import EmbeddedBatch, EmbeddedCaptions, embed, embed_captions

__all__ = [
    "EmbeddedBatch",
    "EmbeddedCaptions",
    "build_parser",
    "embed",
    "embed_captions",
    "main",
]
