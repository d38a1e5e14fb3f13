"""Conversion as a command, and pre-training that begins with converted weights."""

import json
import os
import shutil
from hashlib import sha256

import pytest
import torch
import yaml
from safetensors.torch import load_file

from simvtp import SimVTP
from simvtp.config import PretrainConfig
from simvtp.conversion import read_origins
from simvtp.data import load_tokenizer
from simvtp.pipelines import convert, pretrain
from simvtp.pipelines.arguments import parse_settings
from simvtp.pipelines.initial_weights import load_initial_weights
from simvtp.pipelines.setup import build_model
from simvtp.training import build_optimizer
from tests.conversion import paper

SMALL = ["--num-frames=4", "--image-size=32"]
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "dog", *map(str, range(42))]
transformers = pytest.importorskip("transformers")


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "videomae.pth"
    torch.save({"model": paper.random_state(paper.pre_training_shapes())}, path)
    return path


@pytest.fixture
def vocabulary(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(PIECES) + "\n")
    return path


def run(*arguments):
    return convert.main([str(argument) for argument in arguments])


def printed(capsys):
    return " ".join(capsys.readouterr().out.split())


def test_a_checkpoint_becomes_a_model_folder(checkpoint, vocabulary, tmp_path, capsys):
    out = tmp_path / "sub" / "model"
    tokenizer = f"--tokenizer={vocabulary}"
    assert run(checkpoint, "--out", out, tokenizer, "--frame-stride=3", *SMALL) == 0
    text = printed(capsys)
    for phrase in ("loaded", "tubelet embedding", "word head", "CC-BY-NC-4.0", "2 x 2 x 2"):
        assert phrase in text
    assert "new" not in text.split()
    model = SimVTP.from_pretrained(out)
    state = torch.load(checkpoint)["model"]
    weights = model.state_dict()
    assert torch.equal(weights["word_decoder.head.weight"], state["text_cls.weight"])
    assert model.frame_stride == 3
    assert model.encode_text("a red dog").shape == (1, 128)
    ids = torch.tensor([[2, 5, 6, 7, 3]])
    torch.testing.assert_close(model.encode_text("a red dog"), model.encode_text(ids))
    assert json.loads((out / "origin.json").read_text()) == {
        "sources": [
            {
                "kind": "SimVTP pre-training",
                "source": "videomae.pth",
                "sha256": sha256(checkpoint.read_bytes()).hexdigest(),
                "licence": "CC-BY-NC-4.0",
                "parts": [
                    *("video_embedding", "encoder", "pixel_decoder"),
                    *("text_embedding", "word_decoder", "match_head"),
                ],
            }
        ]
    }
    assert not list(out.parent.glob("*.partial"))


def test_new_parts_are_told_and_drawn_from_the_seed(tmp_path, capsys):
    state = paper.random_state(paper.videomae_shapes())
    torch.save(state, tmp_path / "a.pth")
    weights = []
    for number, seed in enumerate((5, 5, 6)):
        out = tmp_path / str(number)
        assert run(tmp_path / "a.pth", "--out", out, f"--seed={seed}", *SMALL) == 0
        weights.append(load_file(out / "model.safetensors")["text_embedding.words.weight"])
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    text = printed(capsys)
    assert text.count("random") == 9
    assert "encode_text takes token ids only" in text


