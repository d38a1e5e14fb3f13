import json
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from export.runtime import Runtime
from export.runtime.captions import encode_captions, load_tokenizer
from export.runtime.folder import file_sha256
from testing.export.small_export import CAPTIONS, clips

ROOT = Path(__file__).parents[3]
# fp32 graphs run the same sums in another order.
TOLERANCE = 1e-5
WORDS = " ".join(CAPTIONS).split()


@st.composite
def token_batches(draw, max_batch=4, max_tokens=16):
    """Ids of 3 to 16 tokens a row, padded with anything up to 16 columns."""
    lengths = draw(st.lists(st.integers(3, max_tokens), min_size=1, max_size=max_batch))
    columns = draw(st.integers(max(lengths), max_tokens))
    seed = draw(st.integers(0, 2**32 - 1))
    ids = np.random.default_rng(seed).integers(5, 60, (len(lengths), columns))
    mask = (np.arange(columns) < np.array(lengths)[:, None]).astype(np.int64)
    return ids, mask, lengths


def rows_alone(ids, lengths):
    """Each caption as a tensor of its own, without padding."""
    return [torch.from_numpy(row[None, :length]) for row, length in zip(ids, lengths, strict=True)]


class TestParity:
    @given(batch=st.integers(1, 4), seed=st.integers(0, 2**32 - 1))
    @settings(max_examples=15)
    def test_video(self, runtime, exported_model, batch, seed):
        frames = clips(exported_model, batch, seed)
        with torch.no_grad():
            wanted = exported_model.encode_video(torch.from_numpy(frames)).numpy()
        found = runtime.encode_video(frames)
        assert found.dtype == np.float32
        assert np.abs(found - wanted).max() < TOLERANCE

    @given(tokens=token_batches())
    @settings(max_examples=25)
    def test_text_of_any_padding_is_that_of_each_caption_alone(
        self, runtime, exported_model, tokens
    ):
        ids, mask, lengths = tokens
        with torch.no_grad():
            wanted = torch.cat(
                [exported_model.encode_text(row) for row in rows_alone(ids, lengths)]
            ).numpy()
        found = runtime.encode_text((ids, mask))
        assert found.dtype == np.float32
        assert np.abs(found - wanted).max() < TOLERANCE
        assert np.abs(np.linalg.norm(found, axis=1) - 1).max() < 1e-5

    @given(tokens=token_batches(), seed=st.integers(0, 2**32 - 1))
    @settings(max_examples=15)
    def test_match(self, runtime, exported_model, tokens, seed):
        ids, mask, lengths = tokens
        frames = clips(exported_model, len(ids), seed)
        with torch.no_grad():
            wanted = torch.cat(
                [
                    exported_model.match(torch.from_numpy(frame[None]), row)
                    for frame, row in zip(frames, rows_alone(ids, lengths), strict=True)
                ]
            ).numpy()
        found = runtime.match(frames, (ids, mask))
        assert found.shape == (len(ids),)
        assert np.abs(found - wanted).max() < TOLERANCE

    @given(
        captions=st.lists(
            st.lists(st.sampled_from(WORDS), min_size=1, max_size=30).map(" ".join),
            min_size=1,
            max_size=4,
        )
    )
    @settings(max_examples=15)
    def test_captions_as_text(self, runtime, exported_model, captions):
        with torch.no_grad():
            wanted = exported_model.encode_text(captions).numpy()
        assert np.abs(runtime.encode_text(captions) - wanted).max() < TOLERANCE
        alone = runtime.encode_text(captions[0])
        assert np.abs(alone - wanted[:1]).max() < TOLERANCE

    def test_embeddings_differ(self, runtime, exported_model):
        # Or the tolerance above would say nothing.
        found = runtime.encode_video(clips(exported_model, 2, 0))
        assert np.abs(found[0] - found[1]).max() > 100 * TOLERANCE
        found = runtime.encode_text(list(CAPTIONS[:2]))
        assert np.abs(found[0] - found[1]).max() > 100 * TOLERANCE

    def test_frames_need_not_be_contiguous(self, runtime, exported_model):
        frames = clips(exported_model, 2, 1)
        turned = np.ascontiguousarray(frames.transpose(0, 1, 3, 4, 2)).transpose(0, 1, 4, 2, 3)
        assert not turned.flags.c_contiguous
        assert np.array_equal(runtime.encode_video(turned), runtime.encode_video(frames))

    def test_threads_may_share_it(self, exported, exported_model):
        frames = [clips(exported_model, 1, seed) for seed in range(8)]
        found = [None] * len(frames)
        with Runtime(exported.path, threads=1) as shared:

            def work(number):
                found[number] = shared.encode_video(frames[number])

            threads = [threading.Thread(target=work, args=(n,)) for n in range(len(frames))]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            for frame, embedding in zip(frames, found, strict=True):
                assert np.array_equal(embedding, shared.encode_video(frame))


