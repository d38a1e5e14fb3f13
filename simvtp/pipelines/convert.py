"""Foreign weights as a model folder: `python -m simvtp.pipelines.convert SOURCE --out MODEL`.

SOURCE is a checkpoint file (torch.save or safetensors), a folder of transformers or DeepSpeed, or
a model folder. Its layout is told by the names in it: the paper's pre-training and fine-tuning,
VideoMAE's pre-training and fine-tuning, transformers' VideoMAE, BERT's word embedding, and image
transformers of timm and transformers: ViT, DINOv2, CLIP, SigLIP. Several sources of different
parts make up one model, such as VideoMAE and BERT. A table says what was
loaded, what is new and what was ignored; a tensor that has no place, or is missing, is an error.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Unpack, get_args

import torch
from tokenizers import Tokenizer

from simvtp.command_line import at_least, command_parser, run_command
from simvtp.config import FrameSpacing
from simvtp.conversion import (
    OWN,
    SOURCE_FRAMES,
    LoadReport,
    MappedWeights,
    Origin,
    Towers,
    fit_parts,
    load_parts,
    map_weights,
    model_config,
    origins_of,
    read_weights,
    report_table,
)
from simvtp.data import load_tokenizer, special_token_ids, vocabulary_size
from simvtp.data.tokenizer import require_vocabulary
from simvtp.files import put_in_place, unfinished
from simvtp.layers import Activation
from simvtp.model import SimVTP
from simvtp.model_card import ModelFacts
from simvtp.model_folder import read_frame_spacing
from simvtp.parts import ModelParts
from simvtp.printing import Console, Progress, progress_console

_SETTINGS = (
    *("num_frames", "image_size", "patch_size", "max_text_length"),
    *("depth", "num_heads", "decoder_depth", "decoder_heads"),
)
_TOKENIZER_FILES = ("tokenizer.json", "vocab.txt")
# The paper's and VideoMAE's clips take every fourth frame.
_SPACING = FrameSpacing(stride=4)


class Converted(NamedTuple):
    """A model, how its weights came about, and from where."""

    model: SimVTP
    report: LoadReport
    origins: tuple[Origin, ...]


def build_parser() -> argparse.ArgumentParser:
    """Command line of the conversion."""
    parser = command_parser("simvtp.pipelines.convert", description=__doc__)
    whole = at_least(1)
    parser.add_argument("sources", type=Path, nargs="+", metavar="SOURCE", help="file or folder")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="new model folder")
    parser.add_argument(
        "--tokenizer",
        metavar="FILE",
        help="vocab.txt, tokenizer.json or a folder with one; default: the source folder's",
    )
    parser.add_argument(
        "--towers",
        choices=get_args(Towers),
        default="both",
        help="encoders to take of the paper's fine-tuning, which has two; default: %(default)s",
    )
    parser.add_argument(
        "--state",
        metavar="NAME",
        help="weights to take of files that hold several, such as model_ema; default: the model's",
    )
    for name in _SETTINGS:
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, type=whole, metavar="N", help="default: the source's")
    parser.add_argument(
        "--extra-tokens",
        type=at_least(0),
        metavar="N",
        help="0 drops class and register tokens of image transformers; default: the source's",
    )
    parser.add_argument(
        "--activation",
        choices=get_args(Activation),
        help="of the encoder; default: the source's, as far as its files tell",
    )
    parser.add_argument(
        "--source-frames",
        type=whole,
        default=SOURCE_FRAMES,
        metavar="N",
        help="frames of a clip that learned positions were made for; %(default)s",
    )
    spacing = parser.add_mutually_exclusive_group()
    spacing.add_argument(
        "--frame-seconds",
        type=float,
        metavar="S",
        help="seconds of the video between two frames of a clip; default: a model folder's",
    )
    spacing.add_argument(
        "--frame-stride",
        type=whole,
        metavar="N",
        help=f"instead, frames of the video; {_SPACING.stride}, or a model folder's",
    )
    parser.add_argument("--seed", type=at_least(0), default=0, help="of parts that are new; 0")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Convert; returns the exit code, 2 for sources that cannot be converted or a full disk."""
    options = build_parser().parse_args(arguments)
    stopped = "stopped; nothing was written"
    return run_command(_run, options, place=options.out, stopped=stopped)


def _run(options: argparse.Namespace, console: Console) -> None:
    converted = _convert(options)
    print_report(console, converted.report)
    _print_result(console, converted, options.out)


