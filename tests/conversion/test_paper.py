"""Features of the paper's and VideoMAE's files, against a forward pass over their own names."""

from argparse import Namespace

import pytest
import torch

from export.graphs import build_graph
from simvtp import ModelConfig, SimVTP
from simvtp.encoders import encode_pairs
from simvtp.layers import PackedTokens, pack
from simvtp.tasks import VideoClassifier
from testing.conversion import paper


def as_double(state):
    return {name: tensor.double() for name, tensor in state.items()}


def same(ours, theirs):
    torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=1e-5)


def checkpoint(state):
    """What the paper's training saves, its command line included."""
    return {
        "model": state,
        "optimizer": {"state": {0: {"step": 3}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        "epoch": 199,
        "scaler": {},
        "args": Namespace(model="base", window_size=(8, 14, 14), device="cuda"),
    }


def embed_text(model, ids):
    packed = pack(list(ids))
    return PackedTokens(model.text_embedding(packed.values, packed.layout.positions), packed.layout)


@torch.no_grad()
def same_video(model, state, clips, masks):
    keep, drop = masks
    tokens = paper.video_tokens(state, "encoder.", clips)
    same(model.video_embedding(clips), tokens)
    visible = paper.encode(state, paper.take(tokens, keep))
    ours = model.encoder.encode_padded(model.video_embedding(clips, keep))
    same(ours, visible)
    pixels = paper.decode(state, visible, keep=keep, drop=drop, num_tokens=tokens.shape[1])
    same(model.pixel_decoder(ours, keep=keep, decode=drop), pixels)
    same(model.encode_video(clips), unit(paper.encode(state, tokens).mean(dim=1)))


def unit(features):
    return features / features.norm(dim=-1, keepdim=True)


@torch.no_grad()
def test_pre_training_is_the_same_to_the_last_logit(converted, clips, captions, masks):
    values = paper.random_state(paper.pre_training_shapes())
    values["text_embeddings.position_ids"] = torch.arange(paper.LENGTH)[None]
    model, report, _ = converted(checkpoint(values))
    state, (keep, _) = as_double(values), masks
    assert model.config == ModelConfig(
        **{"num_frames": 4, "image_size": 32, "width": 128, "depth": 2, "num_heads": 2},
        **{"decoder_width": 64, "decoder_depth": 1, "decoder_heads": 1},
        **{"vocab_size": 50, "max_text_length": 20},
    )
    same_video(model, state, clips, masks)
    words = paper.text_tokens(state, "", captions)
    same(model.text_embedding(captions), words)
    same(model.encode_text(captions), unit(paper.encode(state, words).mean(dim=1)))
    video = paper.take(paper.video_tokens(state, "encoder.", clips), keep)
    joint = paper.encode(state, torch.cat([video, words], dim=1))
    tokens = model.video_embedding(clips, keep)
    encoded, rows = encode_pairs(model.encoder, tokens, embed_text(model, captions))
    same(encoded.values[rows[: keep.numel()]].view(2, 3, -1), joint[:, :3])
    same(encoded.values[rows[keep.numel() :]].view(2, 5, -1), joint[:, 3:])
    logits = paper.linear(state, "text_cls", joint[:, 3:])
    same(model.word_decoder(encoded, rows[keep.numel() :]).view(2, 5, -1), logits)
    pooled = model.pool_joint(tokens, embed_text(model, captions))
    same(model.match_head(pooled), paper.linear(state, "vtm_head", joint.mean(dim=1)))
    assert {part.state for part in report.parts} == {"loaded"}
    assert [row.what for row in report.ignored] == ["text_embeddings.position_ids"]


def test_a_wrong_number_of_heads_would_show(converted, clips, masks):
    values = paper.random_state(paper.videomae_shapes())
    model = converted({"model": values}, num_heads=4).model
    with pytest.raises(AssertionError, match="not close"):
        same_video(model, as_double(values), clips, masks)


@pytest.mark.parametrize("key", ["model", "module", None])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod."])
def test_videomae_pre_training(converted, clips, masks, key, prefix):
    values = paper.random_state(paper.videomae_shapes())
    named = {f"{prefix}{name}": tensor for name, tensor in values.items()}
    model, report, origins = converted(named if key is None else {key: named, "epoch": 3})
    same_video(model, as_double(values), clips, masks)
    states = {part.what: part.state for part in report.parts}
    assert [name for name, state in states.items() if state == "new"] == [
        *("text embedding", "word head", "match head")
    ]
    assert origins[0].parts == ("video_embedding", "encoder", "pixel_decoder")
    assert origins[0].licence == "CC-BY-NC-4.0"


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16, torch.float64])
def test_other_number_formats_become_float32(converted, clips, masks, precision):
    values = paper.random_state(paper.videomae_shapes())
    values = {name: tensor.to(precision) for name, tensor in values.items()}
    model = converted(values).model
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32}
    same_video(model, as_double(values), clips, masks)


