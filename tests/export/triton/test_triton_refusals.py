"""What a repository cannot be made of, or may not take the place of."""

import json
import shutil
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from export.triton import command as triton
from testing.export.host_tensorrt import PROFILES, TEXT_PROFILES, write_engine


def generate(folder, out, *options):
    return triton.main(["--from", str(folder), "--out", str(out), *options])


def rename_graphs(folder, **names):
    """Keep these graphs of a folder, under other names."""
    file = folder / "report.json"
    report = json.loads(file.read_text())
    report["graphs"] = {new: report["graphs"][old] for old, new in names.items()}
    file.write_text(json.dumps(report))


def test_a_graph_that_is_not_served_needs_no_engine(exported_copy, tmp_path, capsys):
    rename_graphs(exported_copy, video="video", text="text", match="reconstruct")
    write_engine(exported_copy, "video", PROFILES)
    write_engine(exported_copy, "text", TEXT_PROFILES)
    assert generate(exported_copy, tmp_path / "models", "--backend", "tensorrt") == 0
    assert (tmp_path / "models" / "video" / "1" / "model.plan").is_file()
    assert not (tmp_path / "models" / "reconstruct").exists()
    rename_graphs(exported_copy, reconstruct="reconstruct")
    assert generate(exported_copy, tmp_path / "others") == 2
    assert "holds no graph that is served" in capsys.readouterr().out
    assert not (tmp_path / "others").exists()


@pytest.mark.parametrize(
    ("embeddings", "message"),
    [
        ([[1.0, 0.0], [1.0]], "not alike"),
        ([1.0, 2.0], "an embedding of finite numbers"),
        ([[float("nan")] * 32] * 2, "an embedding of finite numbers"),
        ([[1.0, 0.0]] * 2, "must be 32 wide"),
        ([[1.0] + 31 * [0.0], 32 * [0.5]], "of unit norm, got norms 1 to 2.828; divide each by"),
        ([[1.0] + 31 * [0.0], None], "must have a video_embed in every row, got 1 null of 2"),
    ],
)
def test_galleries_of_something_else(exported, tmp_path, capsys, embeddings, message):
    rows = {"video_id": ["a", "b"], "view": [0, 0], "video_embed": embeddings}
    pq.write_table(pa.table(rows), tmp_path / "gallery.parquet")
    options = ("--gallery", str(tmp_path / "gallery.parquet"))
    assert generate(exported.path, tmp_path / "models", *options) == 2
    assert message in capsys.readouterr().out
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("column", ["video_id", "view"])
def test_galleries_with_empty_cells(exported, tmp_path, capsys, column):
    rows = {"video_id": ["a", "b"], "view": [0, 0], "video_embed": [[1.0] + 31 * [0.0]] * 2}
    rows[column][1] = None
    pq.write_table(pa.table(rows), tmp_path / "gallery.parquet")
    options = ("--gallery", str(tmp_path / "gallery.parquet"))
    assert generate(exported.path, tmp_path / "models", *options) == 2
    assert f"must have a {column} in every row, got 1 null of 2" in capsys.readouterr().out


def test_a_repository_names_no_folder_of_this_machine(exported, tmp_path):
    width = exported.model["config"]["width"]
    rows = {"video_id": ["a"], "view": [0], "video_embed": [[1.0] + (width - 1) * [0.0]]}
    pq.write_table(pa.table(rows), tmp_path / "gallery.parquet")
    options = ("--gallery", str(tmp_path / "gallery.parquet"))
    assert generate(exported.path, tmp_path / "models", *options) == 0
    require_no_folders(exported.path)
    require_no_folders(tmp_path / "models")


def require_no_folders(folder):
    """See that no file tells where things lie here: the user's files, this library, or Python."""
    here = (exported_root(folder), Path(__file__).parents[3], Path(sys.prefix), Path.home())
    for file in folder.rglob("*"):
        content = file.read_bytes() if file.is_file() else b""
        for place in here:
            assert f"{place}/".encode() not in content, f"{file} tells of {place}"


def exported_root(folder):
    """The temporary folder of the tests' session, which holds models, exports and galleries."""
    return next(parent for parent in folder.parents if parent.name.startswith("pytest-"))


def test_a_gallery_without_captions(exported_copy, tmp_path, capsys):
    rename_graphs(exported_copy, video="video")
    rows = {"video_id": ["a"], "view": [0], "video_embed": [[1.0] + 31 * [0.0]]}
    pq.write_table(pa.table(rows), tmp_path / "gallery.parquet")
    options = ("--gallery", str(tmp_path / "gallery.parquet"))
    assert generate(exported_copy, tmp_path / "models", *options) == 2
    assert "has no graph 'text'" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("tokenizer.json", "{}", "is not a tokenizer that can be read"),
        ("preprocessor.json", "{}", "preprocessor.json has no 'num_frames'"),
        ("preprocessor.json", '{"num_frames": "4"}', "must be of type int, got str"),
    ],
)
def test_damaged_files_beside_the_graphs(exported_copy, tmp_path, capsys, file, content, message):
    (exported_copy / file).write_text(content)
    assert generate(exported_copy, tmp_path / "models") == 2
    assert message in capsys.readouterr().out
    assert not (tmp_path / "models").exists()


def test_a_repository_with_models_of_somebody_else(exported, tmp_path, capsys):
    out = tmp_path / "models"
    assert generate(exported.path, out) == 0
    shutil.copytree(out / "text", out / "mine")
    assert generate(exported.path, out) == 2
    assert "also holds mine, which export.triton did not write" in capsys.readouterr().out
    assert (out / "mine" / "config.pbtxt").is_file()
