"""Exported graphs against the model in torch: what is right, what computes them, how they fare."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from export.graphs import INPUTS, OUTPUTS, build_graph
from export.parity import (
    Embeddings,
    Gate,
    Inputs,
    ParityError,
    Run,
    as_one,
    compare_batch,
    corners,
    describe_row,
    gate_failures,
    ranking_change,
)
from export.parity.samples import Samples, batch_of, batches_of
from export.runtime.folder import GraphSpec
from simvtp.model import SimVTP


class Candidate(NamedTuple):
    """Something that computes a graph, and what it shows."""

    name: str
    run: Run


def torch_reference(model: SimVTP, name: str) -> Run:
    """What is right: the model's own methods in float32.

    `SimVTP.reconstruct` draws its masks itself, so there it is the graph's module.
    """
    calls: dict[str, Callable[..., Tensor]] = {
        "video": model.encode_video,
        "text": lambda ids, mask: model.encode_text(ids, attend=mask.bool()),
        "match": lambda frames, ids, mask: model.match(frames, ids, attend=mask.bool()),
    }
    if name == "reconstruct":
        return torch_run(build_graph(model, name), name)
    return torch_run(calls[name], name)


def prove(
    model: SimVTP,
    specs: Mapping[str, GraphSpec],
    *,
    samples: Samples,
    candidates: Callable[[GraphSpec], Iterable[Candidate]],
    gate: Gate,
    step: Callable[[str], None],
) -> dict[str, Any]:
    """Compare graphs with the model at the corners of their ranges, and the rankings.

    Args:
        model: the model.
        specs: the graphs, by name.
        samples: what to compare on.
        candidates: what computes a graph; the last one also ranks.
        gate: how close they must be.
        step: told what comes next, once for each comparison.

    Returns:
        Rows for each graph, and "ranking" where both embeddings were exported.

    Raises:
        ParityError: some graph is outside the gate.
    """
    config = asdict(model.config)
    parity: dict[str, Any] = {}
    failures: list[str] = []
    embedders: dict[str, tuple[Run, Run]] = {}
    for name, spec in specs.items():
        reference = torch_reference(model, name)
        parity[name] = []
        for candidate in candidates(spec):
            who = f"{name} by {candidate.name}"
            for sizes in corners(spec.ranges):
                step(f"Comparing {name}, {candidate.name}")
                inputs = batch_of(samples, name, sizes=sizes, config=config)
                try:
                    row = compare_batch(reference, candidate.run, inputs, sizes=sizes)
                except (ParityError, RuntimeError) as error:
                    failures.append(f"{who}: {error}")
                    continue
                parity[name].append({"by": candidate.name, **describe_row(row)})
                failures += gate_failures(who, row, gate=gate)
            if name in ("video", "text"):
                embedders[name] = reference, candidate.run
    if failures:
        raise ParityError("; ".join(failures))
    if len(embedders) == 2:
        step("Comparing rankings")
        sizes = {key: sizes.usual for key, sizes in specs["text"].ranges.items()}
        before, after = (
            _embed({name: runs[place] for name, runs in embedders.items()}, samples, sizes, config)
            for place in range(2)
        )
        parity["ranking"] = ranking_change(before, after)._asdict()
    return parity


def _embed(
    runs: Mapping[str, Run], samples: Samples, sizes: Mapping[str, int], config: Mapping[str, Any]
) -> Embeddings:
    parts = {
        name: [run(inputs) for inputs in batches_of(samples, name, sizes=sizes, config=config)]
        for name, run in runs.items()
    }
    count = len(samples.frames)
    return Embeddings(**{name: np.concatenate(rows)[:count] for name, rows in parts.items()})


def torch_run(call: nn.Module | Callable[..., Tensor], name: str) -> Run:
    """A module of torch, or a method of the model, as what computes a graph."""

    def run(inputs: Inputs) -> np.ndarray:
        with torch.inference_mode():
            found = call(*(torch.from_numpy(inputs[key]) for key in INPUTS[name]))
        values = found if isinstance(found, tuple) else (found,)
        arrays = (value.numpy() for value in values)
        return as_one(dict(zip(OUTPUTS[name], arrays, strict=True)), inputs)

    return run
