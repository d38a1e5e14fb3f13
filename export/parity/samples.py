"""Clips and captions to compare and calibrate on, in the sizes that a graph is asked for."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from export.drawn_inputs import draw_clips, draw_keep, example_inputs
from export.runtime.captions import encode_captions, load_tokenizer
from simvtp.config import FrameSpacing

_COUNT = 16


class Samples(NamedTuple):
    """Clips and captions to compare on.

    Attributes:
        frames: `(count, frames, channels, height, width)` uint8.
        captions: token ids of as many captions, not padded.
        origin: where they come from, for the report.
    """

    frames: np.ndarray
    captions: tuple[np.ndarray, ...]
    origin: str


def draw_samples(config: Mapping[str, Any], *, tokens: int) -> Samples:
    """Moving waves, and captions of random words of 3 to `tokens` tokens."""
    generator = np.random.default_rng(0)
    frames = draw_clips(config, batch=_COUNT, generator=generator)
    text = example_inputs(config, "text", batch=_COUNT, tokens=tokens)
    real = text["attention_mask"] == 1
    captions = tuple(ids[row] for ids, row in zip(text["token_ids"], real, strict=True))
    return Samples(frames, captions, "clips and captions drawn by a formula")


def batch_of(
    samples: Samples, name: str, *, sizes: Mapping[str, int], config: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Inputs of a graph with the sizes that are asked for, samples repeated as often as needed.

    A caption that is too long is cut before its last token, as in training.
    """
    numbers = [number % len(samples.frames) for number in range(sizes["batch"])]
    inputs = {}
    if name != "text":
        inputs["frames"] = samples.frames[numbers]
    if name != "video":
        shape = (sizes["batch"], sizes["tokens"])
        inputs["token_ids"] = np.full(shape, config["padding_id"], dtype=np.int64)
        inputs["attention_mask"] = np.zeros(shape, dtype=np.int64)
        for row, number in enumerate(numbers):
            ids = samples.captions[number]
            if len(ids) > sizes["tokens"]:
                ids = np.append(ids[: sizes["tokens"] - 1], ids[-1])
            inputs["token_ids"][row, : len(ids)] = ids
            inputs["attention_mask"][row, : len(ids)] = 1
    if name == "reconstruct":
        generator = np.random.default_rng(1)
        counts = {"batch": sizes["batch"], "kept": sizes["kept"]}
        inputs["keep"] = draw_keep(config, **counts, generator=generator)
    return inputs


def batches_of(
    samples: Samples, name: str, *, sizes: Mapping[str, int], config: Mapping[str, Any]
) -> Iterator[dict[str, np.ndarray]]:
    """All samples in batches of one size; the last one is filled up from the front."""
    count = len(samples.frames)
    for start in range(0, count, sizes["batch"]):
        numbers = [(start + place) % count for place in range(sizes["batch"])]
        captions = tuple(samples.captions[number] for number in numbers)
        part = Samples(samples.frames[numbers], captions, samples.origin)
        yield batch_of(part, name, sizes=sizes, config=config)


def read_samples(
    clips: Path, *, tokenizer: Path, config: Mapping[str, Any], spacing: FrameSpacing
) -> Samples:
    """Clips of a folder or manifest, cut as the model was trained on them, and their captions.

    Args:
        clips: folder of videos, or manifest.
        tokenizer: the model's tokenizer.json, for captions.
        config: the model's config.json.
        spacing: time or frames of a video between two frames of a clip.

    Raises:
        ValueError: the clips cannot be read, or captions need a tokenizer that is not there.
    """
    # Decoders are needed for real clips only.
    from export.runtime.clips import read_clips

    read = read_clips(
        clips,
        limit=_COUNT,
        num_frames=config["num_frames"],
        image_size=config["image_size"],
        **spacing.named(),
    )
    origin = f"{len(read.frames)} clips of {Path(clips).name}"
    if not read.captions:
        drawn = draw_samples(config, tokens=config["max_text_length"])
        captions = tuple(drawn.captions[k % _COUNT] for k in range(len(read.frames)))
        return Samples(read.frames, captions, f"{origin}, captions drawn by a formula")
    text = encode_captions(
        load_tokenizer(tokenizer),
        read.captions,
        max_length=config["max_text_length"],
    )
    real = text.attention_mask == 1
    captions = tuple(ids[row] for ids, row in zip(text.token_ids, real, strict=True))
    return Samples(read.frames, captions, f"{origin} and their captions")
