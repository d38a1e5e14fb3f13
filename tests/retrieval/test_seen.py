"""Matching sees clips as its training did: a part of the tubes at a time."""

from dataclasses import replace

import pytest
import torch

from simvtp import ModelConfig, SimVTP
from simvtp.layers import PackedLayout, PackedTokens, pack
from simvtp.model_card import Stage
from simvtp.retrieval.reranking import seen_in_training

CONFIG = ModelConfig.preset("tiny", num_frames=4, image_size=64, patch_size=16, vocab_size=20)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return SimVTP.from_config(CONFIG).eval()


def stage(**recipe):
    return Stage(name="training", data="clips", recipe=recipe, metrics={})


def test_log_odds_are_the_mean_over_the_parts(model):
    video = torch.randint(0, 256, (2, 4, 3, 64, 64), dtype=torch.uint8)
    ids = torch.tensor([[2, 7, 9, 3], [2, 8, 3, 0]])
    attend = ids != 0
    seen = torch.tensor([[0, 5, 16, 21], [3, 4, 19, 20], [1, 2, 17, 18]])
    with torch.inference_mode():
        expected = []
        for clip, words, real in zip(video, ids, attend, strict=True):
            layout = PackedLayout((int(real.sum()),), video.device)
            text = model.text_embedding(words[real], layout.positions)
            odds = []
            for part in seen:
                tokens = model.video_embedding(clip[None], part[None])[0]
                encoded = model.encoder(pack([torch.cat([tokens, text])]))
                pooled = model.encoder.pool(PackedTokens(encoded.values, encoded.layout))
                no, yes = model.match_head(pooled)[0].double().tolist()
                odds.append(yes - no)
            expected.append(sum(odds) / len(odds))
        scores = model.match_score(video, ids, attend=attend, seen=seen)
    assert scores.tolist() == pytest.approx(expected, abs=1e-5)


def test_parts_follow_the_latest_training(model):
    pretrained = stage(**{"masking.video_ratio": 0.75})
    for stages, parts in (
        ((), None),
        ((pretrained,), (4, 2 * 4)),
        ((stage(**{"masking.video_ratio": 0.9}),), (8, 2 * 2)),
        ((stage(**{"masking.video_ratio": 0.0}),), None),
        # Fine-tuning for retrieval hides nothing.
        ((pretrained, stage(**{"tune.layer_decay": 0.7})), None),
    ):
        model.facts = replace(model.facts, stages=stages)
        seen = seen_in_training(model)
        assert (None if seen is None else tuple(seen.shape)) == parts
        if seen is not None:
            assert torch.equal(seen, seen_in_training(model))
