import copy
import hashlib
import json
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from export.runtime.folder import Range, TensorSpec, file_sha256, read_exported_folder

GRAPH = b"an ONNX file"
DATA = b"its external data"
CONFIG = {
    "max_text_length": 16,
    "vocab_size": 99,
    "num_frames": 8,
    "tubelet_frames": 2,
    "image_size": 48,
    "patch_size": 16,
}


def report():
    return {
        "format": 1,
        "model": {"folder": "m", "config": CONFIG},
        "precision": "fp32",
        "opset": 20,
        "graphs": {
            "text": {
                "file": "text.onnx",
                "sha256": hashlib.sha256(GRAPH + DATA).hexdigest(),
                "bytes": len(GRAPH) + len(DATA),
                "external_data": ["text.onnx.data"],
                "inputs": [{"name": "token_ids", "dtype": "int64", "shape": ["batch", "tokens"]}],
                "outputs": [{"name": "text_embed", "dtype": "float32", "shape": ["batch", 8]}],
                "ranges": {"batch": [1, 4, 16], "tokens": [3, 8, 16]},
            }
        },
        "later": "fields of which this version knows nothing",
    }


def write(folder, values):
    (folder / "report.json").write_text(values if isinstance(values, str) else json.dumps(values))
    (folder / "text.onnx").write_bytes(GRAPH)
    (folder / "text.onnx.data").write_bytes(DATA)
    return folder


def changed(**replaced):
    """The report with fields of its graph replaced; ... leaves a field out."""
    values = report()
    graph = values["graphs"]["text"] | replaced
    values["graphs"]["text"] = {key: value for key, value in graph.items() if value is not ...}
    return values


def test_what_is_read(tmp_path):
    folder = read_exported_folder(write(tmp_path, report()), check_hashes=True)
    assert (folder.path, folder.precision, folder.opset) == (tmp_path, "fp32", 20)
    assert (folder.max_text_length, folder.vocab_size) == (16, 99)
    assert folder.num_tubelets == 4 * 3 * 3
    assert folder.report == report()
    assert folder.file("text") == tmp_path / "text.onnx"
    graph = folder.graph("text")
    assert graph.inputs == (TensorSpec("token_ids", "int64", ("batch", "tokens")),)
    assert graph.outputs == (TensorSpec("text_embed", "float32", ("batch", 8)),)
    assert graph.ranges == {"batch": Range(1, 4, 16), "tokens": Range(3, 8, 16)}
    assert graph.external_data == ("text.onnx.data",)


def test_a_real_export(exported):
    folder = read_exported_folder(exported.path, check_hashes=True)
    assert folder == exported
    assert set(folder.graphs) == {"video", "text", "match"}


def test_graphs_that_are_not_there(tmp_path):
    folder = read_exported_folder(write(tmp_path, report()))
    with pytest.raises(ValueError, match=r"no graph 'video', only text; .* --graphs video"):
        folder.graph("video")


@given(sizes=st.lists(st.integers(-2, 6), min_size=3, max_size=3))
def test_ranges_rise_from_one(sizes):
    rising = sizes == sorted(sizes) and sizes[0] >= 1
    if rising:
        held = Range(*sizes)
        assert [size in held for size in range(8)] == [
            sizes[0] <= size <= sizes[2] for size in range(8)
        ]
    else:
        with pytest.raises(ValueError, match="smallest <= usual <= largest"):
            Range(*sizes)


