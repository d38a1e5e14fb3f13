from functools import partial

import torch

from benchmarks.reference import transformer
from simvtp.decoders import PixelDecoder, WordDecoder
from simvtp.layers import attend, pack

GRID, TUBELET = (2, 2, 2), (2, 4, 4)


def test_pixel_predictions_follow_their_tubelets():
    torch.manual_seed(0)
    decoder = PixelDecoder(8, grid=GRID, tubelet=TUBELET, width=16, depth=2, num_heads=2).double()
    visible = torch.randn(1, 3, 8, dtype=torch.float64)
    keep, decode = torch.tensor([[0, 2, 5]]), torch.tensor([[1, 3, 4, 6, 7]])
    predictions = decoder(visible, keep=keep, decode=decode)
    assert predictions.shape == (1, 5, 2 * 4 * 4 * 3)
    order = torch.tensor([4, 0, 3, 1, 2])
    shuffled = decoder(visible, keep=keep, decode=decode[:, order])
    torch.testing.assert_close(shuffled, predictions[:, order])
    # The visible tubelets may come in any order too, as long as their numbers do.
    turned = decoder(visible.flip(1), keep=keep.flip(1), decode=decode)
    torch.testing.assert_close(turned, predictions)


def test_the_word_head_alone_is_linear():
    torch.manual_seed(0)
    decoder = WordDecoder(8, vocab_size=5).double()
    tokens = pack([torch.randn(n, 8, dtype=torch.float64) for n in (3, 2)])
    index = torch.tensor([4, 1])
    expected = tokens.values[index] @ decoder.head.weight.T + decoder.head.bias
    torch.testing.assert_close(decoder(tokens, index), expected)


def test_a_deeper_word_decoder_mixes_words_within_their_sequence():
    torch.manual_seed(0)
    decoder = WordDecoder(8, vocab_size=5, depth=2, num_heads=2).double()
    parts = [torch.randn(n, 8, dtype=torch.float64) for n in (3, 2)]
    logits = decoder(pack(parts), torch.arange(5))
    weights = dict(decoder.named_parameters())
    for part, got in zip(parts, logits.split([3, 2]), strict=True):
        mask = torch.zeros(1, len(part), dtype=torch.float64)
        mixed = transformer(weights, "transformer", part[None], mask, 2, 2)[0]
        torch.testing.assert_close(got, mixed @ decoder.head.weight.T + decoder.head.bias)
    again = decoder.transformer(pack(parts).values, partial(attend, layout=pack(parts).layout))
    torch.testing.assert_close(decoder.head(again), logits)
