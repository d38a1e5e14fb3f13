"""Embeddings of video and text, and the encoder they share."""

from simvtp.encoders.joint import JointEncoder, encode_beside
from simvtp.encoders.padded import PaddedEncoder
from simvtp.encoders.pairs import encode_pairs
from simvtp.encoders.text import TextEmbedding
from simvtp.encoders.video import VideoEmbedding

__all__ = [
    "JointEncoder",
    "PaddedEncoder",
    "TextEmbedding",
    "VideoEmbedding",
    "encode_beside",
    "encode_pairs",
]
