import shutil
from pathlib import Path

import pytest

from benchmarks.small_runs import SIZES
from simvtp.data import load_manifest, train_tokenizer
from simvtp.data.corpus.rendering import render_corpus
from testing.pipelines.planted import plant


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    return render_corpus(
        folder, num_train=16, num_validation=6, size=32, num_processes=1, progress=False
    )


@pytest.fixture(scope="session")
def tokenizer_file(corpus, tmp_path_factory):
    """One vocabulary for all runs, because training one is not deterministic."""
    path = tmp_path_factory.mktemp("words") / "tokenizer.json"
    train_tokenizer(load_manifest(corpus.train).captions()).save(str(path))
    return path


@pytest.fixture
def settings_for(corpus, tokenizer_file):
    """Command line of a very small run; keyword values replace settings."""

    def command(out: Path, **replaced: object) -> list[str]:
        values = {
            **SIZES,
            "data.train": corpus.train,
            "data.validation": corpus.validation,
            "data.tokenizer": tokenizer_file,
            "run.out": out,
            **{name.replace("__", "."): value for name, value in replaced.items()},
        }
        return [f"--{name}={value}" for name, value in values.items()]

    return command


@pytest.fixture
def clips(corpus, tmp_path):
    """A copy of the training clips that may be changed."""
    # Of the same name, by which the corpus is known.
    return Path(shutil.copytree(corpus.root, tmp_path / corpus.root.name))


@pytest.fixture
def command_for(settings_for, clips):
    """Command line of a run over these clips, evaluated after each of its two epochs."""

    def command(out: Path, **settings: object) -> list[str]:
        own = {"data__train": clips / "train.csv", "data__validation": clips / "validation.csv"}
        return settings_for(out, **{**own, "run__evaluate_every_epochs": 1, **settings})

    return command


@pytest.fixture(scope="session")
def planted(tmp_path_factory):
    """A folder of clips with copies among them, and an index of it by the shipped model."""
    # Not above: the data base is slow to import, and few tests need it.
    from simvtp.pipelines.index import command as index

    folder = plant(tmp_path_factory.mktemp("planted") / "videos")
    place = folder.with_name("index")
    command = ["--model=shapes", f"--data={folder}", f"--out={place}", "--workers=0"]
    assert index.main(command) == 0
    return folder, place
