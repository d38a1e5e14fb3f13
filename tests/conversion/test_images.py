"""Image transformers of transformers and timm with random weights: their features are ours.

A still clip of one slice is what an image is. With more slices a tower without extra tokens still
gives an image's features, as each token sees as many copies of every other.
"""

import json
from functools import partial

import pytest
import torch

from simvtp.conversion import map_weights, read_weights
from simvtp.conversion.images import resample_patches
from simvtp.pipelines.convert import convert
from testing.conversion.foreign_models import change_settings, scrambled

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


@pytest.mark.parametrize("kind", ["Dinov2", "Dinov2WithRegisters"])
@pytest.mark.parametrize("size", [64, 96])
@torch.no_grad()
def test_dinov2_of_transformers(tmp_path, kind, size):
    settings = getattr(transformers, f"{kind}Config")(**SIZES)
    theirs = scrambled(getattr(transformers, f"{kind}Model")(settings))
    theirs.save_pretrained(tmp_path)
    result = converted(tmp_path, image_size=size)
    num_extra = 5 if kind == "Dinov2WithRegisters" else 1
    assert result.model.config.extra_tokens == num_extra
    hidden = theirs(normalized(images(size), *IMAGENET)).last_hidden_state
    same(tokens_of(result.model, images(size)), hidden[:, num_extra:])
    assert "layer scale was multiplied" in notes_of(result)


@torch.no_grad()
def test_dinov2_of_its_own_and_of_timm(tmp_path):
    """The names are timm's; register tokens have none of the positions."""
    theirs = timm_model(init_values=1e-5, reg_tokens=4, no_embed_class=True)
    state = theirs.state_dict()
    torch.save(state, tmp_path / "timm.pth")
    own = {name: value for name, value in state.items() if name not in ("reg_token", "pos_embed")}
    # DINOv2's own files have a position for the class token, and it stands in the token here.
    first = 0.1 * torch.ones(1, 1, WIDTH)
    own |= {
        "register_tokens": state["reg_token"],
        "cls_token": state["cls_token"] - first,
        "pos_embed": torch.cat([first, state["pos_embed"]], dim=1),
        "mask_token": torch.zeros(1, WIDTH),
    }
    torch.save(own, tmp_path / "own.pth")
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": IMAGENET[0], "image_std": IMAGENET[1], "do_normalize": True})
    )
    expected = theirs.forward_features(normalized(images(), *IMAGENET))[:, 5:]
    for name in ("timm", "own"):
        result = converted(tmp_path / f"{name}.pth", num_heads=4, depth=2)
        same(tokens_of(result.model, images()), expected)
        assert "pixels" not in notes_of(result)


@pytest.mark.parametrize("kind", ["CLIPVisionModel", "CLIPModel", "CLIPVisionModelWithProjection"])
@torch.no_grad()
def test_clip(tmp_path, kind):
    vision = transformers.CLIPVisionConfig(**SIZES)
    theirs = scrambled(getattr(transformers, kind)(two_towers("CLIP", vision, kind)))
    theirs.save_pretrained(tmp_path)
    result = converted(tmp_path)
    config = result.model.config
    assert (config.activation, config.norm_eps, config.extra_tokens) == ("quick_gelu", 1e-5, 1)
    vision = theirs if kind == "CLIPVisionModel" else theirs.vision_model
    hidden = vision(normalized(images(), *CLIP)).last_hidden_state
    # Theirs ends in that norm for the class token alone.
    same(tokens_of(result.model, images()), vision.post_layernorm(hidden)[:, 1:])


def two_towers(name, vision, kind):
    """Settings of both towers, or of the one that a class takes."""
    if "Vision" in kind:
        return vision
    text = {**SIZES, "vocab_size": 60, "max_position_embeddings": 8}
    text |= dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), 1)
    both = {"vision_config": vision.to_dict(), "text_config": text}
    return getattr(transformers, f"{name}Config")(**both)


