from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from simvtp import ModelConfig, SimVTP
from simvtp.data import train_tokenizer
from simvtp.pipelines.serve.models.model_folder import FolderModel
from testing.pipelines.page_videos import write_video
from testing.pipelines.served import CAPTIONS, Served


@pytest.fixture(scope="session")
def tiny() -> SimVTP:
    """A model with weights far from their start, so that embeddings differ."""
    tokenizer = train_tokenizer(CAPTIONS, vocab_size=200)
    sizes = {"num_frames": 4, "image_size": 32, "patch_size": 16, "width": 32, "num_heads": 2}
    decoder = {"decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2}
    words = {"vocab_size": tokenizer.get_vocab_size(), "max_text_length": 16}
    torch.manual_seed(3)
    config = ModelConfig(**sizes, **decoder, **words, depth=2)
    model = SimVTP.from_config(config, tokenizer=tokenizer)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("served")
    return [write_video(folder / f"{seconds}.mp4", seconds=seconds) for seconds in (1, 4)]


@pytest.fixture(scope="session")
def site(tiny: SimVTP) -> Iterator[Served]:
    """The model behind HTTP with small limits."""
    limits = {"max_body": 1 << 20, "max_bodies": 4 << 20, "max_inputs": 8, "queue": 32}
    with Served(FolderModel(tiny, max_batch=4), **limits) as served:
        yield served
