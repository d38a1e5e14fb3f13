"""Small models and batches that several tests build."""

import torch

from simvtp.batch import Batch, Collator
from simvtp.config import ModelConfig
from simvtp.data.datasets.clips import Sample
from simvtp.masking import TextMasker, TubeMasker
from simvtp.model import SimVTP

PAD, CLS, SEP, MASK, VOCAB = 0, 2, 3, 4, 40
SPECIAL = (PAD, 1, CLS, SEP, MASK)


def small_config(**overrides: object) -> ModelConfig:
    sizes = {
        "num_frames": 4,
        "image_size": 16,
        "patch_size": 4,
        "vocab_size": VOCAB,
        "max_text_length": 16,
        "width": 16,
        "depth": 2,
        "num_heads": 2,
        "decoder_width": 8,
        "decoder_depth": 1,
        "decoder_heads": 2,
        "text_dropout": 0.0,
    }
    return ModelConfig(**{**sizes, **overrides})


def small_model(*, seed: int = 0, **overrides: object) -> SimVTP:
    """Model in float64 whose weights are large enough for every term to matter."""
    torch.manual_seed(seed)
    model = SimVTP.from_config(small_config(**overrides)).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.25)
    return model


def samples_of(caption_lengths: list[int], *, seed: int = 0) -> list[Sample]:
    generator = torch.Generator().manual_seed(seed)
    samples = []
    for index, length in enumerate(caption_lengths):
        words = torch.randint(5, VOCAB, (length,), generator=generator)
        video = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8, generator=generator)
        samples.append(
            Sample(
                video=video,
                token_ids=torch.tensor([CLS, *words.tolist(), SEP]),
                word_ids=torch.tensor([-1, *range(length), -1]),
                noise=torch.rand(16 + 16, generator=generator),
                caption="",
                index=index,
            )
        )
    return samples


def small_collator(
    *,
    video_ratio: float = 0.75,
    text_ratio: float = 0.5,
    tubelet: tuple[int, int, int] | None = None,
) -> Collator:
    return Collator(
        TubeMasker((2, 4, 4), ratio=video_ratio),
        text_masker=TextMasker(MASK, special_ids=SPECIAL, ratio=text_ratio),
        tubelet=tubelet,
    )


def small_batch(caption_lengths: list[int], *, seed: int = 0) -> Batch:
    return small_collator()(samples_of(caption_lengths, seed=seed))
