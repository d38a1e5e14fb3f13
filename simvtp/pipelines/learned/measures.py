"""What a model has learned: pixels, words, matching and retrieval of held-out clips.

Each figure stands beside what chance, a floor that needs no model, or a clip or caption that does
not belong gives. The last is the paper's claim: one modality helps to reconstruct the other.
"""

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from simvtp.data import ClipRecord
from simvtp.data.corpus.contours import corpus_contours
from simvtp.data.datasets.clip_batches import clip_batches
from simvtp.data.tokenizer import encode_caption, special_token_ids
from simvtp.layers import PackedLayout, PackedTokens, to_device
from simvtp.masking import TextMask, TextMasker, TubeMask, TubeMasker
from simvtp.metrics import guess_words
from simvtp.model import SimVTP
from simvtp.pipelines.learned.figures import (
    Learned,
    MatchedPairs,
    pair_figures,
    pixel_figures,
    word_figures,
)
from simvtp.pipelines.learned.pixel_errors import TubeletErrors, tubelet_errors
from simvtp.pipelines.learned.trained_masks import trained_ratio
from simvtp.printing import Console, Progress
from simvtp.reconstruction import fill_in
from simvtp.retrieval.gallery import Gallery, embed_gallery
from simvtp.retrieval.reranking import seen_in_training
from simvtp.seeding import derive_generator

_CAPTIONS_COUNTED = 20_000


class _Captions(NamedTuple):
    """First captions of the clips with hidden words; padded, on the host."""

    ids: Tensor
    lengths: Tensor
    hidden: TextMask

    @property
    def answers(self) -> Tensor:
        """`(masked,)` int64 hidden words, caption by caption."""
        return self.ids[self.hidden.masked]


@torch.inference_mode()
def measure_learned(
    model: SimVTP,
    records: Sequence[ClipRecord],
    *,
    gallery: Gallery | None = None,
    train_captions: Iterable[str] | None = None,
    contours: Tensor | None = None,
    num_clips: int = 256,
    video_ratio: float | None = None,
    text_ratio: float | None = None,
    top: int = 16,
    seed: int = 0,
    batch_size: int = 32,
    num_workers: int = 0,
    console: Console | None = None,
) -> Learned:
    """Measure what a model makes of held-out clips and their first captions.

    Args:
        model: a model with a tokenizer.
        records: held-out clips.
        gallery: their features, where they are known; else the clips are embedded first.
        train_captions: what the floor of the words is counted from, 20,000 at most; without them
            there is none.
        contours: `(clips, tokens)` bool for those of the gallery, tubelets that hold part of an
            object's contour; for the embedded corpus they are known without it.
        num_clips: readable clips to measure on, the first ones.
        video_ratio: share of the tubes to hide; None is that of the training.
        text_ratio: share of the words to hide; None is that of the training.
        top: clips by cosine that each caption is matched with; 0 for pairs drawn at random alone.
        seed: of the masks, and of which clip goes with which other one's caption.
        batch_size: clips or pairs in one forward pass.
        num_workers: processes that decode.
        console: where progress is shown.

    Raises:
        ValueError: fewer than two clips can be read, a ratio hides nothing, or the model has no
            tokenizer.
    """
    model.eval()
    if gallery is None:
        gallery = embed_gallery(model, records[:num_clips], num_workers=num_workers)
    index = gallery.clip_index[:num_clips].tolist()
    if len(index) < 2:
        raise ValueError(
            f"what was learned is measured on two or more clips, but {len(index)} of "
            f"{len(records)} can be read; give more held-out clips"
        )
    readable = [records[number] for number in index]
    if contours is None:
        contours = corpus_contours(
            readable,
            num_frames=model.config.num_frames,
            spacing=model.frame_spacing,
            image_size=model.config.image_size,
            tubelet=model.config.tubelet,
        )
    generator = derive_generator(seed)
    ratio = trained_ratio(model, "video_ratio") if video_ratio is None else video_ratio
    tubes = TubeMasker(model.config.grid, ratio=ratio)(len(index), generator=generator)
    ratio = trained_ratio(model, "text_ratio") if text_ratio is None else text_ratio
    captions = _hide_words(model, readable, ratio=ratio, generator=generator)
    partner = _partners(len(index), generator=generator)
    first = torch.searchsorted(gallery.owners, torch.arange(len(index)))
    cosine = (gallery.text[first] @ gallery.video[: len(index)].T).double()
    settings = {"batch_size": batch_size, "partner": partner}
    with Progress(console=console or Console(quiet=True), transient=True) as progress:
        video = _read(model, readable, num_workers=num_workers)
        errors, right = _fill_in_all(
            model, video, tubes=tubes, captions=captions, progress=progress, **settings
        )
        pairs = MatchedPairs.of(cosine, partner=partner, top=top)
        log_odds = _match(model, video, captions, pairs, batch_size=batch_size, progress=progress)
    guessed = _counted_guesses(model, captions, train_captions)
    marked = None if contours is None else contours[: len(index)].gather(1, tubes.drop)
    words = word_figures(captions.answers, right=right, guessed=guessed)
    return Learned(
        (*pixel_figures(errors, contours=marked), *words, *pair_figures(pairs, log_odds)),
        len(index),
    )


def _read(model: SimVTP, records: Sequence[ClipRecord], *, num_workers: int) -> Tensor:
    """The clips, `(clips, frames, channels, size, size)` uint8 on the host."""
    videos: list[Tensor] = []
    for batch in clip_batches(model, records, batch_size=16, num_workers=num_workers):
        for place, reason in batch.errors:
            raise ValueError(f"{records[place].name} was read once, but not again: {reason}")
        videos.append(batch.video)
    return torch.cat(videos)


