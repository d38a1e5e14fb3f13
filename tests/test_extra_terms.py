"""Loss terms of one's own over what the encoder made of a step."""

import pytest
import torch
from torch import nn

from simvtp.encoders import encode_pairs
from simvtp.layers import Block, PackedLayout, PackedTokens
from simvtp.losses import MASKED_TERMS, distillation_loss
from simvtp.objective import Objective
from simvtp.step_features import ExtraTerm
from simvtp.training import shard, whole
from testing.ranks import RANKS, run_ranks
from testing.sample_batches import samples_of, small_batch, small_collator, small_model
from testing.train_steps import split, train_step, weights_of

LENGTHS = [3, 7, 4, 9, 3]


class Projected(nn.Module):
    """A term with weights of its own over tokens, clips and captions."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(5)
        self.projection = nn.Linear(16, 4).double()

    def forward(self, features):
        tokens = self.projection(features.tubelets).square().mean()
        pairs = (
            self.projection(features.pooled_video) * self.projection(features.pooled_text)
        ).sum(-1)
        return tokens + pairs.mean()


def seen_by_a_term(model, batch, **options):
    """What a term is given, and the sequences of each of the encoder's calls."""
    seen, calls = [], []
    model.encoder.register_forward_hook(
        lambda module, inputs, output: calls.append(inputs[0].layout.num_sequences)
    )

    def note(features):
        seen.append(features)
        return features.batch.video.sum() * 0.0

    needs = options.pop("needs", ())
    result = Objective(model, extra_terms={"mine": ExtraTerm(1.0, note, needs)}, **options)(batch)
    assert result.terms["mine"] == 0
    return seen[0], calls


@pytest.mark.parametrize("sizes", [{}, {"text_encoder": "own"}, {"pooling": "mean_then_norm"}])
def test_features_are_those_of_the_model_and_cost_no_call(sizes):
    model, batch = small_model(**sizes), small_batch(LENGTHS)
    features, calls = seen_by_a_term(model, batch)
    assert calls == [15 if model.text_encoder is None else 10, 5]
    video = model.video_embedding(batch.video, batch.keep)
    layout = PackedLayout(batch.text_lengths, video.device)
    masked, clean = (
        PackedTokens(model.text_embedding(ids, layout.positions), layout)
        for ids in (batch.masked_ids, batch.token_ids)
    )
    encoded, rows = encode_pairs(model.encoder, video, masked)
    joint = model.encoder.normed(encoded.values)
    torch.testing.assert_close(features.joint.values, joint)
    visible, words = (joint[part] for part in rows.split([batch.keep.numel(), len(masked.values)]))
    torch.testing.assert_close(features.tubelets, visible.unflatten(0, batch.keep.shape))
    torch.testing.assert_close(features.words.values, words)
    assert features.words.layout.lengths == batch.text_lengths
    torch.testing.assert_close(features.pooled_joint, model.encoder.pool(encoded))
    alone = model.encoder.pool(model.encoder.encode_padded(video))
    torch.testing.assert_close(features.pooled_video, alone)
    encoder = model.encoder if model.text_encoder is None else model.text_encoder
    torch.testing.assert_close(features.pooled_text, encoder.pool(encoder(clean)))


@pytest.mark.parametrize("needs", [("joint",), ("video",), ("text",), ("video", "text")])
def test_what_a_term_needs_is_encoded_whatever_the_others_need(needs):
    off = dict.fromkeys(("pixel_weight", "word_weight", "vtc_weight", "vtm_weight"), 0.0)
    features, calls = seen_by_a_term(small_model(), small_batch(LENGTHS), needs=needs, **off)
    assert calls == [5 * len(needs)]
    for kind in ("joint", "video", "text"):
        if kind in needs:
            assert features.pooled(kind).shape == (5, 16)
        else:
            with pytest.raises(ValueError, match=rf"no {kind} sequences.*needs=\('{kind}',\)"):
                features.pooled(kind)


def test_a_term_is_weighed_balanced_and_measured_as_the_four_are():
    model, batch, outputs = small_model(), small_batch(LENGTHS), []
    extra = {"mine": ExtraTerm(2.0, Projected())}
    objective = Objective(model, vtm_weight=0, balance_gradients=True, extra_terms=extra)
    objective(batch, measure=True).total.backward()
    objective.balance.update()
    model.encoder.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    result = objective(batch)
    values, norms = outputs[0].values, {}
    for name, term in result.terms.items():
        (gradient,) = torch.autograd.grad(term, values, retain_graph=True)
        norms[name] = (values.detach().T @ gradient).norm() * result.details[f"weight {name}"]
    expected = {"pixels": 0.2, "words": 0.2, "vtc": 0.2, "mine": 0.4}
    assert norms.keys() == expected.keys()
    for name, share in expected.items():
        assert norms[name].item() == pytest.approx(share, rel=1e-4)
    plain = Objective(model, extra_terms=extra, vtm_weight=0)(batch)
    torch.testing.assert_close(plain.terms["mine"], result.terms["mine"])
    others = sum(plain.terms[name] for name in ("pixels", "words", "vtc"))
    torch.testing.assert_close(plain.total, others + 2 * plain.terms["mine"])


