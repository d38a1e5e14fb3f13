"""Embeddings and encoders of the sizes that a model's config gives them."""

from simvtp.config import ModelConfig
from simvtp.encoders.joint import JointEncoder
from simvtp.encoders.text import TextEmbedding
from simvtp.encoders.video import VideoEmbedding


def build_video_embedding(config: ModelConfig) -> VideoEmbedding:
    """Tubelet embedding."""
    return VideoEmbedding(
        config.width,
        grid=config.grid,
        tubelet=config.tubelet,
        positions=config.video_positions,
        with_contrast=config.video_input == "pixels and contrast",
        norm_eps=config.norm_eps if config.video_norm == "layer_norm" else None,
    )


def build_text_embedding(config: ModelConfig) -> TextEmbedding:
    """Word embedding."""
    return TextEmbedding(
        config.vocab_size,
        width=config.width,
        max_length=config.max_text_length,
        dropout=config.text_dropout,
        padding_id=config.padding_id,
    )


def build_encoder(config: ModelConfig) -> JointEncoder:
    """Transformer."""
    return JointEncoder(
        config.width,
        depth=config.depth,
        num_heads=config.num_heads,
        mlp_ratio=config.mlp_ratio,
        activation=config.activation,
        norm_eps=config.norm_eps,
        extra_tokens=config.extra_tokens,
        pooling=config.pooling,
    )
