"""A rank that is killed while shares are written."""

import multiprocessing
import os
import signal
import time

import pytest
from torch import distributed

from simvtp.data.processes import import_ahead
from simvtp.training import Agreement, CheckpointStore, local_state, share_files, state_folder
from testing.shares import STEPS, built, loaded, resumed, shares_of, train


def killed_meanwhile(rank, folder, held_rank, moment):
    """Save one checkpoint; be held in the next one, or tell what becomes of it."""
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/group", rank=rank, world_size=2
    )
    store = CheckpointStore(folder / "run", agreement=Agreement())
    net, optimizer = built(seed=0)
    for step in STEPS:
        train(net, optimizer, step)
        if step == 2 and rank == held_rank:

            def hold(*_, **__):
                (folder / "held").touch()
                time.sleep(600)

            module = share_files if moment == "publish" else state_folder
            setattr(module, moment, hold)
        try:
            store.save({"step": step, **local_state(net, optimizer)}, step=step)
        except RuntimeError as error:
            (folder / "other").write_text(str(error))
            os._exit(3)


@pytest.mark.parametrize(
    ("held_rank", "moment", "num_shares"), [(1, "publish", 1), (0, "write_whole", 2)]
)
def test_a_kill_between_two_shares_or_ahead_of_the_manifest_costs_that_checkpoint_alone(
    tmp_path, held_rank, moment, num_shares
):
    import_ahead("testing.sample_batches")
    context, latest = multiprocessing.get_context("forkserver"), tmp_path / "run/step-00000002"
    processes = [
        context.Process(target=killed_meanwhile, args=(rank, tmp_path, held_rank, moment))
        for rank in range(2)
    ]
    for process in processes:
        process.start()
    deadline = time.monotonic() + 200
    while not (tmp_path / "held").exists() or len(shares_of(latest)) < num_shares:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    processes[held_rank].kill()
    for process in processes:
        process.join(200)
    assert processes[held_rank].exitcode == -signal.SIGKILL
    # The other rank is told, and is not waiting for ever.
    assert processes[1 - held_rank].exitcode == 3
    assert not (latest / "manifest.json").exists()
    checkpoint, told = loaded(CheckpointStore(tmp_path / "run"))
    assert checkpoint.step == checkpoint.state["step"] == 1
    assert len(told) == (1 if latest.exists() else 0)
    resumed(checkpoint)
