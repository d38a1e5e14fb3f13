import json

import pytest
import safetensors.torch
import torch

from simvtp import SimVTP
from simvtp.config import FrameSpacing
from simvtp.tasks import VideoAnswerer, VideoClassifier

QUESTIONS = ["what moves left", "how many dogs", "who", "what spins"]
OPTIONS = [["left", "three"]] * 4


def classifier_of(model):
    return VideoClassifier.from_model(model, classes=["left", "right"]).eval()


def chooser_of(model):
    return VideoAnswerer.from_model(model).eval()


def answerer_of(model):
    return VideoAnswerer.from_model(model, answers=["three", "left", "red"]).eval()


@pytest.fixture(scope="module")
def base(pretrained):
    import copy

    return copy.deepcopy(pretrained).float()


def test_a_saved_classifier_comes_back_the_same(base, clips, tmp_path):
    classifier = classifier_of(base)
    classifier.save_pretrained(tmp_path)
    again = VideoClassifier.from_pretrained(tmp_path)
    assert again.classes == ("left", "right")
    assert again.config == base.config
    assert again.frame_spacing == FrameSpacing(stride=3)
    assert not again.training
    assert torch.equal(again(clips), classifier(clips))
    names = {"config.json", "model.safetensors", "preprocessor.json"}
    assert names <= {path.name for path in tmp_path.iterdir()}
    assert not (tmp_path / "tokenizer.json").exists()
    settings = json.loads((tmp_path / "config.json").read_text())
    assert settings["task"] == "classification"
    assert settings["classes"] == ["left", "right"]
    weights = safetensors.torch.load_file(tmp_path / "model.safetensors")
    assert {name.partition(".")[0] for name in weights} == {"video_embedding", "encoder", "head"}


@pytest.mark.parametrize(
    ("build", "options"), [(answerer_of, None), (chooser_of, OPTIONS)], ids=["open", "options"]
)
def test_a_saved_answerer_comes_back_the_same(base, clips, tmp_path, build, options):
    answerer = build(base)
    answerer.save_pretrained(tmp_path)
    again = VideoAnswerer.from_pretrained(tmp_path)
    assert again.answers == answerer.answers
    expected = answerer.answer(clips, QUESTIONS, options=options)
    assert torch.equal(again.answer(clips, QUESTIONS, options=options), expected)
    answers = json.loads((tmp_path / "config.json").read_text())["answers"]
    assert answers == list(answerer.answers)


def test_the_preprocessor_is_that_of_the_pretrained_model(base, tmp_path):
    assert classifier_of(base).preprocessor() == base.preprocessor()
    base.save_pretrained(tmp_path / "base")
    classifier_of(base).save_pretrained(tmp_path / "task")
    written = [(tmp_path / name / "preprocessor.json").read_text() for name in ("base", "task")]
    assert written[0] == written[1]


@pytest.mark.parametrize(
    ("save", "load", "message"),
    [
        (
            lambda model: model,
            VideoClassifier,
            "holds a pre-trained SimVTP, which has no head for classification; "
            "load it with SimVTP.from_pretrained and give it one with VideoClassifier.from_model",
        ),
        (
            lambda model: model,
            VideoAnswerer,
            "no head for answering.*VideoAnswerer.from_model",
        ),
        (
            classifier_of,
            SimVTP,
            "holds a model for classification, not a pre-trained SimVTP; "
            "load it with simvtp.tasks.VideoClassifier.from_pretrained",
        ),
        (classifier_of, VideoAnswerer, "for classification, not answering"),
        (
            answerer_of,
            VideoClassifier,
            "for answering, not classification.*simvtp.tasks.VideoAnswerer",
        ),
        (answerer_of, SimVTP, "for answering, not a pre-trained SimVTP"),
    ],
)
def test_folders_of_other_models_are_named_for_what_they_are(base, tmp_path, save, load, message):
    save(base).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        load.from_pretrained(tmp_path)


def edit_config(**changes):
    def damage(folder):
        path = folder / "config.json"
        values = {**json.loads(path.read_text()), **changes}
        kept = {name: value for name, value in values.items() if value is not None}
        path.write_text(json.dumps(kept))

    return damage


def cut_weights(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def add_weight(folder):
    path = folder / "model.safetensors"
    weights = safetensors.torch.load_file(path)
    weights["text_embedding.words.weight"] = torch.zeros(3, 4)
    safetensors.torch.save_file(weights, path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut_weights, "model.safetensors is not a readable"),
        (add_weight, "1 weights: unknown text_embedding.words.weight"),
        (lambda folder: (folder / "preprocessor.json").unlink(), "preprocessor.json is missing"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json is not valid JSON"),
        (edit_config(classes=["a", "b", "c"]), r"head.weight is \(2, 16\), the config asks for"),
        (edit_config(classes=None), "must hold task, classes, model"),
        (edit_config(colour=1), "must hold task, classes, model.*colour"),
        (edit_config(model=None), "must hold task, classes, model"),
        (edit_config(model=[1]), "the last one an object"),
        (edit_config(model={"depth": 2, "hue": 1}), "unknown model setting.*hue"),
        (edit_config(classes="ab"), "classes must be a list of names, got 'ab'"),
        (edit_config(classes=[1, 2]), "classes must be a list of names"),
        (edit_config(classes=[]), "classes must be one or more different names"),
        (edit_config(task="grounding"), "for the task 'grounding'; known are classification"),
        (edit_config(task=["classification"]), "for the task .'classification'.; known are"),
    ],
)
def test_damaged_folders_are_refused(base, tmp_path, damage, message):
    classifier_of(base).save_pretrained(tmp_path)
    damage(tmp_path)
    with pytest.raises(ValueError, match=message):
        VideoClassifier.from_pretrained(tmp_path)
