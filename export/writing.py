"""A folder of graphs: written, compared with the model and timed before any file is in place."""

import copy
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, NamedTuple

import torch
from rich.progress import BarColumn, MofNCompleteColumn, TimeElapsedColumn

from export.bench import BenchOptions, bench
from export.bench.contestants import torch_precision
from export.bench.machine import describe_machine, machine_text
from export.drawn_inputs import SHORTEST_CAPTION
from export.parity import corners
from export.parity.against_torch import Candidate, prove
from export.parity.samples import Samples, draw_samples, read_samples
from export.placing import require_replaceable
from export.report import describe_graph, write_report
from export.resized import resized
from export.runtime.folder import (
    ExportedFolder,
    GraphSpec,
    Range,
    file_sha256,
    read_exported_folder,
)
from export.settings import GraphSettings
from simvtp.config.json_file import write_json
from simvtp.files import put_in_place, unfinished
from simvtp.model import SimVTP
from simvtp.model_folder import find_model_folder
from simvtp.parts import ModelParts
from simvtp.printing import PlainColumn, Progress, progress_console

DTYPES = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "int8": torch.float32,
}


class Work(NamedTuple):
    """Folders of an export under way: what will be moved into place, and what will be deleted."""

    export: Path
    scratch: Path


class Source(NamedTuple):
    """A loaded model and the folder it is from."""

    folder: Path
    model: SimVTP
    config: dict[str, Any]


@dataclass(frozen=True)
class Writer(ABC):
    """What is special to one kind of folder, which `kind` names as report.json does.

    Args:
        settings: of the export.
    """

    settings: GraphSettings
    kind: ClassVar[str]
    verb: ClassVar[str] = "Writing"

    @property
    def num_candidates(self) -> int:
        """How many ways there are to run a written graph here."""
        return 1

    @property
    @abstractmethod
    def how_compared(self) -> str:
        """What ran the files in the comparison, as a sentence."""

    @abstractmethod
    def check_here(self) -> None:
        """Refuse what this machine cannot write, before any work, with a ValueError."""

    @abstractmethod
    def write(
        self, source: Source, work: Work, name: str, ranges: dict[str, Range], samples: Samples
    ) -> GraphSpec:
        """Write a graph into `work.export`."""

    @abstractmethod
    def open(self, source: Source, work: Work, spec: GraphSpec) -> Iterable[Candidate]:
        """What computes a written graph on this machine."""

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """What the report says of all graphs, versions among it."""

    def graph_facts(self, path: Path) -> dict[str, Any]:
        """What the report says of the file of one graph, beside what it says of every one."""
        return {}

    @abstractmethod
    def timed(self, folder: Path) -> dict[str, Any]:
        """What to time of a written folder, as fields of `BenchOptions`."""


def export_saved(
    model: str | Path, out: str | Path, writer: Writer, *, parts: ModelParts | None = None
) -> ExportedFolder:
    """Export a model folder or hub id; nothing is at `out` before every check has passed.

    Args:
        model: folder written by `save_pretrained`, or a hub id.
        out: folder to write; an older export there is replaced.
        writer: of the files.
        parts: parts of the model that are not the library's, as `SimVTP.from_pretrained` takes
            them; who times such a model could not load it, so `repeats` stays 0.

    Raises:
        ValueError: a setting, the model folder or `out` is not what it must be.
        ExportError: a graph could not be written.
        ParityError: a graph is further from the model than the gate allows.
        OSError: the disk is full or fails.
    """
    require_replaceable(Path(out).resolve())
    writer.check_here()
    folder = find_model_folder(model, download_options={})
    trained = SimVTP.from_pretrained(folder, **(parts or {}))
    return _export(trained, folder, out, writer)


def export_loaded(model: SimVTP, out: str | Path, writer: Writer) -> ExportedFolder:
    """Export a model that is in memory; it is left as it is. Errors as of `export_saved`."""
    require_replaceable(Path(out).resolve())
    writer.check_here()
    with TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        model.save_pretrained(folder)
        copied = copy.deepcopy(model).to("cpu", torch.float32).eval()
        return _export(copied, folder, out, writer)


