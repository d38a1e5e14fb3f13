"""What was learned, against loops over clips, tubelets and words in float64."""

import math
from dataclasses import replace

import pytest
import torch

from simvtp import SimVTP
from simvtp.data import ClipRecord, load_manifest, train_tokenizer
from simvtp.data.datasets.clip_batches import clip_batches
from simvtp.masking import TubeMask
from simvtp.metrics import area_under_curve
from simvtp.pipelines.learned import measure_learned, measure_pixels, measures
from simvtp.pipelines.learned.figures import (
    Figure,
    Learned,
    MatchedPairs,
    learned_table,
    pair_figures,
    pixel_figures,
)
from simvtp.pipelines.learned.pixel_errors import TubeletErrors, tubelet_errors
from simvtp.printing import Console
from simvtp.retrieval.reranking import seen_in_training
from testing.sample_batches import small_config

RATIOS = {"video_ratio": 0.5, "text_ratio": 0.5}


@pytest.fixture(scope="module")
def records(corpus, tmp_path_factory):
    """Six clips, and between them one that is no video."""
    broken = tmp_path_factory.mktemp("broken") / "x.mp4"
    broken.write_text("no video")
    found = list(load_manifest(corpus.validation))
    return [*found[:2], ClipRecord("broken", broken, ("nothing",)), *found[2:]]


@pytest.fixture(scope="module")
def model(corpus):
    torch.manual_seed(0)
    tokenizer = train_tokenizer(load_manifest(corpus.train).captions())
    config = small_config(vocab_size=tokenizer.get_vocab_size(), max_text_length=32)
    model = SimVTP.from_config(config, tokenizer=tokenizer)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.25)
    return model.double().eval()


@pytest.fixture(scope="module")
def masks(model, records):
    """Clips, tubes, captions and partners as the measurement with seed 0 draws them."""
    kept = {}
    original = measures._fill_in_all

    def keep(model, video, **settings):
        kept.update(settings, video=video)
        return original(model, video, **settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measures, "_fill_in_all", keep)
        kept["measured"] = measure_learned(model, records, top=3, batch_size=4, **RATIOS)
    return kept


def filled_in(model, masks, clip, caption):
    """Predictions of one clip's pixels and one caption's words, and what those are."""
    captions, tubes = masks["captions"], masks["tubes"]
    length = int(captions.lengths[caption])
    ids = captions.hidden.token_ids[caption, :length]
    hidden = captions.hidden.masked[caption, :length].nonzero().flatten()
    words = model.text_embedding(ids)
    tokens = words
    if clip is not None:
        keep = tubes.keep[clip][None]
        seen = model.video_embedding(masks["video"][clip][None], keep)[0]
        tokens = torch.cat([seen, words])
    encoded = model.encoder.normed(model.encoder.encode_padded(tokens[None]))[0]
    guesses = [
        int(model.word_decoder.head(encoded[len(tokens) - length + place]).argmax())
        for place in hidden.tolist()
    ]
    right = sum(
        guess == int(captions.ids[caption, place])
        for guess, place in zip(guesses, hidden.tolist(), strict=True)
    )
    pixels = None
    if clip is not None:
        seen = encoded[: keep.shape[1]][None]
        pixels = model.pixel_decoder(seen, keep=keep, decode=tubes.drop[clip][None])[0]
    return pixels, right, len(hidden)


def tubelet(video, number, config):
    """Pixels `(channels, values)` float64 in [0, 1] of one tubelet of a clip."""
    _, rows, columns = config.grid
    frames, height, width = config.tubelet
    time, place = divmod(number, rows * columns)
    row, column = divmod(place, columns)
    part = video[
        time * frames : (time + 1) * frames,
        :,
        row * height : (row + 1) * height,
        column * width : (column + 1) * width,
    ]
    return part.transpose(0, 1).flatten(1).double() / 255


def normalized(pixels):
    std = pixels.std(dim=1, keepdim=True) + 1e-6
    return (pixels - pixels.mean(dim=1, keepdim=True)) / std


