import subprocess
import sys
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from simvtp.layers import (
    Attention,
    Block,
    PackedLayout,
    attend,
    attend_padded,
    attention_backend,
)
from simvtp.layers import attention as attention_module

CPU = torch.device("cpu")
lengths = st.lists(st.integers(1, 6), min_size=1, max_size=6)


def reference(query, key, value, sizes):
    """Explicit softmax, sequence by sequence and head by head, in float64."""
    outputs = []
    parts = (tensor.double().split(sizes) for tensor in (query, key, value))
    for q, k, v in zip(*parts, strict=True):
        heads = [
            (q[:, head] @ k[:, head].T * q.shape[-1] ** -0.5).softmax(dim=-1) @ v[:, head]
            for head in range(q.shape[1])
        ]
        outputs.append(torch.stack(heads, dim=1))
    return torch.cat(outputs)


def inputs(total, *, dtype=torch.float64, device="cpu", seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(total, 2, 8, generator=generator).to(device, dtype).requires_grad_()
        for _ in range(3)
    ]


@settings(max_examples=40)
@given(sizes=lengths, seed=st.integers(0, 1000))
def test_packed_attention_and_its_gradients_are_those_of_each_sequence(sizes, seed):
    tensors = inputs(sum(sizes), seed=seed)
    output = attend(*tensors, layout=PackedLayout(tuple(sizes), CPU))
    expected = reference(*tensors, sizes)
    torch.testing.assert_close(output, expected)
    weight = torch.randn(output.shape, dtype=output.dtype)
    gradients = torch.autograd.grad((output * weight).sum(), tensors)
    for got, want in zip(
        gradients, torch.autograd.grad((expected * weight).sum(), tensors), strict=True
    ):
        torch.testing.assert_close(got, want)


@settings(max_examples=30)
@given(sizes=lengths, seed=st.integers(0, 1000))
@pytest.mark.parametrize("scale", [1, 8])
def test_packed_attention_in_half_precision_is_that_of_each_sequence(sizes, seed, scale):
    """Of short sequences, whose scores are computed all at once; also of peaked scores."""
    tensors = inputs(sum(sizes), dtype=torch.bfloat16, seed=seed)
    with torch.no_grad():
        tensors[0].mul_(scale)
    output = attend(*tensors, layout=PackedLayout(tuple(sizes), CPU))
    assert output.dtype == torch.bfloat16
    weight = torch.randn(output.shape, generator=torch.Generator().manual_seed(seed))
    gradients = torch.autograd.grad((output * weight).sum(), tensors)
    wanted = [tensor.detach().double().requires_grad_() for tensor in tensors]
    expected = reference(*wanted, sizes)
    expected_gradients = torch.autograd.grad((expected * weight).sum(), wanted)
    for got, want in zip([output, *gradients], [expected, *expected_gradients], strict=True):
        # Over 8,000 draws of two to twelve tokens the largest was three quarters of this.
        assert (got.double() - want).norm() <= 2e-2 * want.norm() + 2e-2 * scale


def test_scores_in_half_precision_are_not_rounded():
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(176, 2, 64, generator=generator).bfloat16() for _ in range(3)]
    tensors[0] *= 8
    with torch.autocast("cpu", torch.bfloat16):
        output = attend(*tensors, layout=PackedLayout((176,), CPU))
    expected = reference(*tensors, [176])
    # Scores rounded to bfloat16 make an error of more than 1 %.
    assert (output.double() - expected).norm() < 4e-3 * expected.norm()


@settings(max_examples=30)
@given(sizes=lengths)
def test_padded_attention_equals_packed_on_real_tokens(sizes):
    tensors = inputs(sum(sizes))
    packed = attend(*tensors, layout=PackedLayout(tuple(sizes), CPU))
    pad = partial(torch.nn.utils.rnn.pad_sequence, batch_first=True, padding_value=7.0)
    padded = [pad(list(tensor.split(sizes))) for tensor in tensors]
    real = torch.arange(max(sizes)) < torch.tensor(sizes)[:, None]
    output = attend_padded(*padded, key_mask=real)
    torch.testing.assert_close(output[real], packed)


def test_the_block_diagonal_mask_hides_other_sequences():
    pytest.importorskip("xformers")
    sizes = (3, 1, 4)
    mask = attention_module._block_diagonal_mask(PackedLayout(sizes, CPU))
    owner = torch.arange(3).repeat_interleave(torch.tensor(sizes))
    same = owner[:, None] == owner
    expected = torch.zeros(8, 8).masked_fill(~same, float("-inf"))
    assert torch.equal(mask.materialize((8, 8)), expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["xformers", "varlen", "sdpa"])
