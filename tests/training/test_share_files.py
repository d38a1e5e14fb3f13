"""Checkpoints in shares: what two ranks write and read, and what one process makes of it."""

import json
import multiprocessing
import os
import resource
import signal
import time
import warnings
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import distributed, nn

from simvtp.data.processes import import_ahead
from simvtp.training import (
    Agreement,
    CheckpointError,
    CheckpointStore,
    CheckpointWarning,
    gather_state,
    local_state,
    scatter_state,
    shard,
    share_files,
    state_folder,
)
from simvtp.training.state_writer import StateWriter
from testing.checkpoints import saved
from testing.ranks import run_ranks
from testing.sameness import assert_same

STEPS = (1, 2)


class Net(nn.Module):
    """Shares of unequal sizes, one that is empty on rank 1, a frozen weight and a buffer."""

    def __init__(self, width=5):
        super().__init__()
        self.first, self.last = nn.Linear(3, width), nn.Linear(width, 1)
        self.frozen = nn.Parameter(torch.randn(7, 2), requires_grad=False)
        self.register_buffer("scale", torch.rand(()))

    def forward(self, values):
        return self.last(self.first(values).tanh()) * self.scale + self.frozen.mean()


def built(*, seed, **sizes):
    torch.manual_seed(seed)
    net = Net(**sizes)
    if distributed.is_initialized():
        shard(net, blocks=[net.first])
    return net, torch.optim.AdamW(net.parameters(), lr=0.1, fused=True)


def train(net, optimizer, step):
    rank = distributed.get_rank() if distributed.is_initialized() else 0
    torch.manual_seed(10 * step + rank)
    net(torch.randn(4, 3)).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def resumed(checkpoint, *, group=None):
    """States of a net that took over a checkpoint: at once, and after one more step."""
    net, optimizer = built(seed=9)
    scatter_state(net, optimizer, checkpoint.state, shares=checkpoint.shares, group=group)
    first = gather_state(net, optimizer, copied=True)
    train(net, optimizer, 3)
    return [first, gather_state(net, optimizer)]


def loaded(store):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", CheckpointWarning)
        checkpoint = store.load_latest()
    return checkpoint, [str(each.message) for each in caught]


def shares_of(folder):
    return sorted(folder.glob("share-*.safetensors"))


def pieces_of(folder):
    """Pieces of each tensor by their place in it, as the files' headers tell."""
    pieces = {}
    for file in shares_of(folder):
        with safe_open(file, framework="pt") as opened:
            places = json.loads(opened.metadata()["DCP_SHARDING_INFO"])
            for name in opened.keys():  # noqa: SIM118
                offset = tuple(places[name]["saved_offsets"])
                pieces.setdefault(name, {})[offset] = opened.get_tensor(name)
    return pieces


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
