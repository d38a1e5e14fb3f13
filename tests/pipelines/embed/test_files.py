"""Features in a file: they are those of the batches, with where they come from."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import simvtp
from simvtp.pipelines.embed import embed, embed_captions
from simvtp.retrieval.feature_file import FeatureFile
from testing.pipelines.embedded_clips import CAPTIONS, CLIPS, FRAMES, GOOD, STRIDE, files, run


def test_the_files_hold_the_features_and_where_they_come_from(
    model, model_folder, manifest, records, undisturbed
):
    table = pq.read_table(undisturbed)
    settings = {"clips_per_video": 2, "batch_size": 4}
    batches = list(embed(model, records, **settings))
    assert table.column("video_id").to_pylist() == [name for name in GOOD for _ in range(2)]
    assert table.column("view").to_pylist() == [0, 1] * len(GOOD)
    names = [f"{name}.mp4" for name in GOOD for _ in range(2)]
    assert table.column("name").to_pylist() == names
    assert table.column("start").to_pylist() == torch.cat([b.starts for b in batches]).tolist()
    features = np.stack(table.column("video_embed").to_numpy())
    assert np.array_equal(features, torch.cat([batch.features for batch in batches]).numpy())
    text = pq.read_table(undisturbed.with_suffix(".text.parquet"))
    assert text.column("caption").to_pylist() == [w for name in CLIPS for w in CAPTIONS[name]]
    assert text.column("video_id").to_pylist() == [n for n in CLIPS for _ in CAPTIONS[n]]
    captions = torch.cat([b.features for b in embed_captions(model, records, batch_size=4)])
    assert np.array_equal(np.stack(text.column("text_embed").to_numpy()), captions.numpy())
    (line,) = undisturbed.with_suffix(".quarantine.jsonl").read_text().splitlines()
    assert json.loads(line) == {
        "index": 3,
        "video_id": "bad",
        "name": "bad.mp4",
        "reason": "no video that FFmpeg knows, or a damaged one",
    }
    for each in (table, text):
        about = each.schema.metadata
        weights = (model_folder / "model.safetensors").read_bytes()
        assert about[b"simvtp.weights"].decode() == hashlib.sha256(weights).hexdigest()
        preprocessor = json.loads((model_folder / "preprocessor.json").read_text())
        assert json.loads(about[b"simvtp.preprocessor"]) == preprocessor
        assert about[b"simvtp.version"].decode() == simvtp.__version__
        assert about[b"simvtp.unreadable"] == b"1"
    assert len(files(undisturbed)) == 3
    for content in files(undisturbed).values():
        assert str(manifest.parent).encode() not in content
        assert str(model_folder.parent).encode() not in content


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_and_parts_change_no_byte(
    model_folder, manifest, undisturbed, tmp_path, capsys, workers
):
    out = tmp_path / "a.parquet"
    every = f"--save-every={workers - 1}"
    assert run(model_folder, manifest, out, f"--workers={workers}", every) == 0
    assert files(out) == files(undisturbed)
    printed = " ".join(capsys.readouterr().out.split())
    assert f"clips: {FRAMES} frames, {STRIDE} of a video's apart, whatever its rate" in printed
    assert f"{out}: 12 clips of 6 videos; {tmp_path}/a.text.parquet: 10 captions" in printed
    assert f"videos that cannot be read: 1, see {tmp_path}/a.quarantine.jsonl" in printed


def test_shards_are_embedded_like_files(model_folder, manifest, undisturbed, tmp_path):
    from simvtp.pipelines.prepare import command as prepare

    shards = tmp_path / "shards"
    settings = ["--workers=1", "--max-bad-share=1"]
    assert prepare.main([f"--data={manifest}", f"--out={shards}", *settings]) == 0
    out = tmp_path / "out/a.parquet"
    assert run(model_folder, shards, out, "--workers=0") == 0
    one, other = pq.read_table(out), pq.read_table(undisturbed)
    # Without the bad video, batches hold others: sums may round differently.
    features = [np.stack(table.column("video_embed").to_numpy()) for table in (one, other)]
    assert np.abs(features[0] - features[1]).max() < 1e-6
    assert one.column("video_id").to_pylist() == other.column("video_id").to_pylist()
    assert one.column("name")[0].as_py() == "000000.tar:a"
    assert sorted(files(out)) == ["a.parquet", "a.text.parquet"]


def test_a_finished_file_is_replaced_only_when_asked(
    model_folder, manifest, undisturbed, tmp_path, capsys
):
    out = shutil.copytree(undisturbed.parent, tmp_path / "out") / "a.parquet"
    assert run(model_folder, manifest, out, "--clips-per-video=1") == 2
    assert "it is there already; choose another name" in capsys.readouterr().out
    assert files(out) == files(undisturbed)
    assert run(model_folder, manifest, out, "--clips-per-video=1", "--overwrite") == 0
    assert pq.read_table(out).num_rows == len(GOOD)
    assert [path.name for path in out.parent.iterdir() if path.is_dir()] == []


def test_two_at_once_are_refused(model_folder, manifest, tmp_path, capsys):
    out = tmp_path / "a.parquet"
    file = FeatureFile(out, {}, tables={})
    assert run(model_folder, manifest, out) == 2
    assert f"{out}: another process is writing it" in capsys.readouterr().out
    file.close()


def test_too_many_bad_videos_stop_the_run(model_folder, tmp_path, capsys):
    (tmp_path / "bad.mp4").write_text("this is no video")
    rows = [f"{n},bad.mp4,words" for n in range(40)]
    manifest = tmp_path / "clips.csv"
    manifest.write_text("\n".join(["videoid,path,caption", *rows]))
    out = tmp_path / "out/a.parquet"
    assert run(model_folder, manifest, out, "--max-bad-share=0.2", "--workers=0") == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "of the 20 clips tried cannot be read" in said
    assert "no video that FFmpeg knows" in said
    assert run(model_folder, manifest, out, "--workers=0") == 1
    assert "none of the 40 videos can be read" in " ".join(capsys.readouterr().out.split())
    assert list(out.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"out": "a.csv"}, "must end in .parquet"),
        ({"model": "gone/away/folder"}, "is neither a folder here nor a model of the library"),
        ({"data": "gone.csv"}, "cannot read it (No such file"),
        ({"data": "empty.csv"}, "empty"),
        ({"data": "model"}, "no video in it or in its folders"),
        ({"out": "empty.csv/a.parquet"}, "Not a directory"),
    ],
)
def test_bad_input_is_one_line(
    model_folder, manifest, tmp_path, capsys, monkeypatch, changed, message
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    Path("empty.csv").touch()
    Path("model").mkdir()
    values = {"model": model_folder, "data": manifest, "out": "a.parquet", **changed}
    assert run(values["model"], values["data"], Path(values["out"]), "--workers=0") == 2
    printed = capsys.readouterr().out
    assert printed.startswith("error: ")
    assert len(printed.splitlines()) == 1
    assert message in printed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty.csv", "model"]
