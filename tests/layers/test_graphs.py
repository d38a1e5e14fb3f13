"""Packs whose totals repeat, and transformers that are captured, compute what they did before.

Without a GPU nothing is captured; what would be is compiled here by dynamo, from the same call.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._dynamo.utils import counters
from torch._subclasses.fake_tensor import FakeTensorMode

from simvtp.encoders import JointEncoder
from simvtp.layers import (
    PackedLayout,
    PackedTokens,
    Transformer,
    attend,
    compile_blocks,
    fill_packs,
    pack,
    runs_graphs,
    set_drop_path,
)
from simvtp.layers import attention as attention_module
from simvtp.layers import packing as packing_module
from simvtp.layers.packing import fill_up
from simvtp.layers.padded_attention import attend_at_offsets
from testing.graph_catcher import caught_graphs

# Dynamo looks whether a tensor has a gradient, in a way that it hides and that errors bring out.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")

CPU = torch.device("cpu")
WIDTH = 16
lengths = st.lists(st.integers(1, 9), min_size=1, max_size=8)


def encoder(*, dtype=torch.float64, **options):
    torch.manual_seed(0)
    model = JointEncoder(WIDTH, depth=2, num_heads=2, **options).to(dtype)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def run(model, sizes, *, seed=0):
    """Output, and gradients of the tokens and of all weights."""
    generator = torch.Generator().manual_seed(seed)
    dtype = next(model.parameters()).dtype
    tokens = [
        torch.randn(size, WIDTH, generator=generator, dtype=dtype).requires_grad_()
        for size in sizes
    ]
    encoded = model(pack(tokens))
    assert encoded.layout.lengths == tuple(sizes)
    values = model.normed(encoded.values)
    total = (values * values.detach().cos()).sum()
    return [values, *torch.autograd.grad(total, [*tokens, *model.parameters()])]


@given(sizes=lengths, multiple=st.integers(1, 20))
def test_a_pack_is_filled_up_to_the_next_multiple(sizes, multiple):
    tokens = pack([torch.randn(size, 3) for size in sizes])
    filled = fill_up(tokens, multiple=multiple)
    *own, filling = filled.layout.lengths
    assert own == sizes
    assert 1 <= filling <= multiple
    assert filled.layout.total_tokens % multiple == 0
    assert torch.equal(filled.values[: sum(sizes)], tokens.values)
    assert not filled.values[sum(sizes) :].any()


@settings(max_examples=40)
@given(sizes=lengths, multiple=st.integers(1, 40), extra=st.integers(0, 2), norms=st.booleans())
def test_filling_changes_no_output_and_no_gradient(sizes, multiple, extra, norms):
    pooling = "norm_then_mean" if norms else "mean_then_norm"
    plain, filled = (encoder(extra_tokens=extra, pooling=pooling) for _ in range(2))
    fill_packs(filled, multiple)
    for got, want in zip(run(filled, sizes), run(plain, sizes), strict=True):
        torch.testing.assert_close(got, want, atol=1e-11, rtol=1e-11)


def test_nothing_is_filled_up_in_evaluation(monkeypatch):
    model = encoder().eval()
    fill_packs(model, 64)
    seen, forward = [], Transformer.forward

    def noted(self, tokens, *further):
        seen.append(len(tokens))
        return forward(self, tokens, *further)

    monkeypatch.setattr(Transformer, "forward", noted)
    run(model, [3, 4])
    run(model.train(), [3, 4])
    assert seen == [7, 64]


@pytest.mark.parametrize("bucket", [-1, 1.5, None])
def test_an_impossible_bucket_is_refused(bucket):
    with pytest.raises(ValueError, match="bucket_tokens must be a whole number of at least 0"):
        fill_packs(encoder(), bucket)


@settings(max_examples=40)
@given(sizes=lengths, more=st.integers(0, 5), seed=st.integers(0, 1000))
def test_attention_at_offsets_is_that_of_each_sequence(sizes, more, seed):
    generator = torch.Generator().manual_seed(seed)
    layout = PackedLayout(tuple(sizes), CPU)
    tensors = [
        torch.randn(sum(sizes), 2, 8, generator=generator, dtype=torch.float64).requires_grad_()
        for _ in range(3)
    ]
    weight = torch.randn(tensors[0].shape, generator=generator, dtype=torch.float64)
    outputs = [
        attend(*tensors, layout=layout),
        attend_at_offsets(*tensors, offsets=layout.offsets, longest=max(sizes) + more),
    ]
    torch.testing.assert_close(*outputs)
    gradients = [torch.autograd.grad((each * weight).sum(), tensors) for each in outputs]
    for want, got in zip(*gradients, strict=True):
        torch.testing.assert_close(got, want)


@pytest.fixture
def compiled_graphs(monkeypatch):
    with caught_graphs(monkeypatch) as graphs:
        yield graphs


def batches(count):
    """Lengths of six sequences each, other ones every time."""
    generator = torch.Generator().manual_seed(7)
    return torch.randint(1, 30, (count, 6), generator=generator).tolist()


def test_one_graph_serves_all_batches(compiled_graphs):
    plain, captured = encoder(extra_tokens=2), encoder(extra_tokens=2)
    compile_blocks(captured, graphs=True)
    fill_packs(captured, 32)
    assert runs_graphs(captured)
    assert not runs_graphs(plain)
    for number, sizes in enumerate(batches(20)):
        got, want = (run(model, sizes, seed=number) for model in (captured, plain))
        for mine, theirs in zip(got, want, strict=True):
            torch.testing.assert_close(mine, theirs, atol=1e-11, rtol=1e-11)
    # Draws of drop path are one input more, and no further graph for each batch.
    set_drop_path(captured, 0.3)
    for sizes in batches(5):
        run(captured, sizes)
    assert len(compiled_graphs) == counters["stats"]["unique_graphs"] == 2
    assert not counters["graph_break"]


@pytest.mark.skipif(
    torch.__version__ < (2, 12), reason="torch 2.11 breaks the graph at a fake tensor's unflatten"
)
def test_the_kernel_of_a_gpu_is_part_of_the_graph(compiled_graphs, monkeypatch):
    """Traced for a device that need not be there: what it computes is for tests on one."""
    monkeypatch.setattr(attention_module, "_runs", lambda name, *_: name == "varlen")
    monkeypatch.setattr(
        packing_module, "to_device", lambda host, device: torch.empty_like(host, device=device)
    )
    device, packs = torch.device("cuda"), batches(3)
    with FakeTensorMode(allow_non_fake_inputs=True), device:
        model = JointEncoder(WIDTH, depth=2, num_heads=2)
        compile_blocks(model, graphs=True)
        fill_packs(model, 32)
        for sizes in packs:
            values = torch.empty(sum(sizes), WIDTH, requires_grad=True)
            encoded = model(PackedTokens(values, PackedLayout(tuple(sizes), device))).values
            assert (encoded.shape, encoded.requires_grad) == (values.shape, True)
    assert len(compiled_graphs) == 1
    assert not counters["graph_break"]
    called = [str(node.target) for node in compiled_graphs[0].graph.nodes]
    assert called.count("torch_attn._varlen_attn") == 2
