"""Wrong inputs of the components, refused with the rule, what was given and what to do."""

import pytest
import torch
from torch import Tensor

from simvtp import SimVTP
from simvtp.data import train_tokenizer
from simvtp.decoders import PixelDecoder, WordDecoder
from simvtp.encoders import JointEncoder, TextEmbedding, VideoEmbedding, encode_pairs
from simvtp.layers import (
    PackedLayout,
    PackedTokens,
    Transformer,
    attend,
    attend_padded,
    gather_rows,
    gather_tubelets,
    join_rows,
    pack,
    place_tubelets,
    segment_mean,
    set_drop_path,
    sincos_positions,
    unpack,
)
from simvtp.losses import (
    contrastive_loss,
    match_loss,
    pixel_loss,
    sample_negatives,
    word_loss,
)
from simvtp.masking import RunningCellMasker, TextMasker, TubeMasker
from simvtp.metrics import (
    bootstrap_intervals,
    chance_metrics,
    classification_metrics,
    mean_interval,
    retrieval_metrics,
)
from simvtp.tasks import VideoAnswerer, VideoClassifier, fit_head
from testing.sample_batches import small_config

GRID, CPU = (2, 4, 4), torch.device("cpu")
CLIPS = torch.zeros(2, 4, 3, 16, 16, dtype=torch.uint8)
TOKENS, IDS, KEEP = torch.randn(2, 5, 16), torch.tensor([[2, 5, 3]]), torch.arange(5).expand(2, 5)
PACK, HEADS, REAL = pack(list(TOKENS)), torch.randn(10, 2, 4), torch.ones(1, 3, dtype=torch.bool)


@pytest.fixture(scope="module")
def model():
    tokenizer = train_tokenizer(["a red circle moves"], vocab_size=100)
    return SimVTP.from_config(
        small_config(vocab_size=tokenizer.get_vocab_size()), tokenizer=tokenizer
    ).eval()


