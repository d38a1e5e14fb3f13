"""A model from parts: what a part must offer, what is refused, what is kept."""

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from simvtp import SimVTP
from simvtp.decoders import WordDecoder
from simvtp.encoders import JointEncoder, PaddedEncoder, TextEmbedding, VideoEmbedding
from simvtp.parts import PART_NAMES, usual_parts
from simvtp.pipelines.convert import main as convert
from simvtp.tasks import VideoAnswerer, VideoClassifier
from testing.sample_batches import small_config, small_model

CONFIG = small_config()


def mean_of_each(module, tokens, mask):
    """An encoder that adds to each token a map of the mean of its sequence's real ones."""
    mean = (tokens * mask[..., None]).sum(1, keepdim=True) / mask.sum(1)[:, None, None]
    return tokens + module(mean)


def own_encoder(width=16):
    return PaddedEncoder(nn.Linear(width, width), call=mean_of_each)


def test_parts_keep_their_weights_and_are_known():
    head = nn.Sequential(nn.Linear(16, 3), nn.Linear(3, 2))
    before = [weight.clone() for weight in head.parameters()]
    model = SimVTP.from_config(CONFIG, match_head=head)
    assert model.own_parts == ("match_head",)
    assert all(map(torch.equal, before, head.parameters()))
    parts = usual_parts(CONFIG)
    assert SimVTP(CONFIG, **parts).own_parts == ()
    # Of other sizes than the config's, the library's own must be given again, too.
    deeper = JointEncoder(16, depth=3, num_heads=2)
    assert SimVTP(CONFIG, **{**parts, "encoder": deeper}).own_parts == ("encoder",)


class Fails(nn.Module):
    def forward(self, *_):
        raise KeyError("oh")


class Forgets(nn.Linear):
    """As if the key mask were not there."""

    def forward(self, tokens, mask):
        return tokens + tokens.mean(dim=1, keepdim=True)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"match_head": len}, "match_head must be a torch module, got builtin_function"),
        ({"match_head": nn.Linear(16, 3)}, r"match_head must make \(2, 2\) of two pairs, got"),
        ({"match_head": nn.Linear(8, 2)}, r"match_head must make .* it raised RuntimeError: mat1"),
        ({"match_head": Fails()}, "it raised KeyError: 'oh'"),
        ({"encoder": nn.Linear(16, 16)}, "got Linear without encode_padded, pool.*PaddedEncoder"),
        ({"encoder": own_encoder(8)}, r"encoder must make \(2, 3, 16\) of two sequences of 3 and"),
        ({"text_encoder": nn.Identity()}, "text_encoder must be a torch module with"),
        ({"encoder": PaddedEncoder(Forgets(1, 1))}, "must keep padding out of real tokens"),
        (
            {
                "encoder": PaddedEncoder(
                    nn.Linear(16, 16), call=lambda m, t, k: mean_of_each(m, t, ~k)
                )
            },
            "True in the key mask is a real token",
        ),
        (
            {"video_embedding": VideoEmbedding(16, grid=(2, 3, 3), tubelet=(2, 4, 4))},
            r"video_embedding must make \(1, 32, 16\) of a clip .* of 2 x 4 x 4 tubelets",
        ),
        (
            {"video_embedding": VideoEmbedding(8, grid=(2, 4, 4), tubelet=(2, 4, 4))},
            r"got float32 of shape \(1, 32, 8\)",
        ),
        ({"text_embedding": TextEmbedding(9, width=16)}, "first and the last of 40 words, one"),
        ({"text_embedding": TextEmbedding(40, width=16, max_length=4)}, "last of 16 places"),
        ({"word_decoder": WordDecoder(16, vocab_size=9)}, r"must make \(2, 40\) of two hidden"),
        ({"pixel_decoder": nn.Identity()}, r"pixel_decoder must make \(1, 1, 96\) of a tubelet"),
    ],
)
def test_what_does_not_fit_is_refused(parts, message):
    with pytest.raises(ValueError, match=message):
        SimVTP.from_config(CONFIG, **parts)


def test_a_shared_weight_is_refused():
    words = WordDecoder(16, vocab_size=40)
    embedding = TextEmbedding(40, width=16, max_length=16)
    words.head.weight = embedding.words.weight
    message = "text_embedding.words.weight and word_decoder.head.weight must be two weights"
    with pytest.raises(ValueError, match=message):
        SimVTP.from_config(CONFIG, word_decoder=words, text_embedding=embedding)
    encoder = own_encoder()
    with pytest.raises(ValueError, match="two weights, got one"):
        SimVTP.from_config(CONFIG, encoder=encoder, text_encoder=encoder)


