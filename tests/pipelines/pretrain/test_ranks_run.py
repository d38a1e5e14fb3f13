"""The whole job under torchrun: two processes learn what one does, stop together, and go on."""

import os
import shutil
import signal
import time

import pytest

from simvtp.pipelines.pretrain import command as pretrain
from simvtp.training import CheckpointStore
from testing.pipelines.launched import SAME, finish, torchrun, workers_of
from testing.pipelines.runs import final_state, losses_of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def alone(corpus, tokenizer_file, tmp_path_factory):
    from benchmarks.small_runs import SIZES

    out = tmp_path_factory.mktemp("runs") / "alone"
    values = {**SIZES, **{name.replace("__", "."): value for name, value in SAME.items()}}
    values |= {"data.train": corpus.train, "data.validation": corpus.validation}
    values |= {"data.tokenizer": tokenizer_file, "run.out": out}
    assert pretrain.main([f"--{name}={value}" for name, value in values.items()]) == 0
    return out


def assert_same_run(run, other):
    """Every logged figure and every weight, up to the rounding of sums in another order."""
    mine, theirs = losses_of(run), losses_of(other)
    assert len(mine) == len(theirs) > 4
    for got, want in zip(mine, theirs, strict=True):
        assert got == pytest.approx(want, rel=1e-5)
    got, want = (final_state(each)["parameters"] for each in (run, other))
    assert got.keys() == want.keys()
    for name, tensor in want.items():
        assert (got[name] - tensor).norm() <= 1e-5 * tensor.norm() + 1e-6, name


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_learn_what_one_process_learns(alone, settings_for, tmp_path, parallel):
    run = tmp_path / "run"
    command = settings_for(run, run__batch_size=2, run__parallel=parallel, **SAME)
    printed = finish(torchrun(command))
    assert_same_run(run, alone)
    # Rank 0 speaks for all, and leaves a whole model.
    assert printed.count("saved and evaluated") == 1
    weights = [(folder / "model" / "model.safetensors").stat().st_size for folder in (run, alone)]
    assert weights[0] == weights[1]


def test_a_stop_of_one_process_stops_both_and_others_go_on(alone, settings_for, tmp_path):
    run = tmp_path / "run"
    shares = {"run__parallel": "fsdp", "run__checkpoint": "sharded"}
    command = settings_for(run, run__batch_size=2, run__checkpoint_minutes=1e-9, **shares, **SAME)
    process = torchrun(command)
    deadline = time.monotonic() + 200
    while not list((run / "checkpoints").glob("step-*/manifest.json")):
        assert process.poll() is None, finish(process)
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(workers_of(process)[-1], signal.SIGTERM)
    printed = finish(process)
    assert printed.count("state saved") == 1
    checkpoint = CheckpointStore(run / "checkpoints").load_latest()
    assert checkpoint.step < 8
    assert len(checkpoint.shares) == 2
    # One process, whole weights, twice the batch; it keeps the global batch by itself.
    assert pretrain.main([f"--run.out={run}", "--resume"]) == 0
    assert_same_run(run, alone)
    assert final_state(run)["step"] == final_state(alone)["step"]


def test_a_stop_does_not_wait_for_the_rank_that_lists_the_clips(settings_for, tmp_path):
    marker = tmp_path / "fetching"
    command = settings_for(tmp_path / "run", data__train=f"pipe:touch {marker}; exec sleep 100")
    process = torchrun(command)
    deadline = time.monotonic() + 200
    while not marker.exists():
        assert process.poll() is None, finish(process)
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    printed = process.communicate(timeout=30)[0].decode()
    # torchrun ends as after any signal; its ranks, of which one speaks, do not fail.
    assert printed.count("stopped by SIGTERM; nothing of the run is lost") == 1
    assert "ChildFailedError" not in printed


def test_a_batch_that_cannot_be_split_is_refused(settings_for, tmp_path):
    run = tmp_path / "run"
    assert pretrain.main(settings_for(run, run__epochs=1)) == 0
    process = torchrun([f"--run.out={run}", "--resume"], processes=3)
    printed = process.communicate(timeout=240)[0].decode()
    assert process.returncode != 0
    assert "batch of 4 clips cannot be split over 3 processes" in " ".join(printed.split())


def test_a_run_goes_on_as_shares_and_as_copies_on_other_ranks(settings_for, tmp_path):
    whole = tmp_path / "whole"
    command = settings_for(whole, run__epochs=3, run__keep_every_epochs=1, **SAME)
    assert pretrain.main(command) == 0
    earlier = whole
    shares, copies = ("fsdp", "sharded", 4), ("ddp", "whole", 2)
    for step, (parallel, form, processes) in ((4, shares), (8, copies)):
        run = tmp_path / f"{parallel}{processes}"
        shutil.copytree(earlier, run, ignore=shutil.ignore_patterns("model"))
        for folder in (run / "checkpoints").iterdir():
            if folder.name > f"step-{step:08d}":
                shutil.rmtree(folder)
        resumed = [f"--run.parallel={parallel}", f"--run.checkpoint={form}"]
        command = [f"--run.out={run}", "--resume", *resumed]
        printed = finish(torchrun(command, processes=processes))
        kept = run / f"checkpoints/step-{12:08d}"
        assert len(list(kept.glob("share-*"))) == (processes if form == "sharded" else 0)
        assert f"steps {step} to 12" in printed
        assert_same_run(run, whole)
        earlier = run
