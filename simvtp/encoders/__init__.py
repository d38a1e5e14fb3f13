"""Embeddings of video and text, and the encoder they share."""

from simvtp.encoders.build import build_encoder, build_text_embedding, build_video_embedding
from simvtp.encoders.joint import JointEncoder, encode_beside
from simvtp.encoders.text import TextEmbedding
from simvtp.encoders.video import VideoEmbedding

__all__ = [
    "JointEncoder",
    "TextEmbedding",
    "VideoEmbedding",
    "build_encoder",
    "build_text_embedding",
    "build_video_embedding",
    "encode_beside",
]
