"""Repositories as they are generated; a real server loads one in test_triton_server.py."""

import json
import os
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import model_config_pb2

from export.runtime.folder import GraphSpec, Range, TensorSpec, read_exported_folder
from export.triton import command as triton
from export.triton.config import (
    ServingSettings,
    caption_lengths,
    ensemble_config,
    graph_config,
    print_config,
)
from testing.export.smooth_videos import write_video
from testing.export.triton_backend import (
    BackendTensors,
    Request,
    as_json,
    configs_of,
    load_backend_model,
)

TYPES = {"uint8": "TYPE_UINT8", "int64": "TYPE_INT64", "float32": "TYPE_FP32"}


@pytest.fixture
def repository(exported, tmp_path):
    out = tmp_path / "models"
    options = ["--from", str(exported.path), "--out", str(out), "--backend", "python"]
    assert triton.main([*options, "--device", "cpu"]) == 0
    return out


def test_every_config_is_that_of_its_graph(exported, repository):
    configs = configs_of(repository)
    listing = json.loads((repository / "repository.json").read_text())
    assert sorted(configs) == listing["models"]
    for name, graph in exported.graphs.items():
        config = configs[name]
        assert config.max_batch_size == graph.ranges["batch"].largest == 4
        for mine, theirs in ((config.input, graph.inputs), (config.output, graph.outputs)):
            assert [tensor.name for tensor in mine] == [tensor.name for tensor in theirs]
            for tensor, spec in zip(mine, theirs, strict=True):
                assert model_config_pb2.DataType.Name(tensor.data_type) == TYPES[spec.dtype]
                sizes = [size if isinstance(size, int) else -1 for size in spec.shape[1:]]
                assert list(tensor.dims) == (sizes or [1])
                assert tensor.HasField("reshape") == (not sizes)
        assert list(config.dynamic_batching.preferred_batch_size) == [2, 4]
        assert config.dynamic_batching.max_queue_delay_microseconds == 2000
        assert config.version_policy.latest.num_versions == 1
        assert [warmup.batch_size for warmup in config.model_warmup] == [1, 2]
        assert (repository / name / "1" / "model.onnx").read_bytes() == exported.file(
            name
        ).read_bytes()
        if "tokens" in graph.ranges:
            mask = np.fromfile(repository / name / "warmup" / "attention_mask", dtype=np.int64)
            assert mask.tolist() == [1] * graph.ranges["tokens"].usual


def test_ensembles_join_what_their_models_have(repository):
    configs = configs_of(repository)
    for name, steps in {
        "search": ["tokenize", "text"],
        "embed_video": ["preprocess", "video"],
        "match_video": ["preprocess", "tokenize", "match"],
    }.items():
        config = configs[name]
        assert config.platform == "ensemble"
        assert [step.model_name for step in config.ensemble_scheduling.step] == steps
        known = {tensor.name: list(tensor.dims) for tensor in config.input}
        for step in config.ensemble_scheduling.step:
            model = configs[step.model_name]
            assert config.max_batch_size <= model.max_batch_size
            for tensor in model.input:
                assert known[step.input_map[tensor.name]] == list(tensor.dims)
            known |= {step.output_map[one.name]: list(one.dims) for one in model.output}
        for tensor in config.output:
            assert known[tensor.name] == list(tensor.dims)


@given(st.integers(1, 40), st.integers(0, 40), st.integers(0, 40), st.integers(1, 9))
def test_preferred_sizes_lie_in_the_range(smallest, more, still_more, instances):
    sizes = Range(smallest, smallest + more, smallest + more + still_more)
    tensor = TensorSpec("frames", "uint8", ("batch", 4, 3, 8, 8))
    output = TensorSpec("video_embed", "float32", ("batch", 8))
    graph = GraphSpec("video", "v.onnx", "0", 1, (), (tensor,), (output,), {"batch": sizes})
    for backend, device in (("onnxruntime", "gpu"), ("tensorrt", "gpu"), ("python", "cpu")):
        settings = ServingSettings(backend=backend, device=device, instances=instances)
        config = graph_config(graph, settings, vocab_size=99)
        preferred = list(config.dynamic_batching.preferred_batch_size)
        assert all(1 < size <= config.max_batch_size == sizes.largest for size in preferred)
        assert preferred == sorted(set(preferred))
        assert config.instance_group[0].count == instances
        assert text_format.Parse(print_config(config), model_config_pb2.ModelConfig()) == config


def text_graph(*tokens):
    inputs = (TensorSpec("token_ids", "int64", ("batch", "tokens")),)
    output = TensorSpec("text_embed", "float32", ("batch", 8))
    return GraphSpec("text", "t.onnx", "0", 1, (), inputs, (output,), {"tokens": Range(*tokens)})


