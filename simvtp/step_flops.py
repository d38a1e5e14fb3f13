"""Floating-point operations of a step by formula, as matrix products do them (2 per multiply-add).

The backward pass does two products for each of the forward pass, so a step is three times its
forward pass, except that nothing flows back into pixels, nor to weights that are frozen. Softmax,
norms and activations are left out; they are below one percent.
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple

from torch import nn

from simvtp.batch import Batch
from simvtp.config import ModelConfig
from simvtp.decoders import PixelDecoder, WordDecoder
from simvtp.encoders import JointEncoder, VideoEmbedding
from simvtp.layers import Block
from simvtp.model import SimVTP

ALL_KINDS = ("joint", "video", "text", "negative")


class Passes(NamedTuple):
    """How often a step does the products of a part, its forward pass being one of them.

    Attributes:
        embedding: of the tubelets, into which nothing flows back.
        linear: of the encoder's layers with weights, in the mean over its blocks.
        attention: of its scores and of mixing by them.
    """

    embedding: float = 2.0
    linear: float = 3.0
    attention: float = 3.0


NOTHING_FROZEN = Passes()


def passes_of(video_embedding: nn.Module, *others: nn.Module, encoder: nn.Module) -> Passes:
    """One pass forward, one back to what lies before and learns, and one to the weights' own share.

    Args:
        video_embedding: of the tubelets.
        *others: further embeddings before the encoder.
        encoder: made of `Block`s.
    """
    flows = any(_share_learnt(part) > 0 for part in (video_embedding, *others))
    linear: list[float] = []
    attention: list[float] = []
    for block in (part for part in encoder.modules() if isinstance(part, Block)):
        learnt = _share_learnt(block)
        flows = flows or learnt > 0
        linear.append(1 + flows + learnt)
        attention.append(1 + 2 * flows)
    mean = (sum(each) / len(linear) for each in (linear, attention))
    return Passes(1 + _share_learnt(video_embedding), *mean)


def _share_learnt(part: nn.Module) -> float:
    """Share of the numbers in a part's matrices that are not frozen."""
    matrices = [weight for weight in part.parameters() if weight.ndim > 1]
    learnt = sum(weight.numel() for weight in matrices if weight.requires_grad)
    return learnt / max(1, sum(weight.numel() for weight in matrices))


def linear_flops(tokens: float, *, inputs: int, outputs: int) -> float:
    """One linear layer, forward."""
    return 2.0 * tokens * inputs * outputs


class BlockFlops(NamedTuple):
    """A block's operations, forward: of its layers with weights, and of scores and mixing."""

    linear: float
    attention: float


def block_flops(lengths: Sequence[int], *, width: int, mlp_ratio: float) -> BlockFlops:
    """A block over sequences: 4 projections and the MLP; scores and mixing."""
    tokens = sum(lengths)
    linear = linear_flops(tokens, inputs=width, outputs=4 * width)
    mlp = 2 * linear_flops(tokens, inputs=width, outputs=round(mlp_ratio * width))
    return BlockFlops(linear + mlp, sum(4.0 * length**2 * width for length in lengths))


def transformer_flops(lengths: Sequence[int], *, width: int, depth: int, mlp_ratio: float) -> float:
    """A stack of blocks over sequences, forward."""
    return depth * sum(block_flops(lengths, width=width, mlp_ratio=mlp_ratio))


