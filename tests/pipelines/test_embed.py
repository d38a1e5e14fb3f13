"""Features in a file: what the model says of each clip, whatever happened while it was written.

SIMVTP_KILLS says how many kills a run gets; what was killed when is printed.
"""

import csv
import hashlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import simvtp
from simvtp.config import ModelConfig
from simvtp.data import (
    CentreCrop,
    ClipRecord,
    EvaluationDataset,
    frame_indices,
    load_manifest,
    load_tokenizer,
    read_clip,
)
from simvtp.data.feature_file import FeatureFile
from simvtp.data.view_reading import read_views
from simvtp.model import SimVTP
from simvtp.pipelines import embed as command
from simvtp.pipelines.embed import embed, embed_captions
from tests.data.conftest import write_video_file
from tests.pipelines.test_faults import Disk, when
from tests.pipelines.test_kills import KILLS, group_of, wait_until

CLIPS = {"a": 31, "b": 3, "c": 24, "bad": 0, "d": 12, "e": 40, "f": 26}
GOOD = [name for name in CLIPS if name != "bad"]
CAPTIONS = {
    name: [f"a clip called {name}", "bars, in a row"][: 1 + n % 2] for n, name in enumerate(CLIPS)
}
FRAMES, STRIDE, SIZE = 4, 2, 32


@pytest.fixture(scope="session")
def model_folder(tokenizer_file, tmp_path_factory):
    tokenizer = load_tokenizer(tokenizer_file)
    torch.manual_seed(0)
    config = ModelConfig(
        image_size=SIZE,
        num_frames=FRAMES,
        width=32,
        depth=2,
        num_heads=2,
        decoder_width=16,
        decoder_depth=1,
        decoder_heads=2,
        vocab_size=tokenizer.get_vocab_size(),
    )
    folder = tmp_path_factory.mktemp("models") / "model"
    SimVTP(config, tokenizer=tokenizer, frame_stride=STRIDE).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def model(model_folder):
    return SimVTP.from_pretrained(model_folder)


def write_manifest(folder: Path, names: list[str]) -> Path:
    with (folder / "clips.csv").open("w", newline="") as file:
        rows = [(name, f"{name}.mp4", words) for name in names for words in CAPTIONS[name]]
        csv.writer(file).writerows([("videoid", "path", "caption"), *rows])
    return folder / "clips.csv"


@pytest.fixture(scope="session")
def manifest(tmp_path_factory):
    """Seven videos of different lengths, one of which is none."""
    folder = tmp_path_factory.mktemp("clips")
    for name, length in CLIPS.items():
        write_video_file(folder / f"{name}.mp4", length or 1)
    (folder / "bad.mp4").write_text("this is no video")
    return write_manifest(folder, list(CLIPS))


@pytest.fixture(scope="session")
def records(manifest):
    return load_manifest(manifest)


def run(model_folder: Path, manifest: Path, out: Path, *further: object) -> int:
    own = ("--model", model_folder, "--data", manifest, "--out", out, "--text", "--batch-size=4")
    spread = ("--clips-per-video=2", "--max-bad-share=1", "--device=cpu")
    return command.main([str(argument) for argument in (*own, *spread, *further)])


@pytest.fixture(scope="session")
def undisturbed(model_folder, manifest, tmp_path_factory):
    """Files of a run that nothing happened to."""
    out = tmp_path_factory.mktemp("undisturbed") / "a.parquet"
    assert run(model_folder, manifest, out, "--workers=0") == 0
    return out


def files(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.parent.iterdir() if path.is_file()}


def frames_of(record: ClipRecord, num_clips: int) -> list[tuple[float, torch.Tensor]]:
    """Start and frames of evenly spread clips, from the video decoded whole; one is the middle."""
    length = CLIPS[record.video_id]
    whole = CentreCrop(SIZE)(read_clip(record.path, num_frames=length, stride=1))
    clips = []
    for number in range(num_clips):
        position = None if num_clips == 1 else number / (num_clips - 1)
        chosen = frame_indices(length, num_frames=FRAMES, stride=STRIDE, position=position)
        clips.append((chosen[0] / 10, whole[chosen]))
    return clips


