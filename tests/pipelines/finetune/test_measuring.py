"""Figures of fine-tuned models against what their own predictions give, clip by clip."""

import io
import re
import statistics

import numpy as np
import pytest
import torch
from rich.console import Console

from simvtp import ModelConfig, SimVTP
from simvtp.data import ClipRecord, load_manifest, load_tokenizer
from simvtp.data.datasets.tasks import LabelledClips, Question, QuestionSet
from simvtp.data.datasets.views import ViewDataset
from simvtp.metrics import bootstrap_intervals, mean_interval, query_ranks
from simvtp.pipelines.finetune.measuring import (
    HIGH,
    LOW,
    measure_answers,
    measure_classes,
    measure_retrieval,
)
from simvtp.pipelines.finetune.report import results_table
from simvtp.tasks import VideoAnswerer, VideoClassifier

VIEWS = (2, 3)


@pytest.fixture(scope="module")
def model(tokenizer_file):
    tokenizer = load_tokenizer(tokenizer_file)
    torch.manual_seed(0)
    config = ModelConfig(
        image_size=32,
        num_frames=4,
        width=16,
        depth=1,
        num_heads=2,
        decoder_width=16,
        decoder_depth=1,
        decoder_heads=2,
        vocab_size=tokenizer.get_vocab_size(),
    )
    return SimVTP.from_config(config, tokenizer=tokenizer)


@pytest.fixture(scope="module")
def records(corpus, tmp_path_factory):
    """Five clips, the third of which is no video."""
    broken = tmp_path_factory.mktemp("broken") / "x.mp4"
    broken.write_text("no video")
    found = list(load_manifest(corpus.train))[:5]
    found[2] = ClipRecord("broken", broken, ("nothing",))
    return found


def views_of(model, records, number):
    return ViewDataset(
        records,
        num_frames=4,
        spacing=model.frame_spacing,
        num_clips=VIEWS[0],
        num_crops=VIEWS[1],
        image_size=32,
    )[number].video


def test_classes_are_judged_by_the_mean_over_views(model, records):
    classifier = VideoClassifier.from_model(model, classes=["a", "b", "c"])
    with torch.no_grad():
        classifier.head.weight.mul_(50)
    classifier.eval()
    labels = np.array([0, 1, 2, 0, 1])
    hits = []
    for number, label in enumerate(labels):
        if number == 2:
            hits.append(False)
            continue
        with torch.inference_mode():
            each = [
                classifier(view[None]).double().softmax(dim=1)
                for view in views_of(model, records, number)
            ]
        hits.append(int(torch.stack(each).mean(dim=0).argmax()) == label)
    clips = LabelledClips(records, labels, ("a", "b", "c"))
    figures = measure_classes(classifier, clips, views=VIEWS)
    assert figures["top-1"] == pytest.approx(sum(hits) / 5)
    assert figures["unreadable"] == 1
    assert not any(name.endswith(LOW) for name in figures)
    resampled = measure_classes(classifier, clips, views=VIEWS, num_samples=50)
    values = torch.tensor(hits).double()
    interval = mean_interval(values, groups=torch.arange(5), num_samples=50)
    assert (resampled[f"top-1{LOW}"], resampled[f"top-1{HIGH}"]) == pytest.approx(interval)
    assert "top-5" not in figures, "there are three classes"


def ranks_of(scores):
    """Rank of each row's own column, ties averaged, by counting."""
    return [
        1 + sum(s > row[own] for s in row) + (sum(s == row[own] for s in row) - 1) / 2
        for own, row in enumerate(scores)
    ]


def figures_of(ranks, prefix):
    recalls = {k: sum(rank <= k for rank in ranks) / len(ranks) for k in (1, 5, 10)}
    return {
        **{f"{prefix} recall@{k}": share for k, share in recalls.items()},
        f"{prefix} mean recall": sum(recalls.values()) / 3,
        f"{prefix} median rank": statistics.median(ranks),
        f"{prefix} mean rank": sum(ranks) / len(ranks),
    }


