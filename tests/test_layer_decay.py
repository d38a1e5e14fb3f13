"""Learning rates by depth, for encoders wherever they stand."""

import pytest
import torch
from torch import nn

from simvtp import ModelConfig, Objective, SimVTP
from simvtp.layer_decay import layer_scales
from simvtp.tasks import VideoClassifier
from simvtp.training import build_optimizer, gather_state, scatter_state

SIZES = {"image_size": 32, "num_frames": 4, "width": 16, "depth": 3, "num_heads": 2}
DECODER = {"decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2}
CONFIG = ModelConfig(**SIZES, **DECODER, vocab_size=20, extra_tokens=2)


@pytest.mark.parametrize("kind", ["objective", "classifier", "own text encoder"])
def test_every_parameter_has_the_scale_of_its_layer(kind):
    torch.manual_seed(0)
    if kind == "classifier":
        module = nn.ModuleDict(
            {"x": VideoClassifier.from_model(SimVTP.from_config(CONFIG), classes=["a", "b"])}
        )
    else:
        text_encoder = "own" if kind.startswith("own") else "shared"
        config = ModelConfig(**SIZES, **DECODER, vocab_size=20, text_encoder=text_encoder)
        module = Objective(SimVTP.from_config(config))
    scales = layer_scales(module, decay=0.5)
    assert scales.keys() == dict(module.named_parameters()).keys()
    for name, scale in scales.items():
        if "embedding" in name or name.endswith("encoder.extra_tokens"):
            expected = 0.5**4
        elif "encoder.transformer.blocks." in name and "_decoder" not in name:
            expected = 0.5 ** (3 - int(name.split("blocks.")[1].split(".")[0]))
        else:
            expected = 1.0
        assert scale == expected, name
    assert set(layer_scales(module, decay=1.0).values()) == {1.0}


def test_the_scales_act_and_survive_a_checkpoint():
    torch.manual_seed(0)
    model = VideoClassifier.from_model(SimVTP.from_config(CONFIG), classes=["a", "b"])

    def optimizer():
        return build_optimizer(
            model,
            lr=1e-3,
            betas=(0.9, 0.999),
            eps=1e-8,
            weight_decay=0.0,
            scales=layer_scales(model, decay=0.5),
        )

    first = optimizer()
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    first.step()
    # AdamW's first step moves each weight by its learning rate.
    after = dict(model.named_parameters())
    for name, scale in layer_scales(model, decay=0.5).items():
        moved = (before[name] - after[name]).abs()
        torch.testing.assert_close(
            moved, torch.full_like(moved, 1e-3 * scale), rtol=1e-3, atol=1e-7
        )
    first.zero_grad()
    second = optimizer()
    scatter_state(model, second, gather_state(model, first))
    for one, other in zip(first.param_groups, second.param_groups, strict=True):
        assert one["lr_scale"] == other["lr_scale"]
        assert [id(p) for p in one["params"]] == [id(p) for p in other["params"]]


def test_names_do_not_matter():
    """An encoder that is the whole module, and a weight that a head ahead of it shares."""
    model = SimVTP.from_config(CONFIG)
    by_name = layer_scales(model.encoder, decay=0.5)
    assert by_name["transformer.blocks.0.mlp.0.weight"] == 0.5**3
    assert by_name["transformer.norm.weight"] == 1.0
    head = nn.Linear(16, 20, bias=False)
    head.weight = model.text_embedding.words.weight
    scales = layer_scales(nn.ModuleList([head, model]), decay=0.5)
    assert scales["0.weight"] == 0.5**4


@pytest.mark.parametrize("decay", [0.75, 1.0])
def test_a_resume_with_another_decay_uses_it(decay):
    torch.manual_seed(0)
    model = VideoClassifier.from_model(SimVTP.from_config(CONFIG), classes=["a", "b"])

    def optimizer(decay, weight_decay):
        settings = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": weight_decay}
        return build_optimizer(model, **settings, scales=layer_scales(model, decay=decay))

    first, second = optimizer(0.5, 0.05), optimizer(decay, 0.02)
    for parameter in model.parameters():
        parameter.grad = torch.rand_like(parameter)
    first.step()
    first.zero_grad()
    scatter_state(model, second, gather_state(model, first))
    scales = layer_scales(model, decay=decay)
    names = {parameter: name for name, parameter in model.named_parameters()}
    for group in second.param_groups:
        assert group["weight_decay"] in (0.0, 0.02)
        for parameter in group["params"]:
            assert group["lr_scale"] == scales[names.pop(parameter)]
            for key in ("step", "exp_avg", "exp_avg_sq"):
                assert torch.equal(first.state[parameter][key], second.state[parameter][key])
    assert not names


def test_refusals():
    with pytest.raises(ValueError, match=r"must lie in \(0, 1\]"):
        layer_scales(SimVTP.from_config(CONFIG), decay=0.0)
    with pytest.raises(ValueError, match="found none"):
        layer_scales(nn.Linear(2, 2), decay=0.5)
