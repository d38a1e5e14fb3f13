"""Figures of the command against ranking by brute force, resampling by loops, and each other."""

import json
import shutil

import numpy as np
import pytest
import torch

from simvtp import SimVTP
from simvtp.data import CentreCrop, MissingVideosWarning, load_manifest, read_clip
from simvtp.metrics import retrieval_metrics
from simvtp.pipelines.evaluate import command as evaluate
from simvtp.retrieval.gallery import embed_gallery
from simvtp.retrieval.methods import DUAL_SOFTMAX


def test_figures_are_those_of_a_brute_force_ranking(model_folder, corpus, tmp_path):
    report = tmp_path / "figures.json"
    arguments = [f"--model={model_folder}", f"--data={corpus.validation}", f"--json={report}"]
    assert evaluate.main([*arguments, "--rerank=3", "--workers=0", "--batch-size=4"]) == 0
    figures = json.loads(report.read_text())
    assert figures["cut"] == "4 frames, 0.25 s apart (1 s)"
    model = SimVTP.from_pretrained(model_folder)
    records = load_manifest(corpus.validation)
    ranks = {"text_to_video": [], "video_to_text": []}
    crop, unused = CentreCrop(16), torch.Generator()
    options = {"num_frames": 4, "seconds": 0.25, "short_side": crop.short_side}
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
    assert set(figures["results"]) == {
        "cosine",
        "matching over the top 3",
        "matching and cosine over the top 3",
    }


def test_a_benchmark_and_its_split_as_they_are_published(model_folder, corpus, evaluated, tmp_path):
    records = load_manifest(corpus.validation)
    for number, record in enumerate(records):
        (tmp_path / f"video{number}.mp4").write_bytes(record.path.read_bytes())
    (tmp_path / "video1.mp4").unlink()
    document = {
        "videos": [
            {"video_id": f"video{number}", "split": "train" if number == 5 else "test"}
            for number in range(6)
        ],
        "sentences": [
            {"video_id": f"video{number}", "caption": record.captions[0], "sen_id": number}
            for number, record in enumerate(records)
        ],
    }
    (tmp_path / "MSRVTT_data.json").write_text(json.dumps(document))
    (tmp_path / "listed.csv").write_text("video_id\nvideo0\nvideo3\n")
    file = tmp_path / "MSRVTT_data.json"
    figures = evaluated(file, f"--split={tmp_path / 'listed.csv'}")
    assert figures["clips"] == ["video0", "video3"]
    assert [caption["caption"] for caption in figures["captions"]] == [
        records[number].captions[0] for number in (0, 3)
    ]
    command = [f"--model={model_folder}", f"--data={file}", "--split=test", "--workers=0"]
    assert evaluate.main(command) == 2
    with pytest.warns(MissingVideosWarning, match="video1"):
        figures = evaluated(file, "--split=test", "--missing=leave out")
    assert figures["clips"] == ["video0", "video2", "video3", "video4"]


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
    assert evaluate.main([*arguments, "--workers=0", "--max-bad-share=0.2"]) == 0
    figures = json.loads(report.read_text())
    assert (figures["num_clips"], figures["num_captions"]) == (6, 12)
    assert [path.rpartition("/")[2] for path in figures["unreadable"]] == ["broken.mp4"]
    said = capsys.readouterr().out
    assert "broken.mp4" in said
    assert "the figures are of 6 of 7 clips" in said
    # All clips carry the same captions, so every caption ties with its equals or is at chance.
    cosine = figures["results"]["cosine"]["text_to_video"]
    assert cosine["mean_rank"] == pytest.approx(3.5)


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
    assert list(figures["results"]) == [
        "cosine",
        "matching and cosine over the top 2",
        "matching over the top 2",
        DUAL_SOFTMAX,
    ]
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
    said = capsys.readouterr()
    assert "no difference that 6 clips can show" in said.out
    assert "the two models have the same weights" in said.out + said.err
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
        (["--root=missing"], "missing"),
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


def test_what_was_learned_is_reported_where_it_is_asked_for(
    evaluated, model_folder, corpus, capsys
):
    assert "learned" not in evaluated(corpus.validation)
    figures = evaluated(corpus.validation, "--learned", f"--train={corpus.train}")["learned"]
    assert figures["num_clips"] == 6
    assert {"pixel error", "word accuracy: counting captions floor"} <= set(figures["figures"])
    assert "what was learned, 6 clips" in capsys.readouterr().out
    command = [f"--model={model_folder}", f"--data={corpus.validation}", "--train=x.csv"]
    assert evaluate.main(command) == 2
    assert "--train x.csv is for --learned" in capsys.readouterr().out


def test_video_alone_needs_no_captions(model_folder, corpus, tmp_path, capsys):
    for clip in sorted(corpus.root.glob("validation/*.mp4"))[:4]:
        (tmp_path / "videos").mkdir(exist_ok=True)
        shutil.copy(clip, tmp_path / "videos")
    (tmp_path / "videos" / "broken.mp4").write_text("no video")
    command = [f"--model={model_folder}", f"--data={tmp_path / 'videos'}", "--workers=0"]
    report = tmp_path / "figures.json"
    assert evaluate.main([*command, "--video-alone", f"--json={report}"]) == 0
    told = capsys.readouterr().out
    assert "left out" in told
    assert "broken.mp4" in told
    assert "patch mean floor" in told
    learned = json.loads(report.read_text())["learned"]
    assert learned["num_clips"] == 4
    assert set(learned["figures"]) >= {"pixel error", "pixel error: patch mean floor"}
    assert evaluate.main([*command, "--video-alone", "--rerank=3"]) == 2
    assert "leave --rerank away" in capsys.readouterr().out


@pytest.mark.parametrize(("arguments", "is_half"), [((), False), (("--precision=bf16",), True)])
def test_products_are_of_the_precision_asked_for(
    evaluated, captioned, monkeypatch, arguments, is_half
):
    seen, encode = set(), SimVTP.encode_video

    def spy(model, video):
        seen.add(torch.is_autocast_enabled("cpu"))
        return encode(model, video)

    monkeypatch.setattr(SimVTP, "encode_video", spy)
    evaluated(captioned, *arguments)
    assert seen == {is_half}
