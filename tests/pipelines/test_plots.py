"""Without the extra `plots` runs go on, and what is a picture is refused before any work."""

import json
import sys

import pytest

from simvtp.extras import MissingPackageError, has_plots, new_figure
from simvtp.pipelines import visualize
from simvtp.pipelines.evaluate import command as evaluate
from simvtp.pipelines.pretrain import command as pretrain
from simvtp.training.event_file import EventFile

PACKAGES = ("matplotlib", "tensorboard")
FIX = "pip install 'simvtp[plots]'"


@pytest.fixture(autouse=True)
def _plain_install(monkeypatch):
    loaded = [name for name in sys.modules if name.partition(".")[0] in PACKAGES]
    for name in {*loaded, *PACKAGES}:
        monkeypatch.setitem(sys.modules, name, None)


def test_a_run_says_so_once_and_leaves_no_pictures(settings_for, tmp_path, capsys):
    out = tmp_path / "run"
    assert pretrain.main(settings_for(out, run__epochs=1)) == 0
    told = capsys.readouterr().out
    assert told.count(FIX) == 1
    for picture in ("curves.png", "visualize", "tensorboard --"):
        assert picture not in told
    assert f"evaluate     python -m simvtp.pipelines.evaluate --model {out}" in told
    assert (out / "model" / "config.json").is_file()
    assert json.loads((out / "metrics.jsonl").read_text().splitlines()[0])["step"] == 1
    assert not [*out.glob("*.png"), *out.glob("tensorboard")]


def test_pictures_are_refused_before_the_work(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        visualize.main(["--model", "not/there"])
    assert ended.value.code == 2
    assert FIX in capsys.readouterr().err
    assert evaluate.main(["--model", "not/there", "--sheet", str(tmp_path / "sheet.png")]) == 2
    assert FIX in capsys.readouterr().out


def test_drawing_names_the_extra(tmp_path):
    assert not has_plots()
    with pytest.raises(MissingPackageError, match="a picture needs"):
        new_figure(1, 1)
    with pytest.raises(MissingPackageError, match="TensorBoard's event file needs"):
        EventFile(tmp_path, purge_step=1)