@torch.no_grad()
def test_pixels_and_words_equal_loops(model, masks):
    config, tubes, video = model.config, masks["tubes"], masks["video"]
    found = masks["measured"].as_dict()
    sums = dict.fromkeys(("own", "other", "mean", "copied", "drawn", "flat"), 0.0)
    right = {"own": 0, "other": 0, "none": 0}
    num_tubelets = num_words = 0
    for clip, partner in enumerate(masks["partner"].tolist()):
        assert clip != partner
        own, hits, count = filled_in(model, masks, clip, clip)
        other, other_hits, _ = filled_in(model, masks, clip, partner)
        right["own"] += hits
        right["other"] += other_hits
        right["none"] += filled_in(model, masks, None, clip)[1]
        num_words += count
        keep = tubes.keep[clip].tolist()
        places = [torch.tensor(torch.unravel_index(torch.tensor(k), config.grid)) for k in keep]
        for number, dropped in enumerate(tubes.drop[clip].tolist()):
            truth = tubelet(video[clip], dropped, config)
            target = normalized(truth)
            place = torch.tensor(torch.unravel_index(torch.tensor(dropped), config.grid))
            distances = [(place - seen).double().norm().item() for seen in places]
            nearest = keep[distances.index(min(distances))]
            weights = torch.tensor([(d + 1e-3) ** -4 for d in distances]).double()
            near = torch.stack([tubelet(video[clip], k, config) for k in keep])
            share = (weights / weights.sum())[:, None, None]
            mean = (share * near.mean(dim=2, keepdim=True)).sum(dim=0)
            std = (share * (near.std(dim=2, keepdim=True) + 1e-6)).sum(dim=0)
            guess = own[number].unflatten(0, (-1, 3)).T
            values = {
                "own": guess - target,
                "other": other[number].unflatten(0, (-1, 3)).T - target,
                "mean": target - target.mean(dim=1, keepdim=True),
                "copied": normalized(tubelet(video[clip], nearest, config)) - target,
                "drawn": (guess * std + mean).clamp(0, 1) - truth,
                "flat": mean - truth,
            }
            for name, difference in values.items():
                sums[name] += difference.square().mean().item()
            num_tubelets += 1
    expected = {
        "pixel error": sums["own"],
        "pixel error: another caption": sums["other"],
        "pixel error: patch mean floor": sums["mean"],
        "pixel error: nearest patch floor": sums["copied"],
        "pixel error as drawn": sums["drawn"],
        "pixel error as drawn: flat patch floor": sums["flat"],
    }
    for name, total in expected.items():
        assert found[name] == pytest.approx(total / num_tubelets, rel=1e-4), name
    assert found["word accuracy"] == pytest.approx(right["own"] / num_words)
    assert found["word accuracy: another video"] == pytest.approx(right["other"] / num_words)
    assert found["word accuracy: no video"] == pytest.approx(right["none"] / num_words)


@torch.no_grad()
def test_matching_and_reranking_equal_loops(model, records, masks):
    readable = [record for record in records if record.video_id != "broken"]
    found = masks["measured"].as_dict()
    captions = [record.captions[0] for record in readable]
    video = torch.cat(
        [batch.video for batch in clip_batches(model, readable, batch_size=6, num_workers=0)]
    )
    cosine = (model.encode_text(captions) @ model.encode_video(video).T).tolist()
    seen = seen_in_training(model)
    odds = [
        [model.match_score(clip[None], caption, seen=seen).item() for clip in video]
        for caption in captions
    ]
    size = len(captions)
    own = [odds[i][i] for i in range(size)]
    random = [odds[caption][clip] for clip, caption in enumerate(masks["partner"].tolist())]
    best = [sorted(range(size), key=lambda clip: -row[clip])[:3] for row in cosine]
    hard = [odds[i][clip] for i in range(size) for clip in best[i] if clip != i]

    def area(others):
        wins = [(a > b) + 0.5 * (a == b) for a in own for b in others]
        return sum(wins) / len(wins)

    assert found["matching AUC, random clip"] == pytest.approx(area(random))
    assert found["matching AUC, top 3 by cosine"] == pytest.approx(area(hard))
    for name, value in (
        ("matching alone", lambda i, clip: odds[i][clip]),
        ("matching and cosine", lambda i, clip: odds[i][clip] + cosine[i][clip] / 0.05),
    ):
        first = [max(best[i], key=lambda clip, i=i: value(i, clip)) for i in range(size)]
        hits = sum(first[i] == i for i in range(size)) / size
        assert found[f"recall@1 by {name}"] == pytest.approx(hits)
    hits = sum(best[i][0] == i for i in range(size)) / size
    assert found["recall@1 by cosine"] == pytest.approx(hits)
    assert found["recall@1 by cosine: chance"] == pytest.approx(1 / size)


def test_batches_change_nothing_and_the_seed_does(model, records, masks):
    again = measure_learned(model, records, top=3, batch_size=5, **RATIOS)
    assert again.as_dict() == pytest.approx(masks["measured"].as_dict(), rel=1e-6)
    assert again.num_clips == len(records) - 1
    other = measure_learned(model, records, top=0, seed=1, **RATIOS).as_dict()
    assert other["pixel error"] != again.as_dict()["pixel error"]
    assert not any("top" in name or "matching alone" in name for name in other)


