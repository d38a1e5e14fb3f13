"""Seven videos, a small model, and a file of features that nothing happened to."""

import csv
from pathlib import Path

import pytest
import torch

from simvtp.config import FrameSpacing, ModelConfig
from simvtp.data import load_manifest, load_tokenizer
from simvtp.model import SimVTP
from simvtp.pipelines.embed import command
from tests.data.conftest import write_video_file

CLIPS = {"a": 31, "b": 3, "c": 24, "bad": 0, "d": 12, "e": 40, "f": 26}
GOOD = [name for name in CLIPS if name != "bad"]
CAPTIONS = {
    name: [f"a clip called {name}", "bars, in a row"][: 1 + n % 2] for n, name in enumerate(CLIPS)
}
FRAMES, STRIDE, SIZE = 4, 2, 32


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


def run(model_folder: Path, manifest: Path, out: Path, *further: object) -> int:
    own = ("--model", model_folder, "--data", manifest, "--out", out, "--text", "--batch-size=4")
    spread = ("--clips-per-video=2", "--max-bad-share=1", "--device=cpu")
    return command.main([str(argument) for argument in (*own, *spread, *further)])


@pytest.fixture(scope="session")
def undisturbed(model_folder, manifest, tmp_path_factory):
    """Files of a run that nothing happened to."""
    out = tmp_path_factory.mktemp("undisturbed") / "a.parquet"
    assert run(model_folder, manifest, out, "--workers=0") == 0
    return out


def files(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.parent.iterdir() if path.is_file()}
