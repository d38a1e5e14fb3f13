"""Image transformers of transformers and timm with random weights: their features are ours.

A still clip of one slice is what an image is. With more slices a tower without extra tokens still
gives an image's features, as each token sees as many copies of every other.
"""

import pytest
import torch

from simvtp.conversion import map_weights, read_weights
from simvtp.pipelines.convert import convert
from tests.conversion.test_transformers import scrambled

transformers = pytest.importorskip("transformers")
SIZE, PATCH, WIDTH = 64, 16, 32
SIZES = {
    **{"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 4},
    **{"intermediate_size": 80, "image_size": SIZE, "patch_size": PATCH},
}
HALF = (0.5, 0.5, 0.5)
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def images(size=SIZE):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8, generator=generator)


def still(images, frames):
    return images[:, None].expand(-1, frames, -1, -1, -1)


def normalized(images, mean, std):
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (mean, std))
    return (images / 255 - mean) / std


def converted(folder, **overrides):
    overrides = {"num_frames": 2, **overrides}
    return convert([map_weights(read_weights(folder))], overrides=overrides)


def tokens_of(model, images, frames=2):
    return model.encoder.encode_padded(model.video_embedding(still(images, frames)))


def same(ours, theirs):
    atol = max(1e-5, 3e-6 * float(theirs.abs().max()))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=atol)


def notes_of(result):
    return " ".join(result.report.notes)


@pytest.mark.parametrize("kind", ["ViTModel", "ViTForImageClassification"])
@torch.no_grad()
def test_vit_of_transformers(tmp_path, kind):
    theirs = scrambled(getattr(transformers, kind)(transformers.ViTConfig(**SIZES)))
    theirs.save_pretrained(tmp_path)
    result = converted(tmp_path)
    config = result.model.config
    assert (config.num_heads, config.extra_tokens, config.norm_eps) == (4, 1, 1e-12)
    assert (config.grid, config.tubelet) == ((1, 4, 4), (2, 16, 16))
    pixels = normalized(images(), HALF, HALF)
    hidden = (theirs if kind == "ViTModel" else theirs.vit)(pixels).last_hidden_state
    same(tokens_of(result.model, images()), hidden[:, 1:])
    assert "key biases cancel" in " ".join(row.where for row in result.report.ignored)
    assert result.origins[0].licence == "not stated"


@torch.no_grad()
def test_more_slices_and_another_size(tmp_path):
    theirs = scrambled(transformers.ViTModel(transformers.ViTConfig(**SIZES)))
    theirs.save_pretrained(tmp_path)
    result = converted(tmp_path, num_frames=6, image_size=80, extra_tokens=0)
    assert result.model.config.grid == (3, 5, 5)
    # Theirs without its class token.
    pixels = normalized(images(80), HALF, HALF)
    hidden = theirs.embeddings(pixels, interpolate_pos_encoding=True)[:, 1:]
    for layer in theirs.layers:
        hidden = layer(hidden)
    expected = theirs.layernorm(hidden).repeat(1, 3, 1)
    same(tokens_of(result.model, images(80), 6), expected)
    assert "dropped (extra_tokens 0)" in notes_of(result)
    assert "from 4 x 4 bicubically" in notes_of(result)


@pytest.mark.parametrize(
    ("settings", "pooling"),
    [
        ({}, "norm_then_mean"),
        ({"global_pool": "avg", "fc_norm": True}, "mean_then_norm"),
        ({"class_token": False, "global_pool": "avg", "fc_norm": False}, "norm_then_mean"),
        ({"reg_tokens": 4}, "norm_then_mean"),
        ({"reg_tokens": 4, "no_embed_class": True}, "norm_then_mean"),
        ({"qkv_bias": False}, "norm_then_mean"),
    ],
)
@torch.no_grad()
def test_vit_of_timm(tmp_path, settings, pooling):
    theirs = timm_model(**settings)
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    result = converted(tmp_path / "weights.pth", num_heads=4, depth=2)
    assert result.model.config.pooling == pooling
    prefix = theirs.num_prefix_tokens
    assert result.model.config.extra_tokens == prefix
    features = theirs.forward_features(normalized(images(), HALF, HALF))[:, prefix:]
    same(tokens_of(result.model, images()), features)
    if theirs.global_pool == "avg":
        pooled = theirs.forward_head(theirs.forward_features(normalized(images(), HALF, HALF)))
        same(result.model.encode_video(still(images(), 2)), torch.nn.functional.normalize(pooled))
    assert "the activation; gelu was taken" in notes_of(result)
    assert "as is usual for such names" in notes_of(result)


def timm_model(**settings):
    timm = pytest.importorskip("timm")
    sizes = {"img_size": SIZE, "patch_size": PATCH, "embed_dim": WIDTH, "depth": 2, "num_heads": 4}
    model = timm.models.vision_transformer.VisionTransformer
    return scrambled(model(**{**sizes, "num_classes": 0, **settings}))