def _convert(options: argparse.Namespace) -> Converted:
    out: Path = options.out
    if out.exists():
        raise ValueError(f"{out} is there already; delete it or choose another --out")
    names = (*_SETTINGS, "extra_tokens", "activation")
    overrides = {name: getattr(options, name) for name in names}
    with Progress(console=progress_console(), transient=True) as progress:
        task = progress.add_task("Reading", total=len(options.sources) + 2)
        sources: list[MappedWeights] = []
        for source in options.sources:
            read = read_weights(source, state=options.state)
            sources.append(map_weights(read, towers=options.towers))
            progress.advance(task)
        if options.state is not None and all(mapped.foreign.state is None for mapped in sources):
            raise ValueError(
                f"--state {options.state}: the sources hold one kind of weights each; leave it out"
            )
        progress.update(task, description="Converting")
        converted = convert(
            sources,
            tokenizer=_tokenizer(options.tokenizer, sources),
            overrides={name: value for name, value in overrides.items() if value is not None},
            source_frames=options.source_frames,
            frame_spacing=_spacing(options, sources),
            seed=options.seed,
        )
        progress.update(task, advance=1, description="Writing")
        with unfinished(out) as work:
            converted.model.save_pretrained(work / "model")
            put_in_place(work / "model", out)
    return converted


def convert(
    sources: Sequence[MappedWeights],
    *,
    tokenizer: Tokenizer | None = None,
    overrides: dict[str, Any] | None = None,
    source_frames: int = SOURCE_FRAMES,
    frame_spacing: FrameSpacing = _SPACING,
    seed: int = 0,
    **parts: Unpack[ModelParts],
) -> Converted:
    """Build the model that takes all that the sources bring.

    Args:
        sources: weights of different parts, e.g. of `map_weights(read_weights(path))`.
        tokenizer: turns captions into ids of the sources' word embedding.
        overrides: settings of `ModelConfig` that go before those of the sources.
        source_frames: frames of a clip that learned positions were made for.
        frame_spacing: time or frames of the source video between two frames of a clip.
        seed: draws the parts that no source brings.
        **parts: parts of one's own by their names, such as a BERT's transformer as `text_encoder`.

    Returns:
        The model in evaluation mode, a report, and the origins of its weights.

    Raises:
        ValueError: the sources do not fit together or the tokenizer does not fit them.
    """
    overrides = dict(overrides or {})
    has_words = any("text_embedding" in mapped.parts for mapped in sources)
    if tokenizer is not None:
        overrides["padding_id"] = special_token_ids(tokenizer).pad
        if not has_words:
            overrides["vocab_size"] = vocabulary_size(tokenizer)
    config = model_config(sources, overrides=overrides, source_frames=source_frames)
    if tokenizer is not None:
        require_vocabulary(tokenizer, vocab_size=config.vocab_size)
    with torch.device("meta"):  # Sizes that settings claim and weights lack are never built.
        trial = SimVTP.from_config(config, **parts)
        fit_parts(trial, sources, config=config, source_frames=source_frames)
    torch.manual_seed(seed)
    model = SimVTP.from_config(
        config, tokenizer=tokenizer, frame_spacing=frame_spacing, **parts
    ).eval()
    report = load_parts(
        model, sources, config=config, source_frames=source_frames, given=tuple(parts)
    )
    origins = tuple(o for mapped in sources for o in origins_of(mapped))
    model.facts = ModelFacts(origins=origins)
    return Converted(model, report, origins)


def _tokenizer(given: str | None, sources: Sequence[MappedWeights]) -> Tokenizer | None:
    """The tokenizer that was given, else one that lies beside the word embedding."""
    if given is not None:
        return load_tokenizer(given)
    for mapped in sources:
        folder = mapped.foreign.source
        if "text_embedding" in mapped.parts and has_tokenizer(folder):
            return load_tokenizer(folder)
    return None


def _spacing(options: argparse.Namespace, sources: Sequence[MappedWeights]) -> FrameSpacing:
    """As it was given, else that of a model folder among the sources, else the paper's."""
    if options.frame_seconds is not None or options.frame_stride is not None:
        return FrameSpacing.of(vars(options))
    for mapped in sources:
        folder = mapped.foreign.source
        if mapped.layout.kind == OWN and (folder / "preprocessor.json").is_file():
            return read_frame_spacing(folder)
    return _SPACING


def has_tokenizer(folder: Path) -> bool:
    """Whether a tokenizer lies in a folder."""
    return any((folder / name).is_file() for name in _TOKENIZER_FILES)


def print_report(console: Console, report: LoadReport) -> None:
    """Print what was loaded, what is new, what was ignored, and what else to know."""
    console.print(report_table(report))
    for note in report.notes:
        console.note(f"note: {note}")


def _print_result(console: Console, converted: Converted, out: Path) -> None:
    model, config = converted.model, converted.model.config
    slices, rows, columns = config.grid
    parameters = sum(parameter.numel() for parameter in model.parameters())
    console.print(
        f"model: {parameters / 1e6:.1f} M parameters, width {config.width}, depth {config.depth}, "
        f"{config.num_heads} heads; {config.num_frames} frames of {config.image_size} px = "
        f"{slices} x {rows} x {columns} tubelets\n"
        f"clips: {model.frame_spacing.clip_of(config.num_frames)}",
    )
    if model.tokenizer is None:
        console.note(
            "note: there is no tokenizer, so encode_text takes token ids only; give one with "
            "--tokenizer vocab.txt",
        )
    licences = ", ".join(dict.fromkeys(origin.licence for origin in converted.origins))
    console.print(f"licences of the sources: {licences}")
    console.print(f"written: {out}")


if __name__ == "__main__":
    raise SystemExit(main())
