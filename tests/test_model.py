import json
import os
from pathlib import Path

import pytest
import safetensors.torch
import torch

from simvtp import ModelConfig, SimVTP
from simvtp.config import FrameSpacing
from simvtp.data import train_tokenizer
from simvtp.model_folder import FrameSpacingWarning
from testing.sample_batches import small_config

CAPTIONS = ["a red circle moves left", "the blue star spins", "a dog runs"]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    tokenizer = train_tokenizer(CAPTIONS, vocab_size=200)
    config = small_config(vocab_size=tokenizer.get_vocab_size(), text_dropout=0.1)
    return SimVTP.from_config(
        config, tokenizer=tokenizer, frame_spacing=FrameSpacing(stride=3)
    ).eval()


@pytest.fixture(scope="module")
def clips():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (3, 4, 3, 16, 16), dtype=torch.uint8, generator=generator)


def test_base_is_the_papers_model():
    with torch.device("meta"):
        model = SimVTP.from_config(ModelConfig.preset("base"))
    assert sum(parameter.numel() for parameter in model.parameters()) == 141_521_084
    assert sum(parameter.numel() for parameter in model.pixel_decoder.parameters()) == (
        7_688_448 + 294_912 + 384
    )
    assert sum(p.numel() for p in model.text_embedding.parameters()) == 23_837_184
    assert model.config.grid == (8, 14, 14)


def test_embeddings_are_float32_of_unit_norm(model, clips):
    for embedding in (model.encode_video(clips), model.encode_text(CAPTIONS)):
        assert embedding.dtype == torch.float32
        torch.testing.assert_close(embedding.norm(dim=-1), torch.ones(3))


def test_a_caption_s_embedding_does_not_depend_on_its_batch_mates(model):
    together = model.encode_text(CAPTIONS)
    for caption, embedding in zip(CAPTIONS, together, strict=True):
        torch.testing.assert_close(model.encode_text(caption)[0], embedding)


def test_ids_and_captions_give_the_same_embedding(model):
    encoded = [model.tokenizer.encode(caption).ids for caption in CAPTIONS]
    length = max(map(len, encoded)) + 2
    ids = torch.tensor([row + [0] * (length - len(row)) for row in encoded])
    torch.testing.assert_close(model.encode_text(ids), model.encode_text(CAPTIONS))
    explicit = model.encode_text(ids, attend=ids != 0)
    torch.testing.assert_close(explicit, model.encode_text(CAPTIONS))


def test_matching_is_the_softmax_of_the_pooled_pair(model, clips):
    probability = model.match(clips, CAPTIONS)
    for number, caption in enumerate(CAPTIONS):
        ids = torch.tensor(model.tokenizer.encode(caption).ids)
        video = model.video_embedding(clips[number : number + 1])[0]
        tokens = torch.cat([video, model.text_embedding(ids)])
        pooled = model.encoder.encode_padded(tokens[None])[0].mean(dim=0)
        expected = model.match_head(pooled).softmax(dim=-1)[1]
        torch.testing.assert_close(probability[number], expected)


def test_pairs_must_match_in_number(model, clips):
    with pytest.raises(ValueError, match="2 captions for 3 clips"):
        model.match(clips, CAPTIONS[:2])
    with pytest.raises(ValueError, match="2 captions for 3 clips"):
        model.reconstruct(clips, CAPTIONS[:2])


def test_captions_need_a_tokenizer_and_a_caption(model):
    with pytest.raises(ValueError, match="no tokenizer"):
        SimVTP.from_config(small_config()).encode_text("a dog")
    with pytest.raises(ValueError, match="one or more texts"):
        model.encode_text([])


def test_reconstruction_touches_only_what_is_hidden(model, clips):
    generator = torch.Generator().manual_seed(3)
    result = model.reconstruct(clips, CAPTIONS, video_ratio=0.5, generator=generator)
    grey = (result.masked_video == 128).all(dim=2)
    assert 0.4 < grey.float().mean() < 0.7
    seen = ~grey[:, :, None].expand_as(clips)
    assert torch.equal(result.video[seen], clips[seen])
    assert torch.equal(result.masked_video[seen], clips[seen])
    masked, filled = result.masked_text.values, result.text.values
    hidden_words = masked == model.tokenizer.token_to_id("[MASK]")
    assert hidden_words.any()
    assert torch.equal(masked[~hidden_words], filled[~hidden_words])


