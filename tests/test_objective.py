from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import simvtp.objective
from benchmarks.reference import contrast, reference_features, reference_losses
from simvtp.layers import PackedLayout, PackedTokens
from simvtp.losses import MASKED_TERMS, ContrastiveLoss, Negatives
from simvtp.objective import Objective
from testing.sample_batches import samples_of, small_batch, small_collator, small_model


@pytest.fixture
def next_video_is_negative(monkeypatch):
    def sample(keys, **_):
        return Negatives((torch.arange(len(keys)) + 1) % len(keys), keys == keys)

    monkeypatch.setattr(simvtp.objective, "sample_negatives", sample)


@pytest.mark.parametrize(
    ("lengths", "sizes"),
    [
        ([3, 7, 4, 9, 3], {}),
        ([2, 2], {"decoder_depth": 0}),
        ([0, 5, 1], {"decoder_depth": 3, "pixel_target": "raw"}),
        ([4, 2, 6], {"pooling": "mean_then_norm"}),
        ([5, 1, 3], {"extra_tokens": 2}),
    ],
)
def test_losses_and_gradients_are_those_of_the_formulas(lengths, sizes, next_video_is_negative):
    model, batch = small_model(**sizes), small_batch(lengths)
    result = Objective(model)(batch)
    negatives = (torch.arange(len(lengths)) + 1) % len(lengths)
    expected = reference_losses(model, batch, negatives=negatives)
    assert set(result.terms) == set(expected)
    for name, loss in expected.items():
        # Targets and tables are float32 on both sides, the rest float64.
        torch.testing.assert_close(result.terms[name], loss, rtol=1e-6, atol=1e-7)
        parameters = list(model.parameters())
        got = torch.autograd.grad(
            result.terms[name], parameters, allow_unused=True, retain_graph=True
        )
        want = torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True)
        for mine, theirs in zip(got, want, strict=True):
            zero = torch.zeros(())
            mine, theirs = (zero if part is None else part for part in (mine, theirs))
            assert (mine - theirs).norm() <= 1e-5 * theirs.norm() + 1e-9
    torch.testing.assert_close(result.total, sum(result.terms.values()))


def test_weights_scale_the_total():
    model, batch = small_model(), small_batch([3, 4, 5])
    weights = {"pixel_weight": 2.0, "word_weight": 0.5, "vtc_weight": 3.0, "vtm_weight": 0.1}
    objective = Objective(model, **weights)
    result = objective(batch, generator=torch.Generator().manual_seed(0))
    terms = [result.terms[name] for name in ("pixels", "words", "vtc", "vtm")]
    expected = sum(w * term for w, term in zip(weights.values(), terms, strict=True))
    torch.testing.assert_close(result.total, expected)


@pytest.mark.parametrize(
    ("off", "left", "calls"),
    [
        (("vtc", "vtm", "word"), {"pixels"}, [3]),
        (("vtm",), {"pixels", "words", "vtc"}, [9]),
        (("pixel", "word", "vtm"), {"vtc"}, [6]),
        (("vtc",), {"pixels", "words", "vtm"}, [6]),
        ((), {"pixels", "words", "vtc", "vtm"}, [9, 3]),
    ],
)
def test_a_loss_that_is_off_costs_no_pass(off, left, calls):
    model, batch = small_model(), small_batch([3, 4, 5])
    sequences = []
    model.encoder.register_forward_hook(
        lambda module, inputs, output: sequences.append(inputs[0].layout.num_sequences)
    )
    result = Objective(model, **{f"{name}_weight": 0.0 for name in off})(batch)
    assert set(result.terms) == left
    assert sequences == calls


def test_the_encoder_sees_no_padding_and_no_dropped_tubelet():
    model, batch = small_model(), small_batch([3, 7])
    seen = []
    model.encoder.register_forward_hook(
        lambda module, inputs, output: seen.append(inputs[0].layout.total_tokens)
    )
    Objective(model)(batch)
    video, text = batch.keep.numel(), len(batch.token_ids)
    assert seen == [(video + text) + video + text, video + text]
    assert text == 3 + 7 + 4


