"""A small pre-trained model in float64, and clips for it."""

import pytest
import torch

from simvtp.config import FrameSpacing
from simvtp.data import train_tokenizer
from testing.sample_batches import small_model

TEXTS = ["what does the red circle do", "how many dogs run", "it moves left", "three", "who spins"]


@pytest.fixture(scope="module")
def pretrained():
    tokenizer = train_tokenizer(TEXTS, vocab_size=200)
    model = small_model(vocab_size=tokenizer.get_vocab_size(), max_text_length=24)
    model.tokenizer = tokenizer
    model.frame_spacing = FrameSpacing(stride=3)
    return model.eval()


@pytest.fixture(scope="module")
def clips():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (4, 4, 3, 16, 16), dtype=torch.uint8, generator=generator)