def refused(call, message):
    """See that a call is refused, and by the library itself."""
    with pytest.raises((TypeError, ValueError), match=message) as caught:
        call()
    assert "/simvtp/" in str(caught.traceback[-1].path)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.encode_video("clip.mp4"), r"of uint8, got str 'clip.mp4'; read files with"),
        (lambda m: m.encode_video(CLIPS.numpy()), "got ndarray"),
        (lambda m: m.encode_video([CLIPS[0]]), "got list"),
        (lambda m: m.encode_video(CLIPS[0]), r"\(4, 3, 16, 16\); one clip is clip.unsqueeze\(0\)"),
        (lambda m: m.encode_text([]), "one or more texts, got none"),
        (lambda m: m.encode_text(None), "must be texts, got NoneType None; give a caption, a"),
        (lambda m: m.encode_text([1, 2]), r"must be texts, got list \[1, 2\]"),
        (lambda m: m.encode_text(b"a dog"), "must be texts, got bytes"),
        (lambda m: m.encode_text(["a", 10_001 * "a"]), "10000 characters each, got 10001; shorten"),
        (lambda m: m.encode_text(IDS[0]), r"\(batch, tokens\) of int64, got int64 of shape \(3,"),
        (lambda m: m.encode_text(IDS.float()), "of int64, got float32"),
        (lambda m: m.encode_text(10**6 * IDS), "from 0 to .* got 2000000 to 5000000; use the tok"),
        (lambda m: m.encode_text(-IDS), "got -5 to -2"),
        (lambda m: m.encode_text(IDS.repeat(1, 9)), "of 1 to 16 tokens each, got 1 of 27 to 27"),
        (lambda m: m.encode_text(0 * IDS), "got 1 of 0 to 0; leave empty ones out"),
        (lambda m: m.encode_text(IDS[:0]), "got 0 of 0 to 0"),
        (lambda m: m.encode_text(IDS, attend=REAL[:, :2]), r"attend must .* \(1, 3\), got \(1, 2"),
        (lambda m: m.encode_text(IDS, attend=IDS), r"attend must be .* of bool, got int64"),
        (lambda m: m.encode_text("a", attend=REAL), "leave it out for texts"),
        (lambda m: m.match("clip.mp4", "a red circle"), "got str 'clip.mp4'"),
        (lambda m: m.reconstruct("clip.mp4", "a red circle"), "got str 'clip.mp4'"),
        (
            lambda m: SimVTP.from_config(m.config).reconstruct(CLIPS, IDS),
            "the model has no tokenizer",
        ),
        (lambda m: SimVTP.from_config({"width": 8}), "config must be a ModelConfig, got dict"),
        (
            lambda m: SimVTP.from_config(m.config, tokenizer="tokenizer.json"),
            "simvtp.data.load_tokenizer",
        ),
        (lambda m: SimVTP.from_pretrained(None), "loaded from a folder or hub id, got None"),
        (lambda m: VideoClassifier.from_model(m, classes=["a"]).classify("c.mp4"), "got str 'c."),
        (
            lambda m: VideoClassifier.from_model(m, classes=["a"]).classify_views(CLIPS),
            r"views must be a tensor \(batch, views, frames",
        ),
        (
            lambda m: VideoAnswerer.from_model(m, answers=["a"]).answer("c.mp4", "what"),
            "got str 'c.mp4'",
        ),
        (
            lambda m: VideoAnswerer.from_model(m, answers=["a"]).answer(CLIPS, [1, 2]),
            "questions must be texts, got list",
        ),
        (lambda m: VideoAnswerer.from_model(m, answers=["a"])(CLIPS, IDS), "text must be packed"),
    ],
)
def test_models(model, call, message):
    refused(lambda: call(model), message)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pack(TOKENS), r"pack takes a list .* \(2, 5, 16\); .* pack\(list\(batch\)\)"),
        (lambda: pack("ab"), "got str 'ab'"),
        (lambda: pack([[1, 2]]), r"got list \[\[1, 2\]\]"),
        (
            lambda: pack([TOKENS[0], TOKENS[0, :, :4]]),
            r"one width.*\(5, 16\), float32 of shape \(5",
        ),
        (lambda: pack([TOKENS[0], TOKENS[0].long()]), "float32 of shape .* int64 of shape"),
        (lambda: pack([torch.tensor(1.0)]), r"got float32 of shape \(\)"),
        (lambda: unpack(TOKENS), "tokens must be packed, got float32"),
        (lambda: segment_mean(TOKENS), "tokens must be packed"),
        (lambda: segment_mean(PackedTokens(TOKENS[0], PACK.layout)), "hold the 10 tokens.*got sha"),
        (lambda: PackedLayout(torch.tensor([1, 2]), CPU), "a tuple of whole numbers.*got int64"),
        (lambda: PackedLayout((1, 2), "cpu"), "device a torch.device"),
        (lambda: join_rows(PACK, PACK), "give pack.layout"),
        (lambda: gather_rows([1]), "rows must be a tensor"),
        (lambda: attend(HEADS, HEADS[:9], HEADS, layout=PACK.layout), "must have the same shape"),
        (lambda: attend(*[HEADS[:9]] * 3, layout=PACK.layout), "have the 10 tokens .* got 9"),
        (lambda: attend(*[HEADS] * 3, layout=[5, 5]), "layout must be a PackedLayout, got list"),
        (lambda: attend_padded(*[TOKENS] * 3), "heads, head_width"),
        (
            lambda: attend_padded(*[TOKENS[..., None]] * 3, key_mask=REAL.expand(2, 3)),
            r"key_mask must be \(2, 5\), one for each token, got \(2, 3\)",
        ),
        (
            lambda: Transformer(16, depth=2.5, num_heads=2),
            "depth must be .* got 2.5",
        ),
        (lambda: set_drop_path(torch.nn.Identity(), None), "got None"),
        (lambda: sincos_positions(-1, 4), "num_positions must be a whole number"),
        (lambda: gather_tubelets("a", KEEP, tubelet=(2, 4, 4)), "got str 'a'"),
        (lambda: gather_tubelets(CLIPS, KEEP, tubelet=4), r"3 numbers \(frames, height, width\)"),
        (lambda: gather_tubelets(CLIPS, KEEP, tubelet=(2, 0, 4)), "tubelet height .* got 0"),
        (lambda: gather_tubelets(CLIPS, KEEP[:1], tubelet=(2, 4, 4)), "each of 2 clips, got 1"),
        (lambda: place_tubelets(CLIPS[:, :, :, None], grid=GRID), "has 32 tubelets, got 4"),
    ],
)
def test_layers(call, message):
    refused(call, message)


