"""A model whose encoder is torch's own goes the whole way that the library's goes."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from export.onnx.folder import export_folder
from export.resized import resized
from export.runtime.folder import Range
from simvtp import Objective, SimVTP
from simvtp.data import load_manifest, load_tokenizer
from simvtp.encoders import PaddedEncoder
from simvtp.layer_decay import layer_scales
from simvtp.layers import Block
from simvtp.pipelines.finetune.measuring import measure_retrieval
from simvtp.pipelines.finetune.tasks import with_text_encoder
from simvtp.pipelines.pretrain.summary import whole_model
from simvtp.tasks import ClassificationObjective, LabelledBatch, VideoClassifier
from simvtp.training import shard
from testing.ranks import run_ranks
from testing.sample_batches import samples_of, small_collator, small_config
from testing.train_steps import train_step

CONFIG = small_config()


def own_encoder():
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True, norm_first=True)
    encoder = nn.TransformerEncoder(layer, 2, nn.LayerNorm(16), enable_nested_tensor=False)
    return PaddedEncoder(encoder, call=call, blocks=list(encoder.layers))


def call(encoder, tokens, key_mask):
    return encoder(tokens, src_key_padding_mask=~key_mask)


def own_model(config=CONFIG, **options):
    torch.manual_seed(0)
    return SimVTP.from_config(config, encoder=own_encoder(), **options)


def trained(model, samples):
    """After two steps over all four terms, of which one has two micro-batches."""
    objective, collate = Objective(model), small_collator()
    step = train_step(objective, contrast_over="step")
    before = model.encoder.state_dict()["module.layers.0.linear1.weight"].clone()
    first = step([collate(samples)], seed=0, number=0)
    step([collate(samples[:2]), collate(samples[2:])], seed=0, number=1)
    assert set(first.terms) == {"pixels", "words", "vtc", "vtm"}
    assert not torch.equal(before, model.encoder.module.layers[0].linear1.weight)
    return model


@pytest.fixture(scope="module")
def folder(tokenizer_file, tmp_path_factory):
    tokenizer = load_tokenizer(tokenizer_file)
    config = replace(CONFIG, vocab_size=tokenizer.get_vocab_size())
    model = trained(own_model(config, tokenizer=tokenizer), samples_of([3, 9, 5, 7]))
    folder = tmp_path_factory.mktemp("own") / "model"
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(folder):
    return SimVTP.from_pretrained(folder, encoder=own_encoder())


def test_packed_padded_and_matched_agree(model):
    video = torch.randint(0, 256, (3, 4, 3, 16, 16), dtype=torch.uint8)
    captions = ["a red circle moves", "a", "it turns to the left and to the right"]
    with torch.inference_mode():
        for one, other in (
            (model.encode_video(video), [model.encode_video(clip[None]) for clip in video]),
            (model.encode_text(captions), [model.encode_text(text) for text in captions]),
            (
                model.match_score(video, captions),
                [model.match_score(*pair) for pair in zip(video[:, None], captions, strict=True)],
            ),
        ):
            torch.testing.assert_close(one, torch.cat(other))
        assert model.reconstruct(video, captions).video.shape == video.shape


def test_fine_tuning_and_evaluation(model, corpus):
    records = list(load_manifest(corpus.train))[:4]
    classifier = VideoClassifier.from_model(model, classes=["a", "b"])
    objective = ClassificationObjective(classifier)
    scales = layer_scales(objective, decay=0.5)
    assert scales["model.video_embedding.projection.weight"] == 0.5**3
    assert scales["model.encoder.module.layers.1.linear1.weight"] == 0.5
    assert scales["model.encoder.module.norm.weight"] == 1.0
    video = torch.randint(0, 256, (4, 4, 3, 16, 16), dtype=torch.uint8)
    batch = LabelledBatch(video, torch.eye(2).repeat(2, 1), torch.arange(4))
    objective(batch).total.backward()
    assert all(weight.grad is not None for weight in classifier.parameters())
    assert 0 <= measure_retrieval(model, records, top=2)["t2v mean recall"] <= 1
    own = with_text_encoder(model, SimpleNamespace(tune=SimpleNamespace(text_encoder="own")))
    assert own.own_parts == ("encoder", "text_encoder")
    assert own.encoder.module is not own.text_encoder.module
    assert torch.equal(own.encode_text("a red circle"), model.encode_text("a red circle"))


@pytest.mark.slow
def test_the_export_is_within_the_gate(folder, model, tmp_path):
    with pytest.raises(ValueError, match="the model's encoder is not the library's"):
        export_folder(folder, tmp_path / "out", repeats=0)
    with pytest.raises(ValueError, match="repeats must be 0 for a model with parts"):
        export_folder(folder, tmp_path / "out", parts={"encoder": own_encoder()}, repeats=1)
    settings = {"batch": Range(1, 2, 3), "tokens": Range(3, 5, 8), "repeats": 0}
    parts = {"encoder": own_encoder()}
    exported = export_folder(folder, tmp_path / "out", parts=parts, **settings)
    assert set(exported.graphs) == {"video", "text", "match"}
    assert resized(model, num_frames=8).own_parts == ("encoder",)


def learn_on(rank):
    """Weights of a model after a step on this rank's part of the batch, or on all of it."""
    objective = Objective(own_model(), vtm_weight=0.0)
    samples = samples_of([3, 3, 6, 6])
    if rank is not None:
        samples = samples[2 * rank : 2 * rank + 2]
        blocks = [module for module in objective.modules() if isinstance(module, Block)]
        shard(objective, blocks=blocks, methods=["contrast_features"])
    train_step(objective)([small_collator()(samples)], seed=0)
    whole = whole_model(objective)
    return {} if whole is None else whole.state_dict() | {"own": torch.tensor(len(whole.own_parts))}


@pytest.mark.slow
def test_two_ranks_learn_what_one_does(tmp_path):
    expected = learn_on(None)
    found = run_ranks(learn_on, tmp_path)[0]
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, rtol=1e-5, atol=1e-6)
