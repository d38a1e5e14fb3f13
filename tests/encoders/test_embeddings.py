import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from simvtp.encoders import JointEncoder, TextEmbedding, VideoEmbedding
from simvtp.layers import gather_tubelets, pack, place_tubelets, sincos_positions, unpack

GRID, TUBELET = (2, 3, 2), (2, 4, 4)


def clips(batch=2, seed=0):
    shape = (batch, 4, 3, 12, 8)
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def test_positions_follow_the_formula():
    table = sincos_positions(5, 6)
    for position in range(5):
        for column in range(6):
            angle = torch.tensor(position / 10000 ** (2 * (column // 2) / 6), dtype=torch.float64)
            expected = angle.sin() if column % 2 == 0 else angle.cos()
            assert table[position, column].item() == pytest.approx(expected.item(), abs=1e-7)


@given(index=st.lists(st.integers(0, 11), min_size=1, max_size=12), seed=st.integers(0, 99))
def test_gathered_tubelets_are_slices_of_the_clip(index, seed):
    video = clips(seed=seed)
    picked = gather_tubelets(video, torch.tensor([index, index[::-1]]), tubelet=TUBELET)
    for row, order in enumerate((index, index[::-1])):
        for place, token in enumerate(order):
            t, h, w = token // 6, token % 6 // 2, token % 2
            part = video[row, 2 * t : 2 * t + 2, :, 4 * h : 4 * h + 4, 4 * w : 4 * w + 4]
            assert torch.equal(picked[row, place], part.transpose(0, 1))


def test_placing_all_tubelets_gives_the_clip_back():
    video = clips()
    tubelets = gather_tubelets(video, torch.arange(12).expand(2, -1), tubelet=TUBELET)
    assert torch.equal(place_tubelets(tubelets, grid=GRID), video)


@given(seed=st.integers(0, 99), count=st.integers(1, 12))
def test_embedding_equals_a_strided_convolution(seed, count):
    torch.manual_seed(seed)
    embed = VideoEmbedding(10, grid=GRID, tubelet=TUBELET).double()
    video = clips(seed=seed)
    index = torch.stack([torch.randperm(12)[:count] for _ in range(2)])
    normal = (video.double() / 255 - embed.mean.view(3, 1, 1)) / embed.std.view(3, 1, 1)
    whole = functional.conv3d(
        normal.transpose(1, 2), embed.projection.weight, embed.projection.bias, stride=TUBELET
    )
    tokens = whole.flatten(2).transpose(1, 2) + sincos_positions(12, 10)
    expected = torch.stack([row[order] for row, order in zip(tokens, index, strict=True)])
    torch.testing.assert_close(embed(video, index), expected)
    torch.testing.assert_close(embed(video), tokens)


def test_fixed_tables_are_not_in_the_checkpoint():
    names = set(VideoEmbedding(10, grid=GRID, tubelet=TUBELET).state_dict())
    assert names == {"projection.weight", "projection.bias"}


@pytest.mark.parametrize(
    ("video", "message"),
    [
        (torch.zeros(1, 4, 3, 12, 8), "uint8.*float32"),
        (torch.zeros(1, 4, 3, 8, 8, dtype=torch.uint8), r"\(4, 3, 12, 8\).*\(4, 3, 8, 8\)"),
        (torch.zeros(4, 3, 12, 8, dtype=torch.uint8), r"\(4, 3, 12, 8\)"),
        (torch.zeros(1, 4, 3, 12, 9, dtype=torch.uint8), r"\(4, 12, 9\)"),
        (torch.zeros(1, 4, 1, 12, 8, dtype=torch.uint8), r"\(4, 1, 12, 8\)"),
    ],
)
def test_wrong_clips_are_refused(video, message):
    with pytest.raises(ValueError, match=message):
        VideoEmbedding(10, grid=GRID, tubelet=TUBELET)(video)


def test_text_embedding_is_berts():
    bert = pytest.importorskip("transformers.models.bert.modeling_bert")
    config = pytest.importorskip("transformers").BertConfig(
        vocab_size=20, hidden_size=8, max_position_embeddings=12, num_attention_heads=2
    )
    theirs = bert.BertEmbeddings(config).eval()
    ours = TextEmbedding(20, width=8, max_length=12).eval()
    pairs = {
        "words.weight": "word_embeddings.weight",
        "positions.weight": "position_embeddings.weight",
        "token_types.weight": "token_type_embeddings.weight",
        "norm.weight": "LayerNorm.weight",
        "norm.bias": "LayerNorm.bias",
    }
    state = theirs.state_dict()
    ours.load_state_dict({mine: state[name] for mine, name in pairs.items()})
    ids = torch.randint(0, 20, (3, 7))
    torch.testing.assert_close(ours(ids), theirs(ids))


def test_packed_words_take_the_positions_they_are_given():
    embed = TextEmbedding(20, width=8, max_length=12).eval()
    ids = torch.tensor([[1, 2, 3], [4, 5, 6]])
    flat = embed(ids.flatten(), torch.tensor([0, 1, 2, 0, 1, 2]))
    torch.testing.assert_close(flat.view(2, 3, 8), embed(ids))


@settings(max_examples=20)
@given(sizes=st.lists(st.integers(1, 6), min_size=1, max_size=5), extra=st.integers(0, 3))
def test_packed_and_padded_encoding_agree(sizes, extra):
    torch.manual_seed(0)
    encoder = JointEncoder(16, depth=2, num_heads=2, extra_tokens=extra).double()
    parts = [torch.randn(size, 16, dtype=torch.float64) for size in sizes]
    padded = torch.nn.utils.rnn.pad_sequence(parts, batch_first=True, padding_value=3.0)
    real = torch.arange(max(sizes)) < torch.tensor(sizes)[:, None]
    rows = encoder.encode_padded(padded, real)
    for number, encoded in enumerate(unpack(encoder(pack(parts)))):
        torch.testing.assert_close(rows[number][real[number]], encoded)


@settings(max_examples=20)
@given(lengths=st.lists(st.integers(1, 6), min_size=1, max_size=5), extra=st.integers(1, 3))
def test_extra_tokens_are_tokens_of_every_sequence_that_do_not_come_out(lengths, extra):
    torch.manual_seed(0)
    encoder = JointEncoder(16, depth=2, num_heads=2, extra_tokens=extra).double()
    parts = [torch.randn(length, 16, dtype=torch.float64) for length in lengths]
    for part, encoded in zip(parts, unpack(encoder(pack(parts))), strict=True):
        sequence = torch.cat([encoder.extra_tokens, part])
        alone = encoder.transformer.forward_packed(pack([sequence])).values
        torch.testing.assert_close(encoded, alone[extra:])


def test_a_norm_over_the_embedded_tubelets():
    plain = VideoEmbedding(10, grid=GRID, tubelet=TUBELET)
    normed = VideoEmbedding(10, grid=GRID, tubelet=TUBELET, norm_eps=0.5)
    normed.load_state_dict(plain.state_dict(), strict=False)
    torch.nn.init.normal_(normed.norm.weight)
    video = clips()
    tokens = plain(video).double()
    spread = (tokens.var(dim=-1, correction=0, keepdim=True) + 0.5).sqrt()
    expected = (tokens - tokens.mean(dim=-1, keepdim=True)) / spread * normed.norm.weight
    torch.testing.assert_close(normed(video), expected.float())