def test_retrieval_is_judged_by_the_mean_over_views(model, corpus, records):
    model = model.eval()
    clips = [*list(load_manifest(corpus.train))[5:], records[2]]
    video, text = [], []
    for number, record in enumerate(clips[:-1]):
        with torch.inference_mode():
            views = [
                model.encode_video(view[None])[0].double()
                for view in views_of(model, clips, number)
            ]
            text.append(model.encode_text(record.captions[0])[0].double())
        mean = sum(view / view.norm() for view in views) / len(views)
        video.append(mean / mean.norm())
    scores = (torch.stack(text) @ torch.stack(video).T).tolist()
    expected = figures_of(ranks_of(scores), "t2v") | {"unreadable": 1}
    expected |= figures_of(ranks_of([list(column) for column in zip(*scores, strict=True)]), "v2t")
    # A random order puts the one right clip at each place alike.
    number = len(scores)
    for short in ("t2v", "v2t"):
        recalls = {k: min(k / number, 1) for k in (1, 5, 10)}
        expected |= {f"chance {short} recall@{k}": share for k, share in recalls.items()}
        expected[f"chance {short} mean recall"] = sum(recalls.values()) / 3
        for name in ("median rank", "mean rank"):
            expected[f"chance {short} {name}"] = (number + 1) / 2
    figures = measure_retrieval(model, clips, views=VIEWS)
    assert figures == pytest.approx(expected)
    resampled = measure_retrieval(model, clips, views=VIEWS, num_samples=50)
    positives = torch.eye(len(scores)).bool()
    for short, matrix in (("t2v", torch.tensor(scores)), ("v2t", torch.tensor(scores).T)):
        ranks = query_ranks(matrix, positives=positives)
        intervals = bootstrap_intervals(ranks, groups=torch.arange(len(scores)), num_samples=50)
        for name, interval in intervals.items():
            written = f"{short} {name.replace('_', ' ')}"
            got = (resampled[written + LOW], resampled[written + HIGH])
            assert got == pytest.approx(interval), name
    assert measure_retrieval(model, clips) != pytest.approx(expected), "one view tells less"


@pytest.mark.parametrize("kind", ["open", "options"])
def test_unknown_answers_and_unreadable_clips_are_wrong(model, records, kind):
    options = ("a box", "a ring") if kind == "options" else ()
    answers = () if options else ("a box", "a ring", "nothing")
    answerer = VideoAnswerer.from_model(model, answers=answers).eval()
    asked = [(0, "what is it", 0), (0, "what moves", 1), (2, "what is it", 0), (4, "who", 1)]
    if kind == "open":
        asked.append((1, "what is it", -1))
    questions = tuple(Question(clip, text, answer, options) for clip, text, answer in asked)
    hits = []
    for clip, text, answer in asked:
        if clip == 2:
            hits.append(False)
            continue
        with torch.inference_mode():
            each = [
                answerer.answer(view[None], [text], options=[options] if options else None)
                for view in views_of(model, records, clip)
            ]
        hits.append(int(torch.stack(each).mean(dim=0).argmax()) == answer)
    known = QuestionSet(records, questions, answers)
    figures = measure_answers(answerer, known, views=VIEWS, num_samples=50)
    assert figures["accuracy"] == pytest.approx(sum(hits) / len(asked))
    assert figures["unreadable"] == 1
    assert "mean squared error" not in figures
    owners = torch.tensor([clip for clip, _, _ in asked])
    interval = mean_interval(torch.tensor(hits).double(), groups=owners, num_samples=50)
    assert (figures[f"accuracy{LOW}"], figures[f"accuracy{HIGH}"]) == pytest.approx(interval)


def test_counts_have_a_squared_error(model, records):
    answerer = VideoAnswerer.from_model(model, answers=("0", "1", "7")).eval()
    # Whatever it sees and is asked, it says 7.
    answerer.head.weight.data.zero_()
    answerer.head.bias.data = torch.tensor([0.0, 0.0, 1.0])
    questions = (Question(0, "how many", 2, ()), Question(1, "how many", 1, ()))
    figures = measure_answers(answerer, QuestionSet(records, questions, ("0", "1", "7")))
    assert figures["accuracy"] == 0.5
    assert figures["mean squared error"] == pytest.approx((0 + 36) / 2)
    # A clip that cannot be read is answered wrongly, and by no number that could be far off.
    questions = (*questions, Question(2, "how many", 0, ()))
    figures = measure_answers(answerer, QuestionSet(records, questions, ("0", "1", "7")))
    assert (figures["unreadable"], figures["accuracy"]) == (1, pytest.approx(1 / 3))
    assert figures["mean squared error"] == pytest.approx((0 + 36) / 2)


