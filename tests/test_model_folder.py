"""Folders whose files hold anything: loaded, or refused with file and field, at once."""

import json
import shutil
import time

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simvtp import SimVTP
from simvtp.conversion import Origin
from simvtp.data import train_tokenizer
from simvtp.model_card import ModelFacts, Stage
from simvtp.pipelines.convert import main as convert
from simvtp.tasks import VideoClassifier
from testing.sample_batches import small_config

CAPTIONS = ["a red circle moves left", "the blue star spins", "a dog runs"]
NUMBERS = st.integers() | st.sampled_from([10**6, 2**31, 10**9, 10**30]) | st.floats()
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=5,
)
MANY = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Folders of a pre-trained model and of a classifier."""
    folder = tmp_path_factory.mktemp("whole")
    tokenizer = train_tokenizer(CAPTIONS, vocab_size=200)
    model = SimVTP.from_config(
        small_config(vocab_size=tokenizer.get_vocab_size()), tokenizer=tokenizer
    )
    origin = Origin(kind="BERT", source="a/b", sha256="0" * 64, licence="MIT", parts=("encoder",))
    stage = Stage(name="pre-training", data="3 clips", recipe={"a": 1}, metrics={"loss": 0.5})
    model.facts = ModelFacts(origins=(origin,), stages=(stage,))
    model.save_pretrained(folder / "model")
    VideoClassifier.from_model(model, classes=["a", "b"]).save_pretrained(folder / "task")
    return folder


@pytest.fixture
def folder(whole, tmp_path):
    return shutil.copytree(whole / "model", tmp_path / "model")


def places(value, path=()):
    """Every place in a JSON value, the whole of it too."""
    yield path
    children = ()
    if isinstance(value, dict | list):
        children = value.items() if isinstance(value, dict) else enumerate(value)
    for key, child in children:
        yield from places(child, (*path, key))


def replaced(value, path, new):
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = replaced(value[path[0]], path[1:], new)
    return copy


def refusal_of(kind, folder):
    """What loading refuses, and using what depends on the files beside the weights."""
    try:
        model = kind.from_pretrained(folder)
        str(model.generate_model_card())
        if kind is SimVTP:
            model.encode_text("a red circle")
    except ValueError as error:
        return str(error)
    return None


@pytest.mark.parametrize("kind", ["model", "task"])
@pytest.mark.parametrize(
    "name", ["config.json", "preprocessor.json", "origin.json", "training.json"]
)
@MANY
@given(data=st.data(), new=VALUES)
def test_any_json_value_at_any_place(whole, tmp_path_factory, kind, name, data, new):
    original = json.loads((whole / kind / name).read_text())
    path = data.draw(st.sampled_from(list(places(original))))
    folder = shutil.copytree(whole / kind, tmp_path_factory.mktemp("any") / kind)
    (folder / name).write_text(json.dumps(replaced(original, path, new)))
    refusal = refusal_of(SimVTP if kind == "model" else VideoClassifier, folder)
    if refusal is not None and "does not fit the model" not in refusal:
        assert name in refusal or f"{kind} holds a " in refusal
        assert next((key for key in reversed(path) if isinstance(key, str)), "") in refusal


@MANY
@given(data=st.data(), new=VALUES)
def test_any_json_value_at_any_place_of_a_tokenizer(whole, tmp_path_factory, data, new):
    original = json.loads((whole / "model" / "tokenizer.json").read_text())
    shallow = [path for path in places(original) if path[:2] != ("model", "vocab")]
    path = data.draw(st.sampled_from(shallow))
    folder = shutil.copytree(whole / "model", tmp_path_factory.mktemp("any") / "model")
    (folder / "tokenizer.json").write_text(json.dumps(replaced(original, path, new)))
    refusal = refusal_of(SimVTP, folder)
    assert refusal is None or "tokenizer.json" in refusal


def change(folder, name, **values):
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize("name", ["depth", "decoder_depth", "word_decoder_depth"])
@pytest.mark.parametrize("kind", ["model", "task"])
def test_depths_are_compared_before_anything_is_built(whole, tmp_path, kind, name):
    folder = shutil.copytree(whole / kind, tmp_path / kind)
    config = json.loads((folder / "config.json").read_text())
    sizes = config if kind == "model" else config["model"]
    for depth in (10**9, 5_000_000):
        sizes[name] = depth
        (folder / "config.json").write_text(json.dumps(config))
        started = time.monotonic()
        with pytest.raises(ValueError, match=f"config.json.*{name}"):
            (SimVTP if kind == "model" else VideoClassifier).from_pretrained(folder)
        assert time.monotonic() - started < 10


def test_a_header_of_many_tiny_weights_builds_nothing(folder):
    weights = {f"weight_{number}": torch.zeros(1) for number in range(20_000)}
    safetensors.torch.save_file(weights, folder / "model.safetensors")
    change(folder, "config.json", depth=19_999)
    started = time.monotonic()
    with pytest.raises(ValueError, match=r"config.json: depth must be at most 1,000, got 19999"):
        SimVTP.from_pretrained(folder)
    assert time.monotonic() - started < 2


@pytest.mark.parametrize("name", ["depth", "decoder_depth", "vocab_size", "max_text_length"])
def test_conversion_compares_too(folder, tmp_path, capsys, name):
    change(folder, "config.json", **{name: 9_000_000})
    started = time.monotonic()
    assert convert([str(folder), "--out", str(tmp_path / "out")]) == 2
    assert time.monotonic() - started < 10
    assert "9000000" in capsys.readouterr().out


def test_clips_that_no_machine_has_room_for(folder):
    change(folder, "config.json", num_frames=4_000_000)
    with pytest.raises(ValueError, match=r"config\.json: num_frames x image_size .* fit in memory"):
        SimVTP.from_pretrained(folder)


def test_deep_json(folder):
    for name in ("config.json", "preprocessor.json", "origin.json", "training.json"):
        broken = shutil.copytree(folder, folder.parent / name)
        (broken / name).write_text('{"a": ' * 100_000 + "1" + "}" * 100_000)
        with pytest.raises(ValueError, match=f"{name} is nested too deeply"):
            SimVTP.from_pretrained(broken)


def test_large_json(folder):
    with (folder / "config.json").open("r+b") as file:
        file.truncate(10**9)
    with pytest.raises(ValueError, match=r"config\.json must be at most 64 MB"):
        SimVTP.from_pretrained(folder)


def test_a_regular_expression_that_panics(folder):
    bad = {"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": False}
    change(folder, "tokenizer.json", pre_tokenizer=bad)
    with pytest.raises(ValueError, match=r"tokenizer\.json is not a tokenizer that can be read"):
        SimVTP.from_pretrained(folder)


def test_ids_beyond_the_embedding(folder):
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["spins"] = 5000
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(ValueError, match=r"tokenizer\.json: the tokenizer has 5001 words, .* \d+ "):
        SimVTP.from_pretrained(folder)


def test_a_template_with_ids_of_its_own(folder):
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    special = tokenizer["post_processor"]["special_tokens"]
    special["[X]"] = {"id": "[X]", "ids": [9000], "tokens": ["[X]"]}
    single = tokenizer["post_processor"]["single"]
    single.insert(1, {"SpecialToken": {"id": "[X]", "type_id": 0}})
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(ValueError, match=r"tokenizer\.json: the tokenizer has 9001 words"):
        SimVTP.from_pretrained(folder)
