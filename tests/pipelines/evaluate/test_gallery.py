"""Embedded and matched clips: over views, over each query's best, over clips that all can read."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import normalize

from simvtp import SimVTP
from simvtp.config import DEFAULT_SPACING
from simvtp.data import CentreCrop, ViewDataset, load_manifest, read_clip
from simvtp.model_card import Stage
from simvtp.retrieval.gallery import embed_gallery, keep_clips, score
from simvtp.retrieval.methods import over_same_clips
from simvtp.retrieval.reranking import match_best, seen_in_training

CUT = {"num_frames": 4, "spacing": DEFAULT_SPACING}


@pytest.mark.parametrize("with_cosine", [False, True])
def test_reranking_stays_within_each_querys_own_best(model_folder, captioned, with_cosine):
    model = SimVTP.from_pretrained(model_folder)
    records = load_manifest(captioned)
    gallery = embed_gallery(model, records)
    cosine = (gallery.text @ gallery.video.T).double()
    matched = match_best(model, records, gallery, top=2, batch_size=3)
    scores = matched.by_matching_and_cosine() if with_cosine else matched.by_matching()
    crop, unused = CentreCrop(16), torch.Generator()
    options = {"num_frames": 4, "seconds": 0.25, "short_side": crop.short_side}
    clips = [crop(read_clip(r.path, **options), generator=unused) for r in records]
    for direction, own in (("text_to_video", cosine), ("video_to_text", cosine.T)):
        got = getattr(scores, direction)
        for query, row in enumerate(own.tolist()):
            best = sorted(range(len(row)), key=lambda item: -row[item])[:2]
            values = {}
            for item in best:
                text, clip = (query, item) if direction == "text_to_video" else (item, query)
                with torch.inference_mode():
                    values[item] = math.log(
                        (chance := model.match(clips[clip][None], gallery.captions[text]).item())
                        / (1 - chance)
                    )
                values[item] += row[item] / 0.05 if with_cosine else 0
            for item, value in enumerate(row):
                expected = 2 + values[item] - min(values.values()) if item in best else value
                assert got[query, item].item() == pytest.approx(expected, abs=1e-3)
                assert (got[query, item] >= 2) == (item in best)


def test_views_are_the_mean_of_unit_features(model_folder, corpus):
    model = SimVTP.from_pretrained(model_folder)
    records = load_manifest(corpus.validation)
    dataset = ViewDataset(records, **CUT, num_clips=3, num_crops=2, image_size=16)
    gallery = embed_gallery(model, records, views=(3, 2), batch_size=4)
    for number in range(len(records)):
        views = dataset[number].video
        assert views.shape[0] == 6
        with torch.inference_mode():
            features = [model.encode_video(view[None])[0].double() for view in views]
        total = sum(feature / feature.norm() for feature in features)
        torch.testing.assert_close(gallery.video[number].double(), total / total.norm())
    centre = embed_gallery(model, records)
    assert (centre.video - gallery.video).abs().max() > 1e-3
    middle = ViewDataset(records, **CUT, image_size=16)[0].video
    with torch.inference_mode():
        expected = model.encode_video(middle)[0]
    torch.testing.assert_close(centre.video[0], expected)


@pytest.mark.parametrize("views", [(1, 1), (2, 2)])
def test_a_gallery_is_the_same_whoever_decodes(model_folder, captioned, tmp_path, views):
    model = SimVTP.from_pretrained(model_folder)
    records = load_manifest(captioned)
    (bad := tmp_path / "bad.mp4").write_bytes(b"no video")
    records = [*records[:2], replace(records[2], path=bad), *records[3:5]]
    cut = {**CUT, "num_clips": views[0], "num_crops": views[1], "image_size": 16}
    good = [clip.video for clip in ViewDataset(records, **cut) if clip.video is not None]
    num_videos = 4 // len(good[0])
    # The batches of before: `num_videos` records each, the third of which cannot be read.
    batches = [[0, 1, 3], [4]] if num_videos == 4 else [[0], [1], [3], [4]]
    places = {number: place for place, number in enumerate([0, 1, 3, 4])}
    with torch.inference_mode():
        features = [
            model.encode_video(torch.cat([good[places[number]] for number in batch]))
            for batch in batches
        ]
    expected = torch.cat(features).unflatten(0, (4, -1))
    expected = expected[:, 0] if views == (1, 1) else normalize(expected.mean(dim=1), dim=-1)
    for num_workers in (0, 1):
        gallery = embed_gallery(model, records, views=views, batch_size=4, num_workers=num_workers)
        assert torch.equal(gallery.video, expected)
        assert gallery.clip_index.tolist() == [0, 1, 3, 4]
        assert gallery.unreadable == {2: "no video that FFmpeg knows, or a damaged one"}


def test_matching_is_averaged_over_views(model_folder, corpus):
    model = SimVTP.from_pretrained(model_folder)
    records = load_manifest(corpus.validation)[:2]
    gallery = embed_gallery(model, records, views=(2, 1))
    recipe = {"masking.video_ratio": 0.5}
    model.facts = model.facts.after(Stage(name="", data="", recipe=recipe, metrics={}))
    log_odds = match_best(model, records, gallery, top=9, views=(2, 1)).log_odds
    seen = seen_in_training(model)
    assert seen is not None
    views = {
        **CUT,
        "num_clips": 2,
        "num_crops": 1,
        "image_size": 16,
    }
    for clip, viewed in enumerate(ViewDataset(records, **views)):
        for text, caption in enumerate(gallery.captions):
            with torch.inference_mode():
                each = [
                    model.match_score(view[None], caption, seen=seen).item()
                    for view in viewed.video
                ]
            assert log_odds[text, clip].item() == pytest.approx(sum(each) / 2, abs=1e-5)


def test_clips_that_one_model_cannot_read_are_left_out_for_both(model_folder, captioned):
    model = SimVTP.from_pretrained(model_folder)
    records = load_manifest(captioned)
    kept = keep_clips(embed_gallery(model, records), {0, 2, 3, 99})
    part = embed_gallery(model, [records[number] for number in (0, 2, 3)])
    assert kept.clip_index.tolist() == [0, 2, 3]
    assert kept.captions == part.captions
    assert torch.equal(kept.positives, part.positives)
    torch.testing.assert_close(kept.video, part.video)
    torch.testing.assert_close(kept.text, part.text)
    results = [score(each.text @ each.video.T, each.positives) for each in (kept, part)]
    assert results[0] == results[1]
    # One model read 0, 2 and 3, the other 2, 3 and 5.
    other = keep_clips(embed_gallery(model, records), {2, 3, 5})
    galleries = [kept._replace(unreadable={5: "slow"}), other._replace(unreadable={0: "cut"})]
    for gallery in over_same_clips(galleries):
        assert gallery.clip_index.tolist() == [2, 3]
        assert list(gallery.unreadable.items()) == [(0, "cut"), (5, "slow")]
        assert gallery.captions == kept.captions[2:]
    with pytest.raises(ValueError, match="no clip can be read for all 2 models"):
        over_same_clips([keep_clips(kept, {0}), other])
