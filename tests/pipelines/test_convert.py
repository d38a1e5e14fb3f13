"""Conversion as a command, and pre-training that begins with converted weights."""

import json
import os
from hashlib import sha256

import pytest
import torch
from safetensors.torch import load_file

from simvtp import SimVTP
from simvtp.config import FrameSpacing
from simvtp.conversion import read_origins
from simvtp.pipelines import convert
from simvtp.training import build_optimizer
from testing.conversion import paper
from testing.conversion.words import PIECES, printed

DEPTHS = ["--depth=2", "--decoder-depth=1"]
SMALL = ["--num-frames=4", "--image-size=32", *DEPTHS]


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
    assert model.frame_spacing == FrameSpacing(stride=3)
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
    assert after.frame_spacing == FrameSpacing(stride=3)
    theirs = before.state_dict()
    assert all(torch.equal(theirs[name], tensor) for name, tensor in after.state_dict().items())
    origins = read_origins(second)
    assert [origin.kind for origin in origins] == ["SimVTP pre-training", "SimVTP model folder"]
    assert origins[0].licence == "CC-BY-NC-4.0"


def test_an_older_folder_is_told_the_time_between_its_frames(checkpoint, tmp_path, capsys):
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    assert run(checkpoint, "--out", first, *SMALL) == 0
    # The paper's weights were trained on every fourth frame.
    assert SimVTP.from_pretrained(first).frame_spacing == FrameSpacing(stride=4)
    file = first / "preprocessor.json"
    values = json.loads(file.read_text())
    del values["frame_seconds"]
    file.write_text(json.dumps(values))
    assert run(first, "--out", second, "--frame-seconds=0.16") == 0
    assert "4 frames, 0.16 s apart (0.64 s)" in printed(capsys)
    assert SimVTP.from_pretrained(second).frame_spacing == FrameSpacing(seconds=0.16)
    assert run(second, "--out", third) == 0
    assert SimVTP.from_pretrained(third).frame_spacing == FrameSpacing(seconds=0.16)
    assert run(first, "--out", tmp_path / "none", "--frame-seconds=0") == 2
    assert "frame_seconds must be a finite number above 0, got 0.0" in printed(capsys)


def test_learned_positions_of_a_model_folder(tmp_path):
    state = paper.random_state(paper.videomae_fine_tuned_shapes())
    state["pos_embed"] = torch.randn(1, 2 * 4 * 4, paper.WIDTH)
    torch.save(state, tmp_path / "a.pth")
    first, second = tmp_path / "first", tmp_path / "second"
    arguments = ["--source-frames=4", "--num-frames=4", "--image-size=64", "--depth=2"]
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
    assert "the tokenizer has 51 words, the word embedding 50" in printed(capsys)


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


def test_averaged_weights_are_listed_and_can_be_chosen(tmp_path, capsys):
    states = [paper.random_state(paper.videomae_fine_tuned_shapes(), seed=seed) for seed in (0, 1)]
    torch.save({"model": states[0], "model_ema": states[1], "epoch": 3}, tmp_path / "a.pth")
    for number, chosen in enumerate(([], ["--state=model_ema"])):
        out = tmp_path / str(number)
        assert run(tmp_path / "a.pth", "--out", out, *chosen, *SMALL) == 0
        weights = load_file(out / "model.safetensors")
        mine = weights["encoder.transformer.blocks.1.mlp.0.weight"]
        assert torch.equal(mine, states[number]["blocks.1.mlp.fc1.weight"])
    text = printed(capsys)
    assert "holds model, which was taken, and model_ema" in text
    assert "holds model_ema, which was taken, and model" in text
    assert run(tmp_path / "a.pth", "--out", tmp_path / "m", "--state=ema", *SMALL) == 2
    assert "no named tensors under 'ema'; it has model, model_ema" in printed(capsys)
    torch.save({"model_ema": states[1]}, tmp_path / "c.pth")
    assert run(tmp_path / "c.pth", "--out", tmp_path / "c", *SMALL) == 0
    assert "c.pth holds model_ema, which was taken" in printed(capsys)
    torch.save(states[0], tmp_path / "b.pth")
    assert run(tmp_path / "b.pth", "--out", tmp_path / "m", "--state=model_ema", *SMALL) == 2
    assert "hold one kind of weights each" in printed(capsys)
    assert not (tmp_path / "m").exists()


def test_an_image_transformer_as_asked(tmp_path, capsys):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    settings = transformers.ViTConfig(**sizes, intermediate_size=48, image_size=56, patch_size=14)
    transformers.ViTModel(settings).save_pretrained(tmp_path / "vit")
    (tmp_path / "vit" / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    out = tmp_path / "model"
    asked = ["--num-frames=4", "--image-size=32", "--patch-size=16", "--extra-tokens=0"]
    assert run(tmp_path / "vit", "--out", out, *asked, "--activation=gelu_tanh") == 0
    text = printed(capsys)
    for phrase in (
        "licences of the sources: apache-2.0",
        "patches of 14 pixels were resampled to 16",
        "1 class and register tokens were dropped",
        "4 frames of 32 px = 2 x 2 x 2 tubelets",
    ):
        assert phrase in text
    config = SimVTP.from_pretrained(out).config
    assert (config.activation, config.extra_tokens) == ("gelu_tanh", 0)
