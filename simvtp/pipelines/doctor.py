"""What works on this machine: `python -m simvtp.pipelines.doctor`.

Versions, devices, attention kernels that run, FFmpeg, free disk, and what each extra still lacks.
Paste what it prints into a question or a report.
"""

import argparse
import importlib.metadata
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from textwrap import shorten

import av
import torch
from packaging.requirements import Requirement
from rich.table import Table

from simvtp.command_line import command_parser, run_command
from simvtp.config import RunConfig
from simvtp.data.places import cache_folder
from simvtp.layers import PackedLayout, attend, attention_backend
from simvtp.printing import Console, counted
from simvtp.training import choose_precision

_GIB = 2**30
_NAME_COLUMNS = 24


def build_parser() -> argparse.ArgumentParser:
    """Command line with no option of its own."""
    return command_parser("simvtp.pipelines.doctor", description=__doc__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the findings; always 0: what is missing may not be wanted."""
    return run_command(_tell, build_parser().parse_args(arguments))


def _tell(_: argparse.Namespace, console: Console) -> None:
    for findings in (_versions(), _devices(), _kernels(), _disks(), _extras()):
        table = Table("", "", show_header=False, box=None)
        table.columns[0].min_width = _NAME_COLUMNS
        for name, value in findings:
            table.add_row(name, value)
        console.print(table)


def _versions() -> Iterator[tuple[str, str]]:
    yield "python", f"{platform.python_version()} on {platform.platform()}"
    for requirement in _requirements():
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield requirement.name, _version(requirement) or f"MISSING, wants {requirement}"
    libraries = " ".join(
        f"{name} {'.'.join(map(str, version))}" for name, version in av.library_versions.items()
    )
    yield "FFmpeg (in PyAV)", libraries


def _requirements() -> list[Requirement]:
    return [Requirement(line) for line in importlib.metadata.requires("simvtp") or []]


def _version(requirement: Requirement) -> str | None:
    """The installed version where it is one that is wanted."""
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return None
    fits = requirement.specifier.contains(version, prereleases=True)
    return version if fits else None


def _devices() -> Iterator[tuple[str, str]]:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    precision = choose_precision(RunConfig(), device=torch.device("cpu"))
    cores, threads = counted(usable or 1, "core"), counted(torch.get_num_threads(), "thread")
    yield "CPU", f"{cores}, {threads}, trains in {precision}"
    for number in range(torch.cuda.device_count()):
        found = torch.cuda.get_device_properties(number)
        yield (
            f"GPU {number}",
            f"{found.name}, {found.total_memory / _GIB:.0f} GiB, "
            f"compute capability {found.major}.{found.minor}",
        )
    if not torch.cuda.is_available():
        yield "GPU", f"none that torch {torch.__version__} sees"


def _kernels() -> Iterator[tuple[str, str]]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    layout = PackedLayout((3, 5), device)
    tokens = torch.randn(8, 2, 32, device=device, dtype=torch.bfloat16)
    for name in ("xformers", "varlen", "sdpa"):
        with attention_backend(name):
            try:
                attend(tokens, tokens, tokens, layout=layout)
            except (RuntimeError, NotImplementedError, ImportError, ValueError) as error:
                why = shorten(str(error).splitlines()[0], 80, placeholder=" ...")
                outcome = f"no: {why} ({device.type}, bf16)"
            else:
                outcome = f"runs ({device.type}, bf16)"
        if device.type == "cpu" and name != "sdpa":
            outcome = "for GPUs only; nothing is missing here"
        yield f"attention by {name}", outcome


def _disks() -> Iterator[tuple[str, str]]:
    for name, folder in (
        ("cache", cache_folder()),
        ("temporary files", Path(tempfile.gettempdir())),
        ("here", Path.cwd()),
    ):
        there = next(parent for parent in (folder, *folder.parents) if parent.exists())
        free = shutil.disk_usage(there).free / _GIB
        yield f"disk, {name}", f"{free:.1f} GiB free at {folder}"


def _extras() -> Iterator[tuple[str, str]]:
    known = importlib.metadata.metadata("simvtp").get_all("Provides-Extra") or []
    for extra in known:
        wanted = [
            requirement
            for requirement in _requirements()
            if requirement.marker is not None
            and requirement.marker.evaluate({"extra": extra})
            and not requirement.marker.evaluate({"extra": ""})
            and requirement.name != "simvtp"
        ]
        missing = [str(one.name) for one in wanted if _version(one) is None]
        fix = f"lacks {', '.join(missing)}: pip install 'simvtp[{extra}]'"
        yield f"extra {extra}", fix if missing else "complete"


if __name__ == "__main__":
    raise SystemExit(main())