@pytest.mark.parametrize(("num_clips", "batch_size"), [(1, 3), (3, 4), (3, 2)])
def test_features_are_what_the_model_says_of_each_clip(model, records, num_clips, batch_size):
    batches = list(embed(model, records, clips_per_video=num_clips, batch_size=batch_size))
    features = torch.cat([batch.features for batch in batches])
    found = [
        (index, video_id, view, start)
        for batch in batches
        for index, video_id, view, start in zip(
            batch.indices.tolist(),
            batch.ids,
            batch.views.tolist(),
            batch.starts.tolist(),
            strict=True,
        )
    ]
    row = 0
    for index, name in enumerate(CLIPS):
        if name == "bad":
            continue
        for view, (start, clip) in enumerate(frames_of(records[index], num_clips)):
            assert found[row][:3] == (index, name, view)
            assert found[row][3] == pytest.approx(start)
            expected = model.encode_video(clip[None])[0]
            assert (features[row] - expected).abs().max() < 1e-6
            row += 1
    assert row == len(features)
    assert features.dtype == torch.float32
    assert (features.double().norm(dim=1) - 1).abs().max() < 1e-6
    assert not features.is_inference()
    unreadable = [clip for batch in batches for clip in batch.unreadable]
    assert unreadable == [(3, "Invalid data found when processing input")]


def test_one_clip_is_that_of_the_evaluation(model, records):
    dataset = EvaluationDataset(
        records, num_frames=FRAMES, stride=STRIDE, transform=CentreCrop(SIZE)
    )
    for batch in embed(model, records, batch_size=2):
        for index, feature in zip(batch.indices.tolist(), batch.features, strict=True):
            clip = dataset[index].video
            assert clip is not None
            assert (model.encode_video(clip[None])[0] - feature).abs().max() < 1e-6


def test_captions(model, records):
    batches = list(embed_captions(model, records, batch_size=2))
    assert [len(batch.indices) for batch in batches] == [3, 3, 3, 1]
    pairs = [(index, words) for index, name in enumerate(CLIPS) for words in CAPTIONS[name]]
    indices = torch.cat([batch.indices for batch in batches]).tolist()
    captions = [words for batch in batches for words in batch.captions]
    assert list(zip(indices, captions, strict=True)) == pairs
    for feature, words in zip(torch.cat([b.features for b in batches]), captions, strict=True):
        assert (model.encode_text(words)[0] - feature).abs().max() < 1e-6


def test_half_precision_is_close_and_of_unit_norm(model, records):
    one, other = (
        torch.cat([batch.features for batch in embed(model, records, precision=precision)])
        for precision in ("fp32", "bf16")
    )
    assert 0 < (one - other).abs().max() < 0.02
    assert (other.norm(dim=1) - 1).abs().max() < 1e-6


def test_later_records_by_themselves(model, records):
    settings = {"clips_per_video": 2, "batch_size": 4}
    whole, rest = (list(embed(model, records, start=n, **settings)) for n in (0, 4))
    for one, other in zip(whole[2:], rest, strict=True):
        assert one.indices.tolist() == other.indices.tolist()
        assert torch.equal(one.features, other.features)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"clips_per_video": 0}, "clips_per_video must be at least 1, got 0"),
        ({"num_workers": -1}, "num_workers must be at least 0, got -1"),
        ({"start": -1}, "start must be at least 0, got -1"),
    ],
)
def test_counts_are_checked_at_once(model, records, settings, message):
    with pytest.raises(ValueError, match=message):
        embed(model, records, **settings)
    with pytest.raises(ValueError, match="got no records"):
        embed(model, [])


def test_features_that_are_no_numbers_are_refused(model_folder, records):
    broken = SimVTP.from_pretrained(model_folder)
    with torch.no_grad():
        next(broken.encoder.parameters()).fill_(float("nan"))
    with pytest.raises(ValueError, match=r"features of .*a\.mp4 are not finite"):
        next(embed(broken, records))


def test_the_files_hold_the_features_and_where_they_come_from(
    model, model_folder, manifest, records, undisturbed
):
    table = pq.read_table(undisturbed)
    settings = {"clips_per_video": 2, "batch_size": 4}
    batches = list(embed(model, records, **settings))
    assert table.column("video_id").to_pylist() == [name for name in GOOD for _ in range(2)]
    assert table.column("view").to_pylist() == [0, 1] * len(GOOD)
    names = [f"{manifest.parent}/{name}.mp4" for name in GOOD for _ in range(2)]
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
        "name": f"{manifest.parent}/bad.mp4",
        "reason": "Invalid data found when processing input",
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


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_and_parts_change_no_byte(
    model_folder, manifest, undisturbed, tmp_path, capsys, workers
):
    out = tmp_path / "a.parquet"
    every = f"--save-every={workers - 1}"
    assert run(model_folder, manifest, out, f"--workers={workers}", every) == 0
    assert files(out) == files(undisturbed)
    printed = " ".join(capsys.readouterr().out.split())
    assert f"{out}: 12 clips of 6 videos; {tmp_path}/a.text.parquet: 10 captions" in printed
    assert f"videos that cannot be read: 1, see {tmp_path}/a.quarantine.jsonl" in printed


