from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from simvtp import ModelConfig, SimVTP
from simvtp.config import FrameSpacing
from simvtp.data import load_manifest, train_tokenizer
from simvtp.pipelines import visualize
from simvtp.pipelines.arguments import parse_settings
from simvtp.pipelines.pretrain import command as pretrain
from testing.sample_batches import small_config


@pytest.fixture(scope="module")
def model_folder(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    tokenizer = train_tokenizer(load_manifest(corpus.train).captions())
    config = small_config(vocab_size=tokenizer.get_vocab_size(), max_text_length=32)
    SimVTP.from_config(config, tokenizer=tokenizer).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model.widht=3"], "did you mean model.width?"),
        (["--optim.lr=3"], "did you mean optim.lr_per_256?"),
        (["--model.width=abc"], "model.width"),
        (["--masking.video_ratio=1.5"], "video_ratio must lie in [0, 1), got 1.5"),
        (["--config=missing.yaml"], "missing.yaml"),
    ],
)
def test_wrong_settings_are_named_with_the_nearest_one(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        parse_settings(pretrain.build_parser(), arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_unknown_yaml_keys_are_named(tmp_path, capsys):
    file = tmp_path / "settings.yaml"
    file.write_text("data:\n  trian: x.csv\n")
    with pytest.raises(SystemExit):
        parse_settings(pretrain.build_parser(), [f"--config={file}"])
    assert "did you mean data.train?" in capsys.readouterr().err


def test_command_line_beats_file_beats_default(tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text("run:\n  epochs: 5\n  seed: 3\n")
    parsed = parse_settings(pretrain.build_parser(), [f"--config={file}", "--run.seed=4"])
    assert (parsed.run.epochs, parsed.run.seed, parsed.run.batch_size) == (5, 4, 16)


def test_printed_settings_can_be_read_back(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        parse_settings(pretrain.build_parser(), ["--run.epochs=7", "--print_config"])
    assert stop.value.code == 0
    file = tmp_path / "settings.yaml"
    file.write_text(capsys.readouterr().out)
    parsed = parse_settings(pretrain.build_parser(), [f"--config={file}"])
    expected = parse_settings(pretrain.build_parser(), ["--run.epochs=7"])
    assert all(getattr(parsed, name) == getattr(expected, name) for name in pretrain.SECTIONS)


def test_the_papers_recipe_is_valid():
    parsed = parse_settings(pretrain.build_parser(), ["--config=configs/webvid_base.yaml"])
    sizes = yaml.safe_load(Path("configs/webvid_base.yaml").read_text())["model"]
    assert parsed.model == ModelConfig.preset("base")
    assert set(sizes) | {"padding_id"} == set(ModelConfig.__dataclass_fields__)
    assert parsed.run.batch_size * parsed.run.accumulate == 1024
    assert parsed.data.spacing == FrameSpacing(stride=4)


def test_a_picture_is_drawn(model_folder, corpus, tmp_path):
    video = next((corpus.root / "validation").iterdir())
    out = tmp_path / "sub" / "picture.png"
    arguments = [f"--model={model_folder}", f"--video={video}", f"--out={out}"]
    assert visualize.main([*arguments, "--caption=a red circle moves", "--video-ratio=0.5"]) == 0
    with Image.open(out) as picture:
        assert min(picture.size) > 200
        assert len(picture.convert("RGB").getcolors(1_000_000)) > 50


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({"model": "no/such"}, "no/such"),
        ({"video": "missing.mp4"}, "missing.mp4"),
        ({"caption": "  "}, "--caption is empty"),
        ({"video-ratio": "1.0"}, "1.0"),
        ({"video-ratio": "0.05"}, "ratio 0.05 hides no tube of 16: 0 and 0.0625 to 0.9375 work"),
        ({"text-ratio": "-1"}, "-1"),
    ],
)
def test_bad_input_to_the_picture(model_folder, corpus, tmp_path, replaced, message, capsys):
    video = next((corpus.root / "validation").iterdir())
    values = {"model": model_folder, "video": video, "caption": "a dog", **replaced}
    arguments = [f"--{name}={value}" for name, value in values.items()]
    assert visualize.main([*arguments, f"--out={tmp_path / 'p.png'}"]) == 2
    assert message in " ".join(capsys.readouterr().out.split())
    assert not (tmp_path / "p.png").exists()
