"""Seven videos, a small model, and a file of features that nothing happened to."""

import csv
from pathlib import Path

import pytest
import torch

from simvtp.config import FrameSpacing, ModelConfig
from simvtp.data import load_manifest, load_tokenizer
from simvtp.model import SimVTP
from testing.data.video_files import write_video_file
from testing.pipelines.embedded_clips import CAPTIONS, CLIPS, FRAMES, SIZE, STRIDE, run


@pytest.fixture(scope="session")
def model_folder(tokenizer_file, tmp_path_factory):
    tokenizer = load_tokenizer(tokenizer_file)
    torch.manual_seed(0)
    config = ModelConfig(
        image_size=SIZE,
        num_frames=FRAMES,
        width=32,
        depth=2,
        num_heads=2,
        decoder_width=16,
        decoder_depth=1,
        decoder_heads=2,
        vocab_size=tokenizer.get_vocab_size(),
    )
    folder = tmp_path_factory.mktemp("models") / "model"
    spacing = FrameSpacing(stride=STRIDE)
    SimVTP.from_config(config, tokenizer=tokenizer, frame_spacing=spacing).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def model(model_folder):
    return SimVTP.from_pretrained(model_folder)


def write_manifest(folder: Path, names: list[str]) -> Path:
    with (folder / "clips.csv").open("w", newline="") as file:
        rows = [(name, f"{name}.mp4", words) for name in names for words in CAPTIONS[name]]
        csv.writer(file).writerows([("videoid", "path", "caption"), *rows])
    return folder / "clips.csv"


@pytest.fixture(scope="session")
def manifest(tmp_path_factory):
    """Seven videos of different lengths, one of which is none."""
    folder = tmp_path_factory.mktemp("clips")
    for name, length in CLIPS.items():
        write_video_file(folder / f"{name}.mp4", length or 1)
    (folder / "bad.mp4").write_text("this is no video")
    return write_manifest(folder, list(CLIPS))


@pytest.fixture(scope="session")
def records(manifest):
    return load_manifest(manifest)


@pytest.fixture(scope="session")
def undisturbed(model_folder, manifest, tmp_path_factory):
    """Files of a run that nothing happened to."""
    out = tmp_path_factory.mktemp("undisturbed") / "a.parquet"
    assert run(model_folder, manifest, out, "--workers=0") == 0
    return out