@torch.no_grad()
def test_videomae_fine_tuning_is_the_same_to_the_feature(converted, clips):
    values = paper.random_state(paper.videomae_fine_tuned_shapes())
    model, report, _ = converted({"module": values})
    state = as_double(values)
    tokens = paper.video_tokens(state, "", clips)
    tokens = paper.blocks(state, "blocks", tokens, depth=paper.DEPTH, heads=paper.HEADS)
    same(model.encoder.encode_padded(model.video_embedding(clips)), tokens)
    pooled = paper.layer_norm(state, "fc_norm", tokens.mean(dim=1))
    same(model.encode_video(clips), unit(pooled))
    classifier = VideoClassifier.from_model(model, classes=["a", "b"]).eval()
    same(classifier.features(clips), pooled)
    assert not report.notes
    assert [(row.what, row.num_tensors) for row in report.ignored] == [("head.weight ...", 2)]


def tower_tokens(state, tower, tokens):
    return paper.blocks(state, f"{tower}.blocks", tokens, depth=paper.DEPTH, heads=paper.HEADS)


@pytest.mark.parametrize("towers", ["both", "video", "text"])
@torch.no_grad()
def test_the_papers_two_towers_are_scored_exactly(converted, clips, captions, towers, tmp_path):
    values = paper.random_state(paper.fine_tuning_shapes())
    model, report, _ = converted({"module": values}, towers=towers)
    state = as_double(values)
    main = "text_encoder" if towers == "text" else "video_encoder"
    video = paper.video_tokens(state, "video_encoder.", clips)
    encoded = tower_tokens(state, main, video)
    same(model.encoder.encode_padded(model.video_embedding(clips)), encoded)
    video = unit(paper.layer_norm(state, f"{main}.fc_norm", encoded.mean(dim=1)))
    same(model.encode_video(clips), video)
    words = paper.text_tokens(state, "text_encoder.", captions)
    same(model.text_embedding(captions), words)
    tower = "video_encoder" if towers == "video" else "text_encoder"
    mean = tower_tokens(state, tower, words).mean(dim=1)
    text = unit(paper.layer_norm(state, f"{tower}.fc_norm", mean))
    same(model.encode_text(captions), text)
    model.save_pretrained(tmp_path / "model")
    loaded = SimVTP.from_pretrained(tmp_path / "model")
    assert loaded.config.pooling == "mean_then_norm"
    same(loaded.encode_text(captions) @ loaded.encode_video(clips).T, text @ video.T)
    graphs = [build_graph(loaded, name, opset=20) for name in ("video", "text")]
    same(graphs[0](clips), video)
    same(graphs[1](captions, torch.ones_like(captions)), text)
    assert (model.text_encoder is not None) == (towers == "both")
    reasons = {row.where: row.num_tensors for row in report.ignored}
    assert reasons["never used: the video tower sees no text"] == 5
    other = [why for why in reasons if why.endswith("--towers both keeps it")]
    assert len(other) == (towers != "both")
    assert not report.notes


@torch.no_grad()
def test_a_norm_that_is_wanted_before_the_mean_is_told(converted, clips):
    values = paper.random_state(paper.fine_tuning_shapes())
    model, report, _ = converted(values, pooling="norm_then_mean")
    state = as_double(values)
    tokens = tower_tokens(
        state, "video_encoder", paper.video_tokens(state, "video_encoder.", clips)
    )
    same(
        model.encode_video(clips),
        unit(paper.layer_norm(state, "video_encoder.fc_norm", tokens).mean(dim=1)),
    )
    assert "pools mean_then_norm, the model norm_then_mean" in report.notes[0]


@torch.no_grad()
def test_other_sizes_get_other_positions(converted):
    values = paper.random_state(paper.videomae_shapes())
    model = converted(values, num_frames=6, image_size=48).model
    clips = torch.randint(0, 256, (1, 6, 3, 48, 48), dtype=torch.uint8)
    tokens = paper.video_tokens(as_double(values), "encoder.", clips)
    assert tokens.shape[1] == 27
    same(model.video_embedding(clips), tokens)


@torch.no_grad()
def test_learned_positions_are_kept_or_interpolated(converted, clips):
    values = paper.random_state(paper.videomae_fine_tuned_shapes())
    values["pos_embed"] = torch.randn(1, 8 * 4 * 4, paper.WIDTH)
    with pytest.raises(ValueError, match="--source-frames"):
        converted({**values, "pos_embed": values["pos_embed"][:, :-1]})
    model, report, _ = converted(values, num_frames=16, image_size=64)
    assert model.config.video_positions == "learned"
    large = torch.randint(0, 256, (1, 16, 3, 64, 64), dtype=torch.uint8)
    table = values["pos_embed"].double()
    same(model.video_embedding(large), paper.video_tokens(as_double(values), "", large, table))
    assert not any("interpolated" in note for note in report.notes)
    model, report, _ = converted(values)
    corners = table.view(8, 4, 4, -1)[[0, -1]][:, [0, -1]][:, :, [0, -1]].reshape(1, 8, -1)
    same(model.video_embedding(clips), paper.video_tokens(as_double(values), "", clips, corners))
    assert "learned positions were interpolated: 8 x 4 x 4 to 2 x 2 x 2 tubelets" in report.notes
