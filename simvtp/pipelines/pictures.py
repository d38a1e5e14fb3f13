"""Reconstruction pictures of a manifest's clips."""

from collections.abc import Sequence
from pathlib import Path

import torch

from simvtp.batch import Batch, Collator
from simvtp.data import CentreCrop, ClipRecord, EvaluationDataset, encode_caption
from simvtp.data.dataset import Sample
from simvtp.layers import PackedLayout, PackedTokens
from simvtp.masking import TubeMask
from simvtp.model import SimVTP
from simvtp.pipelines.report import PictureRow, draw_reconstruction
from simvtp.reconstruction import reconstruct
from simvtp.seeding import derive_generator


def picture_of(
    model: SimVTP,
    records: Sequence[ClipRecord],
    *,
    collator: Collator,
    out_png: Path,
    seed: int = 0,
) -> int:
    """Draw the reconstruction of each record's middle clip with its first caption.

    Args:
        model: a model with a tokenizer.
        records: clips to show; those that cannot be read are left out.
        collator: draws the masks.
        out_png: where the picture goes.
        seed: seed of the masks.

    Returns:
        Clips shown; nothing is drawn when there is none.

    Raises:
        ValueError: the model has no tokenizer.
    """
    if model.tokenizer is None:
        raise ValueError("a picture needs captions, so a model with a tokenizer.json")
    samples = _samples(model, records, noise=_noise(model, collator, len(records), seed=seed))
    if not samples:
        return 0
    batch = collator(samples)
    filled = reconstruct(
        model,
        batch.video,
        tubes=TubeMask(batch.keep, batch.drop),
        masked_ids=PackedTokens(
            batch.masked_ids, PackedLayout(batch.text_lengths, torch.device("cpu"))
        ),
        masked_index=batch.masked_index,
    )
    captions = _captions(model, batch, filled.word_ids.cpu())
    rows = [
        PictureRow(batch.video[number], filled.masked_video[number], filled.video[number], *texts)
        for number, texts in enumerate(captions)
    ]
    note = f"{collator.tube_masker.ratio:.0%} of the tubes and {collator.text_masker.ratio:.0%} "
    note += "of the words hidden"
    if model.config.pixel_target == "normalized":
        note += "; brightness of hidden patches is taken from visible ones nearby"
    draw_reconstruction(rows, out_png=out_png, note=note)
    return len(rows)


def _noise(model: SimVTP, collator: Collator, count: int, *, seed: int) -> torch.Tensor:
    width = collator.tube_masker.num_positions + model.config.max_text_length
    return torch.rand(count, width, generator=derive_generator(seed))


def _samples(model: SimVTP, records: Sequence[ClipRecord], *, noise: torch.Tensor) -> list[Sample]:
    config = model.config
    dataset = EvaluationDataset(
        records,
        num_frames=config.num_frames,
        stride=model.frame_stride,
        transform=CentreCrop(config.image_size),
    )
    samples: list[Sample] = []
    assert model.tokenizer is not None
    for index, record in enumerate(records):
        clip = dataset[index]
        if clip.video is None:
            continue
        caption = record.captions[0]
        encoded = encode_caption(model.tokenizer, caption, max_length=config.max_text_length)
        samples.append(Sample(clip.video, *encoded, noise[index], caption, index))
    return samples


def _captions(model: SimVTP, batch: Batch, predicted: torch.Tensor) -> list[tuple[str, str, str]]:
    """Caption, masked caption and predicted caption, predicted words in brackets."""
    tokenizer = model.tokenizer
    assert tokenizer is not None
    hidden = torch.zeros_like(batch.token_ids, dtype=torch.bool)
    hidden[batch.masked_index] = True
    texts: list[tuple[str, str, str]] = []
    parts = (batch.token_ids, batch.masked_ids, predicted, hidden)
    for true, masked, guess, where in zip(
        *(part.split(batch.text_lengths) for part in parts), strict=True
    ):
        pieces = [tokenizer.id_to_token(number) for number in guess.tolist()]
        marked = [
            f"[{piece}]" if is_hidden else piece
            for piece, is_hidden in zip(pieces, where.tolist(), strict=True)
        ]
        shown = [tokenizer.id_to_token(number) for number in masked.tolist()]
        texts.append(
            (
                tokenizer.decode(true.tolist()),
                " ".join("____" if piece == "[MASK]" else piece for piece in shown[1:-1]),
                " ".join(marked[1:-1]),
            )
        )
    return texts