@settings(max_examples=15)
@given(lengths=st.lists(st.integers(1, 8), min_size=2, max_size=5), seed=st.integers(0, 99))
def test_reconstruction_of_a_clip_does_not_depend_on_its_batch_mates(lengths, seed):
    model = small_model()
    objective = Objective(model, vtc_weight=0, vtm_weight=0)
    samples = samples_of(lengths, seed=seed)
    collate = small_collator()
    together = objective(collate(samples)).terms
    alone = [collate([sample]) for sample in samples]
    losses = [objective(batch).terms for batch in alone]
    words = [len(batch.masked_index) for batch in alone]
    pixels = sum(loss["pixels"] for loss in losses) / len(losses)
    torch.testing.assert_close(together["pixels"], pixels)
    total = sum(loss["words"] * count for loss, count in zip(losses, words, strict=True))
    torch.testing.assert_close(together["words"], total / sum(words))


def test_gradients_reach_every_parameter():
    model = small_model(word_decoder_depth=1)
    objective = Objective(model, contrast=ContrastiveLoss(learn=True))
    objective(small_batch([3, 4, 5])).total.backward()
    missing = [
        name
        for name, parameter in objective.named_parameters()
        if parameter.grad is None or not parameter.grad.any()
    ]
    assert missing == []


@pytest.mark.parametrize("negatives", ["hard", "random"])
def test_a_generator_decides_the_losses(negatives):
    model, batch = small_model(), small_batch([3, 4, 5, 6])
    objective = Objective(model, negatives=negatives)
    runs = [
        [objective(batch, generator=torch.Generator().manual_seed(seed)).total for seed in range(9)]
        for _ in range(2)
    ]
    assert runs[0] == runs[1]
    assert len({loss.item() for loss in runs[0]}) > 1


@pytest.mark.parametrize("lengths", [[4], [0], [0, 0]])
def test_batches_without_negatives_or_words_have_finite_losses(lengths):
    model = small_model()
    result = Objective(model)(small_batch(lengths))
    result.total.backward()
    assert torch.isfinite(result.total)
    if lengths == [4]:
        assert result.terms["vtm"] == 0
    else:
        assert result.terms["words"] == 0
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_a_batch_with_nothing_hidden_has_no_pixel_error():
    result = Objective(small_model())(small_collator(video_ratio=0.0)(samples_of([3, 7])))
    result.total.backward()
    assert result.terms["pixels"] == 0
    assert result.total.isfinite()


def test_the_contrastive_pass_can_see_the_masked_caption():
    model, batch = small_model(), small_batch([5, 6, 7])
    as_masked = replace(batch, token_ids=batch.masked_ids)
    for seen, caption in ((batch, "clean"), (as_masked, "masked")):
        loss = Objective(model, contrast_text=caption)(batch).terms["vtc"]
        expected = contrast(*reference_features(model, seen), 0.05)
        torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-7)
    assert (batch.token_ids != batch.masked_ids).any()


def test_num_words_makes_micro_batches_add_up():
    model = small_model()
    objective = Objective(model, vtc_weight=0, vtm_weight=0, pixel_weight=0)
    samples, collate = samples_of([1, 8, 2, 7]), small_collator()
    whole = objective(collate(samples)).terms["words"]
    parts = [collate(samples[:2]), collate(samples[2:])]
    mean_count = sum(len(part.masked_index) for part in parts) / 2
    losses = [objective(part, num_words=mean_count).terms["words"] for part in parts]
    torch.testing.assert_close(sum(losses) / 2, whole)