@given(st.integers(3, 600), st.integers(0, 600))
def test_captions_are_padded_to_a_few_lengths_within_the_range(smallest, more):
    largest = smallest + more
    settings = ServingSettings(device="cpu")
    lengths = caption_lengths([text_graph(smallest, smallest, largest)], settings)
    assert lengths == sorted(set(lengths))
    assert all(smallest <= length <= largest for length in lengths)
    assert lengths[-1] == largest
    # Padding at most doubles a caption that is not short.
    for tokens in range(8, largest + 1):
        padded = min(length for length in lengths if length >= tokens)
        assert padded <= 2 * max(tokens, smallest)
    assert len(lengths) <= 9


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [32, 48]),
        ({"device": "cpu"}, [8, 16, 32, 48]),
        ({"device": "cpu", "caption_lengths": (20,)}, [20, 48]),
        ({"caption_lengths": (48, 12, 12)}, [12, 48]),
    ],
)
def test_lengths_of_captions_fit_all_graphs(settings, expected):
    graphs = [text_graph(3, 32, 64), text_graph(5, 16, 48)]
    assert caption_lengths(graphs, ServingSettings(**settings)) == expected


@pytest.mark.parametrize("length", [4, 49])
def test_a_caption_length_out_of_a_graphs_range_is_refused(length):
    graphs = [text_graph(3, 32, 64), text_graph(5, 16, 48)]
    with pytest.raises(ValueError, match=f"must be from 5 to 48, .* got {length}"):
        caption_lengths(graphs, ServingSettings(caption_lengths=(16, length)))


def test_an_ensemble_takes_what_none_of_its_models_makes():
    tensor = TensorSpec("x", "float32", ("batch", 3))
    made = TensorSpec("y", "float32", ("batch", 3))
    graph = GraphSpec("one", "o", "0", 1, (), (tensor,), (made,), {"batch": Range(1, 2, 8)})
    after = GraphSpec("two", "o", "0", 1, (), (made, tensor), (made,), {"batch": Range(1, 2, 4)})
    steps = [graph_config(one, ServingSettings(), vocab_size=99) for one in (graph, after)]
    config = ensemble_config("both", steps, returned=["y"])
    assert [tensor.name for tensor in config.input] == ["x"]
    assert config.max_batch_size == 4


def test_a_gallery_is_searched_by_the_repository(exported, tmp_path, monkeypatch):
    width = exported.model["config"]["width"]
    features = np.random.default_rng(0).normal(size=(6, width)).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    rows = {
        "video_id": [f"clip{number // 2}" for number in range(6)],
        "view": [number % 2 for number in range(6)],
        "video_embed": features.tolist(),
    }
    pq.write_table(pa.table(rows), tmp_path / "features.parquet")
    out = tmp_path / "models"
    options = ["--from", str(exported.path), "--out", str(out), "--top", "2"]
    assert triton.main([*options, "--gallery", str(tmp_path / "features.parquet")]) == 0
    config = configs_of(out)["search"]
    assert [tensor.name for tensor in config.output] == ["text_embed", "ids", "scores"]
    kept = np.load(out / "rank" / "1" / "gallery.npy")
    np.testing.assert_array_equal(kept, features[::2])
    model = load_backend_model(out / "rank" / "1" / "model.py", monkeypatch)
    model.initialize({"model_config": as_json(configs_of(out)["rank"])})
    queries = features[[2, 4]]
    [found] = model.execute([Request(text_embed=queries)])
    expected = queries @ features[::2].T
    order = np.argsort(-expected, axis=1)[:, :2]
    assert found["ids"].tolist() == [[f"clip{place}" for place in row] for row in order]
    np.testing.assert_allclose(found["scores"], np.take_along_axis(expected, order, axis=1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--backend", "tensorrt"), "holds no tensorrt engine of graph"),
        (("--backend", "tensorrt", "--device", "cpu"), "TensorRT runs on GPUs only"),
        (("--instances", "0"), "instances must be at least 1"),
        (("--queue-delay", "-1"), "queue_delay must be at least 0"),
        (("--caption-lengths", "8", "17"), "caption lengths must be from 3 to 16"),
        (("--threads", "0"), "threads must be at least 1"),
        (("--backend", "tensorrt", "--threads", "2"), "leave threads out"),
        (("--gallery", "nothing.parquet"), "nothing.parquet is no file of features"),
    ],
)
def test_what_cannot_be_served_is_refused(exported, tmp_path, capsys, options, message):
    command = ["--from", str(exported.path), "--out", str(tmp_path / "models"), *options]
    assert triton.main(command) == 2
    assert message in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_a_damaged_export_or_a_foreign_folder_is_refused(exported_copy, tmp_path, capsys):
    foreign = tmp_path / "mine"
    foreign.mkdir()
    (foreign / "diary.txt").write_text("dear diary")
    assert triton.main(["--from", str(exported_copy), "--out", str(foreign)]) == 2
    assert "is no repository of export.triton" in capsys.readouterr().out
    assert (foreign / "diary.txt").read_text() == "dear diary"
    graph = exported_copy / "text.onnx"
    data = bytearray(graph.read_bytes())
    data[100] ^= 1
    graph.write_bytes(data)
    assert triton.main(["--from", str(exported_copy), "--out", str(tmp_path / "models")]) == 2
    assert "SHA-256" in capsys.readouterr().out
    (exported_copy / "report.json").unlink()
    assert triton.main(["--from", str(exported_copy), "--out", str(tmp_path / "models")]) == 2
    assert not (tmp_path / "models").exists()


