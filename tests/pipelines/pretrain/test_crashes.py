"""Clips that crash their decoder cost a resume, once, and are named."""

import gc
import json
import os
import signal
import time
import warnings
from pathlib import Path

from simvtp.data.datasets import clips as dataset
from simvtp.pipelines.pretrain import command as pretrain


def test_a_clip_that_crashes_its_decoder_is_named_and_left_out(
    command_for, clips, tmp_path, capsys, monkeypatch
):
    (clips / "crash.mp4").write_bytes(b"")
    with (clips / "train.csv").open("a") as file:
        file.write("crash,crash.mp4,nothing\n")
    read_clip, run = dataset.read_clip, tmp_path / "run"

    def read(path, **settings):
        if Path(path).name == "crash.mp4":
            os.kill(os.getpid(), signal.SIGSEGV)
            time.sleep(60)
        return read_clip(path, **settings)

    monkeypatch.setattr(dataset, "read_clip", read)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        assert pretrain.main(command_for(run, data__num_workers=1)) == 1
        gc.collect()
    said = " ".join(capsys.readouterr().out.split())
    assert "crash.mp4 crashed (SIGSEGV)" in said, said[-700:]
    assert "is saved: go on with" in said
    (listed,) = (run / "quarantine.jsonl").read_text().splitlines()
    assert json.loads(listed)["video_id"] == "crash"
    # Without being listed it would crash every resume.
    assert pretrain.main([f"--run.out={run}", "--resume"]) == 0


def test_a_clip_at_which_memory_runs_out_is_met_twice_and_no_more(
    command_for, clips, tmp_path, capsys, monkeypatch
):
    (clips / "huge.mp4").write_bytes(b"")
    with (clips / "train.csv").open("a") as file:
        file.write("huge,huge.mp4,nothing\n")
    read_clip, run = dataset.read_clip, tmp_path / "run"

    def read(path, **settings):
        if Path(path).name == "huge.mp4":
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)
        return read_clip(path, **settings)

    monkeypatch.setattr(dataset, "read_clip", read)
    resume = [f"--run.out={run}", "--resume"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        # Once may be chance: the run goes on as if it had not been.
        assert pretrain.main(command_for(run, data__num_workers=1)) == 1
        assert "a process that decodes clips died" in " ".join(capsys.readouterr().out.split())
        assert pretrain.main(resume) == 1
        gc.collect()
    said = " ".join(capsys.readouterr().out.split())
    assert "was killed (SIGKILL) while it read" in said, said[-700:]
    assert "huge.mp4, not for the first time" in said
    listed = [json.loads(line) for line in (run / "quarantine.jsonl").read_text().splitlines()]
    assert [entry["unreadable"] for entry in listed] == [False, True]
    assert {entry["video_id"] for entry in listed} == {"huge"}
    assert pretrain.main(resume) == 0