def _export(trained: SimVTP, folder: Path, out: str | Path, writer: Writer) -> ExportedFolder:
    settings = writer.settings
    if trained.own_parts and settings.repeats:
        raise ValueError(
            f"repeats must be 0 for a model with parts of one's own, got {settings.repeats}: who "
            "times it loads its folder without them"
        )
    target = Path(out).resolve()
    loaded = resized(trained, num_frames=settings.num_frames, image_size=settings.image_size)
    source = Source(folder, loaded, asdict(loaded.config))
    samples = _samples(settings, source)
    with unfinished(target) as place:
        work = Work(place / "export", place / "scratch")
        for path in work:
            path.mkdir()
        if (folder / "tokenizer.json").is_file():
            shutil.copyfile(folder / "tokenizer.json", work.export / "tokenizer.json")
        write_json(work.export / "preprocessor.json", loaded.preprocessor())
        report = _write_and_prove(source, work, writer, samples)
        write_report(work.export, report)
        if settings.repeats:
            progress_console().print(
                "Timing the graphs beside torch; Ctrl-C (or --no-latency) leaves that out."
            )
            timed = _latency(source, work, writer)
            report["latency"] = timed["latency"]
            report["notes"] += timed["notes"]
            write_report(work.export, report)
        require_replaceable(target)
        put_in_place(work.export, target)
    return read_exported_folder(target, kind=writer.kind)


def _write_and_prove(
    source: Source, work: Work, writer: Writer, samples: Samples
) -> dict[str, Any]:
    """Write the graphs' files and return the report.

    Raises:
        ParityError: a graph is outside the gate.
    """
    settings = writer.settings
    ranges = {name: settings.ranges(name, config=source.config) for name in settings.graphs}
    with _progress(writer, ranges) as step:
        specs = {}
        for name, sizes in ranges.items():
            step(f"{writer.verb} {name}")
            specs[name] = writer.write(source, work, name, sizes, samples)
        parity = prove(
            source.model,
            specs,
            samples=samples,
            candidates=lambda spec: writer.open(source, work, spec),
            gate=settings.gate,
            step=step,
        )
    return {
        "kind": writer.kind,
        "model": _describe_model(source),
        "precision": settings.precision,
        **writer.facts(),
        "machine": describe_machine(),
        "graphs": {
            name: describe_graph(spec) | writer.graph_facts(work.export / spec.file)
            for name, spec in specs.items()
        },
        "gate": settings.gate._asdict(),
        "parity": parity,
        "latency": [],
        "notes": _notes(source, writer, samples),
    }


def _describe_model(source: Source) -> dict[str, Any]:
    weights = source.folder / "model.safetensors"
    return {
        "folder": source.folder.resolve().name,
        "weights_sha256": file_sha256(weights),
        "config": source.config,
    }


def _samples(settings: GraphSettings, source: Source) -> Samples:
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


def _notes(source: Source, writer: Writer, samples: Samples) -> list[str]:
    """What was compared with what on what, in words."""
    notes = [
        f"Compared with the model in torch float32 on {samples.origin}, at the corners of the "
        "declared ranges.",
        writer.how_compared,
    ]
    if not (source.folder / "tokenizer.json").is_file():
        notes.append("The model folder has no tokenizer.json: captions must come as token ids.")
    return notes


def _latency(source: Source, work: Work, writer: Writer) -> dict[str, Any]:
    """Timings of the written folder, and why something was not timed."""
    settings = writer.settings
    folder = read_exported_folder(work.export, kind=writer.kind)
    threads = torch.get_num_threads()
    options = BenchOptions(
        batches=sorted({settings.batch.smallest, settings.batch.usual}),
        repeats=settings.repeats,
        threads=threads,
        model=source.folder,
        **writer.timed(work.export),
    )
    try:
        timings, skipped = bench(folder, options)
    except KeyboardInterrupt:
        return {"latency": [], "notes": ["Not timed: it was stopped meanwhile."]}
    reasons = dict.fromkeys(f"Not timed: {one.contestant}: {one.reason}" for one in skipped)
    return {
        "latency": [timing._asdict() for timing in timings],
        "notes": [
            f"Timed on {machine_text(describe_machine())} with threads: {threads}, contestants in "
            f"turn; torch in {torch_precision(settings.precision, options.only[0])}.",
            *reasons,
        ],
    }


@contextmanager
def _progress(
    writer: Writer, ranges: Mapping[str, Mapping[str, Range]]
) -> Iterator[Callable[[str], None]]:
    """A bar; what it yields is told what comes next."""
    total = sum(1 + writer.num_candidates * len(corners(sizes)) for sizes in ranges.values())
    total += {"video", "text"} <= set(ranges)
    columns = (PlainColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=progress_console()) as progress:
        task = progress.add_task("", total=total, completed=-1)

        def step(description: str) -> None:
            progress.update(task, advance=1, description=description)

        yield step
        progress.update(task, completed=total)
