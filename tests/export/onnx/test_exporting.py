"""Graphs as they are written: what they compute, and what is not believed of them."""

from dataclasses import asdict

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from export.drawn_inputs import example_inputs
from export.graphs import GRAPHS, INPUTS, build_graph
from export.onnx.graph_file import check_file, write_graph
from export.runtime.folder import Range
from export.tracing import ExportError


@pytest.fixture(scope="module")
def sessions(exported, reconstructing):
    return {
        name: onnxruntime.InferenceSession(folder.file(name), providers=["CPUExecutionProvider"])
        for folder in (exported, reconstructing)
        for name in folder.graphs
    }


class TestGraphs:
    @settings(max_examples=10)
    @given(
        batch=st.integers(1, 4),
        tokens=st.integers(3, 16),
        kept=st.integers(1, 8),
        seed=st.integers(0, 999),
    )
    @pytest.mark.parametrize("name", GRAPHS)
    def test_any_size_within_the_ranges(
        self, sessions, exported_model, name, batch, tokens, kept, seed
    ):
        config = asdict(exported_model.config)
        inputs = example_inputs(config, name, batch=batch, tokens=tokens, kept=kept, seed=seed)
        found = sessions[name].run(None, inputs)
        tensors = [torch.from_numpy(inputs[key]) for key in INPUTS[name]]
        with torch.inference_mode():
            if name == "video":
                expected = exported_model.encode_video(*tensors)
            elif name == "text":
                expected = exported_model.encode_text(tensors[0], attend=tensors[1] == 1)
            elif name == "match":
                frames, ids, mask = tensors
                expected = exported_model.match(frames, ids, attend=mask == 1)
            else:
                expected = build_graph(exported_model, name)(*tensors)
        if isinstance(expected, torch.Tensor):
            expected = (expected,)
        for one, other in zip(found, expected, strict=True):
            assert one.dtype == np.float32
            np.testing.assert_allclose(one, other.numpy(), atol=1e-5)

    def test_names_types_and_dimensions(self, exported, reconstructing):
        specs = {
            tensor.name: (tensor.dtype, tensor.shape)
            for graph in (*exported.graphs.values(), *reconstructing.graphs.values())
            for tensor in (*graph.inputs, *graph.outputs)
        }
        clip = ("batch", 4, 3, 32, 32)
        words = exported.model["config"]["vocab_size"]
        assert specs == {
            "frames": ("uint8", clip),
            "token_ids": ("int64", ("batch", "tokens")),
            "attention_mask": ("int64", ("batch", "tokens")),
            "keep": ("int64", ("batch", "kept")),
            "video_embed": ("float32", ("batch", 32)),
            "text_embed": ("float32", ("batch", 32)),
            "match_probability": ("float32", ("batch",)),
            "reconstruction": ("float32", clip),
            "word_logits": ("float32", ("batch", "tokens", words)),
        }

    def test_nothing_is_computed_that_could_have_been_before(self, exported):
        # Twice the blocks is twice these; attention's bias and weights need no node of their own.
        counts = exported.report["graphs"]["video"]["operators"]
        assert counts["MatMul"] == 1 + 2 * 6
        assert counts["Softmax"] == counts["Gelu"] == counts["Split"] == 2
        assert counts["Transpose"] == 1 + 2 * 4
        assert counts["Cast"] == counts["Concat"] == 1
        assert not {"Gather", "Slice", "Where", "IsNaN"} & set(counts)


class TestChecks:
    """What the exporter wrote is not believed."""

    @pytest.fixture
    def check(self, exported, exported_model, tmp_path):
        config = asdict(exported_model.config)
        ranges = exported.graph("text").ranges

        def damage(change):
            model = onnx.load(exported.file("text"))
            change(model)
            path = tmp_path / "text.onnx"
            onnx.save(model, path)
            return check_file(path, name="text", config=config, ranges=ranges, opset=20)

        return damage

    def test_nothing_changed(self, check, exported):
        assert check(lambda model: None).inputs == exported.graph("text").inputs

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            (lambda m: setattr(m.opset_import[0], "version", 21), "opset {'ai.onnx': 21}, asked"),
            (
                lambda m: (
                    m.opset_import.add(domain="com.microsoft", version=1),
                    setattr(m.graph.node[-1], "domain", "com.microsoft"),
                ),
                "'com.microsoft': 1}",
            ),
            (
                lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[0], "dim_value", 2),
                r"token_ids int64 \(2, tokens\)",
            ),
            (
                lambda m: setattr(m.graph.input[1].type.tensor_type.shape.dim[1], "dim_param", "n"),
                r"attention_mask int64 \(batch, n\)",
            ),
            (lambda m: setattr(m.graph.node[0], "op_type", "Embed"), "no valid ONNX"),
            (
                lambda m: m.graph.initializer.append(
                    onnx.helper.make_tensor("text_embed", onnx.TensorProto.FLOAT, [1], [0.0])
                ),
                "no valid ONNX: .*'text_embed' has been used as output names multiple times",
            ),
        ],
    )
    def test_something_changed(self, check, change, reason):
        with pytest.raises(ExportError, match=reason):
            check(change)

    def test_a_truncated_file(self, exported, exported_model, tmp_path):
        path = tmp_path / "text.onnx"
        path.write_bytes(exported.file("text").read_bytes()[:-100])
        config = asdict(exported_model.config)
        ranges = exported.graph("text").ranges
        with pytest.raises(ExportError, match=r"text\.onnx"):
            check_file(path, name="text", config=config, ranges=ranges, opset=20)

    def test_an_operator_that_cannot_be_exported(self, exported_model, tmp_path):
        class Unsupported(nn.Module):
            def forward(self, frames):
                flat = frames.float().flatten(1)
                return torch.linalg.eigvalsh(flat[:, None] * flat[..., None])

        ranges = {"batch": Range(1, 2, 4)}
        config = asdict(exported_model.config)
        graph, path = Unsupported().eval(), tmp_path / "video.onnx"
        with pytest.raises(ExportError, match=r"graph 'video' .* opset 20: .*aten\._linalg_eigh"):
            write_graph(graph, path, name="video", config=config, ranges=ranges)
        assert not list(tmp_path.iterdir())

    def test_a_batch_that_became_fixed(self, exported_model, tmp_path):
        class Fixed(nn.Module):
            def forward(self, frames):
                # `len` is a number to Python, and so to the tracer.
                return torch.ones(len(frames), 32) + frames.float().flatten(1)[:, :32]

        graph, path = Fixed().eval(), tmp_path / "video.onnx"
        config = asdict(exported_model.config)
        with pytest.raises(ExportError, match=r"frames uint8 \(2, 4, 3, 32, 32\) where it must"):
            write_graph(graph, path, name="video", config=config, ranges={"batch": Range(1, 2, 4)})
