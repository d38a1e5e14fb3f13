"""Nothing is loaded in part: every tensor too many, too few or of another shape is named."""

import re
from pathlib import Path

import pytest
import torch

from simvtp.conversion import load_parts, map_weights, model_config
from simvtp.conversion.readers import ForeignWeights
from simvtp.model import SimVTP
from testing.conversion import paper

SMALL = {"num_frames": 4, "image_size": 32, "depth": 2, "decoder_depth": 1}
FILE = Path("weights.pth")
SHAPES = {
    "pre-training": paper.pre_training_shapes(),
    "towers": paper.fine_tuning_shapes(),
    "videomae": paper.videomae_shapes(),
    "fine-tuned": paper.videomae_fine_tuned_shapes(),
}
IGNORED = re.compile(r"video_encoder\.text_emb.*|text_encoder\.patch_embed.*|head\..*")
NAMES = [
    pytest.param(kind, name, id=f"{kind} {name}")
    for kind, shapes in SHAPES.items()
    for name in shapes
    if not IGNORED.fullmatch(name)
]


@pytest.fixture(scope="module")
def whole():
    """For each layout a whole state, and a model of its size."""
    result = {}
    for kind, shapes in SHAPES.items():
        state = paper.random_state(shapes)
        config = model_config([mapped_of(state)], overrides=SMALL)
        result[kind] = state, SimVTP.from_config(config)
    return result


def mapped_of(state, **settings):
    return map_weights(ForeignWeights(FILE, state, settings, (FILE,)))


def load(state, model, **settings):
    mapped = mapped_of(state, **settings)
    config = model_config([mapped], overrides=SMALL)
    return load_parts(model, [mapped], config=config)


@pytest.mark.parametrize(("kind", "name"), NAMES)
def test_each_missing_tensor_is_named_and_nothing_is_loaded(whole, kind, name):
    state, model = whole[kind]
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match=re.escape(name)):
        load({key: state[key] for key in state if key != name}, model)
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())


@pytest.mark.parametrize(("kind", "name"), NAMES[::2])
def test_each_wrong_shape_is_named(whole, kind, name):
    state, model = whole[kind]
    grown = torch.cat([state[name], state[name][:1]]) if state[name].ndim > 1 else torch.ones(5)
    with pytest.raises(ValueError, match=re.escape(name)):
        load({**state, name: grown}, model)


@pytest.mark.parametrize("kind", SHAPES)
def test_a_whole_part_that_a_layout_always_has_is_missed(whole, kind):
    state, model = whole[kind]
    cut = {name: tensor for name, tensor in state.items() if "patch_embed" not in name}
    with pytest.raises(ValueError, match="lacks the whole tubelet embedding"):
        load(cut, model)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("videomae", "encoder.cls_token"),
        ("videomae", "encoder.blocks.0.gamma_1"),
        ("videomae", "encoder.blocks.0.attn.qkv.bias"),
        ("videomae", "mask_token_2"),
        ("videomae", "head.weight"),
        ("pre-training", "text_embeddings.rotary.weight"),
        ("towers", "fusion.weight"),
        ("towers", "video_encoder.norm.weight"),
        ("fine-tuned", "blocks.1.attn.relative_position_bias_table"),
    ],
)
def test_a_tensor_without_a_place_is_named(whole, kind, name):
    state, model = whole[kind]
    with pytest.raises(ValueError, match=re.escape(name)):
        load({**state, name: torch.zeros(paper.WIDTH)}, model)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (torch.full((2, 128), torch.nan), "vtm_head.weight .*not finite"),
        (torch.zeros(2, 128, dtype=torch.int8), "vtm_head.weight .*int8"),
        (torch.zeros(2, 128).to_sparse(), "vtm_head.weight .*dense"),
    ],
)
def test_values_that_are_no_weights(whole, changed, message):
    state, model = whole["pre-training"]
    with pytest.raises(ValueError, match=message):
        load({**state, "vtm_head.weight": changed}, model)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((128, 3, 16, 16), "5 axes"),
        ((128, 1, 2, 16, 16), "1 channels"),
        ((128, 3, 2, 16, 8), "16 x 8 pixels"),
    ],
)
def test_models_of_images_or_of_other_tubelets(whole, shape, message):
    state, model = whole["videomae"]
    with pytest.raises(ValueError, match=message):
        load({**state, "encoder.patch_embed.proj.weight": torch.zeros(shape)}, model)


def test_names_of_no_layout():
    names = {f"features.{number}.weight": torch.zeros(1) for number in range(9)}
    with pytest.raises(ValueError, match=r"no known layout, such as features\.0.* and 4 more"):
        mapped_of(names)


def test_heads_that_cannot_be_told():
    shapes = paper.videomae_shapes()
    state = {name: torch.zeros([48 if n == 128 else n for n in shapes[name]]) for name in shapes}
    with pytest.raises(ValueError, match=r"heads of the encoder.*width 48.*--num-heads"):
        model_config([mapped_of(state)], overrides=SMALL)
    state = paper.random_state(shapes)
    state["encoder_to_decoder.weight"] = torch.zeros(40, 128)
    state["decoder.head.weight"] = torch.zeros(1536, 40)
    with pytest.raises(ValueError, match=r"heads of the pixel decoder.*width 40.*--decoder-heads"):
        model_config([mapped_of(state)], overrides=SMALL)


