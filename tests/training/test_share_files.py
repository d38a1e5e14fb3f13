"""Checkpoints in shares: what two ranks write and read, and what one process makes of it."""

import json
import resource
import signal
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import distributed

from simvtp.training import (
    Agreement,
    CheckpointError,
    CheckpointStore,
    CheckpointWarning,
    gather_state,
    local_state,
    scatter_state,
    share_files,
)
from simvtp.training.state_writer import StateWriter
from testing.checkpoints import saved
from testing.ranks import run_ranks
from testing.sameness import assert_same
from testing.shares import STEPS, built, loaded, pieces_of, resumed, shares_of, train


def disturbed(store, rank, disturb):
    """The step that is loaded while a share of the latest checkpoint is disturbed, and why."""
    path = shares_of(store.folder / "step-00000002")[1]
    content = path.read_bytes()
    distributed.barrier()
    if rank == 0:
        disturb(path)
    distributed.barrier()
    checkpoint, told = loaded(store)
    distributed.barrier()
    path.write_bytes(content)
    distributed.barrier()
    return [checkpoint.step, *(message.replace(str(path), "PATH") for message in told)]


def flip(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def saved_on_a_disk_full_for(store, state, *, rank):
    """What is raised where the last rank alone may write no more."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200 if rank == 1 else limits[0], limits[1]))
    try:
        store.save(state, step=3)
    except CheckpointError as error:
        return str(error)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, previous)
        # Rank 0 tidies up.
        distributed.barrier()


def refused(checkpoint, group, **sizes):
    net, optimizer = built(seed=0, **sizes)
    try:
        scatter_state(net, optimizer, checkpoint.state, shares=checkpoint.shares, group=group)
    except ValueError as error:
        return str(error)


def saved_by_a_store_of_one(folder, state):
    try:
        CheckpointStore(folder).save(state, step=2)
    except ValueError as error:
        return str(error)


def gathered_nothing(*_, **__):
    raise AssertionError("a rank gathers the whole of a tensor")


def on_two_ranks(rank, folder):
    agreement = Agreement()
    group = agreement.group
    store = CheckpointStore(folder / "shares", agreement=agreement)
    beside = StateWriter(
        CheckpointStore(folder / "beside", agreement=Agreement()), in_background=True
    )
    net, optimizer = built(seed=0)
    for step in STEPS:
        train(net, optimizer, step)
        whole = {"step": step, **gather_state(net, optimizer)}
        if rank == 0:
            CheckpointStore(folder / "whole").save(whole, step=step)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.distributed.tensor.DTensor, "full_tensor", gathered_nothing)
            patch.setattr(torch.distributed.tensor.DTensor, "redistribute", gathered_nothing)
            state = {"step": step, **local_state(net, optimizer, copied=True)}
            store.save(state, step=step)
            # Training goes on meanwhile, with other collectives.
            beside.save(state, step=step)
    train(net, optimizer, 3)
    beside.wait()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(share_files, "_FILE_BYTES", 100)
        assert store.save_best(state, step=2, value=0.5) is not None
        assert store.save_best({**state, "step": 3}, step=3, value=0.25) is None
    checkpoint, best = store.load_latest(), store.load_best()
    alone = CheckpointStore(folder / "alone", agreement=agreement).load_latest()
    return {
        "shares": resumed(checkpoint, group=group),
        "whole": resumed(CheckpointStore(folder / "whole").load_latest()),
        "alone": resumed(alone, group=group),
        "best": [best.step, store.best_value, store.has_best(), resumed(best, group=group)[0]],
        "flipped": disturbed(store, rank, flip),
        "lost": disturbed(store, rank, Path.unlink),
        "full": saved_on_a_disk_full_for(store, state, rank=rank),
        "left": saved(store.folder),
        "unknown": saved_by_a_store_of_one(folder / "alone", state),
        "refused": refused(checkpoint, group, width=6),
    }


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """Folder and results of two ranks; one process has left a checkpoint there before."""
    folder = tmp_path_factory.mktemp("ranks")
    net, optimizer = built(seed=0)
    train(net, optimizer, 1)
    state = gather_state(net, optimizer)
    CheckpointStore(folder / "alone").save(state, step=1)
    return folder, run_ranks(partial(on_two_ranks, folder=folder), folder), state


def test_the_files_of_two_ranks_make_up_the_whole_state(ranks):
    folder, _, _ = ranks
    for step in STEPS:
        pieces = pieces_of(folder / f"shares/step-{step:08d}")
        whole = CheckpointStore(folder / "whole")._read_step(folder / f"whole/step-{step:08d}")
        moments = {
            f"optimizer/state/{name}/{kind}": values[kind]
            for name, values in whole.state["optimizer"]["state"].items()
            for kind in ("exp_avg", "exp_avg_sq")
        }
        parameters = {
            f"parameters/{name}": value
            for name, value in whole.state["parameters"].items()
            if name != "scale"
        }
        assert pieces.keys() == parameters.keys() | moments.keys()
        for name, value in {**parameters, **moments}.items():
            rows = [pieces[name][offset] for offset in sorted(pieces[name])]
            assert torch.equal(torch.cat(rows), value), name
            # Rank 0 has at most the larger half.
            assert max(map(len, rows)) == -(-len(value) // 2)


def test_two_ranks_go_on_as_from_a_whole_checkpoint(ranks):
    _, results, _ = ranks
    assert_same(results[0]["shares"], results[0]["whole"])


def test_one_process_goes_on_from_shares_as_from_a_whole_checkpoint(ranks):
    folder, results, _ = ranks
    ends = [resumed(CheckpointStore(folder / name).load_latest()) for name in ("shares", "whole")]
    assert_same(*ends)
    assert_same(ends[0][0], results[0]["shares"][0])


def test_two_ranks_go_on_from_what_one_process_saved(ranks):
    _, results, state = ranks
    assert_same(results[0]["alone"][0], state)


def test_shares_written_beside_the_training_are_the_same(ranks):
    folder, _, _ = ranks
    for step in STEPS:
        folders = [folder / each / f"step-{step:08d}" for each in ("shares", "beside")]
        assert_same(*map(pieces_of, folders))
        assert [len(saved(each)) for each in folders] == [4, 4]


def test_the_best_state_is_kept_in_shares(ranks):
    folder, results, _ = ranks
    for each in results:
        step, value, is_there, state = each["best"]
        assert (step, value, is_there) == (2, 0.5, True)
        assert_same(state, each["shares"][0])
    # Several small files for what is one of each rank elsewhere.
    assert len(shares_of(folder / "shares/best")) > 3


@pytest.mark.parametrize(
    ("disturbance", "reason"), [("flipped", "sha256 is not"), ("lost", "No such file")]
)
def test_all_ranks_pass_over_a_checkpoint_of_which_one_share_is_bad(ranks, disturbance, reason):
    _, results, _ = ranks
    for each in results:
        step, message = each[disturbance]
        assert step == 1
        assert message.startswith("passing over PATH: ")
        assert reason in message


def test_a_share_that_cannot_be_written_costs_that_checkpoint_alone(ranks):
    _, results, _ = ranks
    for each in results:
        assert "could not write the checkpoint" in each["full"]
        assert "File too large" in each["full"]
        assert "earlier checkpoints are intact" in each["full"]
        assert each["left"] == ["best", "step-00000001", "step-00000002"]


def test_shares_are_not_saved_without_the_other_ranks(ranks):
    folder, results, _ = ranks
    for each in results:
        assert "knows no other ranks; give it agreement=Agreement()" in each["unknown"]
    assert saved(folder / "alone") == ["step-00000001"]


def test_shares_of_another_model_are_refused_by_all_ranks(ranks):
    folder, results, _ = ranks
    for each in results:
        assert (
            "of another model: parameters/first.weight is torch.float32 of (5, 3)"
            in (each["refused"])
        )
    checkpoint = CheckpointStore(folder / "shares").load_latest()
    assert "of (5, 3), here torch.float32 of (4, 3)" in refused(checkpoint, None, width=4)


def test_a_manifest_that_names_a_share_elsewhere_is_passed_over(ranks, tmp_path):
    folder, _, _ = ranks
    for step in STEPS:
        source, target = folder / f"shares/step-{step:08d}", tmp_path / f"step-{step:08d}"
        target.mkdir()
        for path in source.iterdir():
            (target / path.name).write_bytes(path.read_bytes())
    manifest = tmp_path / "step-00000002/manifest.json"
    described = json.loads(manifest.read_text())
    store = CheckpointStore(tmp_path)
    for wrong in (
        {"file": f"../step-00000001/{shares_of(tmp_path / 'step-00000001')[0].name}"},
        {"file": 3},
        {"more": 1},
    ):
        listed = [{**described["shares"][0], **wrong}, described["shares"][1]]
        manifest.write_text(json.dumps({**described, "shares": listed}))
        with pytest.warns(CheckpointWarning, match=r"manifest\.json"):
            assert store.load_latest().step == 1
    # A file that the manifest does not list is not read.
    manifest.write_text(json.dumps(described))
    (tmp_path / "step-00000002/share-0.safetensors").write_bytes(b"{}")
    assert_same(
        resumed(store.load_latest()), resumed(CheckpointStore(folder / "shares").load_latest())
    )
