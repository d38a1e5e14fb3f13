"""Which folders an export may replace."""

from fnmatch import fnmatch
from pathlib import Path

from export.runtime.folder import REPORT_NAME

# What an export and the builders of engines write: an older one may be replaced, no other folder.
_OWN_FILES = (
    *("*.onnx", "*.onnx.data", "*.pt2", "report.json", "report.md"),
    *("tokenizer.json", "preprocessor.json"),
    *("*.plan", "*.plan.json", "*.engine", "*.engine.json", "*.cache", "*.partial"),
)


def require_replaceable(target: Path) -> None:
    """Refuse a place that holds anything but an older export.

    Raises:
        ValueError: it is a file, or a folder with other files or without a report.
    """
    if not target.exists():
        return
    if not target.is_dir():
        raise ValueError(f"{target} is a file; choose another --out")
    paths = sorted(target.iterdir())
    for path in paths:
        if not path.is_file() or not any(fnmatch(path.name, own) for own in _OWN_FILES):
            raise ValueError(
                f"{target} holds {path.name}, which is no part of an export; choose another --out"
            )
    if paths and not (target / REPORT_NAME).is_file():
        raise ValueError(
            f"{target} holds {paths[0].name} but no {REPORT_NAME}, so it may be somebody else's; "
            "choose another --out"
        )
