import csv
from dataclasses import asdict

import numpy as np
import pytest

from export.samples import batch_of, batches_of, draw_samples, read_samples
from simvtp.data.synthetic import render_corpus


@pytest.fixture(scope="module")
def config(exported_model):
    return asdict(exported_model.config)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    sizes = {"num_train": 1, "num_validation": 3, "size": 48, "num_frames": 20}
    return render_corpus(folder, **sizes, num_processes=1, progress=False)


def test_real_clips_come_with_their_captions(corpus, config, exported_model, exported_model_folder):
    samples = read_samples(corpus.validation, model=exported_model_folder, config=config)
    assert samples.frames.shape == (3, 4, 3, 32, 32)
    assert samples.origin == f"3 clips of {corpus.validation} and their captions"
    with corpus.validation.open(newline="") as opened:
        captions = [row["caption"] for row in csv.DictReader(opened)]
    for caption, ids in zip(captions, samples.captions, strict=True):
        assert ids.tolist() == exported_model.pack_text(caption).values.tolist()


def test_a_folder_of_videos_gets_drawn_captions(corpus, config, exported_model_folder):
    samples = read_samples(corpus.root, model=exported_model_folder, config=config)
    assert len(samples.frames) == len(samples.captions) == 4
    assert "captions drawn by a formula" in samples.origin


def test_a_batch_repeats_samples_and_cuts_captions_before_their_last_token(config):
    samples = draw_samples(config, tokens=12)
    assert len(samples.captions[0]) == 12
    inputs = batch_of(samples, "match", sizes={"batch": 18, "tokens": 5}, config=config)
    for row in range(18):
        ids = samples.captions[row % 16].tolist()
        expected = ids if len(ids) <= 5 else [*ids[:4], ids[-1]]
        padding = 5 - len(expected)
        assert inputs["token_ids"][row].tolist() == expected + [config["padding_id"]] * padding
        assert inputs["attention_mask"][row].tolist() == [1] * len(expected) + [0] * padding
        np.testing.assert_array_equal(inputs["frames"][row], samples.frames[row % 16])


def test_batches_hold_all_samples_in_order(config):
    samples = draw_samples(config, tokens=9)
    sizes = {"batch": 5, "tokens": 9}
    batches = list(batches_of(samples, "video", sizes=sizes, config=config))
    frames = np.concatenate([inputs["frames"] for inputs in batches])
    assert frames.shape[0] == 20
    np.testing.assert_array_equal(frames[:16], samples.frames)
    np.testing.assert_array_equal(frames[16:], samples.frames[:4])
