"""BERT-like folders: their word embedding, and their transformer as an encoder of captions."""

import json

import pytest
import torch
from torch.nn import functional

from simvtp import SimVTP
from simvtp.conversion import bert_transformer, map_weights, origins_of, read_weights
from simvtp.encoders import PaddedEncoder
from simvtp.pipelines.convert import convert
from testing.conversion.foreign_models import change_settings, same, scrambled

transformers = pytest.importorskip("transformers")
BERT = {
    **{"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4},
    **{"intermediate_size": 48, "vocab_size": 50, "max_position_embeddings": 20},
}
DISTILBERT = {
    **{"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48},
    **{"vocab_size": 50, "max_position_embeddings": 20},
}


def theirs(kind):
    if kind.startswith("Distil"):
        config = transformers.DistilBertConfig(**DISTILBERT)
    else:
        config = transformers.BertConfig(**BERT)
    return scrambled(getattr(transformers, kind)(config))


def bare(model):
    return getattr(model, model.base_model_prefix, model)


@pytest.fixture
def real():
    return torch.tensor([[True] * 5, [True] * 3 + [False] * 2])


@pytest.mark.parametrize(
    "kind", ["BertModel", "BertForMaskedLM", "DistilBertModel", "DistilBertForMaskedLM"]
)
@torch.no_grad()
def test_embedding_and_transformer(tmp_path, captions, real, kind):
    model = theirs(kind)
    model.save_pretrained(tmp_path)
    ours = convert([map_weights(read_weights(tmp_path))], overrides={"num_heads": 4}).model
    embedded = ours.text_embedding(captions)
    same(embedded, bare(model).embeddings(captions))
    blocks = bert_transformer(read_weights(tmp_path))
    encoded = blocks(embedded, src_key_padding_mask=~real)
    hidden = bare(model)(captions, attention_mask=real.long()).last_hidden_state
    same(encoded[real], hidden[real])


@pytest.mark.parametrize("place", ["", "0_Transformer"])
@torch.no_grad()
def test_a_folder_of_sentence_transformers(tmp_path, captions, place):
    model = theirs("BertModel")
    model.save_pretrained(tmp_path / place)
    modules = [
        {"idx": 0, "name": "0", "path": place, "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling"},
    ]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    (tmp_path / place / "README.md").write_text("---\nlicense: mit\n---\n")
    read = read_weights(tmp_path)
    ours = convert([map_weights(read)], overrides={"num_heads": 4}).model
    hidden = model(captions).last_hidden_state
    encoded = bert_transformer(read)(ours.text_embedding(captions))
    same(functional.normalize(encoded.mean(1)), functional.normalize(hidden.mean(1)))
    assert origins_of(map_weights(read))[0].licence == "mit"


@torch.no_grad()
def test_the_transformer_as_a_part(tmp_path, captions, real):
    model = theirs("BertModel")
    model.save_pretrained(tmp_path / "bert")
    read = read_weights(tmp_path / "bert")
    result = convert(
        [map_weights(read)],
        overrides={"num_heads": 4, "image_size": 32, "depth": 1},
        text_encoder=padded(bert_transformer(read)),
    )
    ids = captions.where(real, 0)
    hidden = model(ids, attention_mask=real.long()).last_hidden_state
    mean = (hidden * real[..., None]).sum(1) / real.sum(1, keepdim=True)
    same(result.model.encode_text(ids, attend=real), functional.normalize(mean))
    rows = {row.what: (row.state, row.where) for row in result.report.parts}
    assert rows["text encoder"] == ("loaded", "given")
    result.model.save_pretrained(tmp_path / "ours")
    another = padded(bert_transformer(read))
    loaded = SimVTP.from_pretrained(tmp_path / "ours", text_encoder=another)
    same(loaded.encode_text(ids, attend=real), functional.normalize(mean))


def padded(blocks):
    return PaddedEncoder(
        blocks,
        call=lambda module, tokens, mask: module(tokens, src_key_padding_mask=~mask),
        blocks=blocks.layers,
    )


@pytest.mark.parametrize("content", ["{}", "[]", "[1]", "nothing", '[{"path": 1}]'])
def test_a_damaged_list_of_modules(tmp_path, content):
    (tmp_path / "modules.json").write_text(content)
    with pytest.raises(ValueError, match="must list modules with their path"):
        read_weights(tmp_path)


def test_modules_elsewhere_are_not_followed(tmp_path):
    (tmp_path / "modules.json").write_text('[{"path": "../other"}]')
    with pytest.raises(ValueError, match="is not a file beside it"):
        read_weights(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_act": "relu"}, "hidden_act 'relu'; only 'gelu' can be converted"),
        ({"position_embedding_type": "relative_key"}, "'relative_key'; only 'absolute'"),
        ({"num_attention_heads": None}, "must be a folder with the transformer of a BERT"),
    ],
)
def test_transformers_that_are_others(tmp_path, changes, message):
    theirs("BertModel").save_pretrained(tmp_path)
    change_settings(tmp_path, **changes)
    with pytest.raises(ValueError, match=message):
        bert_transformer(read_weights(tmp_path))


def test_a_missing_tensor_is_named(tmp_path):
    theirs("BertModel").save_pretrained(tmp_path / "whole")
    read = read_weights(tmp_path / "whole")
    name = "encoder.layer.1.attention.self.key.bias"
    tensors = {key: tensor for key, tensor in read.tensors.items() if key != name}
    with pytest.raises(ValueError, match=r"layer 1 lacks attention\.self\.key\.bias"):
        bert_transformer(read._replace(tensors=tensors))
