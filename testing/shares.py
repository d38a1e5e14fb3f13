"""A small net on one process or in shares on two, and its checkpoints."""

import json
import warnings

import torch
from safetensors import safe_open
from torch import distributed, nn

from simvtp.training import CheckpointWarning, gather_state, scatter_state, shard

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
