"""Embeddings of video and text, and the encoder they share."""

from simvtp.encoders.joint import JointEncoder
from simvtp.encoders.text import TextEmbedding
from simvtp.encoders.video import VideoEmbedding

__all__ = ["JointEncoder", "TextEmbedding", "VideoEmbedding"]
