"""Pre-training that begins with converted weights."""

import json
import shutil

import pytest
import torch
import yaml
from safetensors.torch import load_file

from simvtp.config import PretrainConfig
from simvtp.conversion import read_origins
from simvtp.data import load_tokenizer
from simvtp.pipelines.arguments import parse_settings
from simvtp.pipelines.pretrain import command as pretrain
from simvtp.pipelines.pretrain.initial_weights import load_initial_weights
from simvtp.pipelines.pretrain.setup import build_model
from testing.conversion.words import PIECES, printed


@pytest.fixture
def vocabulary(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(PIECES) + "\n")
    return path


transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def foreign(tmp_path_factory, tokenizer_file):
    """VideoMAE and BERT of the size of the small runs, the latter with the runs' vocabulary."""
    folder = tmp_path_factory.mktemp("foreign")
    torch.manual_seed(3)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    video = transformers.VideoMAEConfig(
        **{**sizes, "num_frames": 8, "image_size": 64, "use_mean_pooling": False},
        **{"intermediate_size": 64, "decoder_hidden_size": 16, "decoder_num_hidden_layers": 1},
        **{"decoder_num_attention_heads": 2, "decoder_intermediate_size": 64},
    )
    transformers.VideoMAEForPreTraining(video).save_pretrained(folder / "video")
    vocab_size = load_tokenizer(tokenizer_file).get_vocab_size()
    text = transformers.BertConfig(**sizes, vocab_size=vocab_size, intermediate_size=64)
    transformers.BertModel(text).save_pretrained(folder / "text")
    shutil.copy(tokenizer_file, folder / "text" / "tokenizer.json")
    return folder


def init(foreign, **replaced):
    values = {"init-video": foreign / "video", "init-text": foreign / "text", **replaced}
    return [f"--{name}={value}" for name, value in values.items()]


def test_a_run_begins_with_foreign_weights(settings_for, foreign, tmp_path, capsys):
    sources = shutil.copytree(foreign, tmp_path / "sources")
    out = tmp_path / "run"
    # Steps so small that the weights stay what they were at the beginning.
    settings = settings_for(out, optim__lr_per_256=1e-12, optim__min_lr_per_256=0, run__epochs=1)
    settings = [setting for setting in settings if "data.validation" not in setting]
    assert pretrain.main([*settings, *init(sources)]) == 0
    text = printed(capsys)
    assert text.count("loaded") == 4
    assert text.count("random") == 2
    saved = yaml.safe_load((out / "config.yaml").read_text())
    assert saved["init_video"] == str(sources / "video")
    weights = load_file(out / "model" / "model.safetensors")
    video, words = (load_file(sources / name / "model.safetensors") for name in ("video", "text"))
    their_block = "videomae.encoder.layer.0"
    for ours, theirs in (
        ("video_embedding.projection", "videomae.embeddings.patch_embeddings.projection"),
        ("encoder.transformer.norm", "videomae.layernorm"),
        ("encoder.transformer.blocks.0.mlp.0", f"{their_block}.intermediate.dense"),
        ("pixel_decoder.head", "decoder.head"),
    ):
        mine, other = weights[f"{ours}.weight"], video[f"{theirs}.weight"]
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-6)
    table = words["embeddings.word_embeddings.weight"]
    torch.testing.assert_close(weights["text_embedding.words.weight"], table, rtol=0, atol=1e-6)
    kinds = [origin.kind for origin in read_origins(out / "model")]
    assert kinds == ["VideoMAE of transformers", "BERT"]
    shutil.rmtree(sources)
    assert pretrain.main([*settings, "--resume"]) == 0
    assert read_origins(out / "model") == read_origins(out)
    again = load_file(out / "model" / "model.safetensors")
    assert all(torch.equal(weights[name], tensor) for name, tensor in again.items())


def test_a_pixel_decoder_that_does_not_fit_stays_new(settings_for, foreign, tmp_path, capsys):
    settings = settings_for(tmp_path, model__decoder_width=32)
    settings.append(f"--init-video={foreign / 'video'}")
    parsed = parse_settings(pretrain.build_parser(settings), settings)
    config = PretrainConfig(**{name: parsed[name] for name in pretrain.SETTINGS})
    model = build_model(config, tokenizer=load_tokenizer(config.data.tokenizer))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    load_initial_weights(model, config)
    changed = {
        name.partition(".")[0]
        for name, tensor in model.state_dict().items()
        if not torch.equal(before[name], tensor)
    }
    assert changed == {"video_embedding", "encoder"}
    text = printed(capsys)
    assert "decoder_width 16" in text
    assert text.count("loaded") == 2
    origin = read_origins(tmp_path)[0]
    assert origin.parts == ("video_embedding", "encoder")


