"""Packing that is killed, runs out of disk or meets other files: nothing is lost."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from filelock import FileLock

from simvtp.data import ShardError, load_clips, load_shards
from simvtp.data.preparing import shard_writer
from simvtp.data.shards.index import INDEX_NAME
from testing.pipelines.prepared_clips import NUM_CLIPS, run, tree


def test_finished_and_foreign_folders_are_refused(manifest, prepared, tmp_path, capsys):
    before = tree(prepared)
    assert run("--data", manifest, "--out", prepared) == 2
    assert "it is finished" in capsys.readouterr().out
    assert tree(prepared) == before
    (tmp_path / "mine.txt").touch()
    assert run("--data", manifest, "--out", tmp_path) == 2
    assert "holds other files" in capsys.readouterr().out
    (tmp_path / "file").touch()
    assert run("--data", manifest, "--out", tmp_path / "file" / "shards") == 2
    assert "Not a directory" in capsys.readouterr().out


def test_a_folder_that_another_process_finished_meanwhile(tmp_path, monkeypatch):
    out = tmp_path / "shards"

    def wait(file, *, refusal):
        assert file.parent.is_dir()
        shutil.rmtree(out)
        out.mkdir()
        (out / INDEX_NAME).touch()
        return FileLock(tmp_path / "lock")

    monkeypatch.setattr(shard_writer, "locked", wait)
    with pytest.raises(ShardError, match="it is finished"):
        shard_writer.ShardFolder(out, {"clips_per_shard": 2})
    assert [path.name for path in out.iterdir()] == [INDEX_NAME]


def start(manifest: Path, out: Path, *settings: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "simvtp.pipelines.prepare", "--data", str(manifest)]
    return subprocess.Popen(
        [*command, "--out", str(out), "--workers=1", "--clips-per-shard=2", *settings],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def kill_when(process: subprocess.Popen[bytes], there: Path) -> None:
    end = time.monotonic() + 60
    while not there.exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.001)
    assert there.exists()
    process.send_signal(signal.SIGKILL)
    process.communicate()


@pytest.mark.slow
def test_killed_at_several_moments_and_started_again_gives_the_same_bytes(
    with_bad_clips, tmp_path, capsys
):
    settings = ("--fps=6", "--gop=3", "--max-bad-share=0.5")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    arguments = ("--data", with_bad_clips, *settings, "--clips-per-shard=2")
    assert run(*arguments, "--out", whole) == 0
    moments = [".progress/settings.json", "000000.tar", "000001.tar", ".progress/000001.json"]
    for moment in [*moments, "clips.arrow"]:
        kill_when(start(with_bad_clips, killed, *settings), killed / moment)
        if moment == "000001.tar":
            assert run(*arguments, "--out", killed, "--gop=5") == 2
            assert "gop was 3 and is now 5" in capsys.readouterr().out
    assert not (killed / "index.json").exists() or (killed / ".progress").exists()
    assert run(*arguments, "--out", killed) == 0
    assert "going on at clip" in capsys.readouterr().out
    assert tree(killed) == tree(whole)
    assert load_clips(killed)[0].video_id == "id0"


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="a small file system is mounted")
def test_a_full_disk_is_named_and_the_run_goes_on_afterwards(manifest, tmp_path, capsys):
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        arguments = ("--data", manifest, "--out", small / "shards", "--clips-per-shard=2")
        assert run(*arguments) == 2
        assert "No space left on device" in capsys.readouterr().out
        assert not (small / "shards" / "index.json").exists()
        subprocess.run(["mount", "-o", "remount,size=4m", str(small)], check=True)
        assert run(*arguments) == 0
        assert len(load_shards(str(small / "shards"))) == NUM_CLIPS
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)
