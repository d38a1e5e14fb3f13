"""Low-rank updates and frozen parts: what learns, how much of it, and what is left of it."""

import sys
from copy import deepcopy

import pytest
import torch
from torch import nn

from simvtp import Objective, SimVTP
from simvtp.encoders import PaddedEncoder
from simvtp.tasks import (
    ClassificationObjective,
    LabelledBatch,
    VideoClassifier,
    add_lora,
    freeze_parts,
    merge_lora,
)
from simvtp.training import WeightAverage
from testing.sample_batches import samples_of, small_collator, small_config, small_model

RANK = 3


def stir(model):
    """Give all that learns a value of its own, as training would."""
    for number, weight in enumerate(w for w in model.parameters() if w.requires_grad):
        nn.init.normal_(weight, std=0.3, generator=torch.Generator().manual_seed(number))


def features_of(model, clips):
    model.eval()
    with torch.no_grad():
        return torch.cat([model.encode_video(clips), model.encode_text(torch.tensor([[2, 9, 3]]))])


def test_nothing_changes_at_first_and_the_merged_model_is_the_unmerged_one(clips):
    model = small_model()
    before, names = features_of(model, clips), list(model.state_dict())
    add_lora(model, rank=RANK)
    torch.testing.assert_close(features_of(model, clips), before, rtol=0, atol=0)
    stir(model)
    learnt = features_of(model, clips)
    assert (learnt - before).norm() > 0.1 * before.norm()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    merge_lora(model)
    torch.testing.assert_close(features_of(model, clips), learnt, rtol=1e-6, atol=1e-6)
    assert list(model.state_dict()) == names
    # By the formula, every layer: W + B A.
    layers = [name for name, layer in model.encoder.named_modules() if type(layer) is nn.Linear]
    for name in [f"encoder.{layer}" for layer in layers]:
        update = weights[f"{name}.lora_B.default.weight"] @ weights[f"{name}.lora_A.default.weight"]
        expected = weights[f"{name}.base_layer.weight"] + update
        torch.testing.assert_close(model.get_submodule(name).weight.detach(), expected)


def test_the_merged_folder_is_an_ordinary_one(clips, tmp_path):
    model = small_model().float()
    add_lora(model, rank=RANK)
    stir(model)
    learnt = features_of(model, clips)
    merge_lora(model)
    model.save_pretrained(tmp_path)
    torch.testing.assert_close(features_of(SimVTP.from_pretrained(tmp_path), clips), learnt)


def test_an_average_is_merged_as_well(clips):
    model = small_model()
    add_lora(model, rank=RANK)
    average = WeightAverage(model, decay=0.5)
    stir(model)
    average.update(model)
    assert isinstance(average.module, SimVTP)
    learnt = features_of(average.module, clips)
    merge_lora(average.module)
    torch.testing.assert_close(features_of(average.module, clips), learnt, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("parts", [(), ("attention.qkv",), ("blocks.1", "mlp.0")])
def test_the_updates_and_the_head_alone_learn_and_are_as_many_as_they_should(
    pretrained, clips, parts
):
    width, hidden, depth = 16, 64, 2
    classifier = VideoClassifier.from_model(pretrained, classes=["a", "b", "c"])
    add_lora(classifier, rank=RANK, parts=parts)
    sizes = {
        "attention.qkv": width + 3 * width,
        "attention.projection": width + width,
        "mlp.0": width + hidden,
        "mlp.2": hidden + width,
    }
    in_and_out = {
        (): depth * sum(sizes.values()),
        ("attention.qkv",): depth * sizes["attention.qkv"],
        ("blocks.1", "mlp.0"): sum(sizes.values()) + sizes["mlp.0"],
    }[parts]
    learning = {name: p for name, p in classifier.named_parameters() if p.requires_grad}
    head = {name for name in learning if name.startswith("head.")}
    assert head == {"head.weight", "head.bias"}
    count = sum(p.numel() for name, p in learning.items() if name not in head)
    assert count == RANK * in_and_out
    stir(classifier)
    batch = LabelledBatch(clips, torch.eye(4, 3), torch.arange(4))
    ClassificationObjective(classifier.train())(batch).total.backward()
    for name, weight in classifier.named_parameters():
        has_gradient = weight.grad is not None and bool(weight.grad.abs().sum() > 0)
        assert has_gradient == (name in learning), name


def test_every_update_gets_a_gradient_in_packed_passes():
    """All four terms over packs, with an encoder for captions of its own."""
    model = small_model(text_encoder="own")
    add_lora(model, rank=RANK)
    stir(model)
    Objective(model)(small_collator()(samples_of([3, 9, 5, 7]))).total.backward()
    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {name.split(".")[0] for name in learning} == {"encoder", "text_encoder", "match_head"}
    for name, weight in model.named_parameters():
        assert (weight.grad is not None and bool(weight.grad.any())) == (name in learning), name


def test_frozen_parts_learn_nothing_and_get_no_update(clips):
    model = small_model()
    freeze_parts(model, ["video_embedding", "blocks.0", "match_head"])
    frozen = {name for name, weight in model.named_parameters() if not weight.requires_grad}
    expected = ("video_embedding.", "encoder.transformer.blocks.0.", "match_head.")
    others = ("pixel_decoder.transformer.blocks.0.", "word_decoder.transformer.blocks.0.")
    assert frozen
    for name, _ in model.named_parameters():
        assert (name in frozen) == name.startswith(expected + others), name
    add_lora(model, rank=RANK, parts=["encoder"])
    learning = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert learning
    assert all(name.startswith("encoder.transformer.blocks.1.") for name in learning)


def test_own_encoders_take_updates_unless_they_read_their_weights_themselves():
    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.closed = nn.Linear(16, 16), nn.MultiheadAttention(16, 2)

        def forward(self, tokens, key_mask):
            return tokens + self.inner(tokens)

    model = SimVTP.from_config(small_config(), encoder=PaddedEncoder(Layer()))
    kept = deepcopy(model.encoder.module.closed)
    add_lora(model, rank=RANK)
    learning = [name for name, weight in model.named_parameters() if weight.requires_grad]
    names = [name for name in learning if not name.startswith("match_head")]
    place = "encoder.module.inner.lora_{}.default.weight"
    assert names == [place.format("A"), place.format("B")]
    assert list(model.encoder.module.closed.state_dict()) == list(kept.state_dict())
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    closed = PaddedEncoder(layer, call=lambda one, x, mask: one(x, src_key_padding_mask=~mask))
    model = SimVTP.from_config(small_config(), encoder=closed)
    with pytest.raises(ValueError, match="torch's own transformer layers, which read"):
        add_lora(model, rank=RANK)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda model: add_lora(model, rank=0), "lora_rank must be at least 1, got 0"),
        (
            lambda model: add_lora(model, rank=2, parts=["encoder", "keys"]),
            r"lora_parts names 'keys'.* encoder, .*attention\.qkv, .*mlp\.2",
        ),
        (lambda model: add_lora(model, rank=2, parts=["video_embedding"]), "'video_embedding'"),
        (lambda model: add_lora(model, rank=2, parts=["match_head"]), "'match_head'"),
        (
            lambda model: freeze_parts(model, ["text_embeding"]),
            r"freeze names 'text_embeding'.* text_embedding, .*mlp\.0",
        ),
    ],
)
def test_wrong_names_are_refused_with_those_there_are(change, message):
    model = small_model()
    with pytest.raises(ValueError, match=message):
        change(model)
    assert all(weight.requires_grad for weight in model.parameters())


def test_without_peft_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ValueError, match=r"pip install 'simvtp\[lora\]'"):
        add_lora(small_model(), rank=2)
