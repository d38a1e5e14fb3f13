"""Weights that pre-training begins with: `--init-video SOURCE` and `--init-text SOURCE`."""

from pathlib import Path
from typing import Any

from simvtp.config import ModelConfig, PretrainConfig
from simvtp.conversion import (
    ORIGIN_FILE,
    PARTS,
    MappedWeights,
    load_parts,
    map_weights,
    origins_of,
    read_weights,
    sizes_of,
    write_origins,
)
from simvtp.data import load_tokenizer
from simvtp.model import SimVTP
from simvtp.pipelines.convert import has_tokenizer, print_report
from simvtp.printing import Console, is_quiet
from simvtp.training import is_main

_VIDEO_PARTS = ("video_embedding", "encoder", "pixel_decoder")
_FREE = (
    *("num_frames", "image_size", "max_text_length", "padding_id", "text_dropout", "pooling"),
    "extra_tokens",  # With none of them the source's are dropped.
)


def load_initial_weights(model: SimVTP, config: PretrainConfig) -> None:
    """Put the weights that the settings name into a new model, and print a table of them.

    The run's folder keeps their origins. Without such settings nothing is done.

    Args:
        model: the model, on the CPU.
        config: settings of the run.

    Raises:
        ValueError: a source cannot be read, or is of another size than the model.
    """
    out = Path(config.run.out)
    paths = (config.init_video, config.init_text)
    read = {path: read_weights(path) for path in dict.fromkeys(paths) if path is not None}
    sources: list[MappedWeights] = []
    if config.init_video is not None:
        mapped = map_weights(read[config.init_video], towers="video")
        sources.append(_video_part(mapped, model.config))
    if config.init_text is not None:
        mapped = map_weights(read[config.init_text], towers="video")
        sources.append(_text_part(mapped, model))
    if sources:
        report = load_parts(model, sources, config=model.config)
        if is_main():
            print_report(Console(soft_wrap=True, quiet=is_quiet()), report)
            write_origins(out, [origin for mapped in sources for origin in origins_of(mapped)])
    elif is_main():
        (out / ORIGIN_FILE).unlink(missing_ok=True)


def _video_part(mapped: MappedWeights, config: ModelConfig) -> MappedWeights:
    _require_part(mapped, "video_embedding", option="--init-video")
    sizes = sizes_of(mapped.only(_VIDEO_PARTS[:2], why_not=""))
    _require_sizes(mapped, sizes, config, option="--init-video")
    mapped = mapped.only(_VIDEO_PARTS, why_not="no part of video")
    differing = [
        f"{name} {value}"
        for name, value in sizes_of(mapped).items()
        if name.startswith(("decoder_", "pixel_")) and value != getattr(config, name)
    ]
    if not differing:
        return mapped
    why = f"the model's pixel decoder is another: here it has {', '.join(differing)}"
    return mapped.only(_VIDEO_PARTS[:2], why_not=why)


def _text_part(mapped: MappedWeights, model: SimVTP) -> MappedWeights:
    option = "--init-text"
    _require_part(mapped, "text_embedding", option=option)
    mapped = mapped.only(("text_embedding",), why_not="not the text embedding")
    folder = mapped.foreign.source
    sizes, tokenizer = sizes_of(mapped), model.tokenizer
    differs = sizes.pop("vocab_size") != model.config.vocab_size
    if tokenizer is not None and not differs and has_tokenizer(folder):
        differs = load_tokenizer(folder).get_vocab() != tokenizer.get_vocab()
    if differs:
        raise ValueError(
            f"{option} {folder} has another vocabulary than the run, which has "
            f"{model.config.vocab_size} words; set --data.tokenizer to the source's own"
        )
    _require_sizes(mapped, sizes, model.config, option=option)
    return mapped._replace(notes=())


def _require_part(mapped: MappedWeights, part: str, *, option: str) -> None:
    if part not in mapped.parts:
        raise ValueError(
            f"{option} {mapped.foreign.source} ({mapped.layout.kind}) has no {PARTS[part]}; "
            f"it has {', '.join(PARTS[part] for part in mapped.parts)}"
        )


def _require_sizes(
    mapped: MappedWeights, sizes: dict[str, Any], config: ModelConfig, *, option: str
) -> None:
    differing = {
        name: value
        for name, value in sizes.items()
        if name not in _FREE and value != getattr(config, name)
    }
    if differing:
        have = ", ".join(f"{name} {getattr(config, name)}" for name in differing)
        fix = " ".join(f"--model.{name} {value}" for name, value in differing.items())
        raise ValueError(
            f"{option} {mapped.foreign.source} does not fit a model with {have}; set {fix}"
        )