VIDEO = VideoEmbedding(16, grid=GRID, tubelet=(2, 4, 4))
WORDS = TextEmbedding(9, width=16, max_length=4)
ENCODER = JointEncoder(16, depth=1, num_heads=2)
PIXELS = PixelDecoder(16, grid=GRID, tubelet=(2, 4, 4), width=8, depth=1, num_heads=2)
HEAD = WordDecoder(16, vocab_size=9)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: VideoEmbedding("base"), "width must be a whole number of at least 1, got 'base'"),
        (
            lambda: VideoEmbedding(16, grid=8),
            r"grid must be 3 numbers \(time, height, width\), got",
        ),
        (lambda: VideoEmbedding(16, tubelet=16), "tubelet must be 3 numbers"),
        (lambda: VideoEmbedding(16, mean=0.5), "mean must be 3 numbers, got 0.5"),
        (lambda: VIDEO("clip.mp4"), "got str 'clip.mp4'"),
        (lambda: VIDEO(CLIPS, KEEP[0]), r"index must .* of int64, got int64 of shape \(5,\)"),
        (lambda: VIDEO(CLIPS, KEEP.float()), "of int64, got float32"),
        (lambda: VIDEO(CLIPS, TubeMasker(GRID, ratio=0.5)(2)), "got TubeMask"),
        (lambda: TextEmbedding(0, width=4), "vocab_size must be a whole number"),
        (lambda: TextEmbedding(5, width=4, padding_id=9), "one of 5 words or None, got 9"),
        (lambda: WORDS("a dog"), "got str 'a dog'; a tokenizer makes them"),
        (lambda: WORDS(IDS.float()), "got float32"),
        (lambda: WORDS(IDS.repeat(1, 3)), "may have 4 tokens, got 9"),
        (lambda: WORDS(IDS.repeat(2, 1), torch.arange(3)), "token_ids and positions must have the"),
        (lambda: JointEncoder(TOKENS), "width must be a whole number"),
        (lambda: JointEncoder(16, num_heads=2, mlp_ratio=0), "mlp_ratio must be above 0"),
        (lambda: ENCODER(TOKENS), "tokens must be packed, got float32 of shape"),
        (lambda: ENCODER(PackedTokens(PACK.values[:, :4], PACK.layout)), "of width 16, got shape"),
        (lambda: ENCODER.encode_padded(PACK), "got PackedTokens.*; packed ones go to the encoder"),
        (lambda: ENCODER.encode_padded(TOKENS[0]), r"got float32 of shape \(5, 16\)"),
        (lambda: ENCODER.encode_padded(TOKENS[..., :4]), r"must be 16 wide, got \(2, 5, 4\)"),
        (lambda: ENCODER.encode_padded(TOKENS, REAL), r"key_mask must be \(2, 5\).*got \(1, 3\)"),
        (lambda: encode_pairs(ENCODER, TOKENS, TOKENS), "text must be packed"),
        (lambda: encode_pairs(ENCODER, TOKENS, PACK, texts_per_clip=0), "texts_per_clip must be"),
        (lambda: PixelDecoder(16, grid=8), "grid must be 3 numbers"),
        (lambda: PIXELS(PACK, keep=KEEP, decode=KEEP), "visible must be .* got PackedTokens"),
        (lambda: PIXELS(TOKENS, keep=KEEP[:, :4], decode=KEEP), r"\(2, 5, 16\), \(2, 4\) and"),
        (lambda: PIXELS(TOKENS, keep=KEEP[:1], decode=KEEP), r"\(2, 5, 16\), \(1, 5\) and"),
        (lambda: HEAD(TOKENS, IDS[0]), "tokens must be packed"),
        (lambda: HEAD(PACK, REAL[0]), r"index must be a tensor \(masked,\) of int64, got bool"),
    ],
)
def test_encoders_and_decoders(call, message):
    refused(call, message)


