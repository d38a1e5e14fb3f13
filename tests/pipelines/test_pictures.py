"""Of many clips the picture shows those that leave most to be filled in."""

import torch

from simvtp import SimVTP
from simvtp.data import ViewDataset, load_manifest, load_tokenizer, train_tokenizer
from simvtp.layers import PackedLayout, PackedTokens
from simvtp.pipelines import pictures
from simvtp.reconstruction import Reconstruction
from testing.sample_batches import small_config


def test_clips_of_most_contrast_are_drawn(corpus, tmp_path, monkeypatch):
    records = load_manifest(corpus.validation)
    tokenizer = train_tokenizer(load_manifest(corpus.train).captions())
    config = small_config(vocab_size=tokenizer.get_vocab_size(), max_text_length=32)
    model = SimVTP.from_config(config, tokenizer=tokenizer).eval()
    drawn = {}
    keep = lambda rows, *, out_png, note: drawn.update(rows=rows, note=note)  # noqa: E731
    monkeypatch.setattr(pictures, "draw_reconstruction", keep)
    pictures.picture_of(model, records, out_png=tmp_path / "x.png")
    clips = ViewDataset(records, num_frames=4, spacing=model.frame_spacing, image_size=16)
    contrast = []
    for number in range(len(clips)):
        frames = clips[number].video[0].double()
        parts = [
            frames[t, c, y : y + 4, x : x + 4].std(correction=0)
            for t in range(4)
            for c in range(3)
            for y in range(0, 16, 4)
            for x in range(0, 16, 4)
        ]
        contrast.append(float(torch.stack(parts).mean()))
    best = sorted(sorted(range(len(clips)), key=lambda number: -contrast[number])[:4])
    assert [row.caption for row in drawn["rows"]] == [records[n].captions[0] for n in best]
    assert "the 4 of 6 clips with most contrast" in drawn["note"]
    pictures.picture_of(model, records[:2], out_png=tmp_path / "x.png")
    assert len(drawn["rows"]) == 2
    assert "of 2 clips" not in drawn["note"]


def test_words_are_drawn_whole(tmp_path):
    vocabulary = tmp_path / "vocab.txt"
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "spin", "##ning", "##s", "red"]
    vocabulary.write_text("\n".join(pieces))
    tokenizer = load_tokenizer(vocabulary)
    config = small_config(vocab_size=len(pieces), max_text_length=12)
    model = SimVTP.from_config(config, tokenizer=tokenizer)

    def packed(words):
        ids = [tokenizer.token_to_id(word) for word in words.split()]
        return PackedTokens(torch.tensor(ids), PackedLayout((len(ids),), model.device))

    def texts(masked, guessed):
        filled = Reconstruction(torch.empty(0), torch.empty(0), packed(masked), packed(guessed))
        (found,) = pictures._texts(model, ["a spinning red spins"], filled)
        return found

    # The caption is [CLS] a spin ##ning red spin ##s [SEP].
    assert texts(
        "[CLS] a [MASK] [MASK] [MASK] spin ##s [SEP]", "[CLS] a spin ##ning a spin ##s [SEP]"
    ) == ("a ____ ____ spins", "a [spinning] [a] spins")
    assert texts(
        "[CLS] a spin [MASK] red [MASK] [MASK] [SEP]", "[CLS] a spin ##s red a red [SEP]"
    ) == ("a spin__ red ____", "a spin[s] red [a|red]")
