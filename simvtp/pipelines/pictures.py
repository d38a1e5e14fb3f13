"""Reconstruction pictures of a manifest's clips."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

from simvtp.data import ClipRecord, encode_caption
from simvtp.data.datasets.clip_batches import clip_batches
from simvtp.data.tokenizer import CONTINUED
from simvtp.extras import new_figure
from simvtp.layers import unpack
from simvtp.lettering import lettered
from simvtp.model import SimVTP
from simvtp.reconstruction import Reconstruction
from simvtp.seeding import derive_generator

# Clips to choose from: those whose patches have most contrast leave most to be filled in.
CONSIDERED_CLIPS = 32
_PICTURED_CLIPS = 4
_FRAMES_SHOWN = 6
_HIDDEN = "[MASK]"


class PictureRow(NamedTuple):
    """One clip of a reconstruction picture.

    Attributes:
        original: `(frames, channels, height, width)` uint8.
        masked: likewise, dropped tubelets grey.
        reconstructed: likewise, as the model fills it in.
        caption: the caption.
        masked_caption: the caption with [MASK].
        predicted_caption: the caption with the predicted words in brackets.
    """

    original: Tensor
    masked: Tensor
    reconstructed: Tensor
    caption: str
    masked_caption: str
    predicted_caption: str


def picture_of(
    model: SimVTP,
    records: Sequence[ClipRecord],
    *,
    out_png: Path,
    video_ratio: float = 0.9,
    text_ratio: float = 0.75,
    seed: int = 0,
    num_workers: int = 0,
) -> None:
    """Draw the reconstruction of some records' middle clips with their first captions.

    Of more than four clips those are drawn whose patches have most contrast, whatever the model
    makes of them.

    Args:
        model: a model with a tokenizer.
        records: clips to choose from.
        out_png: where the picture goes.
        video_ratio: share of the tubes to hide.
        text_ratio: share of the words to hide.
        seed: seed of the masks.
        num_workers: processes that decode, as for `embed`.

    Raises:
        ValueError: no clip can be read, a ratio is out of range, the model has no tokenizer or
            there is no `simvtp[plots]`.
    """
    (clips,) = clip_batches(model, records, batch_size=len(records), num_workers=num_workers)
    if not len(clips.numbers):
        place, reason = clips.errors[0]
        raise ValueError(f"no clip to draw can be read: {records[place].name}: {reason}")
    chosen = _most_contrast(clips.video, patch_size=model.config.patch_size)
    captions = [records[number].captions[0] for number in clips.numbers[chosen].tolist()]
    video = clips.video[chosen]
    filled = model.reconstruct(
        video,
        captions,
        video_ratio=video_ratio,
        text_ratio=text_ratio,
        generator=derive_generator(seed),
    )
    texts = _texts(model, captions, filled)
    rows = [
        PictureRow(original, masked, full, caption, gaps, guesses)
        for original, masked, full, caption, (gaps, guesses) in zip(
            video, filled.masked_video, filled.video, captions, texts, strict=True
        )
    ]
    note = f"{video_ratio:.0%} of the tubes and {text_ratio:.0%} of the words hidden"
    if len(clips.numbers) > len(chosen):
        note += f"; the {len(chosen)} of {len(clips.numbers)} clips with most contrast"
    if model.config.pixel_target == "normalized":
        note += "\nbrightness of hidden patches is taken from visible ones nearby"
    draw_reconstruction(rows, out_png=out_png, note=note)


def _most_contrast(video: Tensor, *, patch_size: int) -> Tensor:
    """Places of the clips whose patches vary most, in the order of the clips."""
    rows = video.float().unflatten(4, (-1, patch_size)).unflatten(3, (-1, patch_size))
    spread = rows.std(dim=(4, 6), correction=0).flatten(1).mean(dim=1)
    return spread.topk(min(_PICTURED_CLIPS, len(video))).indices.sort().values


def _texts(model: SimVTP, captions: Sequence[str], filled: Reconstruction) -> list[tuple[str, str]]:
    """Masked caption with gaps, and predicted caption with the guesses in brackets."""
    tokenizer = model.tokenizer
    assert tokenizer is not None
    texts: list[tuple[str, str]] = []
    for caption, masked, guess in zip(
        captions, unpack(filled.masked_text), unpack(filled.text), strict=True
    ):
        cut = encode_caption(tokenizer, caption, max_length=model.config.max_text_length)
        words: dict[int, list[tuple[str, str]]] = {}
        for word, *ids in zip(cut.word_ids.tolist(), masked.tolist(), guess.tolist(), strict=True):
            if word >= 0:
                before, after = (tokenizer.id_to_token(each) or "" for each in ids)
                words.setdefault(word, []).append((before, after))
        texts.append((" ".join(map(_gap, words.values())), " ".join(map(_guess, words.values()))))
    return texts


def _gap(pieces: Sequence[tuple[str, str]]) -> str:
    """A word as the model sees it: a gap where all of it is hidden, short ones in one of pieces."""
    if all(before == _HIDDEN for before, _ in pieces):
        return "____"
    seen = (before.removeprefix(CONTINUED) for before, _ in pieces)
    return "".join(seen).replace(_HIDDEN, "__")


def _guess(pieces: Sequence[tuple[str, str]]) -> str:
    """A word as the model fills it in; guesses that do not continue one another are set apart."""
    said = ""
    for hidden, run in groupby(pieces, lambda piece: piece[0] == _HIDDEN):
        guesses = [after for _, after in run]
        joint = "|".join(guesses).replace(f"|{CONTINUED}", "").removeprefix(CONTINUED)
        said += f"[{joint}]" if hidden else joint
    return said


def draw_reconstruction(rows: Sequence[PictureRow], *, out_png: Path, note: str) -> None:
    """Draw original, masked and reconstructed frames of some clips with their captions."""
    figure = new_figure(1.35 * _FRAMES_SHOWN + 1.2, 4.6 * len(rows) + 0.4)
    figure.suptitle(note, fontsize=9)
    parts = np.atleast_1d(np.asarray(figure.subfigures(len(rows), 1), dtype=object))
    for part, row in zip(parts, rows, strict=True):
        lines = (
            f"caption:    {row.caption}",
            f"masked:     {row.masked_caption}",
            f"predicted:  {row.predicted_caption}",
        )
        text, style = lettered(*(_shorten(line) for line in lines), family="monospace")
        part.suptitle(text, fontsize=8, x=0.01, ha="left", **style)
        axes = part.subplots(3, _FRAMES_SHOWN)
        clips = (row.original, row.masked, row.reconstructed)
        for line, clip, name in zip(
            axes, clips, ("original", "masked", "reconstructed"), strict=True
        ):
            frames = np.linspace(0, len(clip) - 1, _FRAMES_SHOWN).round().astype(int)
            for axis, frame in zip(line, frames, strict=True):
                axis.imshow(clip[frame].permute(1, 2, 0).cpu().numpy(), interpolation="nearest")
                axis.set_xticks([])
                axis.set_yticks([])
            line[0].set_ylabel(name, fontsize=8)
    out_png.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out_png, dpi=110)


def _shorten(text: str, limit: int = 130) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
