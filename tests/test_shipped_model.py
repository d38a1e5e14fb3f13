"""The model that ships with the library: found without a network, small, and as good as it says."""

import socket

import pytest

from simvtp import SimVTP
from simvtp.data import load_clips
from simvtp.data.corpus.rendering import held_out_manifest
from simvtp.model_folder import find_model_folder, shipped_models
from simvtp.pipelines import visualize
from simvtp.pipelines.learned import measure_learned


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError(f"a connection was asked for: {arguments}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.usefixtures("no_network")
def test_it_loads_offline_by_its_name_and_is_small():
    model = SimVTP.from_pretrained("shapes")
    assert model.tokenizer is not None
    assert next(model.parameters()).dtype.itemsize == 4
    size = sum(path.stat().st_size for path in shipped_models()["shapes"].iterdir())
    assert size <= 6_000_000


def test_a_folder_of_that_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    SimVTP.from_pretrained("shapes").save_pretrained("shapes")
    assert find_model_folder("shapes", download_options={}).resolve() == tmp_path / "shapes"


def test_an_unknown_name_is_told_those_that_ship(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match=r"nor a model of the library \(shapes\), nor could it"):
        SimVTP.from_pretrained("circles", local_files_only=True)


@pytest.mark.slow
def test_each_loss_of_it_is_seen_to_have_learned():
    records = load_clips(str(held_out_manifest(progress=False)))[:128]
    learned = measure_learned(SimVTP.from_pretrained("shapes"), records, top=8).as_dict()
    assert learned["pixel error"] < 0.6 < learned["pixel error: patch mean floor"]
    assert learned["word accuracy"] > 0.5
    assert learned["word accuracy"] > learned["word accuracy: another video"] + 0.04
    assert learned["matching AUC, random clip"] > 0.85
    assert learned["recall@1 by cosine"] > 0.3


def test_commands_take_it_and_the_held_out_clips_by_themselves(tmp_path, capsys):
    picture = tmp_path / "picture.png"
    assert visualize.main(["--model=shapes", f"--out={picture}"]) == 0
    assert picture.stat().st_size > 10_000
    assert visualize.main(["--model=shapes", "--caption=a red ring"]) == 2
    assert "--caption says what a --video shows" in capsys.readouterr().out
