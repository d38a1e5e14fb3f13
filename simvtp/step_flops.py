"""Floating-point operations of a step by formula, as matrix products do them (2 per multiply-add).

The backward pass does two products for each of the forward pass, so a step is three times its
forward pass, except that nothing flows back into pixels. Softmax, norms and activations are left
out; they are below one percent.
"""

from collections.abc import Collection, Sequence

from simvtp.batch import Batch
from simvtp.config import ModelConfig
from simvtp.decoders import PixelDecoder, WordDecoder
from simvtp.encoders import JointEncoder, VideoEmbedding
from simvtp.model import SimVTP

ALL_KINDS = ("joint", "video", "text", "negative")


def linear_flops(tokens: float, *, inputs: int, outputs: int) -> float:
    """One linear layer, forward."""
    return 2.0 * tokens * inputs * outputs


def transformer_flops(lengths: Sequence[int], *, width: int, depth: int, mlp_ratio: float) -> float:
    """A stack of blocks over sequences, forward: 4 projections, the MLP, scores and mixing."""
    tokens = sum(lengths)
    linear = linear_flops(tokens, inputs=width, outputs=4 * width)
    mlp = 2 * linear_flops(tokens, inputs=width, outputs=round(mlp_ratio * width))
    attention = sum(4.0 * length**2 * width for length in lengths)
    return depth * (linear + mlp + attention)


def packed_step_flops(
    config: ModelConfig,
    *,
    num_keep: int,
    num_decode: int,
    caption_lengths: Sequence[int],
    num_masked_words: float,
    kinds: Collection[str] = ALL_KINDS,
) -> float:
    """SimVTP's step: joint, video, text and non-matching sequences, nothing thrown away.

    Args:
        config: sizes of the model.
        num_keep: tubelets that the encoder sees, per clip.
        num_decode: tubelets that are reconstructed, per clip; 0 where there is no such loss.
        caption_lengths: tokens of each caption; one clip each.
        num_masked_words: hidden words of all captions; 0 where there is no such loss.
        kinds: sequences that the encoder sees, each once a clip.

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
    """
    pixels = config.tubelet_frames * config.patch_size**2 * 3
    width, narrow = config.width, config.decoder_width
    projections = 2 if config.video_input == "pixels and contrast" else 1
    embedding = projections * linear_flops(embedded, inputs=pixels, outputs=width)
    encoder = transformer_flops(
        sequences, width=width, depth=config.depth, mlp_ratio=config.mlp_ratio
    )
    decoder = 0.0
    if num_decode > 0:
        decoder = transformer_flops(
            [num_keep + num_decode] * clips, width=narrow, depth=config.decoder_depth, mlp_ratio=4.0
        )
        decoder += linear_flops(clips * num_keep, inputs=width, outputs=narrow)
        decoder += linear_flops(clips * num_decode, inputs=narrow, outputs=pixels)
    head = linear_flops(words, inputs=width, outputs=config.vocab_size)
    return 2 * embedding + 3 * (encoder + decoder + head)