CELLS, TEXT = RunningCellMasker(GRID), TextMasker(4, special_ids=[1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: TubeMasker(8), r"grid must be 3 numbers \(time, height, width\), got 8"),
        (lambda: TubeMasker((8, 14)), r"got \(8, 14\)"),
        (lambda: TubeMasker((2.0, 4.0, 4.0)), "grid time must be a whole number .* got 2.0"),
        (lambda: TubeMasker((2, 0, 4)), "grid height must be .* at least 1, got 0"),
        (lambda: TubeMasker(GRID, ratio=None), "must lie in .* got None"),
        (lambda: TubeMasker(GRID)(CLIPS), "batch_size must be a whole number"),
        (lambda: TubeMasker(GRID).from_noise([[1]]), r"noise must be a tensor .* got list \[\[1"),
        (lambda: RunningCellMasker(8), "grid must be 3 numbers"),
        (lambda: CELLS(TubeMasker(GRID)(2)), "got TubeMask.*; give a TubeMask's drop"),
        (lambda: CELLS(None), "got NoneType"),
        (lambda: TextMasker("[MASK]", special_ids=[1]), r"whole number .* got '\[MASK\]'"),
        (lambda: TextMasker(4, special_ids=3), "must be a list of ids, got 3"),
        (lambda: TextMasker(4, special_ids=[1], ratio="75 %"), "ratio must lie in .* got 75 %"),
        (lambda: TEXT("a dog"), "got str 'a dog'"),
        (lambda: TEXT(IDS[0]), r"got int64 of shape \(3,\); give one row for each caption"),
        (lambda: TEXT(IDS, attend=IDS), "attend must be .* of bool, got int64"),
    ],
)
def test_masks(call, message):
    refused(call, message)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: retrieval_metrics([[1.0]], positives=REAL), "similarity must be .* got list"),
        (lambda: retrieval_metrics(torch.eye(2), positives=[[1]]), "positives must be .* got list"),
        (lambda: chance_metrics([[True]]), "positives must be .* got list"),
        (lambda: mean_interval([1.0], groups=IDS[0]), "values must be .* got list"),
        (lambda: bootstrap_intervals(None, groups=IDS[0]), "those of query_ranks, got NoneType"),
        (lambda: classification_metrics([[1.0]], labels=IDS[0]), "scores must be .* got list"),
        (lambda: classification_metrics(torch.eye(2), labels=[0, 1]), "labels must be .* got list"),
        (lambda: fit_head([[1.0]], IDS[0], num_classes=2, l2_grid=[1]), "features must be .* got"),
    ],
)
def test_metrics_and_probes(call, message):
    refused(call, message)


def test_no_check_waits_for_a_device(model, monkeypatch):
    """Whatever would copy a value to the host raises, as it would wait for a GPU."""
    video, words = model.video_embedding, model.text_embedding
    index, noise = KEEP.contiguous(), torch.rand(2, 16)

    def wait(*_):
        raise AssertionError("the host waits")

    for name in ("item", "tolist", "__bool__", "__int__", "__float__"):
        monkeypatch.setattr(Tensor, name, wait)
    masks = TubeMasker(GRID, ratio=0.5).from_noise(noise)
    model.pixel_decoder(video(CLIPS, index)[:, :5], keep=index, decode=masks.drop)
    model.encoder.encode_padded(words(IDS), key_mask=REAL)
    features, logits, keys = torch.randn(2, 3, 4), torch.randn(3, 2), torch.arange(3)
    similarity = contrastive_loss(features[0], features[1], keys=keys).similarity
    sample_negatives(keys, similarity=similarity)
    match_loss(logits, logits, valid=keys == 0)
    word_loss(logits, keys - keys)
    pixel_loss(features, features)
