"""What fine-tuned models say of videos, against what they say of each clip by itself."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch

from simvtp import SimVTP
from simvtp.data import ClipRecord, load_manifest, train_tokenizer
from simvtp.data.datasets.views import ViewDataset
from simvtp.pipelines.predict import command, load_task_model, predict
from simvtp.tasks import VideoAnswerer, VideoClassifier
from testing.data.video_files import write_video_file
from testing.sample_batches import small_config

CLASSES = ("a dog runs", "rain, falling", "=cmd|x", "none")
QUESTIONS = ("what is it", "does it move")
ANSWERS = ("yes", "no", "red")
OPTIONS = ("a red ring", "a blue box")
VIEWS = (2, 3)


@pytest.fixture(scope="module")
def pretrained():
    tokenizer = train_tokenizer([*QUESTIONS, *OPTIONS], vocab_size=100)
    config = small_config(vocab_size=tokenizer.get_vocab_size(), max_text_length=24)
    torch.manual_seed(0)
    return SimVTP.from_config(config, tokenizer=tokenizer)


@pytest.fixture(scope="module")
def models(pretrained):
    """One of each kind, whose heads tell clips apart."""
    torch.manual_seed(0)
    made = {
        "classes": VideoClassifier.from_model(pretrained, classes=CLASSES),
        "answers": VideoAnswerer.from_model(pretrained, answers=ANSWERS),
        "options": VideoAnswerer.from_model(pretrained),
    }
    for model in made.values():
        with torch.no_grad():
            model.head.weight.mul_(20)
        model.eval()
    return made


@pytest.fixture(scope="module")
def folders(models, pretrained, tmp_path_factory):
    place = tmp_path_factory.mktemp("models")
    for name, model in {**models, "pretrained": pretrained}.items():
        model.save_pretrained(place / name)
    return {name: place / name for name in (*models, "pretrained")}


@pytest.fixture(scope="module")
def videos(corpus, tmp_path_factory):
    """A folder of five videos, the third of which is none."""
    folder = tmp_path_factory.mktemp("videos") / "own"
    folder.mkdir()
    for number, record in enumerate(load_manifest(corpus.train)[:5]):
        shutil.copy(record.path, folder / f"{number}.mp4")
    (folder / "2.mp4").write_text("no video")
    return folder


def files_of(videos):
    return sorted(videos.iterdir())


def asked(kind):
    return {
        "classes": {},
        "answers": {"question": QUESTIONS},
        "options": {"question": QUESTIONS[0], "options": OPTIONS},
    }[kind]


def chances(model, file, views, question, options):
    """Probability of each name: the mean of what the model says of each view by itself."""
    dataset = ViewDataset(
        [ClipRecord("x", file, ())],
        num_frames=model.config.num_frames,
        spacing=model.frame_spacing,
        image_size=model.config.image_size,
        num_clips=views[0],
        num_crops=views[1],
    )
    said = []
    for view in dataset[0].video:
        with torch.inference_mode():
            if question is None:
                said.append(model(view[None]).double().softmax(dim=1)[0])
            else:
                among = [list(options)] if options else None
                said.append(model.answer(view[None], [question], options=among)[0].double())
    names = CLASSES if question is None else options or ANSWERS
    return dict(zip(names, torch.stack(said).mean(dim=0).tolist(), strict=True))


@pytest.mark.parametrize("kind", ["classes", "answers", "options"])
@pytest.mark.parametrize("views", [(1, 1), VIEWS])
def test_predictions_are_the_mean_over_views(models, videos, kind, views):
    model = models[kind]
    files = [file for file in files_of(videos) if file.name != "2.mp4"]
    settings = asked(kind)
    predictions = predict(model, files, top=2, views=views, batch_size=4, **settings)
    questions = QUESTIONS if kind == "answers" else [settings.get("question")]
    expected = [(file, question) for file in files for question in questions]
    assert [(one.file, one.question) for one in predictions] == expected
    for file, question, best in predictions:
        known = chances(model, file, views, question, settings.get("options", ()))
        order = sorted(known, key=lambda name: -known[name])[:2]
        assert [guess.name for guess in best] == order
        assert [guess.probability for guess in best] == pytest.approx(
            [known[name] for name in order], abs=1e-5
        )
        assert len(predict(model, [file], top=99, views=views, **settings)[0].best) == len(known)


def test_files_that_cannot_be_read_are_refused_or_left_out(models, videos):
    with pytest.raises(ValueError, match=r"2\.mp4 cannot be read: no video.*left_out=\{\}"):
        predict(models["classes"], files_of(videos))
    left_out = {}
    predictions = predict(models["classes"], files_of(videos), left_out=left_out)
    assert [file.name for file in left_out] == ["2.mp4"]
    assert [one.file.name for one in predictions] == ["0.mp4", "1.mp4", "3.mp4", "4.mp4"]


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("classes", {"question": "who"}, "knows 4 classes and takes no question"),
        ("classes", {"options": OPTIONS}, "takes no question or options"),
        ("answers", {}, "ask one: question=, or --question"),
        ("answers", {"question": "who", "options": OPTIONS}, "answers of its own"),
        ("options", {"question": "who"}, "chooses among options"),
        ("options", {"question": "who", "options": ("a",)}, "two or more different answers"),
        ("options", {"question": "who", "options": ("a", "a")}, "two or more different answers"),
        ("options", {"question": "who", "options": "yes"}, "two or more different answers"),
        ("classes", {"top": 0}, "top must be at least 1, got 0"),
    ],
)
def test_what_does_not_go_with_the_model_is_refused_before_a_file_is_opened(
    models, videos, kind, settings, message
):
    with pytest.raises(ValueError, match=message):
        predict(models[kind], [videos / "2.mp4"], **settings)


def test_a_pretrained_model_is_told_what_to_use(pretrained, folders, videos, capsys):
    with pytest.raises(TypeError, match=r"a SimVTP has neither .*model\.rank"):
        predict(pretrained, files_of(videos))
    assert run(folders["pretrained"], videos) == 2
    said = capsys.readouterr().out
    assert "pipelines.finetune --task classification (or qa)" in said
    assert "model.rank(text, files)" in said


def run(model, videos, *further):
    return command.main([f"--model={model}", f"--data={videos}", "--workers=0", *further])


@pytest.mark.parametrize("kind", ["classes", "answers", "options"])
def test_the_command_writes_what_the_call_gives(models, folders, videos, kind, tmp_path, capsys):
    settings = asked(kind)
    questions = [settings["question"]] if kind == "options" else settings.get("question", ())
    files = (f"--json={tmp_path / 'a/said.jsonl'}", f"--csv={tmp_path / 'said.csv'}")
    typed = [f"--question={question}" for question in questions]
    typed += ["--options", *settings["options"]] if "options" in settings else []
    views = ("--views=2x3", "--top=2", "--max-bad-share=0.2")
    assert run(folders[kind], videos, *files, *views, *typed) == 0
    loaded = load_task_model(folders[kind])
    expected = predict(loaded, files_of(videos), views=VIEWS, top=2, left_out={}, **settings)

    lines = [json.loads(line) for line in (tmp_path / "a/said.jsonl").read_text().splitlines()]
    errors = [line for line in lines if "error" in line]
    assert errors == [
        {
            "video_id": "2.mp4",
            "name": "2.mp4",
            "error": "no video that FFmpeg knows, or a damaged one",
        }
    ]
    said = [line for line in lines if "error" not in line]
    assert [(line["name"], line.get("question")) for line in said] == [
        (one.file.name, one.question) for one in expected
    ]
    flat = [(guess["name"], guess["probability"]) for line in said for guess in line["best"]]
    names, values = zip(*[guess for one in expected for guess in one.best], strict=True)
    assert [name for name, _ in flat] == list(names)
    assert [value for _, value in flat] == pytest.approx(list(values), abs=1e-5)
    numbers = [int(line["name"][0]) for line in lines]
    assert numbers == sorted(numbers), "in the order of the videos, the bad one too"

    with (tmp_path / "said.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["answer"], float(row["probability"])) for row in rows if not row["error"]] == flat
    assert [row["place"] for row in rows[:2]] == ["1", "2"]
    assert [row["name"] for row in rows if row["error"]] == ["2.mp4"]

    printed = capsys.readouterr().out
    assert "left out 2.mp4: no video that FFmpeg knows, or a damaged one" in printed
    assert all(one.best[0].name in printed for one in expected)


def test_too_many_bad_videos_end_with_1_and_keep_the_rest(folders, videos, tmp_path, capsys):
    out = tmp_path / "said.jsonl"
    assert run(folders["classes"], videos, f"--json={out}") == 1
    assert "the predictions are of 4 of 5: 1 cannot be read" in capsys.readouterr().out
    assert len(out.read_text().splitlines()) == 5


def test_long_lists_are_cut_on_the_screen_and_hostile_names_are_text(folders, tmp_path, capsys):
    made = write_video_file(tmp_path / "made.mp4", 8)
    folder = tmp_path / "own"
    folder.mkdir()
    for number in range(53):
        shutil.copy(made, folder / f"{number:02}.mp4")
    (folder / "52.mp4").rename(folder / "00\x1b[31m.mp4")
    assert run(folders["classes"], folder, "--batch-size=64") == 0
    said = capsys.readouterr().out
    assert "and 3 more; --json FILE or --csv FILE keeps all" in said
    assert "\x1b" not in said
    assert "00\\x1b[31m.mp4" in said


def test_what_was_said_before_a_stop_stays(folders, videos, tmp_path, monkeypatch, capsys):
    """Ctrl-C after the first batch; a kill -9 finds the same bytes in the file."""
    original = command.predicted_batches
    out = tmp_path / "said.jsonl"
    held = []

    def stopped(*arguments, **settings):
        batches = original(*arguments, **settings)
        yield next(batches)
        held.append(out.read_text())
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "predicted_batches", stopped)
    assert run(folders["classes"], videos, f"--json={out}", "--batch-size=2") == 130
    assert out.read_text() == held[0]
    assert [json.loads(line)["name"] for line in held[0].splitlines()] == ["0.mp4", "1.mp4"]
    assert "what was written stays" in capsys.readouterr().out


def test_unknown_kinds_of_models_are_named(folders, tmp_path):
    folder = Path(shutil.copytree(folders["classes"], tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "task": "dancing"}))
    with pytest.raises(ValueError, match="a model for the task 'dancing'; known are"):
        load_task_model(folder)
