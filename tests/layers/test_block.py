"""Blocks that recompute their activations, and blocks that are compiled, are the same blocks."""

import copy
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from simvtp.decoders import PixelDecoder
from simvtp.encoders import JointEncoder
from simvtp.layers import (
    Block,
    PackedLayout,
    Transformer,
    attend,
    compile_blocks,
    pack,
    recompute_blocks,
    set_drop_path,
)
from simvtp.layers import block as block_module

CPU = torch.device("cpu")
WIDTH = 16


def build(depth=2, *, dtype=torch.float64):
    torch.manual_seed(0)
    transformer = Transformer(WIDTH, depth=depth, num_heads=2).to(dtype)
    for parameter in transformer.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return transformer


def run(transformer, lengths, *, seed=0):
    """Output and gradients of the input and of all weights."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(sum(lengths), WIDTH, generator=generator, dtype=torch.float64)
    tokens.requires_grad_()
    output = transformer(tokens, partial(attend, layout=PackedLayout(tuple(lengths), CPU)))
    weight = torch.randn(output.shape, generator=generator, dtype=output.dtype)
    gradients = torch.autograd.grad((output * weight).sum(), [tokens, *transformer.parameters()])
    return [output, *gradients]


def saved_numel(transformer, tokens):
    """Elements that autograd keeps for the backward pass, weights and input aside."""
    known = {tensor.data_ptr() for tensor in transformer.parameters()}
    sizes = {}

    def note(tensor):
        if tensor.data_ptr() not in known:
            sizes[tensor.data_ptr(), tensor.numel()] = tensor.numel()
        return tensor

    layout = PackedLayout((len(tokens),), CPU)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        output = transformer(tokens, partial(attend, layout=layout))
    output.sum().backward()
    return sum(sizes.values())


@settings(max_examples=20)
@given(lengths=st.lists(st.integers(1, 7), min_size=1, max_size=5), seed=st.integers(0, 999))
def test_recomputed_blocks_have_equal_outputs_and_gradients(lengths, seed):
    plain, recomputed = build(), build()
    recompute_blocks(recomputed)
    for got, want in zip(
        run(recomputed, lengths, seed=seed), run(plain, lengths, seed=seed), strict=True
    ):
        assert torch.equal(got, want)


def test_a_recomputed_block_keeps_its_input_only():
    tokens = torch.randn(11, WIDTH, dtype=torch.float64, requires_grad=True)
    plain, recomputed = build(4), build(4)
    recompute_blocks(recomputed)
    alone = saved_numel(build(0), tokens)
    assert saved_numel(recomputed, tokens) == alone + 4 * tokens.numel()
    # Queries, keys, values, two normalised inputs and the hidden layer twice, at the least.
    assert saved_numel(plain, tokens) > alone + 4 * 13 * tokens.numel()


def test_a_recomputed_block_attends_twice_with_gradients_and_once_without():
    tokens = torch.randn(5, WIDTH, dtype=torch.float64)
    transformer = build(3)
    recompute_blocks(transformer)
    calls = []

    def attention(*parts):
        calls.append(torch.is_grad_enabled())
        return attend(*parts, layout=PackedLayout((2, 3), CPU))

    with torch.no_grad():
        transformer(tokens, attention)
    assert calls == [False] * 3
    calls.clear()
    output = transformer(tokens, attention)
    assert calls == [True] * 3
    output.sum().backward()
    assert calls == [True] * 6


def test_the_switches_reach_every_block_and_no_other_module():
    encoder = JointEncoder(WIDTH, depth=3, num_heads=2)
    model = torch.nn.ModuleDict({"encoder": encoder, "linear": torch.nn.Linear(2, 2)})
    blocks = [child for child in model.modules() if isinstance(child, Block)]
    assert [(b.is_recomputed, b.is_compiled) for b in blocks] == [(False, False)] * 3
    recompute_blocks(model)
    assert [(b.is_recomputed, b.is_compiled) for b in blocks] == [(True, False)] * 3
    compile_blocks(model)
    assert [(b.is_recomputed, b.is_compiled) for b in blocks] == [(True, True)] * 3


@pytest.fixture
def fresh_compiler():
    """Nothing compiled before, so that what a test compiles is its own."""
    torch.compiler.reset()
    block_module._compiled_halves.cache_clear()
    yield
    torch.compiler.reset()
    block_module._compiled_halves.cache_clear()


def encoder_and_decoder():
    """Blocks of two sizes, one packed and one padded, in float32."""
    torch.manual_seed(0)
    model = torch.nn.ModuleDict(
        {
            "encoder": JointEncoder(WIDTH, depth=2, num_heads=2),
            "decoder": PixelDecoder(
                WIDTH, grid=(2, 4, 4), tubelet=(1, 2, 2), width=8, depth=1, num_heads=2
            ),
        }
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def run_both(model, lengths, *, batch, num_decode=20, seed=0):
    """Outputs of encoder and decoder; with gradients enabled, also those of all weights."""
    generator = torch.Generator().manual_seed(seed)
    tokens, visible = (
        [torch.randn(length, WIDTH, generator=generator).requires_grad_() for length in sizes]
        for sizes in (lengths, [8] * batch)
    )
    places = torch.arange(32).repeat(batch, 1)
    encoded = model["encoder"](pack(tokens)).values
    keep, decode = places[:, :8], places[:, 8 : 8 + num_decode]
    pixels = model["decoder"](torch.stack(visible), keep=keep, decode=decode)
    outputs = [encoded, pixels]
    if torch.is_grad_enabled():
        total = sum((output * output.detach().cos()).sum() for output in outputs)
        inputs = [*tokens, *visible, *model.parameters()]
        outputs.extend(torch.autograd.grad(total, inputs))
    return outputs


def assert_equal_up_to_rounding(got, want):
    for mine, theirs in zip(got, want, strict=True):
        assert (mine - theirs).norm() <= 1e-5 * theirs.norm() + 1e-6


PACKS = [([5, 1, 9], 4), ([13], 5), ([2] * 11, 6), ([3, 40, 3, 17], 3)]


# Dynamo looks whether a tensor has a gradient, in a way that it hides and that errors bring out.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("first", [[3, 7, 4], [13]], ids=str)
def test_no_length_and_no_number_of_sequences_compiles_again(first, monkeypatch):
    compiled_for = []

    def eager(graph, inputs):
        compiled_for.append([tuple(part.shape) for part in inputs if hasattr(part, "shape")])
        return graph.forward

    # What compiles again does not depend on the backend, and this one takes no time.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=eager))
    plain, compiled = encoder_and_decoder(), encoder_and_decoder()
    compile_blocks(compiled)
    got = run_both(compiled, first, batch=3)
    assert_equal_up_to_rounding(got, run_both(plain, first, batch=3))
    # Both halves, for packed and for padded tokens.
    assert len(compiled_for) == 4
    with torch.no_grad():
        run_both(compiled, first, batch=3)
    assert len(compiled_for) == 8
    with torch.compiler.set_stance("fail_on_recompile"):
        for number, (lengths, batch) in enumerate(PACKS):
            for is_training in (True, False):
                compiled.train(is_training)
                sizes = {"batch": batch, "num_decode": 10 + number, "seed": number}
                got = run_both(compiled, lengths, **sizes)
                assert_equal_up_to_rounding(got, run_both(plain, lengths, **sizes))
                with torch.no_grad():
                    got = run_both(compiled, lengths, **sizes)
                    assert_equal_up_to_rounding(got, run_both(plain, lengths, **sizes))
        run_both(copy.deepcopy(compiled), [6, 2], batch=4)
    assert len(compiled_for) == 8


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.usefixtures("fresh_compiler")
def test_no_draw_of_drop_path_compiles_again(monkeypatch):
    def eager(graph, inputs):
        return graph.forward

    def run_seeded(model, lengths, *, batch):
        torch.manual_seed(5)
        return run_both(model, lengths, batch=batch)

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=eager))
    plain, compiled = encoder_and_decoder(), encoder_and_decoder()
    for model in (plain, compiled):
        set_drop_path(model, 0.5)
    compile_blocks(compiled)
    run_seeded(compiled, [3, 7, 4], batch=3)
    with torch.compiler.set_stance("fail_on_recompile"):
        for lengths, batch in PACKS:
            got = run_seeded(compiled, lengths, batch=batch)
            assert_equal_up_to_rounding(got, run_seeded(plain, lengths, batch=batch))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.slow
def test_compiled_blocks_have_equal_outputs_and_gradients(tmp_path):
    plain, compiled = encoder_and_decoder(), encoder_and_decoder()
    names = list(compiled.state_dict())
    compile_blocks(compiled)
    assert_equal_up_to_rounding(
        run_both(compiled, [3, 7, 4], batch=3), run_both(plain, [3, 7, 4], batch=3)
    )
    torch.save(compiled.state_dict(), tmp_path / "weights.pt")
    weights = torch.load(tmp_path / "weights.pt", weights_only=True)
    assert list(weights) == names
    loaded = encoder_and_decoder()
    with torch.no_grad():
        for parameter in loaded.parameters():
            parameter.zero_()
    loaded.load_state_dict(weights)
    twin = copy.deepcopy(compiled)
    with torch.compiler.set_stance("fail_on_recompile"):
        for number, (lengths, batch) in enumerate(PACKS):
            want = run_both(plain, lengths, batch=batch, seed=number)
            for model in (compiled, twin, loaded):
                got = run_both(model, lengths, batch=batch, seed=number)
                assert_equal_up_to_rounding(got, want)
    # A copy has weights of its own.
    with torch.no_grad():
        for parameter in compiled.parameters():
            parameter.mul_(1.5)
    assert_equal_up_to_rounding(run_both(twin, [4, 4], batch=3), run_both(plain, [4, 4], batch=3))


@pytest.mark.parametrize(
    ("activation", "formula"),
    [
        ("gelu", lambda x: x * 0.5 * (1 + torch.erf(x / 2**0.5))),
        (
            "gelu_tanh",
            lambda x: 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3))),
        ),
        ("quick_gelu", lambda x: x / (1 + torch.exp(-1.702 * x))),
    ],
)
def test_activations_and_the_epsilon_are_as_asked(activation, formula):
    torch.manual_seed(0)
    block = Block(8, num_heads=2, activation=activation, norm_eps=0.5).double()
    tokens = torch.randn(5, 8, dtype=torch.float64)
    # With values that attention mixes to nothing, only the feed-forward layer adds to the tokens.
    output = block(tokens, lambda query, key, value: torch.zeros_like(value))
    tokens = tokens + block.attention.projection.bias
    spread = (tokens.var(dim=-1, correction=0, keepdim=True) + 0.5).sqrt()
    normed = (tokens - tokens.mean(dim=-1, keepdim=True)) / spread
    torch.testing.assert_close(output, tokens + block.mlp[2](formula(block.mlp[0](normed))))
    with pytest.raises(ValueError, match=r"activation must be one of gelu, .*'relu'"):
        Block(8, num_heads=2, activation="relu")