def test_a_model_folder_is_converted_to_another_size(checkpoint, vocabulary, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    arguments = [f"--tokenizer={vocabulary}", "--frame-stride=3", *SMALL]
    assert run(checkpoint, "--out", first, *arguments) == 0
    assert run(first, "--out", second, "--num-frames=8", "--image-size=64") == 0
    before, after = (SimVTP.from_pretrained(folder) for folder in (first, second))
    assert after.config.grid == (4, 4, 4)
    assert after.tokenizer is not None
    assert after.frame_stride == 3
    theirs = before.state_dict()
    assert all(torch.equal(theirs[name], tensor) for name, tensor in after.state_dict().items())
    origins = read_origins(second)
    assert [origin.kind for origin in origins] == ["SimVTP pre-training", "SimVTP model folder"]
    assert origins[0].licence == "CC-BY-NC-4.0"


def test_learned_positions_of_a_model_folder(tmp_path):
    state = paper.random_state(paper.videomae_fine_tuned_shapes())
    state["pos_embed"] = torch.randn(1, 2 * 4 * 4, paper.WIDTH)
    torch.save(state, tmp_path / "a.pth")
    first, second = tmp_path / "first", tmp_path / "second"
    arguments = ["--source-frames=4", "--num-frames=4", "--image-size=64"]
    assert run(tmp_path / "a.pth", "--out", first, *arguments) == 0
    assert run(first, "--out", second, "--image-size=96") == 0
    before, after = (SimVTP.from_pretrained(folder) for folder in (first, second))
    assert torch.equal(before.video_embedding.positions, state["pos_embed"][0])
    assert after.video_embedding.positions.shape == (2 * 6 * 6, paper.WIDTH)
    optimizer = build_optimizer(before, lr=1, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.05)
    decays = {
        id(parameter): group["weight_decay"]
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    assert decays[id(before.video_embedding.positions)] == 0
    assert decays[id(before.text_embedding.positions.weight)] == 0.05
    corner = before.video_embedding.positions[-1]
    torch.testing.assert_close(after.video_embedding.positions[-1], corner)


def damage(path):
    path.write_bytes(path.read_bytes()[:-500])


@pytest.mark.parametrize(
    ("prepare", "arguments", "message"),
    [
        (lambda path: path.unlink(), [], "there is no file or folder"),
        (lambda path: path.write_bytes(b""), [], "is empty"),
        (damage, [], "cannot be read as a file of torch.save"),
        (lambda path: path.write_text("{}"), [], "cannot be read as a file of torch.save"),
        (lambda path: None, ["--image-size=40"], "image_size must be a multiple of patch_size"),
        (lambda path: None, ["--num-heads=5"], "width must be a multiple of num_heads"),
        (lambda path: None, ["--max-text-length=21"], "set max_text_length to 20 at most"),
        (lambda path: None, ["--tokenizer=none.json"], "there is no tokenizer at none.json"),
    ],
)
def test_bad_sources_and_settings(checkpoint, tmp_path, prepare, arguments, message, capsys):
    prepare(checkpoint)
    out = tmp_path / "model"
    assert run(checkpoint, "--out", out, *SMALL, *arguments) == 2
    text = capsys.readouterr().out
    assert text.startswith("error: ")
    assert text.count("\n") == 1
    assert message in text
    assert sorted(path.name for path in tmp_path.iterdir()) in ([], ["videomae.pth"])


def test_a_tokenizer_with_more_words_than_the_embedding(checkpoint, vocabulary, tmp_path, capsys):
    vocabulary.write_text("\n".join([*PIECES, "more"]) + "\n")
    assert run(checkpoint, "--out", tmp_path / "m", f"--tokenizer={vocabulary}", *SMALL) == 2
    assert "the tokenizer has 51 words, the source's word embedding 50" in printed(capsys)


def test_a_folder_that_is_there_is_not_touched(checkpoint, tmp_path, capsys):
    out = tmp_path / "model"
    out.mkdir()
    (out / "mine.txt").write_text("keep")
    assert run(checkpoint, "--out", out, *SMALL) == 2
    assert "is there already" in printed(capsys)
    assert [path.name for path in out.iterdir()] == ["mine.txt"]


class Attack:
    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.system, (f"touch {self.trace}",)


def test_a_malicious_pickle_does_not_run(checkpoint, tmp_path, capsys):
    state = torch.load(checkpoint)["model"]
    torch.save({"model": state, "args": Attack(tmp_path / "trace")}, checkpoint)
    assert run(checkpoint, "--out", tmp_path / "model", *SMALL) == 2
    assert "asks for posix.system, which could run any code" in printed(capsys)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["videomae.pth"]


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
    parsed = parse_settings(pretrain.build_parser(), settings)
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
    # One that was kept would go before the right one, when it is given next.
    assert not (tmp_path / "run" / "tokenizer.json").exists()


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
