"""A clip spans the same seconds and shows the same moments, whatever the rate of its video."""

import json

import av
import numpy as np
import pytest
import torch

from export.triton import command as triton
from simvtp.config import DataConfig, FrameSpacing
from simvtp.data import CentreCrop, ClipDataset, ClipRecord
from simvtp.data.datasets.clip_batches import clip_batches
from simvtp.retrieval.embedding import embed
from testing.export.triton_backend import Request, as_json, configs_of, load_backend_model

RATES = (12, 25, 30, 60)
SECONDS = 4
DARKEST, PER_SECOND = 20, 50
# A grey level is 0.02 s, and encoders may be off by two.
ROUNDING = 0.05
# Four frames a quarter of a second apart, in the middle of four seconds.
MIDDLE = np.array([1.5, 1.75, 2.0, 2.25])


def write_dawn(file, rate):
    """A picture that grows lighter with time, at some rate."""
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "5"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(SECONDS * rate):
            grey = np.full((48, 64, 3), DARKEST + round(PER_SECOND * number / rate), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        container.mux(stream.encode())
    return file


def moments_of(clip):
    """Seconds at which the frames of a `(frames, 3, height, width)` clip were taken."""
    return (np.asarray(clip, dtype=float).mean(axis=(1, 2, 3)) - DARKEST) / PER_SECOND


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rates")
    return [
        ClipRecord(str(rate), write_dawn(folder / f"{rate}.mp4", rate), ("dawn",)) for rate in RATES
    ]


def require_moments(clips, wanted):
    """Each frame is the latest one that is not after the wanted moment."""
    for rate, clip in zip(RATES, clips, strict=True):
        late = wanted - moments_of(clip)
        assert late.min() > -ROUNDING, rate
        assert late.max() < 1 / rate + ROUNDING, rate


def test_evaluation_and_embeddings_see_the_same_moments(exported_model, records):
    assert exported_model.frame_spacing == DataConfig().spacing == FrameSpacing(seconds=0.25)
    (batch,) = clip_batches(exported_model, records, batch_size=4, num_workers=0)
    require_moments(batch.video, MIDDLE)
    (embedded,) = embed(exported_model, records)
    with torch.inference_mode():
        features = exported_model.encode_video(batch.video)
    torch.testing.assert_close(embedded.features, features)
    assert embedded.starts.tolist() == pytest.approx([1.5] * 4)
    views = clip_batches(exported_model, records, batch_size=12, num_workers=0, views=(3, 1))
    clips = next(views).video.unflatten(0, (4, 3))
    for place, start in enumerate((0.0, 1.5, 3.0)):
        require_moments(clips[:, place], MIDDLE - 1.5 + start)


def test_training_sees_the_same_moments(exported_model, records, monkeypatch):
    dataset = ClipDataset(
        records,
        tokenizer=exported_model.tokenizer,
        num_frames=4,
        spacing=DataConfig().spacing,
        transform=CentreCrop(32),
        max_text_length=8,
        num_noise=1,
        seed=0,
    )
    starts = []
    for place in np.linspace(0, 0.99, 5):
        # The start is the one thing that is drawn, and drawn alike for all rates.
        monkeypatch.setattr("torch.rand", lambda *_, value=place, **__: torch.tensor(value))
        draw = {"epoch": 0, "generator": torch.Generator()}
        moments = [moments_of(dataset.read(n, **draw)) for n in range(len(records))]
        # Starts reach one frame of their video further, and a frame shown may be one frame old.
        assert np.ptp(moments, axis=0).max() < 2 / min(RATES) + ROUNDING
        for rate, one in zip(RATES, moments, strict=True):
            assert np.abs(np.diff(one) - 0.25).max() < 1 / rate + ROUNDING
        starts.append(moments[0][0])
    assert np.ptp(starts) > 2.5


def test_the_server_sees_the_same_moments(exported, records, tmp_path, monkeypatch):
    assert json.loads((exported.path / "preprocessor.json").read_text())["frame_seconds"] == 0.25
    options = ["--from", str(exported.path), "--out", str(tmp_path / "models"), "--device", "cpu"]
    assert triton.main([*options, "--backend", "python"]) == 0
    repository = tmp_path / "models"
    model = load_backend_model(repository / "preprocess" / "1" / "model.py", monkeypatch)
    model.initialize({"model_config": as_json(configs_of(repository)["preprocess"])})
    videos = np.array([[record.path.read_bytes()] for record in records], dtype=object)
    (answer,) = model.execute([Request(VIDEO=videos)])
    require_moments(answer["frames"], MIDDLE)


@pytest.mark.parametrize(
    ("spacing", "said"),
    [
        # As older exports have it.
        ({"frame_stride": 4}, {"frame_stride": "4"}),
        ({"frame_seconds": None, "frame_stride": 2}, {"frame_stride": "2"}),
        ({"frame_seconds": 0.2, "frame_stride": None}, {"frame_seconds": "0.2"}),
        ({"frame_seconds": 0.2, "frame_stride": 4}, None),
        ({}, None),
    ],
)
def test_the_server_is_told_seconds_or_a_stride(exported_copy, tmp_path, capsys, spacing, said):
    sizes = {"num_frames": 4, "image_size": 32}
    (exported_copy / "preprocessor.json").write_text(json.dumps(sizes | spacing))
    out = tmp_path / "models"
    options = ["--from", str(exported_copy), "--out", str(out), "--device", "cpu"]
    assert triton.main([*options, "--backend", "python"]) == (2 if said is None else 0)
    printed = " ".join(capsys.readouterr().out.split())
    if said is None:
        assert "preprocessor.json: the frames of a clip are told apart by seconds or by" in printed
        return
    parameters = configs_of(out)["preprocess"].parameters
    limits = [name for name in parameters if name.startswith("max_")]
    found = {name: one.string_value for name, one in parameters.items() if name not in limits}
    assert found == {"num_frames": "4", "image_size": "32"} | said
    ((name, value),) = said.items()
    assert f"clips of videos: num_frames 4, {name} {value}, image_size 32" in printed
