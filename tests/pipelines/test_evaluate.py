import base64
import io
import json
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from simvtp import SimVTP
from simvtp.data import (
    CentreCrop,
    EvaluationDataset,
    ViewDataset,
    load_manifest,
    read_clip,
    train_tokenizer,
)
from simvtp.metrics import retrieval_metrics
from simvtp.pipelines import evaluate
from simvtp.pipelines.reranking import rerank
from simvtp.pipelines.retrieval import embed_gallery, keep_clips, score
from simvtp.pipelines.retrieval_methods import DUAL_SOFTMAX, over_same_clips
from simvtp.pipelines.retrieval_sheet import select_queries
from tests.sample_batches import small_config


def make_model(corpus, folder, *, seed):
    torch.manual_seed(seed)
    tokenizer = train_tokenizer(load_manifest(corpus.train).captions())
    config = small_config(vocab_size=tokenizer.get_vocab_size(), max_text_length=32)
    model = SimVTP(config, tokenizer=tokenizer)
    # Features as far apart as a trained model's.
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.25)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model_folder(corpus, tmp_path_factory):
    return make_model(corpus, tmp_path_factory.mktemp("model"), seed=0)


@pytest.fixture(scope="module")
def other_folder(corpus, tmp_path_factory):
    return make_model(corpus, tmp_path_factory.mktemp("other"), seed=1)


@pytest.fixture(scope="module")
def captioned(corpus, tmp_path_factory):
    """The corpus with two captions of each clip, one of which a careless page would run."""
    folder = tmp_path_factory.mktemp("captioned")
    rows = ["videoid,path,caption"]
    for number, record in enumerate(load_manifest(corpus.validation)):
        (folder / record.path.name).write_bytes(record.path.read_bytes())
        rows.append(f'clip{number},{record.path.name},"{record.captions[0]}"')
        rows.append(f'clip{number},{record.path.name},"<script>a & ""b"" {number}</script> $5 視"')
    manifest = folder / "clips.csv"
    manifest.write_text("\n".join(rows) + "\n", "utf-8")
    return manifest


@pytest.fixture
def evaluated(model_folder, tmp_path):
    """Run the command over a manifest; gives what it wrote."""

    def run(manifest, *arguments):
        report = tmp_path / "report" / "figures.json"
        command = [f"--model={model_folder}", f"--data={manifest}", f"--json={report}"]
        assert evaluate.main([*command, "--workers=0", *arguments]) == 0
        return json.loads(report.read_text())

    return run


def test_figures_are_those_of_a_brute_force_ranking(model_folder, corpus, tmp_path):
    report = tmp_path / "figures.json"
    arguments = [f"--model={model_folder}", f"--data={corpus.validation}", f"--json={report}"]
    assert evaluate.main([*arguments, "--rerank=3", "--workers=0", "--batch-size=4"]) == 0
    figures = json.loads(report.read_text())
    model = SimVTP.from_pretrained(model_folder)
    records = load_manifest(corpus.validation)
    ranks = {"text_to_video": [], "video_to_text": []}
    crop, unused = CentreCrop(16), torch.Generator()
    options = {"num_frames": 4, "stride": 4, "short_side": crop.short_side}
    clips = [crop(read_clip(r.path, **options), generator=unused) for r in records]
    with torch.inference_mode():
        video = [model.encode_video(clip[None])[0] for clip in clips]
        text = [model.encode_text(record.captions[0])[0] for record in records]
    scores = [[float(t @ v) for v in video] for t in text]
    for own in range(len(records)):
        ranks["text_to_video"].append(1 + sum(s > scores[own][own] for s in scores[own]))
        ranks["video_to_text"].append(1 + sum(row[own] > scores[own][own] for row in scores))
    for direction, values in ranks.items():
        got = figures["results"]["cosine"][direction]
        assert got["mean_rank"] == pytest.approx(sum(values) / len(values))
        assert got["recall@1"] == pytest.approx(sum(rank == 1 for rank in values) / len(values))
    assert set(figures["results"]) == {"cosine", "matching over the top 3"}


def test_several_captions_and_an_unreadable_clip(model_folder, corpus, tmp_path, capsys):
    for path in (corpus.root / "validation").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    rows = ["videoid,path,caption"]
    for path in sorted(tmp_path.glob("*.mp4")):
        rows += [f"{path.stem},{path.name},a red circle", f"{path.stem},{path.name},it moves"]
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    manifest = tmp_path / "data.csv"
    manifest.write_text("\n".join([*rows, "b,broken.mp4,nothing"]) + "\n")
    report = tmp_path / "out" / "figures.json"
    arguments = [f"--model={model_folder}", f"--data={manifest}", f"--json={report}"]
    assert evaluate.main([*arguments, "--workers=0"]) == 0
    figures = json.loads(report.read_text())
    assert (figures["num_clips"], figures["num_captions"]) == (6, 12)
    assert [path.rpartition("/")[2] for path in figures["unreadable"]] == ["broken.mp4"]
    assert "broken.mp4" in capsys.readouterr().out
    # All clips carry the same captions, so every caption ties with its equals or is at chance.
    cosine = figures["results"]["cosine"]["text_to_video"]
    assert cosine["mean_rank"] == pytest.approx(3.5)


