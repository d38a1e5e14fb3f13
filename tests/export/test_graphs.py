import dataclasses
from dataclasses import asdict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from export.drawn_inputs import example_inputs
from export.graphs import INPUTS, build_graph
from simvtp import ModelConfig, SimVTP
from simvtp.layers import PackedLayout, PackedTokens
from simvtp.masking import TubeMask
from simvtp.reconstruction import reconstruct

CONFIG = ModelConfig(
    num_frames=4,
    image_size=32,
    patch_size=8,
    vocab_size=50,
    max_text_length=12,
    width=32,
    depth=2,
    num_heads=2,
    decoder_width=16,
    decoder_depth=1,
    decoder_heads=2,
)
OTHERS = {
    "paper": {},
    "own text encoder": {"text_encoder": "own"},
    "learned positions": {"video_positions": "learned"},
    "contrast, positions by axis": {
        "video_positions": "axes",
        "video_input": "pixels and contrast",
    },
    "deeper words, raw pixels": {"word_decoder_depth": 1, "pixel_target": "raw"},
    "padding elsewhere": {"padding_id": 7},
    "norm after mean": {"pooling": "mean_then_norm", "text_encoder": "own"},
    "as CLIP": {
        **{"activation": "quick_gelu", "norm_eps": 1e-5, "extra_tokens": 1},
        "video_norm": "layer_norm",
    },
    "as SigLIP with registers": {"activation": "gelu_tanh", "extra_tokens": 3},
}
SIZES = {
    "batch": st.integers(1, 4),
    "tokens": st.integers(3, 12),
    "seed": st.integers(0, 2**16),
    "opset": st.sampled_from([20, None]),
}


