import csv
from dataclasses import asdict
from functools import partial

import numpy as np
import onnx
import pytest

from export.onnx.folder import export_folder
from export.parity.samples import batch_of, batches_of, draw_samples, read_samples
from export.runtime.folder import Range
from simvtp.config import DEFAULT_SPACING
from simvtp.data.corpus.rendering import render_corpus


@pytest.fixture(scope="module")
def config(exported_model):
    return asdict(exported_model.config)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    sizes = {"num_train": 1, "num_validation": 3, "size": 48, "num_frames": 20}
    return render_corpus(folder, **sizes, num_processes=1, progress=False)


@pytest.fixture
def read(config, exported_model_folder):
    tokenizer = exported_model_folder / "tokenizer.json"
    return partial(read_samples, tokenizer=tokenizer, config=config, spacing=DEFAULT_SPACING)


def test_real_clips_come_with_their_captions(corpus, read, exported_model):
    samples = read(corpus.validation)
    assert samples.frames.shape == (3, 4, 3, 32, 32)
    assert samples.origin == f"3 clips of {corpus.validation.name} and their captions"
    with corpus.validation.open(newline="") as opened:
        captions = [row["caption"] for row in csv.DictReader(opened)]
    for caption, ids in zip(captions, samples.captions, strict=True):
        assert ids.tolist() == exported_model.pack_text(caption).values.tolist()


def test_a_folder_of_videos_gets_drawn_captions(corpus, read):
    samples = read(corpus.root)
    assert len(samples.frames) == len(samples.captions) == 4
    assert "captions drawn by a formula" in samples.origin


def test_int8_is_calibrated_and_compared_on_the_clips(corpus, exported_model_folder, tmp_path):
    options = {
        "precision": "int8",
        "int8_method": "static",
        "batch": Range(1, 2, 2),
        "atol": 0.2,
        "min_cosine": 0.9,
    }
    command = (exported_model_folder, tmp_path / "out")
    exported = export_folder(*command, **options, clips=corpus.validation, graphs=("text",))
    [note] = [note for note in exported.report["notes"] if corpus.validation.name in note]
    assert f"on 3 clips of {corpus.validation.name} and their captions" in note
    drawn = export_folder(exported_model_folder, tmp_path / "drawn", **options, graphs=("text",))
    ranges = [
        [
            onnx.numpy_helper.to_array(tensor).item()
            for tensor in onnx.load(folder.file("text")).graph.initializer
            if tensor.name.endswith("_scale") and not tensor.dims
        ]
        for folder in (exported, drawn)
    ]
    assert len(ranges[0]) == len(ranges[1]) > 0
    assert ranges[0] != ranges[1]


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
