"""Inputs of the graphs drawn by a formula, for tracing, parity and timing; numpy alone."""

from collections.abc import Mapping
from typing import Any

import numpy as np

SHORTEST_CAPTION = 3


def example_inputs(
    config: Mapping[str, Any], name: str, *, batch: int, tokens: int, kept: int = 0, seed: int = 0
) -> dict[str, np.ndarray]:
    """Inputs of a graph: smooth moving colours, and words of which some rows end in padding.

    Args:
        config: the model's config.json.
        name: "video", "text", "match" or "reconstruct".
        batch: clips and captions.
        tokens: columns of the captions.
        kept: tubelets that `reconstruct` sees of each clip.
        seed: draws colours, words and lengths.
    """
    generator = np.random.default_rng(seed)
    inputs = {}
    if name != "text":
        inputs["frames"] = draw_clips(config, batch=batch, generator=generator)
    if name != "video":
        inputs |= _draw_captions(config, batch=batch, tokens=tokens, generator=generator)
    if name == "reconstruct":
        inputs["keep"] = draw_keep(config, batch=batch, kept=kept, generator=generator)
    return inputs


def draw_clips(
    config: Mapping[str, Any], *, batch: int, generator: np.random.Generator
) -> np.ndarray:
    """Clips `(batch, frames, 3, size, size)` uint8 of waves that travel, one for each channel."""
    size, num_frames = config["image_size"], config["num_frames"]
    time = np.arange(num_frames)[:, None, None, None]
    place = np.arange(size) / size
    clips = np.empty((batch, num_frames, 3, size, size), np.uint8)
    for clip in clips:
        speed, phase = generator.normal(size=(2, 3, 1, 1))
        waves = generator.uniform(1, 6, size=(2, 3, 1, 1))
        angle = waves[0] * place[:, None] + waves[1] * place + speed * time / 4 + phase
        noise = generator.normal(scale=8, size=clip.shape)
        clip[:] = np.clip(127.5 + 100 * np.sin(2 * np.pi * angle) + noise, 0, 255)
    return clips


def draw_keep(
    config: Mapping[str, Any], *, batch: int, kept: int, generator: np.random.Generator
) -> np.ndarray:
    """Sorted numbers of tubelets that are seen, `(batch, kept)` int64."""
    order = generator.random((batch, num_tubelets(config))).argsort(axis=1)
    return np.sort(order[:, :kept], axis=1).astype(np.int64)


def num_tubelets(config: Mapping[str, Any]) -> int:
    """Tubelets of a whole clip."""
    side = config["image_size"] // config["patch_size"]
    return config["num_frames"] // config["tubelet_frames"] * side * side


def _draw_captions(
    config: Mapping[str, Any], *, batch: int, tokens: int, generator: np.random.Generator
) -> dict[str, np.ndarray]:
    padding = config.get("padding_id", 0)
    ids = generator.integers(config["vocab_size"] - 1, size=(batch, tokens))
    ids += ids >= padding
    # The first row is full, so that no column of the batch is padding only.
    lengths = generator.integers(min(tokens, SHORTEST_CAPTION), tokens + 1, size=batch)
    lengths[0] = tokens
    mask = (np.arange(tokens) < lengths[:, None]).astype(np.int64)
    return {"token_ids": np.where(mask, ids, padding), "attention_mask": mask}