@torch.no_grad()
def test_clip_of_timm(tmp_path):
    theirs = timm_model(
        pre_norm=True,
        act_layer="quick_gelu",
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-5),
    )
    torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    settings = {
        "architecture": "vit_base_patch16_clip_quickgelu_224",
        "pretrained_cfg": {"mean": CLIP[0], "std": CLIP[1]},
    }
    (tmp_path / "config.json").write_text(json.dumps(settings))
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")
    result = converted(tmp_path, num_heads=4, depth=2)
    assert result.model.config.activation == "quick_gelu"
    expected = theirs.forward_features(normalized(images(), *CLIP))[:, 1:]
    same(tokens_of(result.model, images()), expected)
    assert result.origins[0].licence == "mit"


@pytest.mark.parametrize("kind", ["SiglipVisionModel", "SiglipModel"])
@torch.no_grad()
def test_siglip_at_any_number_of_frames(tmp_path, kind):
    vision = transformers.SiglipVisionConfig(**SIZES)
    theirs = scrambled(getattr(transformers, kind)(two_towers("Siglip", vision, kind)))
    theirs.save_pretrained(tmp_path)
    result = converted(tmp_path, num_frames=6)
    assert result.model.config.activation == "gelu_tanh"
    vision = theirs if kind == "SiglipVisionModel" else theirs.vision_model
    hidden = vision(normalized(images(), HALF, HALF)).last_hidden_state
    same(tokens_of(result.model, images(), frames=6), hidden.repeat(1, 3, 1))


@torch.no_grad()
def test_siglip_2_with_any_shapes(tmp_path):
    sizes = {name: value for name, value in SIZES.items() if name != "image_size"}
    config = transformers.Siglip2VisionConfig(**sizes, num_patches=16)
    theirs = scrambled(transformers.Siglip2VisionModel(config))
    theirs.save_pretrained(tmp_path)
    patches = normalized(images(), HALF, HALF).unflatten(3, (4, PATCH)).unflatten(2, (4, PATCH))
    patches = patches.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
    hidden = theirs(
        pixel_values=patches,
        pixel_attention_mask=torch.ones(2, 16, dtype=torch.long),
        spatial_shapes=torch.tensor([[4, 4], [4, 4]]),
    ).last_hidden_state
    same(tokens_of(converted(tmp_path).model, images()), hidden)


@pytest.mark.parametrize("side", [8, 20])
def test_patches_are_resampled_as_flexivit_does(side):
    timm = pytest.importorskip("timm")
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(5, 3, 16, 16, generator=generator, dtype=torch.float64)
    ours = resample_patches(weight, side=side)
    theirs = timm.layers.resample_patch_embed(weight.float(), [side, side], verbose=False)
    torch.testing.assert_close(ours.float(), theirs, rtol=0, atol=1e-4)
    if side > 16:
        # On larger patches nothing is lost.
        patch = torch.randn(1, 3, 16, 16, generator=generator, dtype=torch.float64)
        resized = torch.nn.functional.interpolate(
            patch, size=(side, side), mode="bicubic", antialias=True
        )
        torch.testing.assert_close((ours * resized).sum((1, 2, 3)), (weight * patch).sum((1, 2, 3)))


def test_another_patch_size_on_request(tmp_path):
    scrambled(transformers.ViTModel(transformers.ViTConfig(**SIZES))).save_pretrained(tmp_path)
    result = converted(tmp_path, patch_size=8, image_size=32)
    assert result.model.config.tubelet == (2, 8, 8)
    assert "resampled to 8" in notes_of(result)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_act": "relu"}, r"the activation 'relu'; only gelu, .* can be converted"),
        ({"image_size": 80}, r"image_size 80.*64"),
        ({"layer_norm_eps": "small"}, r"must give layer_norm_eps, got 'small'"),
        ({"hidden_size": 64}, r"hidden_size 64.*32"),
    ],
)
def test_settings_that_do_not_fit(tmp_path, changes, message):
    scrambled(transformers.ViTModel(transformers.ViTConfig(**SIZES))).save_pretrained(tmp_path)
    change_settings(tmp_path, **changes)
    with pytest.raises(ValueError, match=message):
        converted(tmp_path)


def test_what_cannot_be_folded_is_refused(tmp_path):
    sizes = {**SIZES, "use_swiglu_ffn": True}
    scrambled(transformers.Dinov2Model(transformers.Dinov2Config(**sizes))).save_pretrained(
        tmp_path
    )
    with pytest.raises(ValueError, match=r"no place for: .*weights_in"):
        converted(tmp_path)
