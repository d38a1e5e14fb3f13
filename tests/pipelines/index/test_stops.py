"""An index that was stopped at any moment, or killed, is in the end as if nothing had happened."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from lancedb.table import LanceTable

from simvtp.pipelines.index import command
from simvtp.retrieval.video_index import VideoIndex
from testing.pipelines.indexed_videos import rows


class KilledError(BaseException):
    """The process ends here."""


def killed_at(number, patch, *, name, afterwards):
    """Let the process end at one of the changes of a table, before or after it."""
    original = getattr(LanceTable, name)
    counted = 0

    def changed(self, *arguments, **settings):
        nonlocal counted
        counted += 1
        if counted == number and not afterwards:
            raise KilledError
        result = original(self, *arguments, **settings)
        if counted == number:
            raise KilledError
        return result

    patch.setattr(LanceTable, name, changed)


@pytest.mark.parametrize("afterwards", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("numbers", [(1, 2, 3), (4, 5), (6, 3, 2)], ids=str)
def test_no_moment_is_lost_or_twice(
    numbers, afterwards, videos, undisturbed, index_it, tmp_path, monkeypatch
):
    out = tmp_path / "index"
    for number in numbers:
        with monkeypatch.context() as patch:
            killed_at(number, patch, name="add", afterwards=afterwards)
            with pytest.raises(KilledError):
                index_it(videos, out)
    assert index_it(videos, out) == 0
    assert rows(VideoIndex.open(out)) == rows(undisturbed)


def test_a_video_that_changes_after_a_kill(videos, index_it, tmp_path, monkeypatch):
    out = tmp_path / "index"
    with monkeypatch.context() as patch:
        killed_at(1, patch, name="add", afterwards=True)
        with pytest.raises(KilledError):
            index_it(videos, out)
    assert VideoIndex.open(out).num_moments == 4
    (videos / "a.mp4").unlink()
    (videos / "b.mkv").replace(videos / "a.mp4")
    assert index_it(videos, out) == 0
    assert index_it(videos, tmp_path / "fresh") == 0
    assert rows(VideoIndex.open(out)) == rows(VideoIndex.open(tmp_path / "fresh"))


def test_a_stop_saves_what_there_is(videos, undisturbed, index_it, tmp_path, capsys, monkeypatch):
    out = tmp_path / "index"
    take = command.IndexWriter.take
    taken = []

    def stopped(self, batch):
        take(self, batch)
        taken.append(batch)
        if len(taken) == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(command.IndexWriter, "take", stopped)
        assert index_it(videos, out, "--save-every=1000") == 0
    assert "stopped by SIGTERM; the same command goes on" in capsys.readouterr().out
    assert len(taken) == 3
    assert VideoIndex.open(out).num_moments == sum(len(batch.rows) for batch in taken)
    assert index_it(videos, out) == 0
    assert rows(VideoIndex.open(out)) == rows(undisturbed)
    assert threading.active_count() < 20


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_kill_9(videos, undisturbed, model_folder, index_it, tmp_path):
    out = tmp_path / "index"
    own = ("--model", model_folder, "--data", videos, "--out", out, "--device=cpu")
    few = ("--batch-size=4", "--workers=2", "--save-every=0")
    command_line = [sys.executable, "-m", "simvtp.pipelines.index", *map(str, (*own, *few))]
    versions = Path(out, "moments.lance/_versions")
    for number in (2, 5, 8):
        with subprocess.Popen(command_line, start_new_session=True) as process:
            while process.poll() is None and len(list(versions.glob("*"))) < number:
                threading.Event().wait(0.002)
            os.killpg(process.pid, signal.SIGKILL)
    assert index_it(videos, out) == 0
    assert rows(VideoIndex.open(out)) == rows(undisturbed)
