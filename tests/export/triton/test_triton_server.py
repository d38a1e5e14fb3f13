"""A generated repository in a real Triton server, which has an environment of its own."""

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np
import pytest
from filelock import FileLock
from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from export.drawn_inputs import example_inputs
from export.runtime import Runtime
from export.runtime.captions import encode_captions, load_tokenizer
from export.runtime.clips import decode_clip
from export.triton import command as triton
from simvtp.data.places import cache_folder
from testing.export.gate import load_gate, served

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[3]
# Found at import, for while tests run the cache is a folder of theirs.
SERVER = cache_folder() / "triton-server"
PACKAGES = ("nvidia-pytriton==0.7.0", "numpy<2", "onnxruntime", "tokenizers", "av", "pillow")
CAPTIONS = ("a red ball rolls", "two blue squares jump over a green circle, slowly!", "nothing")


@pytest.fixture(scope="module")
def server_python():
    """The Python of an environment with the server, made once and kept in the cache."""
    SERVER.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{SERVER}.lock"):
        python = SERVER / "bin" / "python"
        listing = SERVER / "installed.txt"
        wanted = "\n".join(PACKAGES)
        if not listing.is_file() or listing.read_text() != wanted:
            subprocess.run([sys.executable, "-m", "venv", "--clear", str(SERVER)], check=True)
            command = [str(python), "-m", "pip", "install", "--quiet", *PACKAGES]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                pytest.skip(f"pip cannot get the server: {done.stderr[-300:]}")
            listing.write_text(wanted)
    return python