def test_reranking_stays_within_each_querys_own_best(model_folder, captioned):
    model = SimVTP.from_pretrained(model_folder)
    records = load_manifest(captioned)
    gallery = embed_gallery(model, records)
    cosine = (gallery.text @ gallery.video.T).double()
    scores = rerank(model, records, gallery, top=2, batch_size=3)
    crop, unused = CentreCrop(16), torch.Generator()
    options = {"num_frames": 4, "stride": 4, "short_side": crop.short_side}
    clips = [crop(read_clip(r.path, **options), generator=unused) for r in records]
    for direction, own in (("text_to_video", cosine), ("video_to_text", cosine.T)):
        got = getattr(scores, direction)
        for query, row in enumerate(own.tolist()):
            best = sorted(range(len(row)), key=lambda item: -row[item])[:2]
            for item, value in enumerate(row):
                if item in best:
                    text, clip = (query, item) if direction == "text_to_video" else (item, query)
                    with torch.inference_mode():
                        value = 2 + model.match(clips[clip][None], gallery.captions[text]).item()
                assert got[query, item].item() == pytest.approx(value, abs=1e-6)


def test_views_are_the_mean_of_unit_features(model_folder, corpus):
    model = SimVTP.from_pretrained(model_folder)
    records = load_manifest(corpus.validation)
    dataset = ViewDataset(records, num_frames=4, stride=4, num_clips=3, num_crops=2, image_size=16)
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
    middle = EvaluationDataset(records, num_frames=4, stride=4, transform=CentreCrop(16))[0].video
    with torch.inference_mode():
        expected = model.encode_video(middle[None])[0]
    torch.testing.assert_close(centre.video[0], expected)


def test_matching_is_averaged_over_views(model_folder, corpus):
    model = SimVTP.from_pretrained(model_folder)
    records = load_manifest(corpus.validation)[:2]
    gallery = embed_gallery(model, records, views=(2, 1))
    scores = rerank(model, records, gallery, top=9, views=(2, 1)).text_to_video
    views = {"num_frames": 4, "stride": 4, "num_clips": 2, "num_crops": 1, "image_size": 16}
    for clip, viewed in enumerate(ViewDataset(records, **views)):
        for text, caption in enumerate(gallery.captions):
            with torch.inference_mode():
                chances = [model.match(view[None], caption).item() for view in viewed.video]
            assert scores[text, clip].item() == pytest.approx(2 + sum(chances) / 2, abs=1e-6)


def test_every_method_has_its_name_and_dual_softmax_must_be_asked_for(
    evaluated, model_folder, captioned, capsys
):
    without = evaluated(captioned)
    assert (set(without["results"]), without["notes"]) == ({"cosine"}, {})
    assert "dual softmax" not in capsys.readouterr().out
    figures = evaluated(captioned, "--dual-softmax", "--rerank=2")
    said = capsys.readouterr().out
    assert "uses the whole query set" in said
    assert "uses the whole query set" in figures["notes"][DUAL_SOFTMAX]
    assert list(figures["results"]) == ["cosine", "matching over the top 2", DUAL_SOFTMAX]
    assert figures["headline"] == "cosine"
    assert figures["results"]["cosine"] == without["results"]["cosine"]
    gallery = embed_gallery(SimVTP.from_pretrained(model_folder), load_manifest(captioned))
    cosine = (gallery.text @ gallery.video.T).double()
    share = (cosine / 0.05).exp() / (cosine / 0.05).exp().sum(dim=0)
    expected = retrieval_metrics(cosine * share, positives=gallery.positives)
    assert figures["results"][DUAL_SOFTMAX]["text_to_video"] == pytest.approx(expected.as_dict())
    share = (cosine / 0.05).exp() / (cosine / 0.05).exp().sum(dim=1, keepdim=True)
    expected = retrieval_metrics((cosine * share).T, positives=gallery.positives.T)
    assert figures["results"][DUAL_SOFTMAX]["video_to_text"] == pytest.approx(expected.as_dict())


