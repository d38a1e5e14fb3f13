"""Annotations that are read as users read them, and what is said of wrong ones."""

from collections.abc import Callable
from pathlib import Path

import pytest

from simvtp.data import ClipRecord, ManifestError, load_retrieval

Write = Callable[..., Path]


def load(source: Path, **settings: object) -> list[ClipRecord]:
    root = source.parents[1] / "videos"
    return list(load_retrieval(source, root=root, **settings))  # pyright: ignore[reportArgumentType]


def error_of(source: Path, **settings: object) -> str:
    with pytest.raises(ManifestError) as error:
        load(source, **settings)
    assert str(error.value).startswith(str(settings.get("split", source))) or "split" in settings
    return str(error.value)