@pytest.fixture(scope="module")
def server(server_python, exported, tmp_path_factory):
    """A client of a running server, and its process."""
    folder = tmp_path_factory.mktemp("triton")
    command = ["--from", str(exported.path), "--out", str(folder / "models")]
    options = ["--backend", "python", "--device", "cpu", "--threads", "1"]
    # All captions have one length, so that all can share batches.
    options += ["--queue-delay", "100000", "--caption-lengths", "16"]
    assert triton.main([*command, *options]) == 0
    http, grpc = free_port(), free_port()
    script = ROOT / "examples" / "triton" / "serve.py"
    ports = (f"--http-port={http}", f"--grpc-port={grpc}")
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(
            [str(server_python), str(script), str(folder / "models"), *ports],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    client = InferenceServerClient(f"127.0.0.1:{grpc}")
    try:
        wait_until_ready(client, process, folder / "server.log")
        yield client, process, http
    finally:
        client.close()
        process.terminate()
        assert process.wait(60) is not None


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """The bytes of a small video."""
    file = tmp_path_factory.mktemp("video") / "clip.mp4"
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(20):
            picture = np.full((48, 64, 3), 10 * number, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return file.read_bytes()


def free_port():
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return opened.getsockname()[1]


def wait_until_ready(client, process, log, *, seconds=120):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if client.is_server_ready():
                return
        except InferenceServerException:
            pass
        time.sleep(0.2)
    pytest.fail(f"the server did not start: {log.read_text()[-3000:]}")


def ask(client, model, **arrays):
    tensors = []
    for name, array in arrays.items():
        tensor = InferInput(name, array.shape, np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array)
        tensors.append(tensor)
    result = client.infer(model, tensors, client_timeout=120)
    names = [output.name for output in result.get_response().outputs]
    return {name: result.as_numpy(name) for name in names}


def as_bytes(*values):
    return np.array([[value] for value in values], dtype=object)


def test_every_model_is_ready_and_its_config_is_taken_as_it_is(server, exported):
    client, *_ = server
    index = client.get_model_repository_index(as_json=True)["models"]
    models = {one["name"]: one["state"] for one in index}
    assert models == dict.fromkeys(
        (
            "video",
            "text",
            "match",
            "tokenize",
            "preprocess",
            "search",
            "embed_video",
            "match_video",
        ),
        "READY",
    )
    config = client.get_model_config("text", as_json=True)["config"]
    assert config["max_batch_size"] == exported.graphs["text"].ranges["batch"].largest


def test_answers_equal_those_of_onnx_runtime(server, exported):
    client, *_ = server
    config = exported.model["config"]
    with Runtime(exported.path, threads=1) as runtime:
        for name in exported.graphs:
            for batch, tokens in ((1, 3), (3, 8), (4, 16)):
                inputs = example_inputs(config, name, batch=batch, tokens=tokens, seed=batch)
                found, expected = ask(client, name, **inputs), runtime.run(name, inputs)
                assert found.keys() == expected.keys()
                for key, value in expected.items():
                    assert found[key].dtype == value.dtype
                    np.testing.assert_allclose(found[key].reshape(value.shape), value, atol=1e-6)


def test_captions_and_videos_are_read_as_elsewhere(server, exported, video):
    client, *_ = server
    with Runtime(exported.path, threads=1) as runtime:
        texts = as_bytes(*(caption.encode() for caption in CAPTIONS))
        found = ask(client, "search", TEXT=texts)["text_embed"]
        np.testing.assert_allclose(found, runtime.encode_text(list(CAPTIONS)), atol=1e-6)
        cut = json.loads((exported.path / "preprocessor.json").read_text())
        names = ("num_frames", "frame_seconds", "frame_stride", "image_size")
        frames = decode_clip(video, **{name: cut[name] for name in names})[None]
        found = ask(client, "embed_video", VIDEO=as_bytes(video))["video_embed"]
        np.testing.assert_allclose(found, runtime.encode_video(frames), atol=1e-6)
        found = ask(client, "match_video", VIDEO=as_bytes(video), TEXT=texts[:1])
        expected = runtime.match(frames, [CAPTIONS[0]])
        np.testing.assert_allclose(found["match_probability"].ravel(), expected, atol=1e-6)


def test_concurrent_requests_share_batches(server, exported, video):
    client, *_ = server
    with Runtime(exported.path, threads=1) as runtime:
        embeddings = {caption: runtime.encode_text(caption) for caption in CAPTIONS}
    [one] = ask(client, "embed_video", VIDEO=as_bytes(video)).values()
    asked = {"VIDEO": as_bytes(video), "TEXT": as_bytes(CAPTIONS[0].encode())}
    [other] = ask(client, "match_video", **asked).values()
    # An answer may come a moment before it is counted.
    time.sleep(1)
    before = {name: counts(client, name) for name in ("text", "video", "match")}

    def request(number):
        caption = CAPTIONS[number % 3]
        if number % 4 == 0:
            return one, ask(client, "embed_video", VIDEO=as_bytes(video))["video_embed"]
        if number % 4 == 1:
            return other, ask(client, "match_video", **asked)["match_probability"]
        text = as_bytes(caption.encode())
        return embeddings[caption], ask(client, "search", TEXT=text)["text_embed"]

    # As many threads as requests, so that all are under way at once.
    with ThreadPoolExecutor(200) as pool:
        answers = list(pool.map(request, range(200)))
    for wanted, found in answers:
        np.testing.assert_allclose(found, wanted, atol=1e-5)
    # Without batches there is one request in each. Two, the smaller one of the preferred sizes, are
    # the worst for captions; videos may come too slowly for all of them to find another.
    for name, requests, share in (("text", 100, 0.6), ("video", 50, 0.9), ("match", 50, 0.9)):
        inferences, executions = np.subtract(counts(client, name), before[name])
        print(f"{name}: {inferences} requests in {executions} batches")
        assert inferences == requests > executions / share


def counts(client, model):
    [statistics] = client.get_inference_statistics(model, as_json=True)["model_stats"]
    return int(statistics["inference_count"]), int(statistics["execution_count"])


def test_a_malformed_request_costs_no_other_one(server, exported):
    client, *_ = server
    inputs = example_inputs(exported.model["config"], "text", batch=1, tokens=8, seed=5)
    with Runtime(exported.path, threads=1) as runtime:
        expected = runtime.run("text", inputs)["text_embed"]

    def request(number):
        if number % 5:
            return ask(client, "text", **inputs)["text_embed"]
        beyond = inputs | {"token_ids": inputs["token_ids"] + 10**6}
        with pytest.raises(InferenceServerException, match="must be from 0 to"):
            ask(client, "text", **beyond)
        return None

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(request, range(60)))
    assert sum(answer is None for answer in answers) == 12
    for answer in answers:
        if answer is not None:
            np.testing.assert_allclose(answer, expected, atol=1e-5)


IDS, MASK = np.ones((1, 4), dtype=np.int64), np.ones((1, 4), dtype=np.int64)
GAP = np.array([[1, 0, 1, 1]])


@pytest.mark.parametrize(
    ("model", "inputs", "message"),
    [
        ("text", {"token_ids": IDS.astype(np.int32), "attention_mask": MASK}, "data-type"),
        ("text", {"token_ids": IDS}, "expected 2 inputs but got 1"),
        ("text", {"token_ids": IDS, "attention_mask": MASK[:, :3]}, "must be alike"),
        ("text", {"token_ids": IDS[:, :2], "attention_mask": MASK[:, :2]}, "must lie in 3 to 16"),
        ("text", {"token_ids": IDS, "attention_mask": 0 * MASK}, "must begin with 1 in each row"),
        ("text", {"token_ids": IDS, "attention_mask": 2 * MASK}, "must be 1 at real tokens"),
        ("text", {"token_ids": IDS, "attention_mask": GAP}, "row 0 has a real token after"),
        ("text", {"token_ids": IDS + 10**6, "attention_mask": MASK}, "must be from 0 to"),
        (
            "text",
            {"token_ids": np.repeat(IDS, 5, 0), "attention_mask": np.repeat(MASK, 5, 0)},
            "<= 4",
        ),
        ("video", {"frames": np.zeros((1, 4, 3, 31, 32), dtype=np.uint8)}, "unexpected shape"),
        ("search", {"TEXT": as_bytes(b"")}, "at least one word"),
        ("search", {"TEXT": as_bytes(b"\xff\xfe\xff")}, "utf-8"),
        ("search", {"TEXT": as_bytes(10**7 * b"a")}, "10000 characters, got 10000000 bytes"),
        ("search", {"TEXT": as_bytes(10_001 * b"a")}, "10000 characters, got 10001"),
        ("search", {"TEXT": np.repeat(as_bytes(b"a"), 5, 0)}, "<= 4"),
        ("embed_video", {"VIDEO": as_bytes(b"")}, "cannot read a clip of the video"),
        ("embed_video", {"VIDEO": as_bytes(b"no video" * 1000)}, "cannot read a clip of the video"),
        ("nothing", {"TEXT": as_bytes(b"a")}, "unknown model"),
    ],
)
def test_malformed_requests_are_refused_and_the_server_lives_on(server, model, inputs, message):
    client, process, _ = server
    with pytest.raises(InferenceServerException, match=message):
        ask(client, model, **inputs)
    assert process.poll() is None
    assert client.is_server_ready()
    assert ask(client, "search", TEXT=as_bytes(b"a red ball"))["text_embed"].shape == (1, 32)


def test_a_truncated_video_and_an_endless_caption(server, exported, video):
    client, *_ = server
    with pytest.raises(InferenceServerException, match="cannot read a clip of the video"):
        ask(client, "embed_video", VIDEO=as_bytes(video[: len(video) // 2]))
    text = "word " * 2000
    tokenizer = load_tokenizer(exported.path / "tokenizer.json")
    assert encode_captions(tokenizer, [text], max_length=16).token_ids.shape == (1, 16)
    with Runtime(exported.path, threads=1) as runtime:
        found = ask(client, "search", TEXT=as_bytes(text.encode()))["text_embed"]
        np.testing.assert_allclose(found, runtime.encode_text(text), atol=1e-6)


@pytest.fixture(scope="module")
def gate(server):
    """Port of the example's gate before the server."""
    *_, http = server
    upstream = ("127.0.0.1", http)
    with served(load_gate().GateServer(("127.0.0.1", 0), upstream=upstream)) as opened:
        yield opened.server_address[1]


HUGE = 2**62
FRAMES = {"name": "frames", "shape": [1, HUGE], "datatype": "UINT8", "data": [1]}
TOKENS = {"name": "token_ids", "shape": [1, HUGE], "datatype": "INT64", "data": [1]}
TEXT = {"name": "TEXT", "shape": [1, 1], "datatype": "BYTES", "data": ["a"]}


@pytest.mark.parametrize(
    ("model", "body", "status"),
    [
        # The first ends the server where it reaches it.
        ("text", {"inputs": [TOKENS, TOKENS | {"name": "attention_mask"}]}, 404),
        ("video", {"inputs": [FRAMES]}, 404),
        ("search", {"inputs": [TEXT | {"shape": [1, HUGE]}]}, 400),
        ("search", {"inputs": [TEXT | {"shape": [HUGE, 1]}]}, 400),
        ("search", {"inputs": [TEXT], "outputs": [{"name": "text_embed"}] * 10_000}, 400),
        ("search", {"inputs": [TEXT | {"data": [10**7 * "a"]}]}, 500),
        ("search", {"inputs": [TEXT | {"data": [""]}]}, 500),
    ],
)
def test_strangers_behind_the_gate_cannot_end_the_server(server, gate, model, body, status):
    client, process, _ = server
    address = f"http://127.0.0.1:{gate}/v2/models/{model}/infer"
    request = urllib.request.Request(address, json.dumps(body).encode())
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=60)
    caught.value.close()
    assert caught.value.code == status
    assert process.poll() is None
    assert client.is_server_ready()


def test_the_example_client_prints_what_the_server_says(gate, video, tmp_path):
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "clip.mp4").write_bytes(video)
    (tmp_path / "clips" / "broken.mp4").write_bytes(b"broken")
    client = ROOT / "examples" / "triton" / "client.py"
    command = [sys.executable, str(client), "--url", f"127.0.0.1:{gate}", "--text", "a red ball"]
    done = subprocess.run(
        [*command, "--among", str(tmp_path / "clips"), "--save", str(tmp_path / "text.npy")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "left out broken.mp4: " in done.stdout
    assert " clip.mp4\n32 numbers, the first " in done.stdout
    assert np.linalg.norm(np.load(tmp_path / "text.npy")) == pytest.approx(1, abs=1e-5)
