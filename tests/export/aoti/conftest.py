"""Folders that say they hold compiled code: what is refused of them must never be loaded."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from export.runtime.processor import processor_instructions


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Files whose code torch was told to load, which go on to be loaded."""
    files: list[str] = []
    load = torch._inductor.aoti_load_package

    def watched(path: str, **options: Any) -> Any:
        files.append(path)
        return load(path, **options)

    monkeypatch.setattr(torch._inductor, "aoti_load_package", watched)
    return files


@pytest.fixture
def claimed(exported_copy: Path) -> Callable[..., Path]:
    """Makes a copy of the ONNX export one that says its graphs were compiled here."""

    def claim(**changes: Any) -> Path:
        file = exported_copy / "report.json"
        report = json.loads(file.read_text())
        for graph in report["graphs"].values():
            name = graph["file"]
            graph["file"] = Path(name).with_suffix(".pt2").name
            (exported_copy / name).rename(exported_copy / graph["file"])
        report |= {
            "kind": "aoti",
            "device": "cpu",
            "instructions": processor_instructions(),
            "versions": {"torch": torch.__version__},
        }
        kept = {key: value for key, value in (report | changes).items() if value is not ...}
        file.write_text(json.dumps(kept))
        return exported_copy

    return claim
