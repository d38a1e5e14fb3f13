"""Where a model's weights come from, and on what terms: origin.json in its folder."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import metadata_load

from simvtp.config.json_file import read_json, write_json
from simvtp.conversion.layouts import NON_COMMERCIAL, OWN
from simvtp.conversion.mapping import MappedWeights

ORIGIN_FILE = "origin.json"
_ANEW = "write the model anew"


@dataclass(frozen=True, kw_only=True)
class Origin:
    """A file that weights were taken from.

    Args:
        kind: layout of the file, e.g. VideoMAE pre-training.
        source: the file's name, behind that of its folder if the folder was given.
        sha256: checksum of the file.
        licence: of the published weights of this kind, as an SPDX identifier, or "not stated".
        parts: parts of the model that begin with them.
    """

    kind: str
    source: str
    sha256: str
    licence: str
    parts: tuple[str, ...]


def origins_of(mapped: MappedWeights) -> tuple[Origin, ...]:
    """Origins of a source's weights; those that a model folder tells of stand before itself."""
    root = mapped.foreign.source
    # A model folder's weights stay under its terms when only the file of them is named.
    folder = mapped.foreign.folder
    is_ours = mapped.layout.kind == OWN
    licence = mapped.layout.licence
    if licence != NON_COMMERCIAL:
        # Names do not tell the terms of weights, which differ; a card beside them may.
        licence = _licence_of_card(folder) or licence
    own = tuple(
        Origin(
            kind=mapped.layout.kind,
            source=file.name if file == root else f"{root.absolute().name}/{file.name}",
            sha256=_digest(file),
            licence=licence,
            parts=mapped.parts,
        )
        for file in mapped.foreign.files
    )
    return (*(read_origins(folder) if is_ours else ()), *own)


def _licence_of_card(folder: Path) -> str | None:
    card = folder / "README.md"
    try:
        stated = (metadata_load(card) or {}).get("license") if card.is_file() else None
    except (ValueError, yaml.YAMLError, RecursionError):
        stated = None
    return stated if isinstance(stated, str) else None


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_origins(folder: Path, origins: Sequence[Origin]) -> None:
    """Write origin.json into a folder."""
    write_json(folder / ORIGIN_FILE, {"sources": [asdict(origin) for origin in origins]})


def read_origins(folder: Path) -> tuple[Origin, ...]:
    """Origins that a model folder tells of; none where it has no origin.json.

    Raises:
        ValueError: the file is damaged.
    """
    path = folder / ORIGIN_FILE
    if not path.is_file():
        return ()
    sources = read_json(path).get("sources")
    if not isinstance(sources, list):
        raise ValueError(f"{path}: sources must be a list, got {sources!r:.80}; {_ANEW}")
    return tuple(
        _origin(source, f"{path}: sources[{number}]") for number, source in enumerate(sources)
    )


def _origin(source: Any, where: str) -> Origin:
    names = {field.name for field in fields(Origin)}
    if not isinstance(source, dict) or set(source) != names:
        raise ValueError(
            f"{where} must hold {', '.join(sorted(names))}, got {source!r:.80}; {_ANEW}"
        )
    for name, value in source.items():
        if name == "parts":
            is_right = isinstance(value, list) and all(isinstance(part, str) for part in value)
        else:
            is_right = isinstance(value, str)
        if not is_right:
            kind = "a list of texts" if name == "parts" else "a text"
            raise ValueError(f"{where}.{name} must be {kind}, got {value!r:.80}; {_ANEW}")
    return Origin(**{**source, "parts": tuple(source["parts"])})
