"""Hidden words guessed by counting: what captions alone give away, without any model."""

import torch
from torch import Tensor


def guess_words(
    captions: Tensor, *, lengths: Tensor, hidden: Tensor, known: Tensor, known_lengths: Tensor
) -> Tensor:
    """Best guess at hidden words from the words that are visible, by counting in other captions.

    Of the known captions with as many tokens, those that agree with most of the visible words
    vote for the word at each hidden place; of equals the more frequent one there wins, then the
    smaller id. Where no known caption is as long, the guess is the most frequent of all words.

    Args:
        captions: `(captions, tokens)` int64; what stands behind the end does not matter, nor what
            stands at hidden places.
        lengths: `(captions,)` int64 tokens of each; the first and the last one are no words.
        hidden: `(captions, tokens)` bool, True where the word is to be guessed.
        known: `(others, tokens)` int64 captions to count in.
        known_lengths: `(others,)` int64.

    Returns:
        `(hidden,)` int64 guesses in the order of `captions[hidden]`.
    """
    guesses = captions.new_full(captions.shape, _most_frequent(known, known_lengths))
    for length in lengths.unique().tolist():
        asked, counted = lengths == length, known[known_lengths == length, :length]
        if len(counted):
            guesses[asked, :length] = _vote(
                captions[asked, :length], visible=~hidden[asked, :length], known=counted
            )
    return guesses[hidden]


def _most_frequent(known: Tensor, lengths: Tensor) -> int:
    places = torch.arange(known.shape[1], device=known.device)
    words = known[(places > 0) & (places < lengths[:, None] - 1)]
    return int(words.mode().values) if len(words) else 0


def _vote(captions: Tensor, *, visible: Tensor, known: Tensor) -> Tensor:
    """Guesses `(captions, tokens)` at all places of captions of one length."""
    agreement = torch.zeros(len(captions), len(known), dtype=torch.int64, device=captions.device)
    for place in range(captions.shape[1]):
        same = captions[:, place, None] == known[:, place]
        agreement += same & visible[:, place, None]
    best = (agreement == agreement.amax(dim=1, keepdim=True)).double()
    guesses = torch.empty_like(captions)
    for place in range(captions.shape[1]):
        words, number = known[:, place].unique(return_inverse=True)
        votes = best.new_zeros(len(captions), len(words)).index_add_(1, number, best)
        # Less than a vote, and the smaller id less than an occurrence.
        frequency = number.bincount().double() / (len(known) + 1)
        order = torch.arange(len(words), device=known.device) / (2 * len(words) * (len(known) + 1))
        guesses[:, place] = words[(votes + frequency - order).argmax(dim=1)]
    return guesses
