import importlib.util
import json
import threading

import numpy as np
import pytest
import torch

from export.runtime import Runtime
from export.runtime.engine import Engine, import_tensorrt
from export.runtime.engine_file import MODULES, read_engine_file
from export.runtime.folder import file_sha256
from testing.export.host_tensorrt import (
    CLIP,
    PROFILES,
    TEXT_PROFILES,
    HostCuda,
    host_tensorrt,
    write_engine,
)
from testing.export.small_export import CAPTIONS


@pytest.fixture
def host(monkeypatch):
    """The host in place of a GPU; the module `tensorrt` reads engines with `PROFILES`."""
    cuda = HostCuda()
    modules = {
        "tensorrt": host_tensorrt(PROFILES, cuda),
        "tensorrt_rtx": host_tensorrt(TEXT_PROFILES, cuda),
        "cuda.bindings.runtime": cuda,
    }
    monkeypatch.setattr("export.runtime.engine.importlib.import_module", modules.__getitem__)
    return cuda, modules


def clips(batch, seed=0):
    shape = (batch, *CLIP)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


class TestRuns:
    """What an engine is asked to do, on a TensorRT that runs in the host's memory."""

    def test_batches_of_all_sizes_and_the_profile_of_each(self, host, exported_copy):
        write_engine(exported_copy, "video", PROFILES)
        cuda, modules = host
        plain = Runtime(exported_copy)
        batches = [2, 1, 4, 1, 3]
        with Runtime(exported_copy, backend="tensorrt") as runtime:
            for seed, batch in enumerate(batches):
                frames = clips(batch, seed)
                found = runtime.encode_video(frames)
                assert found.shape == (batch, 32)
                assert found.dtype == np.float32
                assert np.abs(found - plain.encode_video(frames)).max() < 1e-6
            (context,) = modules["tensorrt"].contexts
            assert context.used == [0, 1, 0, 1, 0]
            # One block for the frames and one for the embeddings, grown to the largest batch.
            assert sorted(map(len, cuda.memory.values())) == [4 * 32 * 4, 4 * np.prod(CLIP)]
        assert not cuda.memory
        assert cuda.streams == 0

    def test_closed_twice(self, host, exported_copy):
        engine = Engine(read_engine_file(write_engine(exported_copy, "video", PROFILES)))
        engine.run({"frames": clips(1)})
        engine.close()
        engine.close()
        assert not host[0].memory
        assert host[0].streams == 0

    def test_captions_and_frames_with_strides(self, host, exported_copy):
        write_engine(exported_copy, "text", TEXT_PROFILES, ending=".engine")
        plain = Runtime(exported_copy)
        with Runtime(exported_copy, backend="rtx") as runtime:
            found = runtime.encode_text(list(CAPTIONS))
            assert np.abs(found - plain.encode_text(list(CAPTIONS))).max() < 1e-6
            with pytest.raises(ValueError, match="holds no rtx engine of graph 'video'"):
                runtime.encode_video(clips(1))

    def test_shapes_that_no_profile_holds(self, host, exported_copy):
        few = [PROFILES[1]]
        write_engine(exported_copy, "video", few)
        runtime = Runtime(exported_copy, backend="tensorrt")
        with pytest.raises(ValueError, match="no profile of the engine holds frames 2x4x3x32x32"):
            runtime.encode_video(clips(2))

    def test_threads_take_turns(self, host, exported_copy):
        write_engine(exported_copy, "video", PROFILES)
        plain = Runtime(exported_copy)
        found = {}
        with Runtime(exported_copy, backend="tensorrt") as runtime:

            def work(seed):
                found[seed] = runtime.encode_video(clips(1 + seed % 4, seed))

            threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert len(found) == 8
        for seed, embeddings in found.items():
            wanted = plain.encode_video(clips(1 + seed % 4, seed))
            assert np.abs(embeddings - wanted).max() < 1e-6

    def test_an_engine_that_tensorrt_cannot_read(self, host, exported_copy):
        path = write_engine(exported_copy, "video", PROFILES)
        (exported_copy / "video.plan").write_bytes(b"something else")
        sidecar = json.loads(path.read_text())
        sidecar |= {"bytes": 14, "sha256": file_sha256(exported_copy / "video.plan")}
        path.write_text(json.dumps(sidecar))
        with pytest.raises(
            ValueError, match=r"is not an engine that TensorRT 10\.99\.0\.1 can read"
        ):
            Engine(read_engine_file(path))

    @pytest.mark.parametrize("device", [-1, 1])
    def test_a_gpu_that_is_not_there(self, host, exported_copy, device):
        path = write_engine(exported_copy, "video", PROFILES)
        with pytest.raises(ValueError, match=rf"device must be a GPU from 0 to 0, got {device}"):
            Engine(read_engine_file(path), device=device)

    def test_no_gpu(self, host, exported_copy):
        host[0].count = 0
        path = write_engine(exported_copy, "video", PROFILES)
        with pytest.raises(ValueError, match=r"no GPU .*cudaErrorNoDevice.*nvidia-smi"):
            Engine(read_engine_file(path))