class TestBackends:
    @pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
    def test_a_provider_that_is_not_there(self, exported, provider):
        full = {"cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}[provider]
        if full in onnxruntime.get_available_providers():
            pytest.skip("this onnxruntime has it")
        with pytest.raises(ValueError, match=rf"no {full}, only .*CPU.*; install onnxruntime-gpu"):
            Runtime(exported.path, provider=provider)

    @pytest.mark.gpu
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
    def test_cuda_agrees_with_the_cpu(self, exported, exported_model, runtime):
        if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            pytest.skip("onnxruntime-gpu is not installed")
        frames = clips(exported_model, 4, 0)
        with Runtime(exported.path, provider="cuda") as on_gpu:
            found = on_gpu.match(frames, list(CAPTIONS))
        assert np.abs(found - runtime.match(frames, list(CAPTIONS))).max() < 1e-3

    @pytest.mark.parametrize(
        ("options", "reason"),
        [
            ({"backend": "torch"}, "backend must be one of .*, got 'torch'"),
            ({"provider": "rocm"}, "provider must be one of cpu, cuda, tensorrt, got 'rocm'"),
            ({"backend": "rtx", "provider": "cuda"}, "leave it out"),
            ({"threads": 0}, "threads must be a whole number of at least 1, got 0"),
            ({"threads": "two"}, "threads must be a whole number of at least 1, got 'two'"),
            ({"device": "cuda"}, "device must be a whole number of at least 0, got 'cuda'"),
        ],
    )
    def test_bad_settings(self, exported, options, reason):
        with pytest.raises(ValueError, match=reason):
            Runtime(exported.path, **options)

    def test_a_truncated_graph(self, exported_copy):
        file = exported_copy / "video.onnx"
        file.write_bytes(file.read_bytes()[:-100])
        with pytest.raises(ValueError, match="the copy is truncated"):
            Runtime(exported_copy)

    def test_a_changed_graph(self, exported_copy, exported_model):
        file = exported_copy / "video.onnx"
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
        with pytest.raises(ValueError, match=r"SHA-256 .* were changed or damaged"):
            Runtime(exported_copy).encode_video(clips(exported_model, 1, 0))
        assert Runtime(exported_copy).encode_text("a ball").shape == (1, 32)

    def test_a_graph_that_is_none(self, exported_copy, exported_model):
        file = exported_copy / "video.onnx"
        file.write_bytes(b"no graph")
        self._tell(exported_copy, file)
        with pytest.raises(ValueError, match=r"video\.onnx cannot be loaded by onnxruntime"):
            Runtime(exported_copy).encode_video(clips(exported_model, 1, 0))

    def test_a_graph_with_other_outputs(self, exported_copy, exported_model):
        file = exported_copy / "video.onnx"
        model = onnx.load(file)
        model.graph.output[0].name = model.graph.node[-1].output[0] = "features"
        onnx.save(model, file)
        self._tell(exported_copy, file)
        with pytest.raises(ValueError, match=r"gives features, report.json says video_embed"):
            Runtime(exported_copy).encode_video(clips(exported_model, 1, 0))

    def test_a_graph_with_other_inputs(self, exported_copy, exported_model):
        file = exported_copy / "video.onnx"
        file.write_bytes((exported_copy / "text.onnx").read_bytes())
        self._tell(exported_copy, file)
        with pytest.raises(ValueError, match=r"takes token_ids, attention_mask, .* says frames"):
            Runtime(exported_copy).encode_video(clips(exported_model, 1, 0))

    def test_a_graph_that_fails_when_it_runs(self, exported_copy, exported_model):
        file = exported_copy / "video.onnx"
        model = onnx.load(file)
        last = next(node for node in model.graph.node if "video_embed" in node.output)
        last.output[0] = "embed"
        model.graph.initializer.append(
            onnx.helper.make_tensor("odd", onnx.TensorProto.INT64, [1], [7])
        )
        model.graph.node.append(onnx.helper.make_node("Reshape", ["embed", "odd"], ["video_embed"]))
        onnx.save(model, file)
        self._tell(exported_copy, file)
        with pytest.raises(RuntimeError, match=r"video\.onnx cannot be run: .*Reshape"):
            Runtime(exported_copy).encode_video(clips(exported_model, 1, 0))

    @staticmethod
    def _tell(folder, file):
        report = json.loads((folder / "report.json").read_text())
        report["graphs"]["video"] |= {"sha256": file_sha256(file), "bytes": file.stat().st_size}
        (folder / "report.json").write_text(json.dumps(report))


WITHOUT_TRAINING = """
import sys

BLOCKED = ("torch", "simvtp", "torchvision", "onnx", "transformers", *{extra!r})
# One file with the standard library alone: what a name in a file may open.
ALLOWED = ("simvtp", "simvtp.named_files")


class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED and name not in ALLOWED:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)


sys.meta_path.insert(0, Blocker())
import numpy as np
from export.runtime import Runtime

with np.load({inputs!r}) as inputs:
    with Runtime({folder!r}, threads=1) as runtime:
        found = {{"video": runtime.encode_video(inputs["frames"])}}
        if "tokenizers" in BLOCKED:
            found["text"] = runtime.encode_text((inputs["ids"], inputs["mask"]))
            try:
                runtime.encode_text("a ball")
            except ValueError as error:
                assert "pip install tokenizers" in str(error), error
            else:
                raise AssertionError("captions without tokenizers")
        else:
            found["text"] = runtime.encode_text({captions!r})
            found["match"] = runtime.match(inputs["frames"], {captions!r})
np.savez({outputs!r}, **found)
loaded = {{name.partition(".")[0] for name in sys.modules if name not in ALLOWED}}
assert not loaded & set(BLOCKED), loaded & set(BLOCKED)
"""


@pytest.mark.parametrize("extra", [(), ("tokenizers",)])
def test_runs_with_no_training_library(exported, exported_model, runtime, tmp_path, extra):
    captions = list(CAPTIONS[:2])
    frames = clips(exported_model, 2, 4)
    tokens = encode_captions(
        load_tokenizer(exported.path / "tokenizer.json"), captions, max_length=16
    )
    np.savez(tmp_path / "in.npz", frames=frames, ids=tokens[0], mask=tokens[1])
    program = WITHOUT_TRAINING.format(
        extra=extra,
        folder=str(exported.path),
        captions=captions,
        inputs=str(tmp_path / "in.npz"),
        outputs=str(tmp_path / "out.npz"),
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "out.npz") as found:
        assert np.array_equal(found["video"], runtime.encode_video(frames))
        assert np.array_equal(found["text"], runtime.encode_text(captions))
        if "match" in found:
            assert np.array_equal(found["match"], runtime.match(frames, captions))
