"""The examples of an encoder and of a data set of one's own, run as they stand."""

import runpy
import sqlite3
from pathlib import Path

import pytest
import torch
from PIL import Image

EXAMPLES = Path(__file__).parents[2] / "examples"


def main_of(name):
    path = EXAMPLES / name
    assert len(path.read_text().splitlines()) <= 60
    return runpy.run_path(str(path))["main"]


def test_own_encoder(tmp_path):
    pytest.importorskip("transformers")
    loaded = main_of("own_encoder.py")(str(tmp_path / "model"))
    assert loaded.own_parts == ("encoder",)
    similarity = loaded.encode_text(["it turns"]) @ loaded.encode_text(["it turns", "a ball"]).T
    assert similarity[0, 0] > similarity[0, 1]


def test_own_data(tmp_path):
    rows = sqlite3.connect(tmp_path / "clips.db")
    rows.execute("CREATE TABLE clips (folder, caption)")
    for number, caption in enumerate(["a red ball", "two squares", "it turns", "nothing moves"]):
        folder = tmp_path / caption
        folder.mkdir()
        for frame in range(2 if number == 1 else 6):
            grey = 50 * number + frame
            Image.new("RGB", (96, 80), (grey, grey, grey)).save(folder / f"{frame:03}.jpg")
        rows.execute("INSERT INTO clips VALUES (?, ?)", (str(folder), caption))
    rows.commit()
    rows.close()
    batches = main_of("own_data.py")(str(tmp_path / "clips.db"))
    assert [batch.video.shape for batch in batches] == [(2, 4, 3, 64, 64)] * 2
    index = torch.cat([batch.index for batch in batches])
    assert 1 not in index
    for batch in batches:
        for clip, number in zip(batch.video, batch.index.tolist(), strict=True):
            first = clip[0, 0, 0, 0].item()
            assert abs(first - 50 * number) <= 4
    assert "has only 2 frames" in (tmp_path / "clips.bad.jsonl").read_text()