def test_shards_are_embedded_like_files(model_folder, manifest, undisturbed, tmp_path):
    from simvtp.pipelines import prepare

    shards = tmp_path / "shards"
    assert prepare.main([f"--data={manifest}", f"--out={shards}", "--num-processes=1"]) == 0
    out = tmp_path / "out/a.parquet"
    assert run(model_folder, shards, out, "--workers=0") == 0
    one, other = pq.read_table(out), pq.read_table(undisturbed)
    # Without the bad video, batches hold others: sums may round differently.
    features = [np.stack(table.column("video_embed").to_numpy()) for table in (one, other)]
    assert np.abs(features[0] - features[1]).max() < 1e-6
    assert one.column("video_id").to_pylist() == other.column("video_id").to_pylist()
    assert one.column("name")[0].as_py() == f"{shards}/000000.tar:a"
    assert sorted(files(out)) == ["a.parquet", "a.text.parquet"]


def test_a_video_that_hangs_costs_no_other(model, records, tmp_path):
    os.mkfifo(tmp_path / "hangs.mp4")
    hanging = ClipRecord("hangs", tmp_path / "hangs.mp4", ("x",))
    mixed = [records[0], hanging, records[2]]
    (batch,) = embed(model, mixed, num_workers=1, time_limit=1)
    assert batch.unreadable == ((1, "it was not decoded within 2 seconds"),)
    assert batch.indices.tolist() == [0, 2]


def test_a_decoder_that_crashes_costs_no_other(records, tmp_path):
    fifo = tmp_path / "crashes.mp4"
    os.mkfifo(fifo)

    def is_open() -> bool:
        # A pipe can be opened in this way only while another process waits for its bytes.
        try:
            os.close(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))
        except OSError:
            return False
        (worker,) = multiprocessing.active_children()
        worker.kill()
        return True

    killing = when(is_open, lambda: None)
    mixed = [records[0], replace(records[1], path=fifo), records[2]]
    one = {"num_frames": 2, "stride": 1, "num_clips": 1, "num_crops": 1, "image_size": SIZE}
    clips = list(read_views(mixed, num_workers=1, time_limit=100, **one))
    killing.join()
    assert [clip.video is None for clip in clips] == [False, True, False]
    assert [clip.index for clip in clips] == [0, 1, 2]
    assert clips[1].error == "the process that decoded it crashed (exit code -9)"


def copy_of(folder: Path, target: Path) -> Path:
    shutil.copytree(folder, target)
    return target


@pytest.fixture
def begun(model_folder, manifest, tmp_path, capsys):
    """A run over clips of its own that was stopped in the middle, since a clip never comes."""
    clips = copy_of(manifest.parent, tmp_path / "clips")
    out = tmp_path / "out/a.parquet"
    # A list that was checked is not checked again.
    load_manifest(clips / "clips.csv")
    (clips / "f.mp4").rename(clips / "f.aside")
    os.mkfifo(clips / "f.mp4")
    sent: list[float] = []

    def stop() -> None:
        time.sleep(0.5)
        sent.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGTERM)

    partial = out.with_name("a.parquet.partial")
    stopping = when(lambda: len(list(partial.glob("0*.parquet"))) > 2, stop)
    settings = ("--workers=2", "--save-every=0")
    assert run(model_folder, clips / "clips.csv", out, *settings) == 0
    assert time.monotonic() - sent[0] < 5
    assert "stopped by SIGTERM; the same command goes on" in capsys.readouterr().out
    stopping.join()
    assert not multiprocessing.active_children()
    (clips / "f.aside").replace(clips / "f.mp4")
    assert not out.exists()
    return clips / "clips.csv", out


def test_a_stop_does_not_wait_and_loses_nothing(begun, model_folder, tmp_path, capsys):
    clips, out = begun
    assert run(model_folder, clips, out, "--workers=1") == 0
    assert "going on at video 6 of 7" in capsys.readouterr().out
    again = tmp_path / "again/a.parquet"
    assert run(model_folder, clips, again, "--workers=0") == 0
    assert files(out) == files(again)


def other_model(folder: Path, target: Path) -> Path:
    model = SimVTP.from_pretrained(folder)
    with torch.no_grad():
        model.match_head.bias += 1
    model.save_pretrained(target)
    return target