def test_the_majority_of_classes_is_that_of_training(model, records):
    """Of training's labels 2 is the most frequent, then 0 and 3 alike; 4 never occurs."""
    names = tuple("abcdef")
    trained = LabelledClips([], np.array([2, 0, 2, 3, 1, 2, 0, 3]), names)
    labels = [2, 0, 4, 3, 2]
    clips = LabelledClips(records, np.array(labels), names)
    classifier = VideoClassifier.from_model(model, classes=names)
    figures = measure_classes(classifier, clips, train=trained)
    assert figures["majority top-1"] == pytest.approx(labels.count(2) / 5)
    # The fifth place is shared by the two that never occur.
    assert figures["majority top-5"] == pytest.approx((4 + 1 / 2) / 5)
    assert figures["majority mean class accuracy"] == pytest.approx(1 / 4)
    assert "majority top-1" not in measure_classes(classifier, clips)


@pytest.mark.parametrize("kind", ["open", "options"])
def test_the_majority_of_answers_is_that_of_training(model, records, kind):
    known = () if kind == "options" else ("red", "blue", "left")
    trained = ["red", "blue", "blue", "left"]
    asked = [(0, "blue"), (1, "red"), (3, "up"), (4, "blue")]
    among = [("blue", "red"), ("red", "green"), ("up", "down"), ("left", "blue")]

    def question(clip, answer, options):
        number = (
            options.index(answer) if options else known.index(answer) if answer in known else -1
        )
        return Question(clip, "what", number, options)

    if kind == "options":
        train = [question(0, answer, (answer, "something else")) for answer in trained]
        test = [question(*each, options) for each, options in zip(asked, among, strict=True)]
        # Blue beats red, red beats green, nobody said up or down, blue beats left.
        expected = (1 + 1 + 1 / 2 + 1) / 4
    else:
        train = [question(0, answer, ()) for answer in trained]
        test = [question(*each, ()) for each in asked]
        expected = 2 / 4
    answerer = VideoAnswerer.from_model(model, answers=known)
    figures = measure_answers(
        answerer,
        QuestionSet(records, tuple(test), known),
        train=QuestionSet(records, tuple(train), known),
    )
    assert figures["majority accuracy"] == pytest.approx(expected)


def test_a_table_shows_figures_beside_their_floor():
    results = {
        "validation": {"top-1": 0.5, "majority top-1": 0.25, "unreadable": 0},
        "test": {"top-1": 0.75, "top-1 low": 0.5, "top-1 high": 1, "majority top-1": 0.125},
    }
    console = Console(file=io.StringIO(), width=120)
    console.print(results_table(results, title="classification"))
    lines = console.file.getvalue().splitlines()
    header, row = (next(line for line in lines if word in line) for word in ("validation", "top-1"))
    assert re.findall(r"[a-z]+", header) == ["validation", "majority", "test", "majority"]
    assert re.findall(r"[0-9.]{3,}", row) == ["50.0", "25.0", "75.0", "50.0", "100.0", "12.5"]
    assert not [line for line in lines if "majority top-1" in line]
    assert "always what is most frequent in training" in console.file.getvalue()


def test_a_table_shows_what_only_one_split_has():
    results = {
        "validation": {"t2v recall@1": 0.25, "t2v median rank": 2.5, "unreadable": 0},
        "test": {"t2v recall@1": 0.5, "t2v recall@1 low": 0.125, "t2v recall@1 high": 0.75}
        | {"matched over 4: t2v recall@1": 0.625},
    }
    console = Console(file=io.StringIO(), width=120)
    console.print(results_table(results, title="retrieval"))
    said = console.file.getvalue()
    assert "50.0 % (12.5 to 75.0)" in said
    assert [line for line in said.splitlines() if "matched over 4" in line and "62.5 %" in line]
    assert [line for line in said.splitlines() if re.search(r"median rank\W+2\.5\W+$", line)]
    assert [line for line in said.splitlines() if re.search(r"unreadable\W+0\W+$", line)]
    assert "recall@1 low" not in said
    assert "95 % intervals" in said


def test_nothing_readable_is_an_error(model, records):
    classifier = VideoClassifier.from_model(model, classes=["a", "b"])
    clips = LabelledClips(records[2:3], np.array([0]), ("a", "b"))
    with pytest.raises(ValueError, match="none of the 1 clips or questions"):
        measure_classes(classifier, clips)
