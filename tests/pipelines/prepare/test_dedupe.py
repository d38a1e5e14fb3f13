"""Shards without copies: end to end, from a folder with planted ones, its index and a manifest."""

import csv
import json

import pytest

from simvtp.data import load_clips
from simvtp.data.preparing.shard_writer import ShardFolder
from simvtp.pipelines.index import command as index
from testing.pipelines.planted import COPIES, NUM_DIFFERENT
from testing.pipelines.prepared_clips import run, tree, write_manifest


@pytest.fixture(scope="module")
def manifest(planted, tmp_path_factory):
    folder, _ = planted
    names = sorted(path.name for path in folder.glob("*.mp4"))
    path = tmp_path_factory.mktemp("manifest") / "clips.csv"
    return write_manifest(path, [(name, name, f"clip {name}") for name in names])


def arguments(planted, manifest, out):
    folder, index = planted
    shards = ("--clips-per-shard=2", "--out", out)
    return ("--data", manifest, "--root", folder, *shards, "--dedupe", index)


def test_copies_are_left_out_and_listed(planted, manifest, tmp_path):
    out = tmp_path / "shards"
    assert run(*arguments(planted, manifest, out)) == 0
    report = json.loads((out / "report.json").read_text())
    assert {copy["name"]: copy["kept"] for copy in report["copies"]} == COPIES
    assert all(copy["cosine"] >= 0.9 for copy in report["copies"])
    assert (report["clips"], report["dropped"]) == (NUM_DIFFERENT, 0)
    names = {record.video_id for record in load_clips(str(out))}
    assert names == {f"{number}.mp4" for number in range(NUM_DIFFERENT)}


def test_clips_in_shards_are_known_to_their_index(planted, manifest, tmp_path):
    folder, _ = planted
    packed, place, out = (tmp_path / name for name in ("packed", "index", "out"))
    assert run("--data", manifest, "--root", folder, "--out", packed) == 0
    indexing = ["--model=shapes", f"--data={packed}", f"--out={place}", "--workers=0"]
    assert index.main(indexing) == 0
    assert run("--data", packed, "--out", out, "--dedupe", place) == 0
    report = json.loads((out / "report.json").read_text())
    shard = "000000.tar"
    expected = {f"{shard}:{copy}": f"{shard}:{kept}" for copy, kept in COPIES.items()}
    assert {copy["name"]: copy["kept"] for copy in report["copies"]} == expected


def test_a_stopped_run_goes_on_to_the_same_bytes(planted, manifest, tmp_path, monkeypatch, capsys):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert run(*arguments(planted, manifest, whole), "--shuffle-seed=3") == 0
    put = ShardFolder._put
    with monkeypatch.context() as patch:

        def fail_at_the_third(self, data, target):
            if target.name == "000002.json":
                raise KeyboardInterrupt
            put(self, data, target)

        patch.setattr(ShardFolder, "_put", fail_at_the_third)
        assert run(*arguments(planted, manifest, stopped), "--shuffle-seed=3") == 130
    settings = (*arguments(planted, manifest, stopped), "--shuffle-seed=3")
    assert run(*settings, "--threshold=0.9999999") == 2
    assert "dedupe was 3 copies" in capsys.readouterr().out
    assert run(*settings) == 0
    assert tree(stopped) == tree(whole)


def test_the_best_of_what_the_manifest_has_is_kept(planted, manifest, tmp_path):
    """The clip that would be kept of all is none of the manifest's: its copy stays."""
    rows = list(csv.reader(manifest.read_text().splitlines()))[1:]
    rows = [row for row in rows if row[0] != "0.mp4"]
    fewer = write_manifest(tmp_path / "fewer.csv", rows)
    assert run(*arguments(planted, fewer, tmp_path / "shards")) == 0
    report = json.loads((tmp_path / "shards" / "report.json").read_text())
    assert {copy["name"] for copy in report["copies"]} == set(COPIES) - {"again.mp4"}
    assert report["clips"] == NUM_DIFFERENT


def test_clips_that_the_index_does_not_know_stay(planted, manifest, tmp_path, capsys):
    _, index = planted
    (tmp_path / "other.mp4").write_bytes((planted[0] / "1.mp4").read_bytes())
    other = write_manifest(tmp_path / "other.csv", [("other", "other.mp4", "a clip")])
    command = ("--data", other, "--out", tmp_path / "shards", "--dedupe", index)
    assert run(*command) == 2
    assert "holds none of the 1 clips" in capsys.readouterr().out


def test_wrong_options_are_told(planted, manifest, tmp_path, capsys):
    for wrong, said in (
        (("--check", "--dedupe", "x"), "--dedupe is for shards"),
        (("--out", tmp_path / "out", "--threshold=0.9"), "--threshold goes with --dedupe INDEX"),
    ):
        with pytest.raises(SystemExit):
            run("--data", manifest, *wrong)
        assert said in capsys.readouterr().err
