import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from simvtp.masking import TextMasker

PAD, CLS, SEP, MASK = 0, 1, 2, 3
SPECIAL = [PAD, CLS, SEP, MASK]
captions = st.lists(st.lists(st.integers(4, 30), min_size=0, max_size=8), min_size=1, max_size=5)
seeds = st.integers(0, 2**31)


def padded(words, extra=0):
    length = max(len(caption) for caption in words) + 2 + extra
    rows = [[CLS, *caption, SEP] + [PAD] * (length - 2 - len(caption)) for caption in words]
    ids = torch.tensor(rows)
    return ids, ids != PAD


def generator(seed):
    return torch.Generator().manual_seed(seed)


@given(words=captions, ratio=st.floats(0.001, 1), seed=seeds)
def test_only_words_are_hidden_and_labels_stay_aligned(words, ratio, seed):
    ids, attend = padded(words)
    before = ids.clone()
    masker = TextMasker(MASK, special_ids=SPECIAL, ratio=ratio)
    mask = masker(ids, attend=attend, generator=generator(seed))
    assert torch.equal(ids, before)
    assert not (mask.masked & torch.isin(ids, torch.tensor(SPECIAL))).any()
    assert torch.equal(mask.token_ids[~mask.masked], ids[~mask.masked])
    assert (mask.token_ids[mask.masked] == MASK).all()


@given(words=captions, ratio=st.floats(0.001, 1), seed=seeds)
def test_a_caption_with_a_word_has_one_hidden(words, ratio, seed):
    ids, attend = padded(words)
    masker = TextMasker(MASK, special_ids=SPECIAL, ratio=ratio)
    mask = masker(ids, attend=attend, generator=generator(seed))
    for caption, hidden in zip(words, mask.masked.any(dim=1).tolist(), strict=True):
        assert hidden == bool(caption)


@given(words=captions, seed=seeds)
def test_ratio_0_hides_nothing_and_ratio_1_all(words, seed):
    ids, attend = padded(words)
    none = TextMasker(MASK, special_ids=SPECIAL, ratio=0)(ids, generator=generator(seed))
    assert not none.masked.any()
    every = TextMasker(MASK, special_ids=SPECIAL, ratio=1)(ids, generator=generator(seed))
    assert torch.equal(every.masked, attend & (ids > MASK))


@given(words=captions, extra=st.integers(0, 4), seed=seeds)
def test_a_caption_does_not_depend_on_batch_mates_or_padding(words, extra, seed):
    ids, attend = padded(words)
    longer, longer_attend = padded(words, extra)
    noise = torch.rand(longer.shape, generator=generator(seed))
    masker = TextMasker(MASK, special_ids=SPECIAL, ratio=0.5)
    length = ids.shape[1]
    short = masker.from_noise(ids, noise=noise[:, :length], attend=attend)
    long = masker.from_noise(longer, noise=noise, attend=longer_attend)
    alone = masker.from_noise(ids[:1], noise=noise[:1, :length], attend=attend[:1])
    assert torch.equal(long.masked[:, :length], short.masked)
    assert not long.masked[:, length:].any()
    assert torch.equal(short.masked[:1], alone.masked)


def test_the_rate_is_the_ratio_and_tokens_are_independent():
    ids = torch.full((20_000, 8), 9)
    mask = TextMasker(MASK, special_ids=SPECIAL)(ids, generator=generator(0)).masked.double()
    assert (mask.mean(dim=0) - 0.75).abs().max() < 5 * (0.75 * 0.25 / len(ids)) ** 0.5
    together = (mask[:, 0] * mask[:, 1]).mean()
    assert abs(together - 0.75**2) < 5 * (0.5625 * 0.4375 / len(ids)) ** 0.5


@given(
    sizes=st.lists(st.integers(1, 3), min_size=1, max_size=6),
    ratio=st.floats(0.05, 0.95),
    seed=seeds,
)
def test_whole_words_are_hidden_together(sizes, ratio, seed):
    words = [word for word, size in enumerate(sizes) for _ in range(size)]
    word_ids = torch.tensor([[-1, *words, -1]])
    ids = torch.tensor([[CLS, *(10 + word for word in words), SEP]])
    masker = TextMasker(MASK, special_ids=SPECIAL, ratio=ratio)
    masked = masker(ids, word_ids=word_ids, generator=generator(seed)).masked[0, 1:-1]
    hidden = {
        word: {bool(masked[place]) for place, owner in enumerate(words) if owner == word}
        for word in set(words)
    }
    assert all(len(states) == 1 for states in hidden.values())
    assert any(states == {True} for states in hidden.values())


def test_empty_batches_and_bad_input():
    masker = TextMasker(MASK, special_ids=SPECIAL)
    assert masker(torch.empty(0, 5, dtype=torch.long)).masked.shape == (0, 5)
    assert masker(torch.empty(2, 0, dtype=torch.long)).masked.shape == (2, 0)
    with pytest.raises(ValueError, match=r"1\.2"):
        TextMasker(MASK, special_ids=SPECIAL, ratio=1.2)
    with pytest.raises(ValueError, match=r"noise.*\(1, 3\).*\(1, 2\)"):
        masker.from_noise(torch.ones(1, 3, dtype=torch.long), noise=torch.rand(1, 2))
