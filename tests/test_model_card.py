"""What a model's folder tells of it, and what its card says: inherited, licensed, readable."""

import json
from dataclasses import replace

import pytest
import torch
from huggingface_hub import HfApi, ModelCard

from simvtp import ModelConfig, SimVTP
from simvtp.config.flat import flat_settings
from simvtp.conversion import Origin, map_weights, origins_of, read_weights
from simvtp.data import train_tokenizer
from simvtp.model_card import ModelFacts, Stage, read_facts
from simvtp.model_folder import shipped_models
from simvtp.tasks import VideoAnswerer, VideoClassifier
from testing.data.video_files import write_video_file

CONFIG = ModelConfig(
    image_size=32,
    num_frames=4,
    width=16,
    depth=1,
    num_heads=2,
    decoder_width=16,
    decoder_depth=1,
    decoder_heads=2,
    vocab_size=20,
)
FOREIGN = Origin(
    kind="VideoMAE pre-training",
    source="k400.pth",
    sha256="0123456789abcdef" * 4,
    licence="CC-BY-NC-4.0",
    parts=("video_embedding", "encoder"),
)
STAGE = Stage(
    name="pre-training",
    data="10 clips of own.csv",
    recipe={"optim.lr_per_256": 1e-3, "data.crop_scales": [1.0, 0.9]},
    metrics={"t2v recall@1": 0.25},
)


def model(*, facts=None):
    torch.manual_seed(0)
    built = SimVTP.from_config(CONFIG)
    if facts is not None:
        built.facts = facts
    return built


def test_a_card_of_own_weights(tmp_path):
    model(facts=ModelFacts(stages=(STAGE,))).save_pretrained(tmp_path)
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.license == "apache-2.0"
    assert card.data.library_name == "simvtp"
    for said in ("10 clips of own.csv", "| t2v recall@1 | 0.25 |", "optim.lr_per_256", "SimVTP"):
        assert said in card.text
    assert "More Information Needed" not in card.text
    assert not (tmp_path / "origin.json").exists()


@pytest.mark.parametrize("origins", [(), (FOREIGN,)])
def test_a_card_of_weights_that_were_not_trained(tmp_path, origins):
    model(facts=ModelFacts(origins=origins)).save_pretrained(tmp_path)
    text = ModelCard.load(tmp_path / "README.md").text
    since = " since it was made of the files named below" if origins else ""
    assert f"Not trained by this library{since}." in text


@pytest.mark.parametrize("through", ["itself", "classifier"])
def test_terms_of_foreign_weights_are_inherited(tmp_path, through):
    facts = ModelFacts(origins=(FOREIGN,), stages=(STAGE,))
    model(facts=facts).save_pretrained(tmp_path / "first")
    loaded = SimVTP.from_pretrained(tmp_path / "first")
    assert loaded.facts == facts
    kind = type(loaded)
    if through == "classifier":
        loaded, kind = VideoClassifier.from_model(loaded, classes=["a", "b"]), VideoClassifier
    loaded.facts = loaded.facts.after(Stage(name="tuning", data="x", recipe={}, metrics={}))
    loaded.save_pretrained(tmp_path / "second")
    again = kind.from_pretrained(tmp_path / "second")
    assert again.facts.origins == (FOREIGN,)
    assert [stage.name for stage in again.facts.stages] == ["pre-training", "tuning"]
    card = ModelCard.load(tmp_path / "second" / "README.md")
    assert card.data.license == "cc-by-nc-4.0"
    assert "k400.pth" in card.text
    assert f"import {kind.__name__}" in card.text


@pytest.mark.parametrize(
    ("licences", "expected"),
    [
        ((), "apache-2.0"),
        (("Apache-2.0",), "apache-2.0"),
        (("MIT", "Apache-2.0"), "mit"),
        (("MIT", "CC-BY-NC-4.0"), "cc-by-nc-4.0"),
        (("CC-BY-NC-4.0", "not stated"), "cc-by-nc-4.0"),
        (("not stated", "Apache-2.0"), "unknown"),
    ],
)
def test_the_strictest_licence_counts(tmp_path, licences, expected):
    origins = tuple(replace(FOREIGN, licence=licence) for licence in licences)
    model(facts=ModelFacts(origins=origins)).save_pretrained(tmp_path)
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.license == expected
    assert ("is not stated: ask" in card.text) == (expected == "unknown")


