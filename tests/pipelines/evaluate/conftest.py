"""Two small models, clips with two captions each, and the command that ranks them."""

import json

import pytest
import torch

from simvtp import SimVTP
from simvtp.data import load_manifest, train_tokenizer
from simvtp.pipelines.evaluate import command as evaluate
from testing.sample_batches import small_config


def make_model(corpus, folder, *, seed):
    torch.manual_seed(seed)
    tokenizer = train_tokenizer(load_manifest(corpus.train).captions())
    config = small_config(vocab_size=tokenizer.get_vocab_size(), max_text_length=32)
    model = SimVTP.from_config(config, tokenizer=tokenizer)
    # Features as far apart as a trained model's.
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.25)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def model_folder(corpus, tmp_path_factory):
    return make_model(corpus, tmp_path_factory.mktemp("model"), seed=0)


@pytest.fixture(scope="session")
def other_folder(corpus, tmp_path_factory):
    return make_model(corpus, tmp_path_factory.mktemp("other"), seed=1)


@pytest.fixture(scope="session")
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