@pytest.mark.parametrize("size", [True, 2.0, "2", None])
def test_ranges_are_of_whole_numbers(size):
    with pytest.raises(ValueError, match="whole numbers"):
        Range(1, size, 4)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ("", "not valid JSON"),
        ('{"format": 1', "not valid JSON"),
        ("[" * 100_000, "nested too deeply"),
        ("[]", "must hold a JSON object, got list"),
        ({}, "format None, this version reads 1"),
        (report() | {"format": 2}, "format 2"),
        (report() | {"precision": "fp8"}, "one of fp32, fp16, bf16, int8, got 'fp8'"),
        (report() | {"graphs": {}}, "lists no graph"),
        (report() | {"graphs": []}, "'graphs' of the report must be of type dict, got list"),
        (report() | {"model": {"config": {"vocab_size": 9}}}, "no 'max_text_length'"),
        (
            report() | {"model": {"config": CONFIG | {"patch_size": 0}}},
            "'patch_size' .* least 1, got 0",
        ),
        (changed(sha256=...), "graph 'text' has no 'sha256'"),
        (changed(bytes="1"), "'bytes' of graph 'text' must be of type int, got str"),
        (changed(bytes=True), "must be of type int, got bool"),
        (changed(ranges={"batch": [1, 4, 16]}), "declares no range for tokens"),
        (changed(inputs=[], ranges={}), "declares no range for batch"),
        (changed(ranges={"batch": [1, 4], "tokens": [1, 2, 3]}), r"got \[1, 4\]"),
        (changed(ranges={"batch": [4, 1, 16], "tokens": [1, 2, 3]}), "rising order"),
        (
            changed(inputs=[{"name": "x", "dtype": "int64"}]),
            "inputs of graph 'text' has no 'shape'",
        ),
        (changed(inputs=[{"name": "x", "dtype": "int64", "shape": [1.5]}]), "got 1.5"),
        (changed(outputs=[{"name": "x", "dtype": "int65", "shape": []}]), "float32, got 'int65'"),
        (
            report() | {"graphs": {"../text": report()["graphs"]["text"]}},
            "a file of this folder, got '../text'",
        ),
        (changed(file="../text.onnx"), "a file of this folder, got '../text.onnx'"),
        (changed(file="/etc/passwd"), "a file of this folder"),
        (changed(external_data=["a\\b"]), "a file of this folder"),
        (changed(external_data=[".."]), "a file of this folder"),
    ],
)
def test_damaged_reports(tmp_path, values, reason):
    with pytest.raises(ValueError, match=reason):
        read_exported_folder(write(tmp_path, values))


def places(values, path=()):
    yield path
    if isinstance(values, list):
        values = dict(enumerate(values))
    if isinstance(values, dict):
        for key, value in values.items():
            yield from places(value, (*path, key))


@given(
    place=st.sampled_from([path for path in places(report()) if path]),
    value=st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=5)
    | st.just([])
    | st.just({}),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
def test_any_damage_is_a_value_error(tmp_path, place, value):
    values = copy.deepcopy(report())
    holder = values
    for key in place[:-1]:
        holder = holder[key]
    holder[place[-1]] = value
    with suppress(ValueError):
        folder = read_exported_folder(write(tmp_path, values), check_hashes=True)
        assert list(folder.graphs) == ["text"]
        assert all(held.smallest >= 1 for held in folder.graph("text").ranges.values())


def test_missing_folders_and_files(tmp_path):
    with pytest.raises(ValueError, match="is no folder"):
        read_exported_folder(tmp_path / "none")
    with pytest.raises(ValueError, match=r"report\.json cannot be read: No such file"):
        read_exported_folder(tmp_path)
    write(tmp_path, report())
    (tmp_path / "text.onnx.data").unlink()
    with pytest.raises(ValueError, match=r"text\.onnx\.data of graph 'text' is missing"):
        read_exported_folder(tmp_path)


@pytest.mark.parametrize("name", ["text.onnx", "text.onnx.data"])
def test_truncated_files(tmp_path, name):
    write(tmp_path, report())
    (tmp_path / name).write_bytes(b"an")
    with pytest.raises(ValueError, match=r"should have 29 bytes .*, it has \d+: .*truncated"):
        read_exported_folder(tmp_path)


@pytest.mark.parametrize(("name", "content"), [("text.onnx", GRAPH), ("text.onnx.data", DATA)])
def test_changed_files(tmp_path, name, content):
    write(tmp_path, report())
    (tmp_path / name).write_bytes(content[:-1] + b"E")
    assert read_exported_folder(tmp_path)
    with pytest.raises(ValueError, match=r"SHA-256 .* were changed or damaged"):
        read_exported_folder(tmp_path, check_hashes=True)


def test_hashes(tmp_path):
    content = b"x" * (3 * 2**20 + 1)
    (tmp_path / "file").write_bytes(content)
    assert file_sha256(tmp_path / "file") == hashlib.sha256(content).hexdigest()