def _hide_words(
    model: SimVTP, records: Sequence[ClipRecord], *, ratio: float, generator: torch.Generator
) -> _Captions:
    ids, lengths = padded_captions(model, [record.captions[0] for record in records])
    assert model.tokenizer is not None
    special = special_token_ids(model.tokenizer)
    masker = TextMasker(special.mask, special_ids=list(special), ratio=ratio)
    attend = torch.arange(ids.shape[1]) < lengths[:, None]
    return _Captions(ids, lengths, masker(ids, attend=attend, generator=generator))


def padded_captions(model: SimVTP, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Token ids `(captions, tokens)` and lengths."""
    if model.tokenizer is None:
        raise ValueError("the model has no tokenizer, so there are no words to measure; give one")
    longest = model.config.max_text_length
    rows = [
        encode_caption(model.tokenizer, text, max_length=longest).token_ids for text in captions
    ]
    padded = pad_sequence(rows, batch_first=True, padding_value=model.config.padding_id)
    return padded, torch.tensor([len(row) for row in rows])


def _partners(num_clips: int, *, generator: torch.Generator) -> Tensor:
    """Another clip for each: all in one random circle, so that each is another one's once."""
    order = torch.randperm(num_clips, generator=generator)
    return torch.empty_like(order).scatter_(0, order, order.roll(1))


def _pack(captions: _Captions, rows: Tensor, device: torch.device) -> tuple[PackedTokens, Tensor]:
    """Captions with hidden words, and which rows of the pack those are."""
    lengths = captions.lengths[rows]
    real = torch.arange(captions.ids.shape[1]) < lengths[:, None]
    ids = to_device(captions.hidden.token_ids[rows][real], device)
    hidden = captions.hidden.masked[rows][real].nonzero().squeeze(1)
    layout = PackedLayout(tuple(lengths.tolist()), device)
    return PackedTokens(ids, layout), to_device(hidden, device)


def _fill_in_all(
    model: SimVTP,
    video: Tensor,
    *,
    tubes: TubeMask,
    captions: _Captions,
    partner: Tensor,
    batch_size: int,
    progress: Progress,
) -> tuple[TubeletErrors, Tensor]:
    """Errors of all hidden tubelets, and how many words are guessed with own, other, no video."""
    task = progress.add_task("masked pixels and words", total=len(video))
    errors: list[TubeletErrors] = []
    right = torch.zeros(3, dtype=torch.int64)
    for rows in torch.arange(len(video)).split(batch_size):
        part = TubeMask(*(mask[rows].to(model.device) for mask in tubes))
        clips = video[rows].to(model.device)
        pixels: list[Tensor] = []
        # In a pair of a clip and another one's caption each is what does not belong to the other;
        # as each caption is in one such pair, its words are judged there.
        for number, chosen in enumerate((rows, partner[rows])):
            text, hidden = _pack(captions, chosen, model.device)
            filled = fill_in(model, clips, tubes=part, masked_text=text, masked_index=hidden)
            pixels.append(filled.pixels)
            right[number] += _num_right(filled.words, captions, chosen)
        right[2] += _num_right(_words_alone(model, captions, rows), captions, rows)
        errors.append(tubelet_errors(model, *pixels, video=clips, tubes=part))
        progress.advance(task, len(rows))
    return TubeletErrors(*map(torch.cat, zip(*errors, strict=True))), right


def _words_alone(model: SimVTP, captions: _Captions, rows: Tensor) -> Tensor:
    """Logits of hidden words, from captions that are encoded without a clip."""
    text, hidden = _pack(captions, rows, model.device)
    tokens = PackedTokens(model.text_embedding(text.values, text.layout.positions), text.layout)
    encoded = model.encoder.normed(model.encoder(tokens).values)
    return model.word_decoder(PackedTokens(encoded, text.layout), hidden)


def _num_right(logits: Tensor, captions: _Captions, rows: Tensor) -> int:
    answers = captions.ids[rows][captions.hidden.masked[rows]]
    return int((logits.argmax(dim=1).cpu() == answers).sum())


def _counted_guesses(
    model: SimVTP, captions: _Captions, train_captions: Iterable[str] | None
) -> Tensor | None:
    known = list(islice(train_captions or (), _CAPTIONS_COUNTED))
    if not known:
        return None
    ids, lengths = padded_captions(model, known)
    return guess_words(
        captions.hidden.token_ids,
        lengths=captions.lengths,
        hidden=captions.hidden.masked,
        known=ids,
        known_lengths=lengths,
    )


def _match(
    model: SimVTP,
    video: Tensor,
    captions: _Captions,
    pairs: MatchedPairs,
    *,
    batch_size: int,
    progress: Progress,
) -> Tensor:
    """Log odds `(captions, clips)` float64 of the pairs that are asked for, 0 for the others."""
    log_odds = torch.zeros(pairs.wanted.shape, dtype=torch.float64)
    asked = pairs.wanted.nonzero()
    # Captions of equal length side by side, which attention takes together.
    asked = asked[captions.lengths[asked[:, 0]].argsort(stable=True)]
    task = progress.add_task("matching", total=len(asked))
    attend = torch.arange(captions.ids.shape[1]) < captions.lengths[:, None]
    seen = seen_in_training(model)
    for part in asked.split(batch_size):
        text, clip = part.unbind(dim=1)
        longest = int(captions.lengths[text].max())
        scores = model.match_score(
            video[clip], captions.ids[text, :longest], attend=attend[text, :longest], seen=seen
        )
        log_odds[text, clip] = scores.cpu().double()
        progress.advance(task, len(part))
    return log_odds
