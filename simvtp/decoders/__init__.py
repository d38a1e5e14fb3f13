"""Decoders that turn encoded tokens back into pixels and words."""

from simvtp.decoders.pixels import PixelDecoder
from simvtp.decoders.words import WordDecoder

__all__ = ["PixelDecoder", "WordDecoder"]
