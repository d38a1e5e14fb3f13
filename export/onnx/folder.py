"""A model folder exported: graphs written, checked and compared before any file is in place."""

import copy
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

from export.bench import BenchOptions, bench
from export.bench.machine import describe_machine, machine_text
from export.drawn_inputs import SHORTEST_CAPTION
from export.graphs import build_graph
from export.onnx.graph_file import (
    check_file,
    operator_counts,
    store_weights_apart,
    write_graph,
)
from export.onnx.quantize import quantize_graph
from export.onnx.report import describe_graph, describe_versions, write_report
from export.onnx.settings import ExportSettings
from export.parity import corners
from export.parity.against_torch import open_candidates, prove
from export.parity.samples import Samples, batches_of, draw_samples, read_samples
from export.placing import require_replaceable
from export.resized import resized
from export.runtime.folder import (
    ExportedFolder,
    GraphSpec,
    Range,
    file_sha256,
    read_exported_folder,
)
from simvtp.config.json_file import write_json
from simvtp.files import put_in_place, unfinished
from simvtp.model import SimVTP
from simvtp.model_folder import find_model_folder
from simvtp.parts import ModelParts
from simvtp.printing import PlainColumn, progress_console

_DTYPES = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "int8": torch.float32,
}
_USUAL = ExportSettings()
_CONTESTANTS = ("torch-eager", "torch-compiled", "onnxruntime-cpu")
_BY_RUNTIME = "The ONNX files were run by ONNX Runtime on the CPU"
_HOW_COMPARED = {
    "fp32": f"{_BY_RUNTIME}.",
    "fp16": f"{_BY_RUNTIME}, which computes some operators of float16 in float32.",
    "bf16": "ONNX Runtime's CPU has no kernels for bfloat16. Two halves were compared instead: the "
    "ONNX files with their bfloat16 weights widened to float32, run by ONNX Runtime (operators, "
    "wiring and weights), and the same graphs in torch bfloat16 (rounding in between). The files "
    "themselves have not been run.",
    "int8": f"{_BY_RUNTIME}, in integers where they were quantised.",
}


class _Work(NamedTuple):
    """Folders of an export under way: what will be moved into place, and what will be deleted."""

    export: Path
    scratch: Path


class _Source(NamedTuple):
    """A loaded model and the folder it is from."""

    folder: Path
    model: SimVTP
    config: dict[str, Any]


def export_folder(
    model: str | Path, out: str | Path, *, parts: ModelParts | None = None, **settings: Any
) -> ExportedFolder:
    """Export a model folder to ONNX; nothing is at `out` before every check has passed.

    Args:
        model: folder written by `save_pretrained`, or a hub id.
        out: folder to write; an older export there is replaced.
        parts: parts of the model that are not the library's, as `SimVTP.from_pretrained` takes
            them; who times such a model could not load it, so `repeats` stays 0.
        **settings: fields of `ExportSettings`.

    Raises:
        ValueError: a setting, the model folder or `out` is not what it must be.
        ExportError: a graph could not be written.
        ParityError: a graph is further from the model than the gate allows.
        OSError: the disk is full or fails.
    """
    return export_with(model, out, ExportSettings(**settings), parts=parts)


def export_with(
    model: str | Path,
    out: str | Path,
    settings: ExportSettings,
    *,
    parts: ModelParts | None = None,
) -> ExportedFolder:
    """As `export_folder`, with settings that are checked already."""
    require_replaceable(Path(out).resolve())
    folder = find_model_folder(model, download_options={})
    trained = SimVTP.from_pretrained(folder, **(parts or {}))
    return _export(trained, folder, out, settings)


def export_model(
    model: SimVTP, out: str | Path, settings: ExportSettings = _USUAL
) -> ExportedFolder:
    """Export a model that is in memory, parts of one's own included; it is left as it is.

    Args:
        model: the model.
        out: folder to write; an older export there is replaced.
        settings: of the export.

    Raises:
        ValueError: as of `export_folder`.
        ExportError: as of `export_folder`.
        ParityError: as of `export_folder`.
        OSError: as of `export_folder`.
    """
    require_replaceable(Path(out).resolve())
    with TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        model.save_pretrained(folder)
        copied = copy.deepcopy(model).to("cpu", torch.float32).eval()
        return _export(copied, folder, out, settings)


def _export(
    trained: SimVTP, folder: Path, out: str | Path, settings: ExportSettings
) -> ExportedFolder:
    if trained.own_parts and settings.repeats:
        raise ValueError(
            f"repeats must be 0 for a model with parts of one's own, got {settings.repeats}: who "
            "times it loads its folder without them"
        )
    target = Path(out).resolve()
    loaded = resized(trained, num_frames=settings.num_frames, image_size=settings.image_size)
    source = _Source(folder, loaded, asdict(loaded.config))
    samples = _samples(settings, source)
    with unfinished(target) as place:
        work = _Work(place / "export", place / "scratch")
        for path in work:
            path.mkdir()
        if (folder / "tokenizer.json").is_file():
            shutil.copyfile(folder / "tokenizer.json", work.export / "tokenizer.json")
        write_json(work.export / "preprocessor.json", loaded.preprocessor())
        report = _write_and_prove(source, work, settings, samples)
        write_report(work.export, report)
        if settings.repeats:
            timed = _latency(source, work, settings)
            report["latency"] = timed["latency"]
            report["notes"] += timed["notes"]
            write_report(work.export, report)
        require_replaceable(target)
        put_in_place(work.export, target)
    return read_exported_folder(target)


