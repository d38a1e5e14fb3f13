"""Files that are named in Python: features and ranks are those of the commands."""

from pathlib import Path

import numpy as np
import pytest
import torch

from simvtp import SimVTP
from simvtp.clip_features import clip_features
from simvtp.data import CentreCrop, ClipRecord, read_clip
from simvtp.data.listed_files import MANY_FILES
from simvtp.retrieval.embedding import embed
from simvtp.retrieval.gallery import embed_gallery
from testing.data.video_files import write_video_file

QUERIES = ["a red circle moves left", "a green moon gets bigger"]
LENGTHS = {"b": 40, "a": 24, "c": 9}


@pytest.fixture(scope="module")
def model():
    return SimVTP.from_pretrained("shapes")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Noise of different lengths."""
    folder = tmp_path_factory.mktemp("clips")
    drawn = np.random.default_rng(0)
    for name, length in LENGTHS.items():
        pictures = drawn.integers(0, 256, (length, 48, 64, 3), np.uint8)
        write_video_file(folder / f"{name}.mp4", list(pictures))
    return [str(folder / f"{name}.mp4") for name in LENGTHS]


def records_of(files):
    return [ClipRecord(Path(file).stem, file, (QUERIES[0],)) for file in files]


def test_features_are_those_of_embed_and_of_evaluation(model, files):
    features = model.embed_files(files)
    assert (features.dtype, features.shape) == (torch.float32, (3, model.config.width))
    assert not features.is_inference()
    assert (features.double().norm(dim=1) - 1).abs().max() < 1e-6
    embedded = torch.cat([batch.features for batch in embed(model, records_of(files))])
    assert torch.equal(features, embedded)
    assert torch.equal(features, embed_gallery(model, records_of(files)).video)
    averaged = model.embed_files(files, clips=3)
    assert torch.equal(averaged, embed_gallery(model, records_of(files), views=(3, 1)).video)
    assert not torch.equal(averaged, features)


def test_batches_change_nothing(model, files):
    assert (model.embed_files(files, batch_size=2) - model.embed_files(files)).abs().max() < 1e-6


def test_files_are_ranked_by_the_cosine(model, files):
    """Of features and captions that are computed one by one."""
    cosine = {}
    for query in QUERIES:
        for file in files:
            with torch.no_grad():
                text = model.encode_text(query)[0].double()
                clip = model.encode_video(middle_of(file, model))[0].double()
            cosine[query, file] = float(text @ clip)
    several = model.rank(QUERIES, files)
    for query, ranked in zip(QUERIES, several, strict=True):
        order = sorted(files, key=lambda file: -cosine[query, file])
        assert [file for file, _ in ranked] == order
        assert [score for _, score in ranked] == pytest.approx(
            [cosine[query, file] for file in order], abs=1e-5
        )
    for number, query in enumerate(QUERIES):
        (best,) = model.rank(query, files, features=model.embed_files(files), top=1)
        assert best.file == several[number][0].file
        assert best.score == pytest.approx(several[number][0].score, abs=1e-6)
        assert len(model.rank(query, files)) == len(files)


def middle_of(file, model):
    """The middle clip, decoded and cut by itself."""
    cut = {"num_frames": model.config.num_frames, "seconds": model.frame_spacing.seconds}
    return CentreCrop(model.config.image_size)(read_clip(file, **cut))[None]


def test_equal_scores_stay_in_the_order_of_the_files(model, files):
    same = [files[1], files[0], files[1]]
    ranked = model.rank(QUERIES[0], same, features=torch.eye(3, model.config.width)[[0, 0, 0]])
    assert [file for file, _ in ranked] == same


@pytest.fixture
def mixed(files, tmp_path):
    """The files with one that is no video and one that is not there."""
    (tmp_path / "notes.txt").write_text("no video")
    return [files[0], tmp_path / "notes.txt", files[1], str(tmp_path / "gone.mp4"), files[2]]


def test_unreadable_files_are_refused_or_left_out(model, files, mixed):
    with pytest.raises(ValueError, match=r"1 of the 5 files are not there: .*gone\.mp4; check"):
        model.embed_files(mixed)
    with pytest.raises(ValueError, match=r"notes\.txt cannot be read: no video.*left_out=\{\}"):
        model.embed_files(mixed[:3])
    left_out = {}
    features = model.embed_files(mixed, left_out=left_out)
    assert list(left_out) == [mixed[1], mixed[3]]
    assert left_out[mixed[3]] == "No such file or directory"
    assert (features - model.embed_files(files)).abs().max() < 1e-6
    ranked = model.rank(QUERIES[0], mixed, left_out={})
    assert [file for file, _ in ranked] == [file for file, _ in model.rank(QUERIES[0], files)]
    with pytest.raises(ValueError, match="features must be those of the 5 files"):
        model.rank(QUERIES[0], mixed, features=features)


def test_nothing_readable_gives_no_rows(model, tmp_path):
    left_out = {}
    features = model.embed_files([tmp_path / "gone.mp4"], left_out=left_out)
    assert features.shape == (0, model.config.width)
    assert len(left_out) == 1
    assert model.rank("a", [tmp_path / "gone.mp4"], left_out=left_out) == []


def test_many_files_are_decoded_where_a_crash_costs_one(model, files, monkeypatch, capsys):
    asked = []

    def features(model, records, *, num_workers, **settings):
        asked.append(num_workers)
        return clip_features(model, records, num_workers=0, **settings)

    monkeypatch.setattr("simvtp.clip_features.clip_features", features)
    for count in (MANY_FILES - 1, MANY_FILES):
        rows = model.embed_files([files[2]] * count)
        assert (rows - rows[0]).abs().max() < 1e-6
        assert len(rows) == count
    assert asked == [0, 1]
    assert capsys.readouterr().err == "", "nobody looks at it"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("clip.mp4",), TypeError, "must be a list of paths, got 'clip.mp4'; write \\[file\\]"),
        ((Path("clip.mp4"),), TypeError, "must be a list of paths"),
        (([],), ValueError, "at least one video file"),
    ],
)
def test_wrong_files_are_told(model, arguments, error, message):
    with pytest.raises(error, match=message):
        model.embed_files(*arguments)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"clips": 0}, "clips must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"top": 0}, "top must be at least 1, got 0"),
        ({"features": torch.zeros(3, 1), "clips": 2}, "leave out clips, or features="),
    ],
)
def test_wrong_settings_are_told(model, files, settings, message):
    with pytest.raises(ValueError, match=message):
        model.rank(QUERIES[0], files, **settings)


def test_a_model_of_no_numbers_is_told(files):
    broken = SimVTP.from_pretrained("shapes")
    with torch.no_grad():
        next(broken.encoder.parameters()).fill_(float("nan"))
    with pytest.raises(ValueError, match=r"features of .*b\.mp4 are not finite"):
        broken.embed_files(files)


def test_a_query_of_unknown_words_is_warned_of(model, files):
    with pytest.warns(UserWarning, match="'zebra yawns' is mostly words that the model's vocab"):
        ranked = model.rank("zebra yawns", files)
    assert len(ranked) == len(files)
