"""The losses of each source's clips, re-derived clip by clip, and that nothing learnt changes."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from simvtp.batch import Batch, Collator
from simvtp.layers import gather_tubelets
from simvtp.losses import ContrastiveLoss, Losses, cache_contrast, tubelet_targets
from simvtp.objective import Objective
from simvtp.pipelines.pretrain import PretrainStep
from simvtp.trainer.log_interval import LogInterval
from simvtp.training import build_optimizer
from testing.sample_batches import samples_of, small_collator, small_model

LENGTHS = [3, 7, 4, 9, 3, 2]
# Clips 0 and 1 are of the first source, none is of the second.
ENDS = (2, 2, 6)


def collator() -> Collator:
    plain = small_collator()
    return Collator(plain.tube_masker, text_masker=plain.text_masker, source_ends=ENDS)


def mixed_batch(seed: int = 0) -> Batch:
    return collator()(samples_of(LENGTHS, seed=seed))


def test_a_batch_says_which_clip_is_of_which_source():
    batch = mixed_batch()
    assert batch.sources is not None
    want = [[1.0, 0.0, 0.0] if clip < 2 else [0.0, 0.0, 1.0] for clip in batch.index.tolist()]
    assert batch.sources.tolist() == want
    assert small_collator()(samples_of(LENGTHS)).sources is None


def losses_of(batch: Batch, **settings: object) -> Losses:
    generator = torch.Generator().manual_seed(0)
    return Objective(small_model(), **settings)(batch, generator=generator)


def test_sums_over_the_sources_are_the_losses():
    losses = losses_of(mixed_batch())
    assert set(losses.by_source) == {"clips", *losses.terms}
    assert losses.by_source["clips"][0].tolist() == [2, 0, 4]
    for term in ("pixels", "words", "vtm"):
        sums, weights = losses.by_source[term]
        torch.testing.assert_close(
            sums.sum() / weights.sum(), losses.terms[term], check_dtype=False
        )
        assert weights[1] == sums[1] == 0
    # Half of the contrastive loss is not the captions'.
    assert 0 < losses.by_source["vtc"][0].sum() / 6 < losses.terms["vtc"]


def test_nothing_that_is_learnt_changes():
    batch = mixed_batch()
    mixed, plain = losses_of(batch), losses_of(replace(batch, sources=None))
    assert torch.equal(mixed.total, plain.total)
    assert not plain.by_source


def test_a_sources_pixels_words_and_captions_are_those_of_its_clips():
    """Each clip's own prediction, one after the other."""
    batch, model = mixed_batch(), small_model()
    objective = Objective(model, vtm_weight=0.0)
    seen: dict[str, torch.Tensor] = {}
    model.pixel_decoder.register_forward_hook(lambda *call: seen.update(pixels=call[2]))
    model.word_decoder.register_forward_hook(lambda *call: seen.update(words=call[2]))
    with torch.no_grad():
        losses = objective(batch)
    video, text = (
        functional.normalize(each, dim=-1) for each in objective.contrast_features(batch)
    )
    tubelets = gather_tubelets(batch.video, batch.decode, tubelet=model.config.tubelet)
    targets = tubelet_targets(tubelets)
    words = batch.token_ids[batch.masked_index]
    clip_of_token = [clip for clip, length in enumerate(batch.text_lengths) for _ in range(length)]
    clip_of_word = [clip_of_token[row] for row in batch.masked_index.tolist()]
    sums = {term: [0.0] * 3 for term in ("pixels", "words", "vtc")}
    for clip, index in enumerate(batch.index.tolist()):
        source = 0 if index < 2 else 2
        error = (seen["pixels"][clip] - targets[clip]).square().mean()
        sums["pixels"][source] += float(error)
        for place, of in enumerate(clip_of_word):
            if of == clip:
                log = seen["words"][place].log_softmax(-1)
                sums["words"][source] -= float(log[words[place]])
        scores = torch.stack([text[clip] @ other for other in video]) / 0.05
        sums["vtc"][source] -= float(scores.log_softmax(0)[clip])
    for term, want in sums.items():
        assert losses.by_source[term][0].tolist() == pytest.approx(want, rel=1e-5)


def test_captions_over_several_micro_batches_are_noted_too():
    batch = mixed_batch()
    objective = Objective(small_model(), vtm_weight=0.0, contrast=ContrastiveLoss())
    features = objective.contrast_features(batch)
    (cached,) = cache_contrast(*([each] for each in features), keys=[batch.keys])
    once = objective(batch).by_source["vtc"]
    torch.testing.assert_close(objective(batch, cached=cached).by_source["vtc"], once)


def test_the_log_shows_means_over_all_clips_of_an_interval():
    model = small_model()
    objective = Objective(model, vtm_weight=0.0)
    optimizer = build_optimizer(objective, lr=0.0, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0)
    step = PretrainStep(objective, optimizer=optimizer, sources=("web", "none", "own"))
    interval = LogInterval()
    batches = [[mixed_batch(0), mixed_batch(1)], [mixed_batch(2), mixed_batch(3)]]
    for number, micro_batches in enumerate(batches):
        interval.add(step(micro_batches, seed=number), samples=[0], flops=None)
    figures, finite = interval.read()
    assert all(finite)
    values = interval.means(figures)
    found = [objective(batch).by_source for batches in batches for batch in batches]
    assert [values[f"clips {name}"] for name in ("web", "none", "own")] == [4, 0, 8]
    for term in ("pixels", "words", "vtc"):
        sums, weights = torch.stack([each[term] for each in found]).sum(dim=0)
        assert values[f"{term} web"] == pytest.approx(float(sums[0] / weights[0]), rel=1e-5)
        assert values[f"{term} none"] != values[f"{term} none"]
        assert f"{term} web" in interval.details
    # A resume goes on within the interval.
    resumed = LogInterval()
    resumed.load_state_dict(interval.state_dict(_Alone()), device=torch.device("cpu"))
    assert resumed.means(resumed.read()[0]) == pytest.approx(values, nan_ok=True)


class _Alone:
    def gather(self, value: object) -> list[object]:
        return [value]