def test_the_report_holds_everything(evaluated, captioned):
    figures = evaluated(captioned, "--bootstrap=200", "--views=2x1", "--seed=3")
    assert figures["views"] == "2x1"
    assert figures["bootstrap"] == {"samples": 200, "level": 0.95, "seed": 3}
    assert [entry["clip"] for entry in figures["captions"]] == [n // 2 for n in range(12)]
    assert figures["clips"] == [f"clip{number}" for number in range(6)]
    for direction, count in (("text_to_video", 12), ("video_to_text", 6)):
        ranks = figures["ranks"]["cosine"][direction]
        metrics = figures["results"]["cosine"][direction]
        assert len(ranks) == count
        assert metrics["mean_rank"] == pytest.approx(np.mean(ranks))
        assert metrics["median_rank"] == pytest.approx(np.median(ranks))
        for name, (low, high) in figures["intervals"]["cosine"][direction].items():
            assert low <= metrics[name] <= high
    # The same again, resampled by a loop over clips with both their captions.
    ranks = np.array(figures["ranks"]["cosine"]["text_to_video"]).reshape(6, 2)
    drawn = torch.randint(6, (200, 6), generator=torch.Generator().manual_seed(3)).numpy()
    expected = np.percentile([ranks[sample].mean() for sample in drawn], [2.5, 97.5])
    interval = figures["intervals"]["cosine"]["text_to_video"]["mean_rank"]
    assert interval == pytest.approx(expected.tolist())
    assert evaluated(captioned, "--bootstrap=0")["intervals"] is None


def test_two_models_are_compared_over_the_same_clips(
    evaluated, model_folder, other_folder, captioned, capsys
):
    same = evaluated(captioned, f"--compare={model_folder}")["comparison"]
    assert "no difference that 6 clips can show" in capsys.readouterr().out
    for direction in ("text_to_video", "video_to_text"):
        for difference in same["differences"]["cosine"][direction].values():
            assert difference == {"value": 0.0, "interval": [0.0, 0.0], "p_value": 1.0}
    figures = evaluated(captioned, f"--compare={other_folder}", "--dual-softmax")
    said = capsys.readouterr().out
    assert figures["compared_with"] == str(other_folder)
    compared = figures["comparison"]
    assert len(compared["in_words"]) == 4
    assert all(sentence in said for sentence in [*compared["in_words"], compared["note"]])
    alone = evaluated(captioned, f"--model={other_folder}", "--dual-softmax")
    assert compared["results"] == alone["results"]
    assert compared["ranks"] == alone["ranks"]
    for method, both in compared["differences"].items():
        for direction, differences in both.items():
            for name, difference in differences.items():
                own = figures["results"][method][direction][name]
                other = alone["results"][method][direction][name]
                assert difference["value"] == pytest.approx(own - other)
                assert 1 / 1001 <= difference["p_value"] <= 1


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


class Page(HTMLParser):
    """Sections of a sheet: captions, ranks and clips as they are read off the page."""

    def __init__(self, text):
        super().__init__()
        self.sections, self.tags, self.inside, self.images = {}, [], None, []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.tags.append(tag)
        self.inside = tag
        if tag == "section":
            self.queries = self.sections.setdefault(values["id"], [])
        elif tag == "article":
            self.queries.append({"clips": []})
        elif tag == "figure":
            self.queries[-1]["clips"].append({"own": values.get("class") == "own"})
        elif tag == "img":
            data = base64.b64decode(values["src"].removeprefix("data:image/jpeg;base64,"))
            image = np.asarray(Image.open(io.BytesIO(data))).astype(int)
            self.queries[-1]["clips"][-1]["frames"] = image

    def handle_endtag(self, tag):
        self.inside = None

    def handle_data(self, data):
        if self.inside == "h3":
            self.queries[-1]["caption"] = data
        elif self.inside == "p" and self.sections:
            self.queries[-1]["rank"] = float(data.removeprefix("own clip at rank "))
        elif self.inside == "figcaption":
            label, _, rest = data.partition(": ")
            name, _, score = rest.rpartition(", ")
            self.queries[-1]["clips"][-1] |= {"label": label, "name": name, "score": float(score)}


def test_the_sheet_shows_the_right_clips(evaluated, model_folder, captioned, tmp_path):
    out = tmp_path / "new" / "sheet.html"
    figures = evaluated(captioned, f"--sheet={out}")
    page = Page(out.read_text("utf-8"))
    assert "script" not in page.tags
    model, records = SimVTP.from_pretrained(model_folder), load_manifest(captioned)
    gallery = embed_gallery(model, records)
    cosine = gallery.text @ gallery.video.T
    ranks = figures["ranks"]["cosine"]["text_to_video"]
    shown = [query for queries in page.sections.values() for query in queries]
    assert set(page.sections) == {"best", "worst", "most-confused"}
    assert len({query["caption"] for query in shown}) == len(shown) == 12
    assert page.sections["best"][0]["rank"] == min(ranks)
    assert page.sections["worst"][0]["rank"] == max(ranks)
    dataset = EvaluationDataset(records, num_frames=4, stride=4, transform=CentreCrop(16))
    for query in shown:
        number = gallery.captions.index(query["caption"])
        assert query["rank"] == pytest.approx(ranks[number])
        best = sorted(range(6), key=lambda clip: -cosine[number, clip])[:3]
        assert [clip["label"].split(",")[0] for clip in query["clips"]] == [
            "own clip",
            "retrieved 1",
            "retrieved 2",
            "retrieved 3",
        ]
        for clip, place in zip(query["clips"], [number // 2, *best], strict=True):
            assert clip["name"] == f"clip{place}"
            assert clip["own"] == (place == number // 2)
            assert clip["score"] == pytest.approx(cosine[number, place].item(), abs=6e-4)
            frames = [Image.fromarray(f.permute(1, 2, 0).numpy()) for f in dataset[place].video]
            enlarged = [np.asarray(frame.resize((112, 112))) for frame in frames]
            assert np.abs(clip["frames"] - np.concatenate(enlarged, axis=1)).mean() < 4


def test_the_sheet_as_a_picture(evaluated, captioned, tmp_path):
    out = tmp_path / "sheet.png"
    evaluated(captioned, f"--sheet={out}")
    with Image.open(out) as picture:
        width, height = picture.size
        colours = picture.convert("RGB").getcolors(1_000_000)
    assert (width, height) == (1440, round(100 * (1.65 * 12 + 0.5)))
    assert len(colours) > 200


@st.composite
def retrieved(draw):
    num_clips = draw(st.integers(1, 5))
    owners = draw(st.lists(st.integers(0, num_clips - 1), min_size=1, max_size=12))
    values = st.sampled_from([0.0, 0.1, 0.25, 0.5])
    row = st.lists(values, min_size=num_clips, max_size=num_clips)
    return [draw(row) for _ in owners], owners, draw(st.integers(1, 4))


@given(retrieved())
def test_queries_are_chosen_by_rank_and_margin(case):
    rows, owners, count = case
    own = torch.tensor(owners)[:, None] == torch.arange(len(rows[0]))
    similarity = torch.tensor(rows)
    rank = evaluate_ranks(rows, owners)
    chosen = select_queries(
        similarity, owners=own.int().argmax(1), rank=torch.tensor(rank), count=count
    )
    left = list(range(len(owners)))

    def margin(query):
        others = [s for clip, s in enumerate(rows[query]) if clip != owners[query]]
        return rows[query][owners[query]] - max(others, default=-torch.inf)

    keys = {
        "best": lambda query: (rank[query], -margin(query)),
        "worst": lambda query: (-rank[query], margin(query)),
        "most confused": lambda query: abs(margin(query)),
    }
    for name, key in keys.items():
        expected = {}
        for query in sorted(left, key=key):
            if len(expected) < count:
                expected.setdefault(owners[query], query)
        assert chosen[name] == list(expected.values())
        left = [query for query in left if query not in chosen[name]]


def evaluate_ranks(rows, owners):
    """Ranks with ties averaged, by counting."""
    return [
        1 + sum(s > row[own] for s in row) + (sum(s == row[own] for s in row) - 1) / 2
        for row, own in zip(rows, owners, strict=True)
    ]


def test_a_diverged_model_is_refused(model_folder, captioned, tmp_path, capsys):
    model = SimVTP.from_pretrained(model_folder)
    torch.nn.init.constant_(model.text_embedding.words.weight, torch.nan)
    model.save_pretrained(tmp_path / "nan")
    arguments = [f"--model={tmp_path / 'nan'}", f"--data={captioned}", "--workers=0", "--rerank=2"]
    assert evaluate.main(arguments) == 2
    assert "72 NaN or infinite of 72" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sheet=sheet.txt"], "a sheet is a .html or a .png file, got sheet.txt"),
        (["--compare={model}", "--bootstrap=0"], "--compare needs resamples"),
        (["--compare=no/such"], "no/such"),
        (["--json={data}/figures.json"], "clips.csv"),
        (["--data.root=missing"], "missing"),
        (["--model=missing/folder"], "missing/folder"),
    ],
)
def test_bad_input_is_one_line(model_folder, captioned, arguments, message, capsys):
    filled = [text.format(model=model_folder, data=captioned) for text in arguments]
    command = [f"--model={model_folder}", f"--data={captioned}", "--workers=0", *filled]
    assert evaluate.main(command) == 2
    said = capsys.readouterr().out.strip()
    assert said.startswith("error: ")
    assert message in said
    assert "Traceback" not in said


@pytest.mark.parametrize("views", ["3", "0x3", "3x", "3x3x3", "-1x2", "axb"])
def test_views_are_clips_by_crops(views, capsys):
    with pytest.raises(SystemExit) as stop:
        evaluate.main(["--model=m", "--data=d", f"--views={views}"])
    assert stop.value.code == 2
    assert "must be like 3x3" in capsys.readouterr().err