CLIP = {
    **{"model__activation": "quick_gelu", "model__norm_eps": 1e-5},
    **{"model__video_norm": "layer_norm", "model__video_positions": "learned"},
}


@pytest.mark.parametrize("extra_tokens", [0, 1])
def test_an_image_transformer(settings_for, tmp_path, capsys, extra_tokens):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = transformers.CLIPVisionConfig(
        **sizes, intermediate_size=64, image_size=48, patch_size=16
    )
    theirs = transformers.CLIPVisionModel(vision)
    theirs.save_pretrained(tmp_path / "clip")
    settings = settings_for(tmp_path / "run", **CLIP, model__extra_tokens=extra_tokens)
    settings.append(f"--init-video={tmp_path / 'clip'}")
    parsed = parse_settings(pretrain.build_parser(settings), settings)
    config = PretrainConfig(**{name: parsed[name] for name in pretrain.SETTINGS})
    (tmp_path / "run").mkdir(exist_ok=True)
    model = build_model(config, tokenizer=load_tokenizer(config.data.tokenizer))
    load_initial_weights(model, config)
    weights, block = model.state_dict(), theirs.encoder.layers[0]
    mine = weights["encoder.transformer.blocks.0.mlp.0.weight"]
    assert torch.equal(mine, block.mlp.fc1.weight)
    text = printed(capsys)
    assert text.count("loaded") == 2
    assert ("were dropped (extra_tokens 0)" in text) == (extra_tokens == 0)
    assert read_origins(tmp_path / "run")[0].kind == "CLIP of transformers"


def test_what_the_run_must_be_told_of_an_image_transformer(settings_for, tmp_path, capsys):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = transformers.CLIPVisionConfig(**sizes, intermediate_size=64, patch_size=16)
    transformers.CLIPVisionModel(vision).save_pretrained(tmp_path / "clip")
    settings = [*settings_for(tmp_path / "run"), f"--init-video={tmp_path / 'clip'}"]
    assert pretrain.main(settings) == 2
    fix = " ".join(f"--{n.replace('__', '.')} {value}" for n, value in CLIP.items())
    assert set(fix.split()) <= set(printed(capsys).split())


@pytest.mark.parametrize(
    ("replaced", "changed", "message"),
    [
        ({"model__width": 32}, {}, "a model with width 32; set --model.width 16"),
        ({"model__depth": 3}, {}, "with depth 3; set --model.depth 1"),
        ({"model__num_heads": 4}, {}, "with num_heads 4; set --model.num_heads 2"),
        ({"model__patch_size": 8}, {}, "patch_size 8; set --model.patch_size 16"),
        ({"model__max_text_length": 600}, {}, "set max_text_length to 512 at most"),
        ({}, {"init-video": "text"}, "has no tubelet embedding; it has text embedding"),
        ({}, {"init-text": "video"}, "has no text embedding; it has tubelet embedding, encoder"),
        ({}, {"init-text": "none"}, "there is no file or folder"),
    ],
)
def test_weights_that_do_not_fit_the_run(
    settings_for, foreign, tmp_path, replaced, changed, message, capsys
):
    changed = {name: foreign / value for name, value in changed.items()}
    settings = settings_for(tmp_path / "run", **replaced)
    assert pretrain.main([*settings, *init(foreign, **changed)]) == 2
    text = printed(capsys)
    assert "error: " in text
    assert message in text
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_words_need_their_own_tokenizer(settings_for, foreign, vocabulary, tmp_path, capsys):
    settings = [s for s in settings_for(tmp_path / "run") if "data.tokenizer" not in s]
    assert pretrain.main([*settings, *init(foreign)]) == 2
    assert "name its tokenizer.json or vocab.txt" in printed(capsys)
    settings.append(f"--data.tokenizer={vocabulary}")
    assert pretrain.main([*settings, *init(foreign)]) == 2
    assert "another vocabulary than the run, which has 50 words" in printed(capsys)
    # What that start kept does not go before the right one, when it is given next.
    settings[-1] = f"--data.tokenizer={foreign / 'text'}"
    assert pretrain.main([*settings, *init(foreign)]) == 0


def test_a_vocabulary_of_the_same_size_is_not_enough(
    settings_for, foreign, tokenizer_file, tmp_path, capsys
):
    other = json.loads(tokenizer_file.read_text())
    vocab = other["model"]["vocab"]
    first, second = list(vocab)[10:12]
    vocab[first], vocab[second] = vocab[second], vocab[first]
    swapped = tmp_path / "tokenizer.json"
    swapped.write_text(json.dumps(other))
    settings = settings_for(tmp_path / "run", data__tokenizer=swapped)
    assert pretrain.main([*settings, *init(foreign)]) == 2
    assert "another vocabulary than the run" in printed(capsys)
