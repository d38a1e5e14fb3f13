"""Weights into a model: all of a part or none of it, and a report of what became of each."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

from rich.table import Table
from torch import Tensor, nn

from simvtp.config import ModelConfig
from simvtp.conversion.images import fit_to_clips
from simvtp.conversion.layouts import OWN, PARTS
from simvtp.conversion.mapping import MappedWeights
from simvtp.conversion.positions import cut_text_positions, interpolate_positions, square_grid
from simvtp.conversion.sizes import SOURCE_FRAMES

_MAX_NAMED = 5
_STYLES = {"loaded": "green", "new": "yellow", "ignored": "dim"}
VIDEO_POSITIONS, TEXT_POSITIONS = "video_embedding.positions", "text_embedding.positions.weight"


class PartReport(NamedTuple):
    """A part of the model, or tensors that were left out for one reason.

    Attributes:
        what: the part, or the first of the tensors.
        num_tensors: how many.
        num_parameters: numbers in them.
        state: loaded, new (random) or ignored.
        where: what they are from, or why they are left out.
    """

    what: str
    num_tensors: int
    num_parameters: int
    state: str
    where: str


class LoadReport(NamedTuple):
    """What became of each part of the model and of each tensor of the sources."""

    parts: tuple[PartReport, ...]
    ignored: tuple[PartReport, ...]
    notes: tuple[str, ...]


def report_table(report: LoadReport) -> Table:
    """What was loaded, what is new and what was ignored, with the reason."""
    table = Table(title="weights")
    for heading in ("", "part", "from"):
        table.add_column(heading, overflow="fold")
    table.add_column("tensors", justify="right")
    table.add_column("parameters", justify="right")
    for what, num_tensors, num_parameters, state, where in (*report.parts, *report.ignored):
        cells = (state, what, where, f"{num_tensors:,}", f"{num_parameters:,}")
        table.add_row(*cells, style=_STYLES[state])
    return table


class FittedParts(NamedTuple):
    """Tensors by the model's names, the source of each part, and what is to be told."""

    weights: dict[str, Tensor]
    taken: dict[str, MappedWeights]
    notes: tuple[str, ...]


def load_parts(
    model: nn.Module,
    sources: Sequence[MappedWeights],
    *,
    config: ModelConfig,
    source_frames: int = SOURCE_FRAMES,
    given: Collection[str] = (),
) -> LoadReport:
    """Put every tensor of the sources into a model; what they do not bring stays as it is.

    Args:
        model: a SimVTP.
        sources: weights of different parts.
        config: the model's settings.
        source_frames: frames of a clip that learned positions were made for.
        given: parts of the model that came with their weights, by name.

    Raises:
        ValueError: two sources bring one part, or a tensor is missing from a part, has no place
            or another shape; the model is then as it was.
    """
    weights, taken, notes = fit_parts(model, sources, config=config, source_frames=source_frames)
    model.load_state_dict(weights, strict=False)
    parts = tuple(_part_report(model, part, taken.get(part), part in given) for part in PARTS)
    ignored = tuple(report for mapped in sources for report in _ignored(mapped))
    return LoadReport(tuple(part for part in parts if part.num_tensors), ignored, notes)


def fit_parts(
    model: nn.Module,
    sources: Sequence[MappedWeights],
    *,
    config: ModelConfig,
    source_frames: int = SOURCE_FRAMES,
) -> FittedParts:
    """What `load_parts` would put into a model, which may be on the meta device; it stays as it is.

    Arguments and errors are those of `load_parts`.
    """
    taken: dict[str, MappedWeights] = {}
    weights: dict[str, Tensor] = {}
    notes: list[str] = []
    for mapped in sources:
        for part in mapped.parts:
            other = taken.setdefault(part, mapped)
            if other is not mapped:
                raise ValueError(
                    f"both {other.foreign.source} and {mapped.foreign.source} bring the "
                    f"{PARTS[part]}; leave one of them out"
                )
        tensors, changes = _fitted(mapped, config, source_frames)
        notes += [*mapped.notes, *changes, *_about_pooling(mapped, config)]
        _require_fit(model, mapped, tensors)
        weights |= tensors
    return FittedParts(weights, taken, tuple(notes))