@pytest.mark.parametrize(
    ("width", "heads", "decoder_width", "decoder_heads"),
    [(384, 6, 192, 3), (768, 12, 384, 6), (1024, 16, 512, 8), (1280, 16, 640, 8)],
)
def test_heads_of_published_models(width, heads, decoder_width, decoder_heads):
    shapes = {
        "encoder.patch_embed.proj.weight": (width, 3, 2, 16, 16),
        "encoder.blocks.0.mlp.fc1.weight": (4 * width, width),
    }
    state = {name: torch.zeros(shape) for name, shape in shapes.items()}
    depths = {"depth": 1, "decoder_depth": 0}
    without = model_config([mapped_of(state)], overrides=depths)
    state["encoder_to_decoder.weight"] = torch.zeros(decoder_width, width)
    state["decoder.head.weight"] = torch.zeros(1536, decoder_width)
    for config in (without, model_config([mapped_of(state)], overrides=depths)):
        assert (config.width, config.num_heads) == (width, heads)
        assert (config.decoder_width, config.decoder_heads) == (decoder_width, decoder_heads)


LAST_BLOCKS = {
    "pre-training": ("encoder.blocks.1.", "encoder", "--depth"),
    "videomae": ("decoder.blocks.0.", "pixel decoder", "--decoder-depth"),
    "towers": ("video_encoder.blocks.1.", "encoder", "--depth"),
    "fine-tuned": ("blocks.1.", "encoder", "--depth"),
}


@pytest.mark.parametrize("kind", LAST_BLOCKS)
def test_a_missing_last_block_is_no_shallower_model(whole, kind):
    state, _ = whole[kind]
    block, part, option = LAST_BLOCKS[kind]
    cut = mapped_of({name: state[name] for name in state if not name.startswith(block)})
    found = int(option == "--depth")
    message = f"has {found} blocks of the {part}, {option} says {found + 1}"
    with pytest.raises(ValueError, match=message):
        model_config([cut], overrides=SMALL)
    untold = {name: SMALL[name] for name in ("num_frames", "image_size")}
    with pytest.raises(ValueError, match=r"blocks of the .* the last ones may be missing"):
        model_config([cut], overrides=untold)


@pytest.mark.parametrize("cut_tower", ["video_encoder", "text_encoder"])
def test_towers_of_two_depths(whole, cut_tower):
    state, _ = whole["towers"]
    cut = {name: state[name] for name in state if not name.startswith(f"{cut_tower}.blocks.1.")}
    depth = {"depth": 1} if cut_tower == "video_encoder" else {}
    config = model_config([mapped_of(cut)], overrides={**SMALL, **depth})
    with pytest.raises(ValueError, match=r"text_encoder\.blocks\.1\."):
        load_parts(SimVTP.from_config(config), [mapped_of(cut)], config=config)


@pytest.mark.parametrize(("depth", "decoder_depth"), [(12, 4), (11, 4), (12, 3)])
def test_published_depths_need_not_be_told(depth, decoder_depth):
    shapes = {
        "encoder.patch_embed.proj.weight": (768, 3, 2, 16, 16),
        "encoder.blocks.0.mlp.fc1.weight": (3072, 768),
        "encoder_to_decoder.weight": (384, 768),
        "decoder.head.weight": (1536, 384),
        **{f"encoder.blocks.{number}.norm1.bias": (768,) for number in range(depth)},
        **{f"decoder.blocks.{number}.norm1.bias": (384,) for number in range(decoder_depth)},
    }
    mapped = mapped_of({name: torch.zeros(shape) for name, shape in shapes.items()})
    if (depth, decoder_depth) == (12, 4):
        assert model_config([mapped], overrides={}).depth == 12
    else:
        with pytest.raises(ValueError, match="the last ones may be missing"):
            model_config([mapped], overrides={})


def test_sources_of_two_widths(whole):
    text = paper.random_state(bert_shapes(64))
    with pytest.raises(ValueError, match=r"width 64.*128"):
        model_config([mapped_of(whole["videomae"][0]), mapped_of(text)], overrides=SMALL)


def bert_shapes(width):
    return {
        "bert.embeddings.word_embeddings.weight": (50, width),
        "bert.embeddings.position_embeddings.weight": (20, width),
        "bert.embeddings.token_type_embeddings.weight": (2, width),
        **paper.norm_shapes("bert.embeddings.LayerNorm", width),
    }


def test_captions_longer_than_the_table_of_positions():
    mapped = mapped_of(paper.random_state(bert_shapes(64)))
    config = model_config([mapped], overrides={**SMALL, "max_text_length": 21})
    with pytest.raises(ValueError, match="for 20 words, 21 are asked for; set max_text_length"):
        load_parts(SimVTP.from_config(config), [mapped], config=config)
    config = model_config([mapped], overrides={**SMALL, "max_text_length": 8})
    model = SimVTP.from_config(config)
    report = load_parts(model, [mapped], config=config)
    table = mapped.foreign.tensors["bert.embeddings.position_embeddings.weight"]
    assert torch.equal(model.text_embedding.positions.weight, table[:8])
    assert report.notes == ("text positions were cut: the first 8 of 20",)


def test_berts_position_kinds(whole):
    state = paper.random_state(bert_shapes(64))
    with pytest.raises(ValueError, match="position_embedding_type 'relative_key'"):
        load(state, whole["videomae"][1], position_embedding_type="relative_key")
    with pytest.raises(ValueError, match=r"vocab_size 30522.*50"):
        load(state, whole["videomae"][1], vocab_size=30522)
