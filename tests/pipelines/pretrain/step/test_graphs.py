"""A step whose packs are filled up, or whose blocks are captured, is the same step.

Without a GPU nothing is captured; what would be is compiled here, and the step does the rest.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from simvtp.config import RunConfig
from simvtp.layers import Transformer, compile_blocks, fill_packs, runs_graphs
from simvtp.objective import Objective
from simvtp.trainer.job import set_up_blocks
from testing.graph_catcher import caught_graphs
from testing.sample_batches import samples_of, small_batch, small_model
from testing.train_steps import split, train_step, weights_of

# Dynamo looks whether a tensor has a gradient, in a way that it hides and that errors bring out.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")

SIZES = [
    {},
    {"width": 24, "num_heads": 3, "word_decoder_depth": 1},
    {"text_encoder": "own", "extra_tokens": 2, "pooling": "mean_then_norm"},
]


def losses_and_gradients(batch, *, bucket, negatives, seed, sizes):
    model = small_model(**sizes)
    fill_packs(model, bucket)
    objective = Objective(model, negatives=negatives).train()
    result = objective(batch, generator=torch.Generator().manual_seed(seed))
    result.total.backward()
    gradients = {
        name: torch.zeros(()) if parameter.grad is None else parameter.grad
        for name, parameter in objective.named_parameters()
    }
    return {**result.terms, **gradients}


@settings(max_examples=20)
@given(
    captions=st.lists(st.integers(0, 12), min_size=1, max_size=5),
    bucket=st.integers(1, 300),
    negatives=st.sampled_from(["hard", "random"]),
    sizes=st.sampled_from(SIZES),
    seed=st.integers(0, 99),
)
def test_losses_and_gradients_do_not_depend_on_the_filling(captions, bucket, **chosen):
    batch = small_batch(captions, seed=chosen["seed"])
    filled, plain = (losses_and_gradients(batch, bucket=b, **chosen) for b in (bucket, 0))
    assert filled.keys() == plain.keys()
    for name, value in plain.items():
        # Targets and tables are float32 on both sides, the rest float64.
        scale = 1e-9 if value.dtype == torch.float64 else 1e-6
        assert (filled[name] - value).norm() <= scale * (1 + value.norm()), name


@pytest.fixture
def compiled_graphs(monkeypatch):
    with caught_graphs(monkeypatch) as graphs:
        yield graphs


def test_captured_steps_learn_the_same_and_compile_once(compiled_graphs):
    generator = torch.Generator().manual_seed(3)
    plain, captured = (Objective(small_model()).train() for _ in range(2))
    compile_blocks(captured, graphs=True)
    fill_packs(captured, 64)
    steps = [train_step(objective, contrast_over="step") for objective in (captured, plain)]
    places = {parameter.grad.data_ptr() for parameter in captured.parameters()}
    for number in range(6):
        captions = torch.randint(0, 14, (8,), generator=generator).tolist()
        micro_batches = split(samples_of(captions, seed=number), parts=2)
        got, want = (step(micro_batches, seed=number) for step in steps)
        for name, value in want.terms.items():
            torch.testing.assert_close(got.terms[name], value, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(got.gradient_norm, want.gradient_norm, rtol=1e-6, atol=1e-7)
    for mine, theirs in zip(weights_of(captured), weights_of(plain), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)
    # The encoder with and without gradients (GradCache), and the pixel decoder.
    assert len(compiled_graphs) == 3
    # What a graph writes is added to gradients that lie elsewhere, and stay there.
    assert places == {parameter.grad.data_ptr() for parameter in captured.parameters()}


def test_a_run_fills_packs_up_and_captures_nothing_on_a_cpu():
    model = small_model(word_decoder_depth=1)
    set_up_blocks(model, RunConfig(bucket_tokens=256))
    transformers = [part for part in model.modules() if isinstance(part, Transformer)]
    assert [part.bucket_tokens for part in transformers] == [256] * 3
    with pytest.raises(ValueError, match=r"needs a CUDA device, got cpu; set run\.compile to"):
        set_up_blocks(model, RunConfig(compile="graphs", bucket_tokens=256))
    assert not runs_graphs(model)