@pytest.mark.parametrize("named", ["", "model.safetensors"])
@pytest.mark.parametrize("origins", [(), (FOREIGN,)])
def test_weights_of_a_model_folder_stay_under_its_terms(tmp_path, named, origins):
    model(facts=ModelFacts(origins=origins)).save_pretrained(tmp_path)
    found = origins_of(map_weights(read_weights(tmp_path / named), towers="video"))
    assert found[:-1] == origins
    stated = "cc-by-nc-4.0" if origins else "apache-2.0"
    assert found[-1].licence == stated
    assert ModelFacts(origins=found).licence == stated


@pytest.mark.parametrize("card", [None, "no metadata", "---\nlicense: [\n---\n", "---\n- a\n---\n"])
def test_a_folder_without_a_licence_promises_none(tmp_path, card):
    model().save_pretrained(tmp_path)
    (tmp_path / "README.md").unlink()
    if card is not None:
        (tmp_path / "README.md").write_text(card)
    found = origins_of(map_weights(read_weights(tmp_path), towers="video"))
    assert ModelFacts(origins=found).licence == "unknown"


def test_the_hub_gets_the_same_folder(tmp_path, monkeypatch):
    """All but the two calls over the network is the mixin's real way."""
    pushed = {}
    monkeypatch.setattr(
        HfApi, "create_repo", lambda self, repo_id, **_: type("Repo", (), {"repo_id": repo_id})
    )

    def upload(self, *, folder_path, **_):
        pushed.update({path.name: path.read_bytes() for path in folder_path.iterdir()})
        return "url"

    monkeypatch.setattr(HfApi, "upload_folder", upload)
    tuned = model(facts=ModelFacts(origins=(FOREIGN,), stages=(STAGE,)))
    tuned.push_to_hub("someone/model")
    tuned.save_pretrained(tmp_path)
    assert pushed == {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert b"cc-by-nc-4.0" in pushed["README.md"]


def test_damaged_facts_are_refused(tmp_path):
    (tmp_path / "training.json").write_text(json.dumps({"stages": [{"name": "x"}]}))
    with pytest.raises(ValueError, match=r"training\.json: stages\[0\] must hold name"):
        read_facts(tmp_path)
    (tmp_path / "training.json").unlink()
    (tmp_path / "origin.json").write_text("{")
    with pytest.raises(ValueError, match=r"origin\.json is not valid JSON"):
        read_facts(tmp_path)


def test_settings_are_flat_and_plain():
    nested = {"a": {"b": (1, 2), "c": None}, "d": 0.5}
    assert flat_settings(nested) == {"a.b": [1, 2], "a.c": None, "d": 0.5}


def code_of(folder):
    text = ModelCard.load(folder / "README.md").text
    return text.partition("```python\n")[2].partition("```")[0]


@pytest.mark.parametrize("kind", ["pre-trained", "classes", "answers", "options"])
def test_the_code_of_a_card_runs(tmp_path, monkeypatch, kind):
    """As it stands there, where the folder and the videos have the names that it says."""
    tokenizer = train_tokenizer(["a dog runs", "what does the dog do", "who runs"], vocab_size=120)
    config = replace(CONFIG, vocab_size=tokenizer.get_vocab_size())
    made = SimVTP.from_config(config, tokenizer=tokenizer)
    if kind == "classes":
        made = VideoClassifier.from_model(made, classes=["a", "b"])
    elif kind in ("answers", "options"):
        known = ("yes", "no") if kind == "answers" else ()
        made = VideoAnswerer.from_model(made, answers=known)
    folder = tmp_path / "this folder or repository"
    made.save_pretrained(folder)
    for name, length in (("one", 8), ("two", 5), ("clip", 8)):
        write_video_file(tmp_path / f"{name}.mp4", length)
    monkeypatch.chdir(tmp_path)
    seen = {}
    *lines, last = code_of(folder).splitlines()
    exec("\n".join([*lines, f"last = {last}"]), seen)
    assert seen["model"].config == config
    value = seen["last"]
    if kind in ("pre-trained", "options"):
        assert value.shape == ((1, 16) if kind == "pre-trained" else (1, 2))
    else:
        assert value in {"classes": ("a", "b"), "answers": ("yes", "no")}[kind]


def test_the_shipped_card_says_what_cards_say():
    folder = shipped_models()["shapes"]
    assert SimVTP.from_pretrained(folder).usage in code_of(folder)