def packed_step_flops(
    config: ModelConfig,
    *,
    num_keep: int,
    num_decode: int,
    caption_lengths: Sequence[int],
    num_masked_words: float,
    kinds: Collection[str] = ALL_KINDS,
    passes: Passes = NOTHING_FROZEN,
) -> float:
    """SimVTP's step: joint, video, text and non-matching sequences, nothing thrown away.

    Args:
        config: sizes of the model.
        num_keep: tubelets that the encoder sees, per clip.
        num_decode: tubelets that are reconstructed, per clip; 0 where there is no such loss.
        caption_lengths: tokens of each caption; one clip each.
        num_masked_words: hidden words of all captions; 0 where there is no such loss.
        kinds: sequences that the encoder sees, each once a clip.
        passes: how often its products are done; without it nothing is frozen.

    Returns:
        Operations of the step, forward and backward.
    """
    clips = len(caption_lengths)
    of_one = {"video": [num_keep] * clips, "text": caption_lengths}
    joint = [num_keep + length for length in caption_lengths]
    sequences = [length for kind in kinds for length in of_one.get(kind, joint)]
    total = parts_flops(
        config,
        clips=clips,
        embedded=clips * num_keep,
        sequences=sequences,
        num_keep=num_keep,
        num_decode=num_decode,
        words=num_masked_words,
        passes=passes,
    )
    if num_masked_words == 0:
        return total
    return total + 3 * transformer_flops(
        joint, width=config.width, depth=config.word_decoder_depth, mlp_ratio=4.0
    )


def batch_flops(
    model: SimVTP, batch: Batch, *, kinds: Collection[str], terms: Collection[str]
) -> float | None:
    """Operations of a step of a model on a batch; the device is not waited for.

    Args:
        model: what is trained.
        batch: what it sees.
        kinds: sequences that the encoder sees, each once a clip.
        terms: names of the losses.

    Returns:
        None where a part of the model is not the usual one.
    """
    parts = (
        (model.video_embedding, VideoEmbedding),
        (model.encoder, JointEncoder),
        (model.pixel_decoder, PixelDecoder),
        (model.word_decoder, WordDecoder),
    )
    if not all(isinstance(part, usual) for part, usual in parts):
        return None
    names = ("video_embedding", "text_embedding", "encoder")
    *embeddings, encoder = map(model.get_submodule, names)
    passes = passes_of(*embeddings, encoder=encoder)
    words_of_one = len(batch.masked_index) / batch.num_clips if "words" in terms else 0
    total, first = 0.0, 0
    for group in batch.groups:
        clips = len(group.video)
        total += packed_step_flops(
            model.config,
            num_keep=group.keep.shape[1],
            num_decode=group.decode.shape[1] if "pixels" in terms else 0,
            caption_lengths=batch.text_lengths[first : first + clips],
            num_masked_words=clips * words_of_one,
            kinds=kinds,
            passes=passes,
        )
        first += clips
    return total


def parts_flops(
    config: ModelConfig,
    *,
    clips: int,
    embedded: int,
    sequences: Sequence[int],
    num_keep: int,
    num_decode: int,
    words: float,
    passes: Passes = NOTHING_FROZEN,
) -> float:
    """A step whose parts see so much.

    Args:
        config: sizes of the model.
        clips: clips that the pixel decoder sees.
        embedded: tubelets that are embedded, in all.
        sequences: lengths of the sequences that the encoder sees.
        num_keep: tubelets that the pixel decoder knows, per clip.
        num_decode: tubelets that it reconstructs, per clip; 0 where it does nothing.
        words: tokens that the word head sees.
        passes: how often the products of embedding and encoder are done.
    """
    pixels = config.tubelet_frames * config.patch_size**2 * 3
    width, narrow = config.width, config.decoder_width
    projections = 2 if config.video_input == "pixels and contrast" else 1
    embedding = projections * linear_flops(embedded, inputs=pixels, outputs=width)
    block = block_flops(sequences, width=width, mlp_ratio=config.mlp_ratio)
    encoder = passes.linear * block.linear + passes.attention * block.attention
    decoder = 0.0
    if num_decode > 0:
        decoder = transformer_flops(
            [num_keep + num_decode] * clips, width=narrow, depth=config.decoder_depth, mlp_ratio=4.0
        )
        decoder += linear_flops(clips * num_keep, inputs=width, outputs=narrow)
        decoder += linear_flops(clips * num_decode, inputs=narrow, outputs=pixels)
    head = linear_flops(words, inputs=width, outputs=config.vocab_size)
    return passes.embedding * embedding + config.depth * encoder + 3 * (decoder + head)