def _write_and_prove(
    source: _Source, work: _Work, settings: ExportSettings, samples: Samples
) -> dict[str, Any]:
    """Write the graphs' files and return the report.

    Raises:
        ParityError: a graph is outside the gate.
    """
    ranges = {name: settings.ranges(name, config=source.config) for name in settings.graphs}
    candidates = partial(
        open_candidates,
        source.model,
        folder=work.export,
        scratch=work.scratch,
        precision=settings.precision,
    )
    with _progress(settings, ranges) as step:
        specs = {}
        for name, sizes in ranges.items():
            step(f"Writing {name}")
            specs[name] = _write(source, work, settings, name, sizes, samples)
        parity = prove(
            source.model,
            specs,
            samples=samples,
            candidates=candidates,
            gate=settings.gate,
            step=step,
        )
    return {
        "model": _describe_model(source),
        "precision": settings.precision,
        "opset": settings.opset,
        "versions": describe_versions(),
        "machine": describe_machine(),
        "graphs": {
            name: describe_graph(spec, operators=operator_counts(work.export / spec.file))
            for name, spec in specs.items()
        },
        "gate": settings.gate._asdict(),
        "parity": parity,
        "latency": [],
        "notes": _notes(source, settings, samples),
    }


def _describe_model(source: _Source) -> dict[str, Any]:
    weights = source.folder / "model.safetensors"
    return {
        "folder": source.folder.resolve().name,
        "weights_sha256": file_sha256(weights),
        "config": source.config,
    }


def _write(
    source: _Source,
    work: _Work,
    settings: ExportSettings,
    name: str,
    ranges: dict[str, Range],
    samples: Samples,
) -> GraphSpec:
    is_quantized = settings.precision == "int8"
    graph = build_graph(source.model, name, dtype=_DTYPES[settings.precision], opset=settings.opset)
    common = {"name": name, "config": source.config, "ranges": ranges, "opset": settings.opset}
    written = write_graph(
        graph,
        (work.scratch if is_quantized else work.export) / f"{name}.onnx",
        external_data=None if is_quantized else settings.external_data,
        **common,
    )
    if not is_quantized:
        return written
    sizes = {dimension: one.usual for dimension, one in ranges.items()}
    path = work.export / written.file
    quantize_graph(
        work.scratch / written.file,
        path,
        method=settings.int8_method,
        batches=batches_of(samples, name, sizes=sizes, config=source.config),
    )
    if settings.external_data:
        store_weights_apart(path)
    return check_file(path, **common)


def _samples(settings: ExportSettings, source: _Source) -> Samples:
    if settings.clips is not None:
        return read_samples(
            settings.clips,
            tokenizer=source.folder / "tokenizer.json",
            config=source.config,
            spacing=source.model.frame_spacing,
        )
    longest = max(
        (
            ranges["tokens"].largest
            for name in settings.graphs
            if "tokens" in (ranges := settings.ranges(name, config=source.config))
        ),
        default=SHORTEST_CAPTION,
    )
    return draw_samples(source.config, tokens=longest)


def _notes(source: _Source, settings: ExportSettings, samples: Samples) -> list[str]:
    """What was compared with what on what, in words."""
    notes = [
        f"Compared with the model in torch float32 on {samples.origin}, at the corners of the "
        "declared ranges.",
        _HOW_COMPARED[settings.precision],
    ]
    if not (source.folder / "tokenizer.json").is_file():
        notes.append("The model folder has no tokenizer.json: captions must come as token ids.")
    return notes


def _latency(source: _Source, work: _Work, settings: ExportSettings) -> dict[str, Any]:
    """Timings of the written folder, and why something was not timed."""
    folder = read_exported_folder(work.export)
    threads = torch.get_num_threads()
    has_kernels = settings.precision != "bf16"
    options = BenchOptions(
        batches=sorted({settings.batch.smallest, settings.batch.usual}),
        only=_CONTESTANTS if has_kernels else _CONTESTANTS[:2],
        repeats=settings.repeats,
        threads=threads,
        model=source.folder,
    )
    timings, skipped = bench(folder, options)
    reasons = dict.fromkeys(f"Not timed: {one.contestant}: {one.reason}" for one in skipped)
    return {
        "latency": [timing._asdict() for timing in timings],
        "notes": [
            f"Timed on {machine_text(describe_machine())} with threads: {threads}, contestants in "
            f"turn; torch in {'float32' if has_kernels else 'bfloat16'}.",
            *reasons,
        ],
    }


@contextmanager
def _progress(
    settings: ExportSettings, ranges: Mapping[str, Mapping[str, Range]]
) -> Iterator[Callable[[str], None]]:
    """A bar; what it yields is told what comes next."""
    compared = 2 if settings.precision == "bf16" else 1
    total = sum(1 + compared * len(corners(sizes)) for sizes in ranges.values())
    total += {"video", "text"} <= set(ranges)
    columns = (PlainColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=progress_console()) as progress:
        task = progress.add_task("", total=total, completed=-1)

        def step(description: str) -> None:
            progress.update(task, advance=1, description=description)

        yield step
        progress.update(task, completed=total)
