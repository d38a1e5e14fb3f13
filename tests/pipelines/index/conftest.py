"""A small model and a few videos, indexed once."""

import shutil
from pathlib import Path

import pytest
import torch

from simvtp.config import FrameSpacing, ModelConfig
from simvtp.data import load_tokenizer
from simvtp.model import SimVTP
from simvtp.pipelines.index import main
from simvtp.retrieval.video_index import VideoIndex
from testing.data.video_files import write_video_file
from testing.pipelines.indexed_videos import CAPTIONS, LENGTHS


@pytest.fixture(scope="session")
def model_folder(tokenizer_file, tmp_path_factory):
    tokenizer = load_tokenizer(tokenizer_file)
    torch.manual_seed(0)
    config = ModelConfig(
        image_size=32,
        num_frames=4,
        width=32,
        depth=2,
        num_heads=2,
        decoder_width=16,
        decoder_depth=1,
        decoder_heads=2,
        vocab_size=tokenizer.get_vocab_size(),
    )
    folder = tmp_path_factory.mktemp("models") / "model"
    spacing = FrameSpacing(seconds=0.2)
    SimVTP.from_config(config, tokenizer=tokenizer, frame_spacing=spacing).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def drawn_videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn")
    (folder / "c").mkdir()
    for name, length in LENGTHS.items():
        write_video_file(folder / name, length)
    (folder / "bad.mp4").write_text("this is no video")
    for name, caption in CAPTIONS.items():
        (folder / name).with_suffix(".txt").write_text(caption)
    return folder


@pytest.fixture
def videos(drawn_videos, tmp_path):
    """Videos that may be changed."""
    return Path(shutil.copytree(drawn_videos, tmp_path / "videos"))


@pytest.fixture(scope="session")
def index_it(model_folder):
    """Index a folder of videos; the exit code."""

    def run(videos: Path, out: object, *further: object) -> int:
        own = ("--model", model_folder, "--data", videos, "--out", out, "--device=cpu")
        few = ("--batch-size=4", "--workers=0", "--save-every=0")
        return main([str(argument) for argument in (*own, *few, *further)])

    return run


@pytest.fixture(scope="session")
def undisturbed(drawn_videos, index_it, tmp_path_factory):
    """An index that nothing happened to."""
    out = tmp_path_factory.mktemp("undisturbed") / "index"
    assert index_it(drawn_videos, out) == 0
    return VideoIndex.open(out)