def test_clean_captions_in_matching_leave_the_other_terms_as_they_are(next_video_is_negative):
    model, batch = small_model(), small_batch([3, 7, 4, 9, 3])
    plain, clean = Objective(model)(batch), Objective(model, match_text="clean")(batch)
    for name in ("pixels", "words", "vtc"):
        torch.testing.assert_close(clean.terms[name], plain.terms[name])
    captions = PackedTokens(
        batch.token_ids, PackedLayout(batch.text_lengths, batch.token_ids.device)
    )
    words = PackedTokens(
        model.text_embedding(captions.values, captions.layout.positions), captions.layout
    )
    videos = model.video_embedding(batch.video, batch.keep)
    order = (torch.arange(5) + 1) % 5
    matched, unmatched = (
        model.match_head(model.pool_joint(clips, words)) for clips in (videos, videos[order])
    )
    log_chances = [logits.log_softmax(dim=1) for logits in (matched, unmatched)]
    expected = -(log_chances[0][:, 1].sum() + log_chances[1][:, 0].sum()) / 10
    torch.testing.assert_close(clean.terms["vtm"].double(), expected.double(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("match_text", "calls"), [("masked", [9, 3]), ("clean", [12, 3])], ids=["masked", "clean"]
)
def test_clean_captions_in_matching_cost_one_pass_of_their_own(match_text, calls):
    model, batch = small_model(), small_batch([3, 4, 5])
    sequences = []
    model.encoder.register_forward_hook(
        lambda module, inputs, output: sequences.append(inputs[0].layout.num_sequences)
    )
    Objective(model, match_text=match_text)(batch)
    assert sequences == calls


def test_a_stage_computes_its_terms_alone_and_gives_every_parameter_a_gradient():
    model, batch = small_model(text_encoder="own"), small_batch([3, 4, 5])
    objective, sequences = Objective(model), []
    model.encoder.register_forward_hook(
        lambda module, inputs, output: sequences.append(inputs[0].layout.num_sequences)
    )
    result = objective(batch, terms=MASKED_TERMS)
    assert set(result.terms) == {"pixels", "words"}
    assert sequences == [3]
    torch.testing.assert_close(result.total, result.terms["pixels"] + result.terms["words"])
    result.total.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert not model.match_head.weight.grad.any()


@pytest.mark.parametrize("negatives", ["hard", "random"])
@pytest.mark.parametrize("match_text", ["masked", "clean"])
def test_balanced_terms_have_their_shares_of_the_gradient_on_the_encoder(match_text, negatives):
    model, batch = small_model(), small_batch([3, 7, 4, 9, 3])
    shares = {"pixel_weight": 2.0, "word_weight": 1.0, "vtc_weight": 0.5, "vtm_weight": 0.5}
    choices = {"match_text": match_text, "negatives": negatives}
    objective = Objective(model, balance_gradients=True, **choices, **shares)
    first = objective(batch, measure=True, generator=torch.Generator().manual_seed(0))
    first.total.backward()
    objective.balance.update()
    outputs = []
    model.encoder.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    result = objective(batch, generator=torch.Generator().manual_seed(0))
    values = [output.values for output in outputs]
    found = []
    for name, term in result.terms.items():
        gradients = torch.autograd.grad(term, values, retain_graph=True, allow_unused=True)
        on_layer = sum(
            part.detach().T @ gradient
            for part, gradient in zip(values, gradients, strict=True)
            if gradient is not None
        )
        found.append(on_layer.norm() * result.details[f"weight {name}"])
        torch.testing.assert_close(
            result.details[f"gradient {name}"].double(), on_layer.norm(), rtol=1e-4, atol=0
        )
    expected = torch.tensor([2.0, 1.0, 0.5, 0.5]).double() / 4
    torch.testing.assert_close(torch.stack(found).double(), expected, rtol=1e-4, atol=1e-6)
    weights = [result.details[f"weight {name}"] for name in result.terms]
    total = sum(weight * term for weight, term in zip(weights, result.terms.values(), strict=True))
    torch.testing.assert_close(result.total, total)