def random_model(**changes):
    """A model far from its start: no bias is 0, and no two clips are alike to it."""
    torch.manual_seed(1)
    model = SimVTP.from_config(dataclasses.replace(CONFIG, **changes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


@pytest.fixture(scope="module", params=list(OTHERS), ids=lambda name: name.replace(" ", "-"))
def model(request):
    return random_model(**OTHERS[request.param])


def draw(model, name, **sizes):
    inputs = example_inputs(asdict(model.config), name, **sizes)
    return {key: torch.from_numpy(values) for key, values in inputs.items()}


@torch.inference_mode()
def run(graph, name, inputs):
    return graph(*(inputs[key] for key in INPUTS[name]))


@torch.inference_mode()
def asked_of_the_model(model, name, inputs):
    if name == "video":
        return model.encode_video(inputs["frames"])
    text = (inputs["token_ids"], inputs["attention_mask"].bool())
    if name == "text":
        return model.encode_text(text[0], attend=text[1])
    return model.match(inputs["frames"], text[0], attend=text[1])


@pytest.mark.parametrize("name", ["video", "text", "match"])
@settings(max_examples=8)
@given(**SIZES)
def test_graphs_are_the_model(model, name, batch, tokens, seed, opset):
    inputs = draw(model, name, batch=batch, tokens=tokens, seed=seed)
    found = run(build_graph(model, name, opset=opset), name, inputs)
    expected = asked_of_the_model(model, name, inputs)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=0)


class TubeletMeans(nn.Module):
    """Tokens of a clip's tubelets out of their mean colours."""

    def __init__(self):
        super().__init__()
        self.projection = nn.Linear(3, 32)

    def forward(self, video, index=None):
        means = video.float().unflatten(4, (4, 8)).unflatten(3, (4, 8)).unflatten(1, (2, 2))
        tokens = self.projection(means.mean(dim=(2, 5, 7)).movedim(2, -1).flatten(1, 3) / 255)
        return tokens if index is None else tokens.gather(1, index[..., None].expand(-1, -1, 32))


class Words(nn.Embedding):
    def forward(self, token_ids, positions=None):
        return super().forward(token_ids)


@pytest.fixture(scope="module")
def own_model():
    torch.manual_seed(0)
    heads = {"match_head": nn.Sequential(nn.Linear(32, 4), nn.GELU(), nn.Linear(4, 2))}
    embeddings = {"video_embedding": TubeletMeans(), "text_embedding": Words(50, 32)}
    return SimVTP.from_config(CONFIG, **embeddings, **heads).eval()


@pytest.mark.parametrize("name", ["video", "text", "match"])
@settings(max_examples=3)
@given(**SIZES)
def test_embeddings_and_heads_of_ones_own(own_model, name, batch, tokens, seed, opset):
    test_graphs_are_the_model.hypothesis.inner_test(
        own_model, name, batch=batch, tokens=tokens, seed=seed, opset=opset
    )


@pytest.mark.parametrize("name", ["pixel_decoder", "word_decoder"])
def test_decoders_of_ones_own_have_no_graph(own_model, name):
    model = own_model.rebuilt()
    setattr(model, name, nn.Identity())
    with pytest.raises(ValueError, match=r"needs the library's decoders, got .*Identity"):
        build_graph(model, "reconstruct")


@pytest.mark.parametrize("name", ["text", "match"])
@settings(max_examples=8)
@given(**SIZES, longer=st.integers(1, 4))
def test_padding_does_not_matter(model, name, batch, tokens, seed, opset, longer):
    tokens = min(tokens, 12 - longer)
    graph = build_graph(model, name, opset=opset)
    inputs = draw(model, name, batch=batch, tokens=tokens, seed=seed)
    # Any word may stand where nothing is to be read.
    extra = torch.randint(0, 50, (batch, longer), generator=torch.Generator().manual_seed(seed))
    padded = inputs | {
        "token_ids": torch.cat([inputs["token_ids"], extra], dim=1),
        "attention_mask": torch.cat([inputs["attention_mask"], torch.zeros_like(extra)], dim=1),
    }
    torch.testing.assert_close(
        run(graph, name, padded), run(graph, name, inputs), atol=2e-6, rtol=0
    )


@settings(max_examples=8)
@given(**SIZES, kept=st.integers(1, 31))
def test_reconstruct_fills_in_what_the_model_fills_in(model, batch, tokens, seed, opset, kept):
    inputs = draw(model, "reconstruct", batch=batch, tokens=tokens, kept=kept, seed=seed)
    graph = build_graph(model, "reconstruct", opset=opset)
    clips, logits = run(graph, "reconstruct", inputs)
    keep = inputs["keep"]
    everything = set(range(model.config.num_video_tokens))
    drop = torch.tensor([sorted(everything - set(row)) for row in keep.tolist()])
    real = inputs["attention_mask"].bool()
    ids = inputs["token_ids"][real]
    expected = reconstruct(
        model,
        inputs["frames"],
        tubes=TubeMask(keep=keep, drop=drop),
        masked_text=PackedTokens(ids, PackedLayout(tuple(real.sum(dim=1).tolist()), ids.device)),
        masked_index=torch.arange(len(ids)),
    )
    assert clips.min() >= 0
    assert clips.max() <= 1
    # The model rounds to whole levels of grey.
    assert (255 * clips - expected.video).abs().max() <= 0.5 + 1e-2
    first, second = logits[real].topk(2).values.unbind(dim=1)
    is_clear = first - second > 1e-4
    guesses = logits[real].argmax(dim=1)
    assert torch.equal(guesses[is_clear], expected.text.values[is_clear])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("pooling", ["norm_then_mean", "mean_then_norm"])
def test_half_precision_stays_close_and_ends_in_float32(dtype, pooling):
    model = random_model(pooling=pooling)
    digits = {torch.float16: 2e-3, torch.bfloat16: 2e-2}[dtype]
    for name in ("video", "text", "match"):
        inputs = draw(model, name, batch=2, tokens=9, seed=3)
        found = run(build_graph(model, name, dtype=dtype), name, inputs)
        assert found.dtype == torch.float32
        expected = asked_of_the_model(model, name, inputs)
        assert (found - expected).abs().max() < digits
        if name != "match":
            torch.testing.assert_close(found.norm(dim=1), torch.ones(2), atol=1e-6, rtol=0)


def test_a_word_whose_parts_cancel_is_normalised_in_float32():
    # Its variance of 1e-10 is 0 in half precision, and 1 / sqrt(0) is infinite.
    model = random_model()
    with torch.no_grad():
        for table in (model.text_embedding.words, model.text_embedding.positions):
            table.weight.zero_()
        model.text_embedding.token_types.weight.zero_()
        model.text_embedding.words.weight[:, ::2] = 1e-5
    inputs = draw(model, "text", batch=2, tokens=5)
    found = run(build_graph(model, "text", dtype=torch.float16), "text", inputs)
    expected = asked_of_the_model(model, "text", inputs)
    assert (found - expected).abs().max() < 1e-2


def test_the_model_is_left_as_it_is():
    model = random_model().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    graph = build_graph(model, "match", dtype=torch.float16)
    assert model.training
    assert not graph.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_an_unknown_graph_is_named():
    with pytest.raises(ValueError, match=r"one of video, text, match, reconstruct, got 'audio'"):
        build_graph(random_model(), "audio")


def test_examples_repeat_and_pad_on_the_right():
    config = asdict(CONFIG)
    first, again = (example_inputs(config, "match", batch=3, tokens=6, seed=5) for _ in range(2))
    assert all(np.array_equal(first[key], again[key]) for key in first)
    mask = first["attention_mask"]
    assert mask[0].all()
    assert (mask.sum(axis=1) >= 3).all()
    assert (np.diff(mask, axis=1) <= 0).all()
    assert ((first["token_ids"] == CONFIG.padding_id) == (mask == 0)).all()
    assert first["frames"].dtype == np.uint8
    assert first["frames"].std() > 30


def test_the_model_runs_as_before():
    # Queries, keys and values are cut another way for the exporter's sake.
    attention = SimVTP.from_config(CONFIG).encoder.transformer.blocks[0].attention
    tokens = torch.randn(2, 5, 32)
    parts = attention.project(tokens)
    weights = attention.qkv.weight.view(3, 2, 16, 32)
    for part, weight in zip(parts, weights, strict=True):
        torch.testing.assert_close(part, torch.einsum("btc,hdc->bthd", tokens, weight))
