"""Features of transformers' models with random weights, under the names of 4.x and of 5.x."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from simvtp.conversion import map_weights, read_weights
from simvtp.pipelines.convert import convert
from testing.conversion import paper
from testing.conversion.foreign_models import change_settings, same, scrambled

transformers = pytest.importorskip("transformers")
SIZES = {
    **{"num_frames": 4, "image_size": 32, "patch_size": 16, "tubelet_size": 2},
    **{"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3},
    **{"intermediate_size": 80, "decoder_hidden_size": 24, "decoder_num_hidden_layers": 1},
    **{"decoder_num_attention_heads": 4, "decoder_intermediate_size": 96},
}


def videomae(kind, **changes):
    return scrambled(
        getattr(transformers, kind)(transformers.VideoMAEConfig(**{**SIZES, **changes}))
    )


def save(model, folder, *, names, form):
    """Save under the names of 4.x, which is what save_pretrained writes, or of the 5.x classes."""
    model.save_pretrained(folder)
    state = load_file(folder / "model.safetensors")
    assert any(name.endswith("q_bias") for name in state)
    if names == "5.x":
        state = model.state_dict()
        assert any(name.endswith("query.bias") for name in state)
    (folder / "model.safetensors").unlink()
    if form == "safetensors":
        save_file(state, folder / "model.safetensors")
    elif form == "bin":
        torch.save(state, folder / "pytorch_model.bin")
    else:
        save_shards(state, folder, suffix=form.removeprefix("sharded "))
    return folder


def save_shards(state, folder, *, suffix):
    stem, write = ("pytorch_model", torch.save) if suffix == "bin" else ("model", save_file)
    parts = [dict(list(state.items())[first::3]) for first in range(3)]
    names = {}
    for number, part in enumerate(parts):
        file = f"{stem}-{number + 1:05}-of-00003.{suffix}"
        write(part, folder / file)
        names |= dict.fromkeys(part, file)
    index = {"metadata": {}, "weight_map": names}
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps(index))


def converted(*folders, **overrides):
    return convert([map_weights(read_weights(folder)) for folder in folders], overrides=overrides)


def same_tokens(ours, theirs):
    """Tokens before any norm are tens in size, and so are their roundings."""
    atol = max(1e-5, 3e-6 * float(theirs.abs().max()))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=atol)


@pytest.mark.parametrize("names", ["4.x", "5.x"])
@pytest.mark.parametrize(
    ("form", "eps"),
    [("safetensors", 1e-12), ("bin", 1e-6), ("sharded safetensors", 1e-12), ("sharded bin", 1e-6)],
)
@torch.no_grad()
def test_pre_training_class(tmp_path, clips, masks, names, form, eps):
    theirs = videomae("VideoMAEForPreTraining", use_mean_pooling=False, layer_norm_eps=eps)
    # Theirs leaves this one at torch's 1e-5, whatever the settings and the official code say.
    assert theirs.decoder.norm.eps == 1e-5
    theirs.decoder.norm.eps = 1e-6
    folder = save(theirs, tmp_path, names=names, form=form)
    model, report, origins = converted(folder)
    assert (model.config.num_heads, model.config.decoder_heads) == (3, 4)
    assert model.config.grid == (2, 2, 2)
    keep, drop = masks
    is_hidden = torch.zeros(2, 8, dtype=torch.bool).scatter(1, drop, True)
    pixels = paper.normalized(clips).float()
    visible = theirs.videomae(pixels, bool_masked_pos=is_hidden).last_hidden_state
    ours = model.encoder.encode_padded(model.video_embedding(clips, keep))
    same(ours, visible)
    same(
        model.pixel_decoder(ours, keep=keep, decode=drop),
        theirs(pixels, bool_masked_pos=is_hidden).logits,
    )
    assert not report.notes
    assert len(origins) == (3 if form.startswith("sharded") else 1)


@pytest.mark.parametrize("mean_pooling", [False, True])
@torch.no_grad()
def test_classification_class(tmp_path, clips, mean_pooling):
    theirs = videomae("VideoMAEForVideoClassification", use_mean_pooling=mean_pooling)
    model, report, _ = converted(save(theirs, tmp_path, names="5.x", form="safetensors"))
    hidden = theirs.videomae(paper.normalized(clips).float()).last_hidden_state
    same_tokens(model.encoder.encode_padded(model.video_embedding(clips)), hidden)
    mean = hidden.mean(dim=1)
    pooled = theirs.fc_norm(mean) if mean_pooling else mean
    same(model.encode_video(clips), pooled / pooled.norm(dim=-1, keepdim=True))
    if mean_pooling:
        # The head that they score classes with, over our features.
        logits = theirs(paper.normalized(clips).float()).logits
        encoded = model.encoder.encode_padded(model.video_embedding(clips))
        same(theirs.classifier(model.encoder.pool(encoded)), logits)
    assert [row.where for row in report.ignored] == ["the classes it was fine-tuned for"]
    assert not report.notes


@torch.no_grad()
def test_bare_class_and_what_its_settings_leave_out(tmp_path, clips):
    theirs = videomae("VideoMAEModel", qv_bias=False)
    theirs.save_pretrained(tmp_path)
    model, report, _ = converted(tmp_path)
    hidden = theirs(paper.normalized(clips).float()).last_hidden_state
    same_tokens(model.encoder.encode_padded(model.video_embedding(clips)), hidden)
    assert ["use_mean_pooling" in note or "qv_bias" in note for note in report.notes] == [True] * 2


def test_raw_pixel_targets_are_kept(tmp_path):
    theirs = videomae("VideoMAEForPreTraining", use_mean_pooling=False, norm_pix_loss=False)
    theirs.save_pretrained(tmp_path)
    assert converted(tmp_path).model.config.pixel_target == "raw"


@pytest.mark.parametrize("kind", ["BertModel", "BertForPreTraining", "BertForMaskedLM"])
@pytest.mark.parametrize("names", ["today's", "gamma and beta"])
@torch.no_grad()
def test_bert(tmp_path, captions, kind, names):
    sizes = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = transformers.BertConfig(
        **sizes, intermediate_size=80, vocab_size=50, max_position_embeddings=20
    )
    theirs = scrambled(getattr(transformers, kind)(config))
    theirs.save_pretrained(tmp_path)
    if names == "gamma and beta":
        state = load_file(tmp_path / "model.safetensors")
        old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
        for new, before in old.items():
            state = {name.replace(new, before): tensor for name, tensor in state.items()}
        prefix = "" if kind == "BertModel" else "bert."
        state[f"{prefix}embeddings.position_ids"] = torch.arange(20)[None]
        save_file(state, tmp_path / "model.safetensors")
    model, report, origins = converted(tmp_path, num_frames=4, image_size=32)
    embeddings = (theirs if kind == "BertModel" else theirs.bert).embeddings
    same(model.text_embedding(captions), embeddings(captions))
    assert (model.config.vocab_size, model.config.max_text_length) == (50, 20)
    assert [part.state for part in report.parts if part.what == "encoder"] == ["new"]
    assert origins[0].licence == "Apache-2.0"
    assert "BERT's own transformer" in [row.where for row in report.ignored]


@torch.no_grad()
def test_videomae_and_bert_make_one_model(tmp_path, clips, captions):
    video = videomae("VideoMAEForPreTraining", use_mean_pooling=False)
    video.save_pretrained(tmp_path / "video")
    sizes = {"hidden_size": 48, "num_hidden_layers": 1, "num_attention_heads": 3}
    text = scrambled(transformers.BertModel(transformers.BertConfig(**sizes, vocab_size=50)))
    text.save_pretrained(tmp_path / "text")
    model, _, origins = converted(tmp_path / "video", tmp_path / "text", max_text_length=9)
    pixels = paper.normalized(clips).float()
    hidden = video.videomae(pixels).last_hidden_state
    same(model.encoder.encode_padded(model.video_embedding(clips)), hidden)
    same(model.text_embedding(captions), text.embeddings(captions))
    assert [origin.source for origin in origins] == [
        "video/model.safetensors",
        "text/model.safetensors",
    ]
    with pytest.raises(ValueError, match=r"both .*video and .*video bring the tubelet embedding"):
        converted(tmp_path / "video", tmp_path / "video")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hidden_layers": 12}, "num_hidden_layers 12.*2"),
        ({"hidden_size": 96}, "hidden_size 96.*48"),
        ({"hidden_act": "gelu_new"}, "hidden_act 'gelu_new'.*'gelu'"),
        ({"decoder_num_hidden_layers": 4}, "decoder_num_hidden_layers 4.*1"),
        ({"image_size": [32, 48]}, r"image_size as one whole number, got \[32, 48\]"),
        ({"num_attention_heads": "3"}, "num_attention_heads as one whole number, got '3'"),
        ({"num_frames": 0}, "num_frames as one whole number, got 0"),
        ({"image_size": 40}, "image_size must be a multiple of patch_size"),
    ],
)
def test_settings_that_do_not_fit_the_weights(tmp_path, changes, message):
    videomae("VideoMAEForPreTraining", use_mean_pooling=False).save_pretrained(tmp_path)
    change_settings(tmp_path, **changes)
    with pytest.raises(ValueError, match=message):
        converted(tmp_path)


def test_sizes_given_for_height_and_width(tmp_path):
    videomae("VideoMAEForPreTraining", use_mean_pooling=False).save_pretrained(tmp_path)
    change_settings(tmp_path, image_size=[48, 48], patch_size=[16, 16])
    assert converted(tmp_path).model.config.grid == (2, 3, 3)


def test_a_projection_without_its_keys(tmp_path):
    theirs = videomae("VideoMAEForPreTraining", use_mean_pooling=False)
    state = theirs.state_dict()
    name = "videomae.encoder.layer.1.attention.attention.key.weight"
    torch.save({key: state[key] for key in state if key != name}, tmp_path / "weights.bin")
    with pytest.raises(ValueError, match=f"lacks {name}"):
        converted(tmp_path / "weights.bin")


@torch.no_grad()
def test_key_biases_change_nothing(tmp_path, clips):
    theirs = videomae("VideoMAEForPreTraining", use_mean_pooling=False)
    folder = save(theirs, tmp_path, names="5.x", form="safetensors")
    without, _, _ = converted(folder)
    state = load_file(folder / "model.safetensors")
    queries = [name for name in state if name.endswith("attention.query.bias")]
    keys = {name.replace("query", "key"): torch.randn_like(state[name]) for name in queries}
    save_file(state | keys, folder / "model.safetensors")
    model, report, _ = converted(folder)
    assert len(keys) == 3
    assert torch.equal(model.encode_video(clips), without.encode_video(clips))
    assert "key biases cancel" in " ".join(row.where for row in report.ignored)


def test_both_spellings_of_one_tensor(tmp_path):
    theirs = videomae("VideoMAEForPreTraining", use_mean_pooling=False)
    name = "videomae.encoder.layer.0.attention.attention"
    twice = {**theirs.state_dict(), f"{name}.q_bias": torch.zeros(48)}
    torch.save(twice, tmp_path / "weights.bin")
    with pytest.raises(ValueError, match=r"both .*query\.bias and .*q_bias"):
        converted(tmp_path / "weights.bin")
