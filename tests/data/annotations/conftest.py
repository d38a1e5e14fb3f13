import json
from pathlib import Path

import pytest

from testing.data.annotations import Write


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write an annotation into one folder and its videos' files, still empty, into another."""

    def write(name: str, content: object, *videos: str) -> Path:
        for video in videos:
            path = tmp_path / "videos" / video
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        source = tmp_path / "annotations" / name
        source.parent.mkdir(exist_ok=True)
        if isinstance(content, bytes):
            source.write_bytes(content)
        else:
            source.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
        return source

    return write
