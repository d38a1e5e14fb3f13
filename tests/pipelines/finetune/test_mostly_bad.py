"""Results that rest on a few of the clips say so, and in the exit code."""

import json
from pathlib import Path

import pytest

from simvtp.data import TooManyBadClips, load_manifest
from simvtp.data.datasets.quarantine import require_few_bad
from simvtp.pipelines.embed import command as embed
from simvtp.pipelines.evaluate import command as evaluate
from simvtp.pipelines.finetune import command as finetune
from simvtp.pipelines.pretrain import command as pretrain

NUM_CLIPS, NUM_GOOD = 6, 2


@pytest.fixture
def mostly_bad(corpus, tmp_path):
    """Six held-out clips, four of which are none."""
    rows = ["videoid,path,caption"]
    for number, record in enumerate(load_manifest(corpus.validation)):
        data = record.path.read_bytes() if number < NUM_GOOD else b"no video"
        (tmp_path / f"held{number}.mp4").write_bytes(data)
        rows.append(f'{number},held{number}.mp4,"{record.captions[0]}"')
    (tmp_path / "held_out.csv").write_text("\n".join(rows) + "\n", "utf-8")
    return tmp_path / "held_out.csv"


@pytest.mark.parametrize(("num_bad", "fits"), [(0, True), (1, True), (2, False), (10, False)])
def test_the_limit_holds_for_few_clips_too(num_bad, fits):
    limit = {"max_bad_share": 0.1, "what": "they are", "option": "--x"}
    if fits:
        require_few_bad(num_bad, 10, **limit)
    else:
        with pytest.raises(TooManyBadClips, match=f"they are of {10 - num_bad} of 10: {num_bad} "):
            require_few_bad(num_bad, 10, **limit)


def test_evaluation(model_folder, mostly_bad, tmp_path, capsys):
    report = tmp_path / "figures.json"
    command = [f"--model={model_folder}", f"--data={mostly_bad}", "--workers=0"]
    assert evaluate.main([*command, f"--json={report}"]) == 1
    assert "the figures are of 2 of 6: 4 cannot be read" in capsys.readouterr().out
    assert json.loads(report.read_text())["num_clips"] == NUM_GOOD
    assert evaluate.main([*command, "--max-bad-share=0.7"]) == 0


def test_features(model_folder, mostly_bad, tmp_path, capsys):
    out = tmp_path / "features.parquet"
    command = [f"--model={model_folder}", f"--data={mostly_bad}", f"--out={out}", "--workers=0"]
    assert embed.main(command) == 1
    assert "the features would be those of 2 of 6: 4 cannot be read" in capsys.readouterr().out
    assert not out.exists()
    assert embed.main([*command, "--max-bad-share=0.7"]) == 0
    assert out.is_file()


@pytest.mark.parametrize("every", [0, 1])
def test_pretraining(settings_for, mostly_bad, tmp_path, every, capsys):
    out = tmp_path / "run"
    settings = {"data__validation": mostly_bad, "run__evaluate_every_epochs": every}
    assert pretrain.main(settings_for(out, **settings)) == 1
    said = capsys.readouterr().out
    assert "the held-out figures would be those of 2 of 6: 4 cannot be read" in said
    # What hours of training made is kept.
    assert (out / "model" / "config.json").is_file() == (every == 0)
    assert every == 0 or "is saved: go on with" in said
    allowed = {**settings, "data__max_bad_share": 0.7}
    assert pretrain.main([*settings_for(out, **allowed), "--resume"]) == 0


def test_fine_tuning(command_for, mostly_bad, tmp_path, capsys):
    out = tmp_path / "run"
    command = command_for("retrieval", out, data__test=mostly_bad, run__epochs=1)
    command = [part for part in command if not part.startswith("--data.root")]
    assert finetune.main(command) == 1
    assert "the test figures are of 2 of 6: 4 cannot be read" in capsys.readouterr().out
    assert json.loads((out / "results.json").read_text())["test"]["unreadable"] == 4
    listed = [json.loads(line) for line in (out / "quarantine.jsonl").read_text().splitlines()]
    assert [Path(entry["path"]).name for entry in listed] == [f"held{n}.mp4" for n in range(2, 6)]
    assert all(entry["reason"] for entry in listed)


def test_features_for_a_linear_layer(command_for, corpus, tmp_path, capsys):
    paths = [str(record.path) for record in load_manifest(corpus.train)]
    for number in range(2):
        (tmp_path / f"{number}.mp4").write_bytes(b"no video")
        paths.append(str(tmp_path / f"{number}.mp4"))
    rows = ["path,label", *(f"{path},{number % 2}" for number, path in enumerate(paths))]
    (tmp_path / "labels.csv").write_text("\n".join(rows) + "\n", "utf-8")
    settings = {"data__train": tmp_path / "labels.csv", "data__root": "/"}
    further = {"tune__train_parts": "features", "data__max_bad_share": 0.01}
    command = command_for("classification", tmp_path / "run", **settings, **further)
    assert finetune.main(command) == 1
    assert "the features would be those of" in capsys.readouterr().out
