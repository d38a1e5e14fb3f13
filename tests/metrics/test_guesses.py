"""Words guessed by counting, against loops over captions."""

from collections import Counter

import torch
from hypothesis import given
from hypothesis import strategies as st

from simvtp.metrics import guess_words

CLS, SEP, MASK = 90, 91, 92
words = st.lists(st.integers(1, 3), min_size=1, max_size=4)


def padded(captions):
    """Captions between [CLS] and [SEP], filled up with -1, and their lengths."""
    rows = [torch.tensor([CLS, *caption, SEP]) for caption in captions]
    lengths = torch.tensor([len(row) for row in rows])
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1), lengths


def guess(captions, hidden, known):
    ids, lengths = padded(captions)
    mask = torch.zeros_like(ids, dtype=torch.bool)
    for row, places in enumerate(hidden):
        for place in places:
            mask[row, place + 1] = True
    others, other_lengths = padded(known)
    return guess_words(
        ids.masked_fill(mask, MASK),
        lengths=lengths,
        hidden=mask,
        known=others,
        known_lengths=other_lengths,
    ).tolist()


def guess_one(caption, places, place, known):
    same = [other for other in known if len(other) == len(caption)]
    if not same:
        counts = Counter(word for other in known for word in other)
        return min(counts, key=lambda word: (-counts[word], word))
    agreement = [
        sum(
            a == b for at, (a, b) in enumerate(zip(caption, other, strict=True)) if at not in places
        )
        for other in same
    ]
    votes = Counter(
        other[place] for other, n in zip(same, agreement, strict=True) if n == max(agreement)
    )
    counts = Counter(other[place] for other in same)
    return min(counts, key=lambda word: (-votes[word], -counts[word], word))


@given(
    captions=st.lists(words, min_size=1, max_size=4),
    known=st.lists(words, min_size=1, max_size=8),
    data=st.data(),
)
def test_guesses_are_the_votes_of_those_that_agree_most(captions, known, data):
    hidden = [
        data.draw(st.sets(st.integers(0, len(caption) - 1), min_size=1)) for caption in captions
    ]
    expected = [
        guess_one(caption, places, place, known)
        for caption, places in zip(captions, hidden, strict=True)
        for place in sorted(places)
    ]
    assert guess(captions, hidden, known) == expected


def test_constant_captions_are_guessed_without_a_fault():
    captions = [[1, 2, 3]] * 5
    assert guess(captions, [{0, 1, 2}] * 5, captions) == [1, 2, 3] * 5