def test_the_clips_parts_are_those_of_contrast_and_contours():
    size = (2, 8)
    spread = torch.arange(16.0).view(size)
    own = torch.rand(size, generator=torch.Generator().manual_seed(0))
    errors = TubeletErrors(*[own] * 7, spread=spread)
    contours = torch.zeros(size, dtype=torch.bool)
    contours[0, 3] = contours[1, 1] = True
    found = {figure.name: figure.value for figure in pixel_figures(errors, contours=contours)}
    assert found["pixel error"] == pytest.approx(own.mean().item())
    assert found["pixel error, quarter of most contrast"] == pytest.approx(
        own.flatten()[-4:].mean().item()
    )
    assert found["pixel error, contours of objects"] == pytest.approx(
        (own[0, 3] + own[1, 1]).item() / 2
    )


def test_the_mean_of_a_patch_is_off_by_its_spread(model):
    generator = torch.Generator().manual_seed(0)
    video = torch.randint(0, 256, (2, 4, 3, 16, 16), dtype=torch.uint8, generator=generator)
    numbers = torch.arange(32).expand(2, -1)
    tubes = TubeMask(numbers[:, ::2], numbers[:, 1::2])
    flat = torch.zeros(2, 16, 96)
    errors = tubelet_errors(model, flat, flat, video=video, tubes=tubes)
    # The spread is taken with one value less than there are.
    torch.testing.assert_close(errors.patch_mean, torch.full((2, 16), 31 / 32), rtol=1e-3, atol=0)
    torch.testing.assert_close(errors.own, errors.patch_mean)
    assert 1.5 < errors.copied.mean() < 2.5, "two patches of noise have nothing in common"


def test_scores_at_random_are_at_chance():
    generator = torch.Generator().manual_seed(0)
    odds, cosine = torch.randn(2, 300, 300, generator=generator).double()
    partner = torch.arange(300).roll(1)
    pairs = MatchedPairs.of(cosine, partner=partner, top=16)
    for figure in pair_figures(pairs, odds * pairs.wanted):
        spread = 0.05 if "AUC" in figure.name else 0.03
        assert figure.value == pytest.approx(figure.beside["chance"], abs=spread), figure.name
    sure = {f.name: f.value for f in pair_figures(pairs, torch.eye(300).double())}
    assert sure["matching AUC, random clip"] == 1


def test_constant_captions_have_a_floor_of_all_words(model, corpus):
    records = list(load_manifest(corpus.validation))
    same = [ClipRecord(r.video_id, r.path, ("a red circle moves",)) for r in records]
    figures = measure_learned(
        model, same, train_captions=["a red circle moves"] * 3, top=0, **RATIOS
    ).as_dict()
    assert figures["word accuracy: counting captions floor"] == 1


@pytest.mark.parametrize("pixels", [False, True])
def test_where_nothing_is_hidden_there_is_no_figure(model, records, pixels):
    ratios = {"video_ratio": 0.5 if pixels else 0, "text_ratio": 0 if pixels else 0.5}
    found = measure_learned(model, records, top=0, **ratios).as_dict()
    assert ("pixel error" in found, "word accuracy" in found) == (pixels, not pixels)
    assert math.isnan(area_under_curve(torch.tensor([]), torch.tensor([1.0])))


def test_the_table_is_narrow(masks, capsys):
    Console(width=80).print(learned_table(masks["measured"]))
    said = capsys.readouterr().out
    assert "patch mean floor" in said
    assert all(len(line) <= 80 for line in said.splitlines())


def test_pixels_of_clips_without_captions_are_those_beside_an_empty_one(model, records):
    bare = [replace(record, captions=()) for record in records]
    found = measure_pixels(model, bare, video_ratio=0.5)
    empty = [replace(record, captions=("",)) for record in records]
    told = measure_learned(model, empty, top=0, **RATIOS).as_dict()
    assert found.num_clips == 6
    assert "pixel error" in found.as_dict()
    for name, value in found.as_dict().items():
        assert value == pytest.approx(told[name], rel=1e-6), name
    captioned = measure_learned(model, records, top=0, **RATIOS).as_dict()
    assert captioned["pixel error"] != pytest.approx(found.as_dict()["pixel error"], rel=1e-6)
    with pytest.raises(ValueError, match="none of the 1 clips can be read"):
        measure_pixels(model, bare[2:3], video_ratio=0.5)


def test_one_clip_is_too_few(model, records):
    with pytest.raises(ValueError, match="two or more clips, but 1 of 2"):
        measure_learned(model, records[1:3], **RATIOS)


def test_what_loses_to_a_patch_s_mean_is_named():
    floors = {"patch mean floor": 0.9, "nearest patch floor": 0.5}
    figures = (
        Figure("pixel error", 0.8, floors, is_share=False),
        Figure("pixel error, contours of objects", 1.1, floors, is_share=False),
        Figure("word accuracy", 0.99, {"no video": 0.5}),
    )
    caption = learned_table(Learned(figures, num_clips=3)).caption
    assert caption.endswith("worse than a patch's own mean: pixel error, contours of objects")
    assert "worse" not in learned_table(Learned(figures[:1], num_clips=3)).caption