def test_an_older_repository_is_replaced_whole(exported, repository):
    (repository / "text" / "1" / "left_over").write_text("")
    options = ["--from", str(exported.path), "--out", str(repository), "--backend", "onnxruntime"]
    assert triton.main([*options, "--threads", "3"]) == 0
    config = configs_of(repository)["text"]
    assert (config.backend, config.default_model_filename) == ("onnxruntime", "model.onnx")
    assert config.parameters["intra_op_thread_count"].string_value == "3"
    assert sorted(file.name for file in (repository / "text" / "1").iterdir()) == ["model.onnx"]
    assert sorted(file.name for file in repository.parent.iterdir()) == ["models"]


def test_bf16_is_served_by_engines_only(exported_copy, tmp_path, capsys):
    report = json.loads((exported_copy / "report.json").read_text())
    (exported_copy / "report.json").write_text(json.dumps({**report, "precision": "bf16"}))
    assert read_exported_folder(exported_copy).precision == "bf16"
    assert triton.main(["--from", str(exported_copy), "--out", str(tmp_path / "models")]) == 2
    assert "which ONNX Runtime lacks kernels" in capsys.readouterr().out


def test_a_graph_on_a_gpu_that_onnxruntime_cannot_use(repository, monkeypatch):
    model = load_backend_model(repository / "video" / "1" / "model.py", monkeypatch)
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    place = {"model_instance_kind": "GPU", "model_instance_device_id": "1"}
    arguments = {"model_config": as_json(configs_of(repository)["video"])} | place
    with pytest.raises(BackendTensors.TritonModelException, match="pip install onnxruntime-gpu"):
        model.initialize(arguments)


DECODE_ALONE = """
import sys
from clips import decode_clip
import simvtp
clip = decode_clip(open(sys.argv[1], "rb").read(), num_frames=4, frame_stride=2, image_size=16)
assert clip.shape == (4, 3, 16, 16), clip.shape
loaded = {name.partition(".")[0] for name in sys.modules}
assert not loaded & {"torch", "torchvision", "export"}, loaded
print(simvtp.__file__)
"""


def test_a_server_decodes_with_a_copy_of_our_decoder_and_no_torch(repository, tmp_path):
    version = repository / "preprocess" / "1"
    file = write_video(tmp_path / "clip.mp4")
    environment = dict(os.environ) | {"PYTHONPATH": str(version)}
    command = [sys.executable, "-c", DECODE_ALONE, str(file)]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(version / "simvtp" / "__init__.py")


def test_videos_beyond_a_limit_are_refused_and_the_server_goes_on(
    repository, tmp_path, monkeypatch
):
    model = load_backend_model(repository / "preprocess" / "1" / "model.py", monkeypatch)
    config = configs_of(repository)["preprocess"]
    limits = {"max_frames": "19", "max_bytes": "100000", "max_seconds": "5"}
    for name, value in limits.items():
        assert int(config.parameters[name].string_value) > int(value)
        config.parameters[name].string_value = value
    model.initialize({"model_config": as_json(config)})
    fine = write_video(tmp_path / "fine.mp4", num_frames=19).read_bytes()
    long = write_video(tmp_path / "long.mp4", num_frames=20).read_bytes()

    def ask(*videos):
        return model.execute([Request(VIDEO=np.array([[video] for video in videos], object))])[0]

    assert "it has 20 frames, the limit is 19" in ask(fine, long)
    assert "it has 100,001 bytes, the limit is 100,000" in ask(fine.ljust(100_001, b"\0"))
    assert ask(fine, fine)["frames"].shape[0] == 2
    model.seconds = 1e-6
    assert "takes longer to read than the time limit" in ask(fine)