class TestRefusals:
    def test_another_version(self, host, exported_copy):
        path = write_engine(exported_copy, "video", PROFILES, tensorrt_version="10.13.0.35")
        reason = "TensorRT 10.13.0.35 .*this is 10.99.0.1; install tensorrt==10.13.0.35"
        with pytest.raises(ValueError, match=reason):
            Engine(read_engine_file(path))

    def test_another_gpu(self, host, exported_copy):
        path = write_engine(exported_copy, "video", PROFILES, compute_capability="9.0")
        with pytest.raises(ValueError, match=r"capability 9\.0, Host GPU here has 8\.9"):
            Engine(read_engine_file(path))

    @pytest.mark.parametrize("backend", ["tensorrt", "rtx"])
    def test_a_missing_library(self, exported, backend, monkeypatch):
        package = {"tensorrt": "tensorrt", "rtx": "tensorrt-rtx-cu13"}[backend]
        module = {"tensorrt": "tensorrt", "rtx": "tensorrt_rtx"}[backend]
        monkeypatch.setitem(__import__("sys").modules, module, None)
        with pytest.raises(ValueError, match=f"module {module}, .* pip install {package}"):
            Runtime(exported.path, backend=backend)


@pytest.mark.parametrize("module", ["tensorrt", "tensorrt_rtx"])
def test_the_real_library_has_what_engines_use(module):
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed")
    library = import_tensorrt({"tensorrt": "tensorrt", "tensorrt_rtx": "rtx"}[module])
    assert library.nptype(library.DataType.FLOAT) is np.float32
    used = {
        "Runtime": ["deserialize_cuda_engine", "engine_host_code_allowed"],
        "ICudaEngine": [
            *("create_execution_context", "get_tensor_dtype"),
            *("create_serialization_config", "serialize_with_config"),
        ],
        "Refitter": ["refit_cuda_engine", "get_missing_weights"],
        "OnnxParserRefitter": ["refit_from_file"],
        "SerializationFlag": ["EXCLUDE_WEIGHTS"],
        "IExecutionContext": [
            *("active_optimization_profile", "set_optimization_profile_async"),
            *("set_input_shape", "get_tensor_shape", "set_tensor_address", "execute_async_v3"),
        ],
    }
    for name, attributes in used.items():
        for attribute in attributes:
            assert hasattr(getattr(library, name), attribute), f"{name}.{attribute}"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_real_cuda_library_says_that_there_is_no_gpu(exported_copy, host, monkeypatch):
    import cuda.bindings.runtime

    host[1]["cuda.bindings.runtime"] = cuda.bindings.runtime
    path = write_engine(exported_copy, "video", PROFILES)
    with pytest.raises(ValueError, match=r"no GPU can be used .*cudaGetDeviceCount: cudaError"):
        Engine(read_engine_file(path))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("backend", ["tensorrt", "rtx"])
def test_an_engine_on_a_gpu_agrees_with_onnxruntime(exported_copy, backend):
    from export.trt.command import main

    module = MODULES[backend]
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed")
    assert main(["--onnx", str(exported_copy), "--backend", backend]) == 0
    plain = Runtime(exported_copy)
    with Runtime(exported_copy, backend=backend) as runtime:
        for batch in (1, 4, 2):
            frames, captions = clips(batch, batch), list(CAPTIONS[:batch])
            assert np.abs(runtime.encode_video(frames) - plain.encode_video(frames)).max() < 1e-3
            found = runtime.encode_text(captions)
            assert np.abs(found - plain.encode_text(captions)).max() < 1e-3
            found = runtime.match(frames, captions)
            assert np.abs(found - plain.match(frames, captions)).max() < 1e-3
