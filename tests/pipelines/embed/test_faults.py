"""Features in a file, whatever happened while it was written.

SIMVTP_KILLS says how many kills a run gets; what was killed when is printed.
"""

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

import pytest
import torch

from benchmarks.kills import group_of, wait_until
from simvtp.config import DEFAULT_SPACING
from simvtp.data import ClipRecord, load_manifest
from simvtp.data.datasets.views import read_views
from simvtp.model import SimVTP
from simvtp.pipelines.embed import embed
from testing.by_hand import KILLS
from testing.pipelines.disks import Disk, when
from testing.pipelines.embedded_clips import SIZE, files, run


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
    one = {"num_clips": 1, "num_crops": 1, "image_size": SIZE}
    cut = {"num_frames": 2, "spacing": DEFAULT_SPACING}
    clips = list(read_views(mixed, num_workers=1, time_limit=100, **cut, **one))
    killing.join()
    assert [clip.video is None for clip in clips] == [False, True, False]
    assert [clip.index for clip in clips] == [0, 1, 2]
    assert clips[1].error == "the process that decoded it crashed (exit code -9)"


@pytest.fixture
def begun(model_folder, manifest, tmp_path, capsys):
    """A run over clips of its own that was stopped in the middle, since a clip never comes."""
    clips = shutil.copytree(manifest.parent, tmp_path / "clips")
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
    assert "clips was " in refusal(model_folder, clips, out)
    assert len(list(out.with_name("a.parquet.partial").glob("0*.parquet"))) == 3


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
