"""Captions that the vocabulary has no words for are counted and told."""

import io
import shutil

import pytest

from simvtp import SimVTP
from simvtp.config import PretrainConfig
from simvtp.data import ClipRecord, EpochSampler, load_clips, load_manifest, train_tokenizer
from simvtp.pipelines import unknown_words, visualize
from simvtp.pipelines.embed import command as embed
from simvtp.pipelines.evaluate import command as evaluate
from simvtp.pipelines.pretrain.setup import TrainingData
from simvtp.pipelines.pretrain.summary import print_start
from simvtp.pipelines.unknown_words import tell_unknown_captions
from simvtp.printing import Console
from testing.sample_batches import small_config


def record(number, *captions):
    return ClipRecord(str(number), f"{number}.mp4", captions)


def told(tokenizer, records):
    console = Console(file=io.StringIO(), soft_wrap=True)
    tell_unknown_captions(console, tokenizer, records)
    return console.file.getvalue()


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["a red circle moves left"])


def test_they_are_counted_with_an_example(tokenizer):
    records = [record(0, "a red circle", "一只狗"), record(1, "一只猫在跑"), record(2, "red")]
    text = told(tokenizer, records)
    assert text.startswith("note: the vocabulary lacks most words of 2 of 4 captions, such as ")
    assert "such as '一只狗': the scores" in text
    assert "shapes knows drawn shapes only" in text


def test_nothing_is_said_of_known_words_or_without_a_tokenizer(tokenizer):
    assert told(tokenizer, [record(0, "a red circle")]) == ""
    assert told(tokenizer, []) == ""
    assert told(None, [record(0, "一只狗")]) == ""


def test_of_very_many_some_are_looked_at(tokenizer, monkeypatch):
    monkeypatch.setattr(unknown_words, "_MOST_LOOKED_AT", 10)
    records = [record(number, "一只狗" if number >= 50 else "red") for number in range(95)]
    assert "5 of 10 captions" in told(tokenizer, records)


@pytest.fixture(scope="module")
def model_folder(tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    config = small_config(vocab_size=tokenizer.get_vocab_size(), max_text_length=32)
    SimVTP.from_config(config, tokenizer=tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def chinese(corpus, tmp_path_factory):
    """Two clips, two of whose three captions are in Chinese."""
    folder = tmp_path_factory.mktemp("chinese")
    for name, record in zip("ab", load_manifest(corpus.validation), strict=False):
        shutil.copy(record.path, folder / f"{name}.mp4")
    rows = ["a,a.mp4,一只狗", "b,b.mp4,一只猫在跑", "b,b.mp4,a red circle moves"]
    manifest = folder / "clips.csv"
    manifest.write_text("\n".join(["videoid,path,caption", *rows]) + "\n", "utf-8")
    return manifest


def printed(capsys):
    return " ".join(capsys.readouterr().out.split())


def test_evaluate_and_embed_tell(model_folder, chinese, tmp_path, capsys):
    given = [f"--model={model_folder}", f"--data={chinese}"]
    assert evaluate.main([*given, "--workers=0", "--bootstrap=0", "--device=cpu"]) == 0
    assert "the vocabulary lacks most words of 2 of 3 captions" in printed(capsys)
    out = f"--out={tmp_path / 'a.parquet'}"
    assert embed.main([*given, out, "--workers=0", "--text", "--device=cpu"]) == 0
    assert "the vocabulary lacks most words of 2 of 3 captions" in printed(capsys)


def test_visualize_tells(model_folder, chinese, tmp_path, capsys):
    video = load_manifest(chinese)[0].path
    arguments = [f"--model={model_folder}", f"--video={video}", "--caption=一只狗"]
    assert visualize.main([*arguments, f"--out={tmp_path / 'a.png'}", "--video-ratio=0.5"]) == 0
    assert "the vocabulary lacks most words of '" in printed(capsys)


def test_pretrain_tells_at_its_start(model_folder, chinese):
    console = Console(file=io.StringIO(), soft_wrap=True)
    clips = load_clips(str(chinese))
    model = SimVTP.from_pretrained(model_folder)
    data = TrainingData(clips, clips, files=None)
    sampler = EpochSampler(len(clips), seed=0, batch_size=1)
    print_start(console, PretrainConfig(), model=model, data=data, steps=(0, 1), sampler=sampler)
    assert console.file.getvalue().count("the vocabulary lacks most words of 2 of 3 captions") == 2
