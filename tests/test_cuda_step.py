"""A whole step on a CUDA device never makes the host wait, and learns what the CPU learns."""

import pytest
import torch
from torch._dynamo.utils import counters

from simvtp.layers import compile_blocks, fill_packs, pack
from simvtp.losses import ContrastiveLoss
from simvtp.objective import Objective
from simvtp.pipelines.pretrain.step import PretrainStep
from simvtp.training import build_optimizer
from testing.sample_batches import samples_of, small_collator, small_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

MAX_TEXT = 48
# Heads of a width that fused attention kernels take.
SIZES = {
    "max_text_length": MAX_TEXT,
    "width": 64,
    "num_heads": 2,
    "decoder_width": 32,
    "decoder_heads": 2,
}


def make_batches(lengths, *, seed):
    """Two micro-batches on the host."""
    generator = torch.Generator().manual_seed(seed)
    samples = [
        sample._replace(noise=torch.rand(16 + MAX_TEXT, generator=generator))
        for sample in samples_of(lengths, seed=seed)
    ]
    half, collate = len(samples) // 2, small_collator()
    return [collate(samples[:half]), collate(samples[half:])]


def make_step(device, *, precision, contrast_over, text_dropout=0.0, bucket=0, **options):
    """A step; with a bucket its transformers run as CUDA graphs."""
    model = small_model(text_dropout=text_dropout, **SIZES).float().to(device)
    if bucket:
        compile_blocks(model, graphs=True)
        fill_packs(model, bucket)
    objective = Objective(model, **options).to(device).train()
    optimizer = build_optimizer(objective, lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.05)
    return PretrainStep(
        objective, optimizer=optimizer, precision=precision, contrast_over=contrast_over
    )


def weights_of(step):
    return [parameter.detach().cpu().clone() for parameter in step.objective.parameters()]


def run_without_waiting(step, micro_batches):
    """A step in which whatever makes the host wait for the device is an error."""
    pinned = [batch.pin_memory() for batch in micro_batches]
    torch.cuda.synchronize()
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        result = step(pinned, seed=1)
        with pytest.raises(RuntimeError, match="synchroniz"):
            result.total.item()
    finally:
        torch.cuda.set_sync_debug_mode(mode)
    torch.cuda.synchronize()
    return result


# Torch says of the mode that it does not detect all waits yet.
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype feature")
@pytest.mark.parametrize("contrast_over", ["micro_batch", "step"])
@pytest.mark.parametrize("negatives", ["hard", "random"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_does_not_make_the_host_wait(precision, negatives, contrast_over):
    step = make_step(
        torch.device("cuda"),
        precision=precision,
        contrast_over=contrast_over,
        negatives=negatives,
        contrast=ContrastiveLoss(learn=True),
        text_dropout=0.1,
    )
    # Other lengths, so that nothing kept from the warm-up serves the step under test. More than
    # 3,072 words take another path in the backward pass of torch's embedding.
    warm_up = make_batches([5, 9, 30, 12, 7, 33], seed=0)
    batches = make_batches([*range(20, 44), *[38] * 150], seed=1)
    step([batch.pin_memory() for batch in warm_up], seed=0)
    before = weights_of(step)
    result = run_without_waiting(step, batches)
    assert result.finite.item()
    assert set(result.terms) == {"pixels", "words", "vtc", "vtm"}
    assert all(torch.isfinite(term) for term in result.terms.values())
    assert result.gradient_norm > 0
    for start, end in zip(before, weights_of(step), strict=True):
        assert end.dtype == torch.float32
        assert torch.isfinite(end).all()
        assert not torch.equal(start, end)


@pytest.mark.parametrize("contrast_over", ["micro_batch", "step"])
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 5e-3), ("bf16", 5e-2)])
def test_a_step_comes_to_what_it_comes_to_on_the_cpu(precision, tolerance, contrast_over):
    """Up to the negatives, which each device draws from a generator of its own."""
    batches = make_batches([5, 9, 30, 12, 7, 33, 21, 5], seed=2)
    results = {
        device: make_step(
            torch.device(device),
            precision=precision if device == "cuda" else "fp32",
            contrast_over=contrast_over,
            vtm_weight=0,
        )(batches, seed=0)
        for device in ("cuda", "cpu")
    }
    for name, expected in results["cpu"].terms.items():
        got = results["cuda"].terms[name].item()
        assert got == pytest.approx(expected.item(), rel=tolerance), name
    norms = [results[device].gradient_norm.item() for device in ("cuda", "cpu")]
    assert norms[0] == pytest.approx(norms[1], rel=4 * tolerance)


def test_lengths_seen_in_an_evaluation_can_be_trained_on():
    """What is kept for the lengths of a pack must not be of torch's inference mode."""
    encoder = small_model(**SIZES).float().cuda().encoder
    tokens = [torch.randn(length, SIZES["width"], device="cuda") for length in (45, 46, 47)]
    with torch.inference_mode():
        evaluated = encoder(pack(tokens)).values
    trained = encoder(pack(tokens)).values
    trained.sum().backward()
    torch.testing.assert_close(trained, evaluated.clone())
    assert all(parameter.grad is not None for parameter in encoder.parameters())


def captions(number):
    """Other lengths in each step, of eight captions."""
    generator = torch.Generator().manual_seed(number)
    return torch.randint(5, 34, (8,), generator=generator).tolist()


@pytest.fixture
def captures(monkeypatch):
    """The function of each CUDA graph that is captured."""
    from torch._inductor.cudagraph_trees import CUDAGraphTreeManager

    captured, record = [], CUDAGraphTreeManager.record_function

    def noted(self, inputs, function_id):
        captured.append(function_id)
        return record(self, inputs, function_id)

    monkeypatch.setattr(CUDAGraphTreeManager, "record_function", noted)
    torch.compiler.reset()
    counters.clear()
    return captured


@pytest.mark.parametrize("contrast_over", ["micro_batch", "step"])
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 5e-3), ("bf16", 5e-2)])
def test_captured_steps_learn_what_others_learn(precision, tolerance, contrast_over, captures):
    plain, captured = (
        make_step(
            torch.device("cuda"),
            precision=precision,
            contrast_over=contrast_over,
            negatives="random",
            bucket=bucket,
        )
        for bucket in (0, 64)
    )
    for number in range(12):
        batches = make_batches(captions(number), seed=number)
        want, got = (step(batches, seed=number) for step in (plain, captured))
        for name, value in want.terms.items():
            assert got.terms[name].item() == pytest.approx(value.item(), rel=tolerance), name
        norms = [result.gradient_norm.item() for result in (got, want)]
        assert norms[0] == pytest.approx(norms[1], rel=4 * tolerance)
    assert captures
    assert not counters["inductor"]["cudagraph_skips"]


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype feature")
@pytest.mark.parametrize("negatives", ["hard", "random"])
def test_steps_of_one_bucket_are_captured_once_and_then_never_wait(negatives, captures):
    step = make_step(
        torch.device("cuda"),
        precision="bf16",
        contrast_over="step",
        negatives=negatives,
        # More than a micro-batch has, whatever its captions.
        bucket=1024,
    )
    for number in range(10):
        step(make_batches(captions(number), seed=number), seed=number)
    captured = len(captures)
    assert captured
    for number in range(10, 30):
        result = run_without_waiting(step, make_batches(captions(number), seed=number))
        assert result.finite.item()
    assert len(captures) == captured
    assert not counters["inductor"]["cudagraph_skips"]