def test_a_stage_leaves_a_term_out_and_still_gives_its_weights_a_gradient():
    extra = {"mine": ExtraTerm(1.0, Projected(), needs=("joint",))}
    objective = Objective(small_model(), extra_terms=extra)
    result = objective(small_batch(LENGTHS), terms=MASKED_TERMS)
    assert set(result.terms) == set(MASKED_TERMS)
    result.total.backward()
    gradient = objective.extra_modules["mine"].projection.weight.grad
    assert gradient is not None
    assert not gradient.any()
    alone = objective(small_batch(LENGTHS), terms=["mine", "vtc"])
    assert set(alone.terms) == {"vtc", "mine"}


def build(*, sharded=False):
    objective = Objective(
        small_model(), negatives="random", extra_terms={"mine": ExtraTerm(1.0, Projected())}
    )
    if sharded:
        blocks = [part for part in objective.modules() if isinstance(part, Block)]
        shard(objective, blocks=blocks, methods=["contrast_features"])
    return objective


def learn(objective, samples, **options):
    """The term in the first of two steps of two micro-batches, and what both taught."""
    step = train_step(objective, **options)
    terms = [step(split(samples, parts=2), seed=0, number=n).terms.get("mine") for n in range(2)]
    return [terms[0], [whole(weight) for weight in weights_of(objective)]]


def learn_of_rank(rank):
    own = samples_of([5] * 8)[4 * rank : 4 * rank + 4]
    copied, sharded = (learn(build(sharded=sharded), own) for sharded in (False, True))
    return [copied, sharded, learn(build(), own, masked_steps=1)]


@pytest.mark.slow
def test_micro_batches_and_ranks_copied_or_sharded_learn_the_same(tmp_path):
    copied, sharded, staged = zip(*run_ranks(learn_of_rank, tmp_path), strict=True)
    for results in (copied, sharded, staged):
        for mine, theirs in zip(results[0][1], results[1][1], strict=True):
            assert torch.equal(mine, theirs)
    for mine, theirs in zip(copied[0][1], sharded[0][1], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-9)
    # Of equal sizes, the mean over micro-batches and ranks is that of all samples.
    objective = build()
    with torch.no_grad():
        parts = [small_collator()(samples_of([5] * 8)[place : place + 2]) for place in (0, 2, 4, 6)]
        expected = sum(objective(part).terms["mine"] for part in parts) / 4
    for results in (copied, sharded):
        torch.testing.assert_close(sum(result[0] for result in results) / RANKS, expected)


def test_a_term_of_weight_0_is_not_there():
    extra = {"mine": ExtraTerm(0.0, Projected())}
    objective = Objective(small_model(), extra_terms=extra)
    assert "mine" not in objective(small_batch(LENGTHS)).terms
    assert len(list(objective.parameters())) == len(list(objective.model.parameters()))


def test_a_student_approaches_its_frozen_teacher():
    teacher, student = small_model(seed=1), small_model(seed=2)
    samples = samples_of(LENGTHS[:4])

    def distill(features):
        with torch.no_grad():
            target = teacher.encode_video(features.batch.video)
        return distillation_loss(features.pooled_video, target)

    objective = Objective(student, extra_terms={"distill": ExtraTerm(1.0, distill, ("video",))})
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-2)
    losses = []
    for _ in range(8):
        term = objective(small_collator()(samples), terms=["distill"])
        term.total.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(term.terms["distill"].item())
    assert losses[-1] < 0.5 * losses[0]
    assert all(weight.grad is None for weight in teacher.parameters())


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"vtc": ExtraTerm(1.0, len)}, "a name of its own.*got 'vtc'"),
        ({"loss": ExtraTerm(1.0, len)}, "a name of its own.*got 'loss'"),
        ({"my term": ExtraTerm(1.0, len)}, "without blanks, got 'my term'"),
        ({"mine": ExtraTerm(-1.0, len)}, "weight of mine must be >= 0, got -1.0"),
        ({"mine": ExtraTerm(1.0, len, ("audio",))}, "needs of mine must be one of joint.*'audio'"),
    ],
)
def test_wrong_terms_are_refused(extra, message):
    with pytest.raises(ValueError, match=message):
        Objective(small_model(), extra_terms=extra)


def test_a_loss_that_is_no_single_number_is_refused():
    extra = {"mine": ExtraTerm(1.0, lambda features: features.pooled_video)}
    with pytest.raises(ValueError, match=r"the loss 'mine' must be a tensor \(\)"):
        Objective(small_model(), extra_terms=extra)(small_batch(LENGTHS))


def test_a_step_that_needs_nothing_is_refused():
    off = dict.fromkeys(("pixel_weight", "word_weight", "vtc_weight", "vtm_weight"), 0.0)
    objective = Objective(small_model(), extra_terms={"mine": ExtraTerm(1.0, len)}, **off)
    with pytest.raises(ValueError, match=r"got the terms \['mine'\], which need nothing"):
        objective(small_batch(LENGTHS))