def _fitted(
    mapped: MappedWeights, config: ModelConfig, source_frames: int
) -> tuple[dict[str, Tensor], list[str]]:
    """Tensors with position tables of the model's grid and length, and what was changed."""
    tensors, notes = dict(mapped.tensors), []
    if mapped.image is not None:
        sizes = {"grid": config.grid, "tubelet": config.tubelet}
        return tensors, fit_to_clips(
            tensors, mapped.image, **sizes, extra_tokens=config.extra_tokens
        )
    table = tensors.get(VIDEO_POSITIONS)
    if table is not None and table.ndim == 2:
        own = (
            ModelConfig.from_dict(mapped.foreign.config).grid if mapped.layout.kind == OWN else None
        )
        source = own or square_grid(len(table), num_slices=source_frames // config.tubelet_frames)
        tensors[VIDEO_POSITIONS] = interpolate_positions(table, source=source, target=config.grid)
        if source != config.grid:
            grids = (" x ".join(map(str, grid)) for grid in (source, config.grid))
            notes.append(f"learned positions were interpolated: {' to '.join(grids)} tubelets")
    words = tensors.get(TEXT_POSITIONS)
    if words is not None and words.ndim == 2:
        tensors[TEXT_POSITIONS] = cut_text_positions(words, max_length=config.max_text_length)
        if len(words) > config.max_text_length:
            notes.append(
                f"text positions were cut: the first {config.max_text_length} of {len(words)}"
            )
    return tensors, notes


def _about_pooling(mapped: MappedWeights, config: ModelConfig) -> list[str]:
    if "encoder" not in mapped.parts or mapped.pooling == config.pooling:
        return []
    return [
        f"{mapped.foreign.source} pools {mapped.pooling}, the model {config.pooling}: tokens up to "
        "the last LayerNorm are the same, pooled features are not, so train before use"
    ]


def _require_fit(model: nn.Module, mapped: MappedWeights, tensors: dict[str, Tensor]) -> None:
    own, theirs = model.state_dict(), mapped.layout.their_name
    problems = [
        f"missing {theirs(name)}"
        for name in own
        # Positions by the formula need no table; a model that goes on learning them begins there.
        if name.partition(".")[0] in mapped.parts and name not in tensors | {VIDEO_POSITIONS: 0}
    ]
    problems += [f"unknown {theirs(name)}" for name in tensors if name not in own]
    problems += [
        f"{theirs(name)} is {tuple(tensor.shape)}, {name} of the model is {tuple(own[name].shape)}"
        for name, tensor in tensors.items()
        if name in own and tensor.shape != own[name].shape
    ]
    if problems:
        more = f"; and {len(problems) - _MAX_NAMED} more" if len(problems) > _MAX_NAMED else ""
        raise ValueError(
            f"{mapped.foreign.source} ({mapped.layout.kind}) does not fit in {len(problems)} "
            f"tensors: {'; '.join(problems[:_MAX_NAMED])}{more}. Nothing was loaded: a part comes "
            "whole or not at all"
        )


def _part_report(
    model: nn.Module, part: str, mapped: MappedWeights | None, is_given: bool
) -> PartReport:
    own = [tensor for name, tensor in model.state_dict().items() if name.startswith(f"{part}.")]
    state, where = ("loaded", "given") if is_given else ("new", "random")
    if mapped is not None:
        state, where = "loaded", f"{mapped.foreign.source.name} ({mapped.layout.kind})"
    return PartReport(PARTS[part], len(own), sum(tensor.numel() for tensor in own), state, where)


def _ignored(mapped: MappedWeights) -> list[PartReport]:
    """One report for each reason."""
    names: dict[str, list[str]] = {}
    for name, why in mapped.ignored.items():
        names.setdefault(why, []).append(name)
    sizes = {name: tensor.numel() for name, tensor in mapped.foreign.tensors.items()}
    return [
        PartReport(
            found[0] + (" ..." if len(found) > 1 else ""),
            len(found),
            sum(sizes.get(name, 0) for name in found),
            "ignored",
            why,
        )
        for why, found in names.items()
    ]