def test_reconstruction_of_a_clip_that_is_seen_whole(model, clips):
    result = model.reconstruct(clips, CAPTIONS, video_ratio=0.0, text_ratio=0.0)
    assert torch.equal(result.video, clips)
    assert torch.equal(result.masked_video, clips)
    assert torch.equal(result.text.values, result.masked_text.values)


@pytest.mark.parametrize("target", ["normalized", "raw"])
def test_reconstruction_never_looks_at_hidden_pixels(clips, target):
    torch.manual_seed(0)
    tokenizer = train_tokenizer(CAPTIONS, vocab_size=200)
    config = small_config(vocab_size=tokenizer.get_vocab_size(), pixel_target=target)
    model = SimVTP.from_config(config, tokenizer=tokenizer).eval()

    def run(video):
        return model.reconstruct(video, CAPTIONS, generator=torch.Generator().manual_seed(1))

    first = run(clips)
    hidden = (first.masked_video == 128).all(dim=2, keepdim=True).expand_as(clips)
    other = run(torch.where(hidden, 255 - clips, clips))
    assert torch.equal(first.video[hidden], other.video[hidden])


def test_a_saved_model_comes_back_the_same(model, clips, tmp_path):
    model.save_pretrained(tmp_path)
    names = {"config.json", "model.safetensors", "tokenizer.json", "preprocessor.json"}
    assert names <= {path.name for path in tmp_path.iterdir()}
    again = SimVTP.from_pretrained(tmp_path)
    assert again.config == model.config
    assert again.frame_spacing == FrameSpacing(stride=3)
    assert not again.training
    assert torch.equal(again.encode_video(clips), model.encode_video(clips))
    assert torch.equal(again.match(clips, CAPTIONS), model.match(clips, CAPTIONS))


@pytest.mark.parametrize("spacing", [FrameSpacing(seconds=0.2), FrameSpacing(stride=1)])
def test_the_spacing_of_frames_is_kept(model, tmp_path, spacing):
    SimVTP.from_config(model.config, frame_spacing=spacing).save_pretrained(tmp_path)
    assert SimVTP.from_pretrained(tmp_path).frame_spacing == spacing


def test_an_older_folder_says_what_it_leaves_open(model, tmp_path):
    model.save_pretrained(tmp_path)
    file = tmp_path / "preprocessor.json"
    values = json.loads(file.read_text())
    del values["frame_seconds"]
    file.write_text(json.dumps(values))
    with pytest.warns(FrameSpacingWarning, match="3 of a video's apart, whatever its rate") as said:
        assert SimVTP.from_pretrained(tmp_path).frame_spacing == FrameSpacing(stride=3)
    assert f"convert {tmp_path} --out NEW --frame-seconds 0.12" in str(said[0].message)
    del values["frame_stride"]
    file.write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"preprocessor.json: .*exactly one of them"):
        SimVTP.from_pretrained(tmp_path)


def damage_weights(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def drop_weight(folder):
    path = folder / "model.safetensors"
    weights = safetensors.torch.load_file(path)
    weights["match_head.bias"] = torch.zeros(3)
    del weights["encoder.transformer.norm.bias"]
    safetensors.torch.save_file(weights, path)


def add_setting(folder):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "colour": 1}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_weights, "model.safetensors is not a readable"),
        (drop_weight, r"2 weights: missing encoder.transformer.norm.bias; match_head.bias is \(3,"),
        (add_setting, "unknown model setting.*colour"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json is not valid JSON"),
        (lambda folder: (folder / "preprocessor.json").unlink(), "preprocessor.json is missing"),
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors is missing"),
    ],
)
def test_damaged_folders_are_refused(model, tmp_path, damage, message):
    model.save_pretrained(tmp_path)
    damage(tmp_path)
    with pytest.raises(ValueError, match=message):
        SimVTP.from_pretrained(tmp_path)


def test_an_unknown_name_says_what_to_give_instead():
    with pytest.raises(ValueError, match=r"no/such-model.*neither a folder"):
        SimVTP.from_pretrained("no/such-model", local_files_only=True)


def test_weights_may_be_read_by_whom_the_umask_lets(model, tmp_path):
    previous = os.umask(0o022)
    try:
        model.save_pretrained(tmp_path)
    finally:
        os.umask(previous)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert set(modes.values()) == {0o644}, modes


def test_a_file_that_may_not_be_read_is_called_so(model, tmp_path, monkeypatch):
    model.save_pretrained(tmp_path)
    opened = Path.open

    def refuse(path, *arguments, **options):
        if path.name == "model.safetensors":
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ValueError, match="Permission denied"):
        SimVTP.from_pretrained(tmp_path)