def test_a_changed_model_data_or_setting_is_named(begun, model_folder, tmp_path, capsys):
    clips, out = begun

    def refusal(*arguments: object) -> str:
        assert run(*arguments) == 2
        return " ".join(capsys.readouterr().out.split())

    changed = other_model(model_folder, tmp_path / "other")
    assert "weights was " in refusal(changed, clips, out)
    assert "batch_size was 4 and is now 5" in refusal(model_folder, clips, out, "--batch-size=5")
    said = refusal(model_folder, clips, out, "--clips-per-video=3", "--precision=bf16")
    assert "clips_per_video was 2 and is now 3" in said
    assert "precision was fp32 and is now bf16" in said
    assert f"remove {out}.partial to start anew" in said
    with clips.open("a") as file:
        file.write("g,f.mp4,one more\n")
    assert f"clips was {clips.parent} " in refusal(model_folder, clips, out)
    assert len(list(out.with_name("a.parquet.partial").glob("0*.parquet"))) == 3


def test_a_finished_file_is_replaced_only_when_asked(
    model_folder, manifest, undisturbed, tmp_path, capsys
):
    out = copy_of(undisturbed.parent, tmp_path / "out") / "a.parquet"
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
    assert "Invalid data" in said
    assert run(model_folder, manifest, out, "--workers=0") == 1
    assert "none of the 40 videos can be read" in " ".join(capsys.readouterr().out.split())
    assert list(out.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"out": "a.csv"}, "must end in .parquet"),
        ({"model": "gone/away/folder"}, "is neither a folder here nor could it be downloaded"),
        ({"data": "gone.csv"}, "cannot read the manifest"),
        ({"data": "empty.csv"}, "empty"),
        ({"data": "model"}, "index.json"),
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


@pytest.fixture
def disk(tmp_path):
    try:
        mounted = Disk(tmp_path / "disk")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("only root can mount a small disk")
    yield mounted
    mounted.close()


def test_a_full_disk_costs_nothing_at_any_size(
    disk, model_folder, manifest, undisturbed, tmp_path, capsys
):
    out = disk.folder / "out/a.parquet"
    settings = ("--workers=0", "--save-every=0")
    for size in range(4, 200, 12):
        disk.resize(size)
        done = run(model_folder, manifest, out, *settings)
        if done == 0:
            break
        assert done == 2
        said = capsys.readouterr().out
        assert "No space left on device" in said
        assert not out.exists()
    assert size > 40
    assert files(out) == files(undisturbed)


def start(model_folder: Path, manifest: Path, out: Path, workers: int) -> subprocess.Popen[bytes]:
    own = [f"--model={model_folder}", f"--data={manifest}", f"--out={out}", "--text"]
    settings = ["--batch-size=4", "--clips-per-video=2", "--max-bad-share=1", "--device=cpu"]
    parts = ["--save-every=0", f"--workers={workers}"]
    return subprocess.Popen(
        [sys.executable, "-m", "simvtp.pipelines.embed", *own, *settings, *parts],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def is_killed(process: subprocess.Popen[bytes], out: Path, chance: random.Random) -> bool:
    """Kill before the first part, after one more or two, or later; False if it ends before."""
    partial = out.with_name("a.parquet.partial")
    parts = len(list(partial.glob("0*"))) + chance.randrange(3)
    begun = (partial / "settings.json").exists
    if not wait_until(lambda: begun() and len(list(partial.glob("0*"))) >= parts, process):
        printed = process.communicate()[0].decode()
        assert process.returncode == 0 or "it is there already" in printed, printed
        return False
    time.sleep(chance.uniform(0, 0.1))
    if chance.random() < 0.5 and process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.communicate()
    end = time.monotonic() + 10
    while group_of(process.pid):
        assert time.monotonic() < end, "workers outlive the process that started them"
        time.sleep(0.05)
    return process.returncode == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_killed_at_random_moments_the_files_have_the_same_bytes(
    model_folder, manifest, undisturbed, tmp_path
):
    chance = random.Random(0)
    num_kills = 0
    while num_kills < (KILLS or 2):
        out = tmp_path / str(num_kills) / "a.parquet"
        while num_kills < (KILLS or 2):
            process = start(model_folder, manifest, out, chance.randrange(4))
            if not is_killed(process, out, chance):
                break
            num_kills += 1
        if not out.exists() or out.with_name("a.parquet.partial").exists():
            assert run(model_folder, manifest, out) == 0
        assert files(out) == files(undisturbed)
    print(f"KILLED {num_kills} times")
