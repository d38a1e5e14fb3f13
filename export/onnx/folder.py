"""A model folder as ONNX graphs: written, checked and compared before any file is in place."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.graphs import build_graph
from export.onnx.candidates import open_candidates
from export.onnx.graph_file import (
    check_file,
    operator_counts,
    store_weights_apart,
    write_graph,
)
from export.onnx.quantize import quantize_graph
from export.onnx.settings import ExportSettings
from export.parity.against_torch import Candidate
from export.parity.samples import Samples, batches_of
from export.report import describe_versions
from export.runtime.folder import ExportedFolder, GraphSpec, Range
from export.writing import DTYPES, Source, Work, Writer, export_loaded, export_saved
from simvtp.model import SimVTP
from simvtp.parts import ModelParts

_USUAL = ExportSettings()
_PACKAGES = ("torch", "onnx", "onnxscript", "onnxruntime")
_CONTESTANTS = ("torch-eager", "onnxruntime-cpu")
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
    return export_saved(model, out, OnnxWriter(settings), parts=parts)


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
    return export_loaded(model, out, OnnxWriter(settings))


@dataclass(frozen=True)
class OnnxWriter(Writer):
    """Writes ONNX files, which ONNX Runtime compares on the CPU."""

    settings: ExportSettings
    kind = "onnx"

    @property
    def num_candidates(self) -> int:
        """The file and, of bfloat16, its two halves."""
        return 2 if self.settings.precision == "bf16" else 1

    @property
    def how_compared(self) -> str:
        """As a sentence."""
        return _HOW_COMPARED[self.settings.precision]

    def check_here(self) -> None:
        """ONNX files are written everywhere."""

    def write(
        self, source: Source, work: Work, name: str, ranges: dict[str, Range], samples: Samples
    ) -> GraphSpec:
        """Write a graph, and quantise it where that was asked for."""
        settings = self.settings
        is_quantized = settings.precision == "int8"
        dtype = DTYPES[settings.precision]
        graph = build_graph(source.model, name, dtype=dtype, opset=settings.opset)
        common: dict[str, Any] = {
            "name": name,
            "config": source.config,
            "ranges": ranges,
            "opset": settings.opset,
        }
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

    def open(self, source: Source, work: Work, spec: GraphSpec) -> Iterator[Candidate]:
        """The file in ONNX Runtime or, of bfloat16, its two halves."""
        return open_candidates(
            source.model,
            spec,
            folder=work.export,
            scratch=work.scratch,
            precision=self.settings.precision,
        )

    def facts(self) -> dict[str, Any]:
        """Opset and versions."""
        return {"opset": self.settings.opset, "versions": describe_versions(*_PACKAGES)}

    def graph_facts(self, path: Path) -> dict[str, Any]:
        """How often each operator stands in a file."""
        return {"operators": operator_counts(path)}

    def timed(self, folder: Path) -> dict[str, Any]:
        """Torch and ONNX Runtime on the CPU, which has no kernels for bfloat16."""
        has_kernels = self.settings.precision != "bf16"
        return {"only": _CONTESTANTS if has_kernels else _CONTESTANTS[:1]}
