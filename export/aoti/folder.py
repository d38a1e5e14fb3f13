"""A model folder as compiled graphs, compared with the model before any file is in place."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from export.aoti.compiling import compile_graph, require_compiler, require_device
from export.aoti.settings import AotiSettings
from export.graphs import build_graph
from export.parity import as_one
from export.parity.against_torch import Candidate
from export.parity.samples import Samples
from export.report import describe_versions
from export.runtime.aoti_session import AotiSession, CompiledFor
from export.runtime.folder import ExportedFolder, GraphSpec, Range
from export.runtime.processor import processor_instructions
from export.writing import DTYPES, Source, Work, Writer, export_loaded, export_saved
from simvtp.model import SimVTP
from simvtp.parts import ModelParts

_USUAL = AotiSettings()


def compile_folder(
    model: str | Path,
    out: str | Path,
    settings: AotiSettings = _USUAL,
    *,
    parts: ModelParts | None = None,
) -> ExportedFolder:
    """Compile a model folder; nothing is at `out` before every check has passed.

    Args:
        model: folder written by `save_pretrained`, or a hub id.
        out: folder to write; an older export there is replaced.
        settings: of the compilation.
        parts: parts of the model that are not the library's, as `SimVTP.from_pretrained` takes
            them; who times such a model could not load it, so `repeats` stays 0.

    Raises:
        ValueError: a setting, the model folder or `out` is not what it must be, or there is no C++
            compiler or GPU.
        ExportError: a graph could not be compiled.
        ParityError: a graph is further from the model than the gate allows.
        OSError: the disk is full or fails.
    """
    return export_saved(model, out, AotiWriter(settings), parts=parts)


def compile_model(
    model: SimVTP, out: str | Path, settings: AotiSettings = _USUAL
) -> ExportedFolder:
    """Compile a model that is in memory, parts of one's own included; it is left as it is.

    Args:
        model: the model.
        out: folder to write; an older export there is replaced.
        settings: of the compilation.

    Raises:
        ValueError: as of `compile_folder`.
        ExportError: as of `compile_folder`.
        ParityError: as of `compile_folder`.
        OSError: as of `compile_folder`.
    """
    return export_loaded(model, out, AotiWriter(settings))


@dataclass(frozen=True)
class AotiWriter(Writer):
    """Compiles graphs to .pt2 files, which torch compares where they were compiled."""

    settings: AotiSettings
    kind = "aoti"
    verb = "Compiling (a minute or more)"

    @property
    def how_compared(self) -> str:
        """As a sentence."""
        return f"The .pt2 files were run by torch on the device they are for, {self._place}."

    def check_here(self) -> None:
        """Refuse to begin without a compiler or the GPU."""
        require_compiler()
        require_device(self.settings.device)

    def write(
        self, source: Source, work: Work, name: str, ranges: dict[str, Range], samples: Samples
    ) -> GraphSpec:
        """Compile a graph."""
        graph = build_graph(source.model, name, dtype=DTYPES[self.settings.precision])
        return compile_graph(
            graph,
            work.export / f"{name}.pt2",
            name=name,
            config=source.config,
            ranges=ranges,
            device=self.settings.device,
            scratch=work.scratch,
        )

    def open(self, source: Source, work: Work, spec: GraphSpec) -> Iterator[Candidate]:
        """The file, loaded by torch."""
        session = AotiSession(work.export / spec.file, spec, self._compiled_for())
        yield Candidate("aoti", lambda inputs: as_one(session.run(inputs), inputs))

    def facts(self) -> dict[str, Any]:
        """What the code was compiled for, and versions."""
        compiled = self._compiled_for()
        return {
            "device": compiled.device,
            "instructions": list(compiled.instructions),
            "gpu": self._place if compiled.device == "cuda" else None,
            "compute_capability": compiled.compute_capability,
            "versions": describe_versions("torch"),
        }

    def timed(self, folder: Path) -> dict[str, Any]:
        """Torch and the compiled files, on the device they are for."""
        ending = "-cuda" if self.settings.device == "cuda" else ""
        contestants = (f"torch-eager{ending}", f"aoti-{self.settings.device}")
        return {"only": contestants, "aoti": (folder,)}

    @property
    def _place(self) -> str:
        return torch.cuda.get_device_name() if self.settings.device == "cuda" else "the CPU"

    def _compiled_for(self) -> CompiledFor:
        on_gpu = self.settings.device == "cuda"
        return CompiledFor(
            self.settings.device,
            torch.__version__,
            tuple(processor_instructions()),
            "{}.{}".format(*torch.cuda.get_device_capability()) if on_gpu else None,
        )
