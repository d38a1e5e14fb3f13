import csv

import pytest
import torch

from simvtp import SimVTP
from simvtp.config import ModelConfig
from simvtp.data import load_manifest, load_tokenizer

CONFIG = {
    "image_size": 32,
    "num_frames": 4,
    "width": 16,
    "depth": 2,
    "num_heads": 2,
    "decoder_width": 16,
    "decoder_depth": 1,
    "decoder_heads": 2,
    "text_dropout": 0.0,
}


SETTINGS = {
    "data.num_workers": 0,
    "optim.lr_per_256": 0.1,
    "optim.warmup_epochs": 0.5,
    "run.batch_size": 4,
    "run.epochs": 2,
    "run.precision": "fp32",
    "run.log_every": 1,
}


@pytest.fixture(scope="module")
def model_folder(tokenizer_file, tmp_path_factory):
    tokenizer = load_tokenizer(tokenizer_file)
    torch.manual_seed(0)
    sizes = ModelConfig(**CONFIG, vocab_size=tokenizer.get_vocab_size())
    folder = tmp_path_factory.mktemp("pretrained")
    SimVTP.from_config(sizes, tokenizer=tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def annotations(corpus, tmp_path_factory):
    """By task: the corpus' training clips with made-up labels and questions."""
    folder = tmp_path_factory.mktemp("annotations")
    rows = {"classification": [("path", "label")], "qa": [("path", "question", "answer")]}
    for number, record in enumerate(load_manifest(corpus.train)):
        label = ("left", "right", "up")[number % 3]
        rows["classification"].append((str(record.path), label))
        rows["qa"].append((str(record.path), "where does it go", label))
        rows["qa"].append((str(record.path), "does it go up", str(label == "up")))
    for task, lines in rows.items():
        with (folder / f"{task}.csv").open("w", newline="") as file:
            csv.writer(file).writerows(lines)
    return {"retrieval": corpus.train, **{task: folder / f"{task}.csv" for task in rows}}


@pytest.fixture
def command_for(model_folder, annotations, corpus):
    def command(task, out, **replaced):
        values = {
            **SETTINGS,
            "task": task,
            "model": model_folder,
            "data.train": annotations[task],
            "data.root": corpus.root,
            "run.out": out,
            **{name.replace("__", "."): value for name, value in replaced.items()},
        }
        return [f"--{name}={value}" for name, value in values.items()]

    return command
