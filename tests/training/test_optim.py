import copy

import pytest
import torch
from torch import nn

from simvtp.training.optim import build_optimizer

SETTINGS = {"lr": 1e-2, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.05}


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(5, 4)
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 3)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, 4))
        self.q_bias = nn.Parameter(torch.zeros(2, 2))
        self.temperature = nn.Parameter(torch.tensor(0.05))
        self.frozen = nn.Linear(2, 2).requires_grad_(False)


def test_only_matrices_decay():
    model = Model()
    optimizer = build_optimizer(model, **SETTINGS)
    names = {parameter: name for name, parameter in model.named_parameters()}
    decays = {
        names[parameter]: group["weight_decay"]
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    assert decays == {
        "words.weight": 0.05,
        "head.weight": 0.05,
        "norm.weight": 0.0,
        "norm.bias": 0.0,
        "head.bias": 0.0,
        "mask_token": 0.0,
        "q_bias": 0.0,
        "temperature": 0.0,
    }


def test_groups_are_two_without_scales_and_one_for_each_scale_with_them():
    plain = build_optimizer(Model(), **SETTINGS).param_groups
    assert [(group["weight_decay"], group["lr"]) for group in plain] == [(0.05, 1e-2), (0.0, 1e-2)]
    assert not any("lr_scale" in group for group in plain)
    model = Model()
    scales = {name: 0.5 if "head" in name else 1.0 for name, _ in model.named_parameters()}
    scaled = build_optimizer(model, **SETTINGS, scales=scales).param_groups
    assert [(g["lr_scale"], g["weight_decay"], g["lr"], len(g["params"])) for g in scaled] == [
        (1.0, 0.05, 1e-2, 1),
        (1.0, 0.0, 1e-2, 5),
        (0.5, 0.05, 5e-3, 1),
        (0.5, 0.0, 5e-3, 1),
    ]


def test_one_step_equals_the_formula():
    layer = nn.Linear(2, 2)
    optimizer = build_optimizer(layer, **SETTINGS)
    before = {name: value.detach().clone() for name, value in layer.named_parameters()}
    for parameter in layer.parameters():
        parameter.grad = torch.full_like(parameter, 0.5)
    optimizer.step()
    # The first AdamW step moves by lr times the gradient's sign, after decay by lr * 0.05.
    torch.testing.assert_close(layer.weight, before["weight"] * (1 - 1e-2 * 0.05) - 1e-2)
    torch.testing.assert_close(layer.bias, before["bias"] - 1e-2)


def test_resumed_optimizer_goes_on_exactly():
    def train(layer, optimizer, *, steps):
        for _ in range(steps):
            optimizer.zero_grad()
            layer(torch.ones(1, 2)).pow(2).sum().backward()
            optimizer.step()

    layer = nn.Linear(2, 2)
    optimizer = build_optimizer(layer, **SETTINGS)
    train(layer, optimizer, steps=2)
    resumed = copy.deepcopy(layer)
    resumed_optimizer = build_optimizer(resumed, **SETTINGS)
    # load_state_dict shares tensors that need no conversion, hence the copy.
    resumed_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(layer, optimizer, steps=2)
    train(resumed, resumed_optimizer, steps=2)
    assert torch.equal(layer.weight, resumed.weight)


def test_frozen_model_is_refused():
    with pytest.raises(ValueError, match="requires a gradient, got none among 2"):
        build_optimizer(nn.Linear(2, 2).requires_grad_(False), **SETTINGS)