def test_cuda_backends_agree(name):
    sizes = (160, 12, 171, 1, 40)
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(sum(sizes), 2, 64, generator=generator) for _ in range(3)]
    weight = torch.randn(tensors[0].shape, generator=generator)
    layout = PackedLayout(sizes, torch.device("cuda"))
    on_device = [tensor.cuda().bfloat16().requires_grad_() for tensor in tensors]
    with attention_backend(name):
        output = attend(*on_device, layout=layout)
    gradients = torch.autograd.grad((output * weight.cuda()).sum(), on_device)
    wanted = [tensor.double().requires_grad_() for tensor in tensors]
    expected = reference(*wanted, list(sizes))
    expected_gradients = torch.autograd.grad((expected * weight).sum(), wanted)
    for got, want in zip([output, *gradients], [expected, *expected_gradients], strict=True):
        torch.testing.assert_close(got.cpu().double(), want, atol=3e-2, rtol=2e-2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_attention_on_cuda_is_one_kernel_where_there_is_one(dtype, monkeypatch):
    device = torch.device("cuda")
    assert attention_module._runs("xformers", device, dtype, 64)
    assert attention_module._backend_for(device, dtype) == "xformers"
    monkeypatch.setattr(attention_module, "_runs", lambda backend, *_: backend == "varlen")
    assert attention_module._backend_for(device, dtype) == "varlen"


@given(sizes=lengths)
def test_a_chosen_backend_is_used_and_left_again(sizes):
    tensors, layout = inputs(sum(sizes)), PackedLayout(tuple(sizes), CPU)
    with attention_backend("sdpa"):
        chosen = attend(*tensors, layout=layout)
    torch.testing.assert_close(chosen, attend(*tensors, layout=layout))
    # Without a GPU there is none of the others, and nothing stands in for them.
    with pytest.raises((NotImplementedError, RuntimeError)), attention_backend("varlen"):
        attend(*tensors, layout=layout)
    torch.testing.assert_close(attend(*tensors, layout=layout), chosen)


def test_an_unknown_backend_is_refused():
    with pytest.raises(ValueError, match=r"one of xformers, varlen, sdpa, got .flash"):
        attention_backend("flash").__enter__()


@pytest.mark.parametrize("error", [ImportError, NotImplementedError, RuntimeError])
def test_a_backend_that_cannot_run_is_passed_over(error, monkeypatch):
    def fail(*_):
        raise error("no kernel here")

    monkeypatch.setitem(attention_module._BACKENDS, "varlen", fail)
    attention_module._runs.cache_clear()
    assert not attention_module._runs("varlen", CPU, torch.float32, 64)
    assert attention_module._runs("sdpa", CPU, torch.float32, 64)
    attention_module._runs.cache_clear()


def test_importing_xformers_says_nothing_and_needs_no_other_cuda():
    code = (
        "import warnings; warnings.simplefilter('error'); "
        "from simvtp.layers import attention; attention._xformers(); "
        "from xformers._cpp_lib import _built_with_cuda; print(_built_with_cuda)"
    )
    pytest.importorskip("nvidia.cuda_runtime")
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=240
    )
    assert (done.stdout, done.stderr) == ("True\n", "")


def test_attention_has_query_and_value_bias_and_no_key_bias():
    torch.manual_seed(0)
    layer = Attention(16, num_heads=2).double()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    tokens = torch.randn(5, 16, dtype=torch.float64)
    query, key, value = (tokens @ part.T for part in layer.qkv.weight.chunk(3))
    query, value = query + layer.query_bias, value + layer.value_bias
    heads = [tensor.view(5, 2, 8) for tensor in (query, key, value)]
    mixed = reference(*heads, [5]).reshape(5, 16)
    expected = mixed @ layer.projection.weight.T + layer.projection.bias
    layout = PackedLayout((5,), CPU)
    torch.testing.assert_close(layer(tokens, partial(attend, layout=layout)), expected)


def test_block_adds_attention_and_then_the_feed_forward_layer():
    torch.manual_seed(0)
    block = Block(16, num_heads=2, mlp_ratio=2).double()
    tokens = torch.randn(2, 3, 16, dtype=torch.float64)

    def norm(x, layer):
        centred = x - x.mean(-1, keepdim=True)
        scale = (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        return centred / scale * layer.weight + layer.bias

    middle = tokens + block.attention(norm(tokens, block.attention_norm), attend_padded)
    hidden = norm(middle, block.mlp_norm) @ block.mlp[0].weight.T + block.mlp[0].bias
    hidden = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
    expected = middle + hidden @ block.mlp[2].weight.T + block.mlp[2].bias
    torch.testing.assert_close(block(tokens, attend_padded), expected)


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="10 and 4"):
        Attention(10, num_heads=4)