def test_a_trial_leaves_no_trace():
    part = nn.Sequential(nn.BatchNorm1d(16), nn.Dropout(0.5), nn.Linear(16, 2))
    part[1].eval()
    torch.manual_seed(0)
    SimVTP.from_config(CONFIG)
    expected = torch.rand(1)
    torch.manual_seed(0)
    SimVTP.from_config(CONFIG, encoder=own_encoder_of(0), match_head=part)
    assert torch.rand(1) != expected  # Fewer parts were drawn.
    assert [module.training for module in part] == [True, False, True]
    assert part[0].num_batches_tracked == 0
    assert all(weight.grad is None and weight.requires_grad for weight in part.parameters())


def own_encoder_of(seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return own_encoder()


def test_a_text_encoder_of_ones_own_sets_the_config():
    model = SimVTP.from_config(CONFIG, text_encoder=own_encoder())
    assert model.config == replace(CONFIG, text_encoder="own")
    assert model.own_parts == ("text_encoder",)
    parts = usual_parts(CONFIG)
    with pytest.raises(ValueError, match="text_encoder must be given where the config's is own"):
        SimVTP(replace(CONFIG, text_encoder="own"), **parts)


def test_rebuilding_keeps_parts():
    model = small_model()
    model.encoder = own_encoder().double()
    other = model.rebuilt(replace(CONFIG, num_frames=8))
    assert other.own_parts == ("encoder",)
    assert other.encoder is not model.encoder
    assert other.config.grid == (4, 4, 4)
    for name, weight in model.state_dict().items():
        assert torch.equal(weight.to(other.state_dict()[name].dtype), other.state_dict()[name])
    model = SimVTP.from_config(
        CONFIG, video_embedding=VideoEmbedding(16, grid=(2, 4, 4), tubelet=(2, 4, 4))
    )
    with pytest.raises(ValueError, match="video_embedding must make"):
        model.rebuilt(replace(CONFIG, num_frames=8))


def test_a_folder_tells_what_must_be_given(tmp_path, capsys):
    model = SimVTP.from_config(CONFIG, encoder=own_encoder(), match_head=nn.Linear(16, 2))
    model.save_pretrained(tmp_path)
    own = json.loads((tmp_path / "config.json").read_text())["own_parts"]
    assert own == {
        "encoder": "simvtp.encoders.padded.PaddedEncoder over torch.nn.modules.linear.Linear",
        "match_head": "torch.nn.modules.linear.Linear",
    }
    assert "encoder=..., match_head=...)" in (tmp_path / "README.md").read_text()
    message = (
        r"config\.json: own_parts: the model's encoder .*Linear'.*from_pretrained\(..., encoder="
    )
    with pytest.raises(ValueError, match=message):
        SimVTP.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="the model's match_head is not the library's"):
        SimVTP.from_pretrained(tmp_path, encoder=own_encoder())
    parts = {"encoder": own_encoder(), "match_head": nn.Linear(16, 2)}
    loaded = SimVTP.from_pretrained(tmp_path, **parts)
    assert loaded.encoder is parts["encoder"]
    assert not loaded.encoder.training
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, loaded.state_dict()[name])
    with pytest.raises(ValueError, match="text_embedding is the library's own; leave"):
        SimVTP.from_pretrained(tmp_path, **parts, text_embedding=TextEmbedding(40, width=16))
    assert convert([str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "has parts that are not the library's, {'encoder'" in capsys.readouterr().out
    parts["encoder"] = PaddedEncoder(nn.Sequential(nn.Linear(16, 16)), call=mean_of_each)
    with pytest.raises(ValueError, match=r"missing encoder\.module\.0\.weight"):
        SimVTP.from_pretrained(tmp_path, **parts)


@pytest.mark.parametrize("kind", [VideoClassifier, VideoAnswerer])
def test_a_task_model_keeps_the_parts_it_has(kind, tmp_path):
    model = SimVTP.from_config(CONFIG, encoder=own_encoder(), match_head=nn.Linear(16, 2))
    names = {"classes": ["a", "b"]} if kind is VideoClassifier else {"answers": ["a", "b"]}
    task = kind.from_model(model, **names)
    assert task.own_parts == ("encoder",)
    assert torch.equal(task.encoder.module.weight, model.encoder.module.weight)
    assert task.encoder is not model.encoder
    task.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="own_parts: the model's encoder"):
        kind.from_pretrained(tmp_path)
    loaded = kind.from_pretrained(tmp_path, encoder=own_encoder())
    for name, weight in task.state_dict().items():
        assert torch.equal(weight, loaded.state_dict()[name])
    with pytest.raises(
        ValueError, match=f"{kind.__name__} has video_embedding, encoder.* got match"
    ):
        kind(CONFIG, **names, match_head=nn.Linear(16, 2))


def test_names_are_those_of_the_constructor():
    assert set(PART_NAMES) == set(usual_parts(small_config(text_encoder="own")))
