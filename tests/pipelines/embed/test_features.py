"""Features batch by batch: what the model says of each clip and caption."""

import pytest
import torch

from simvtp.config import FrameSpacing
from simvtp.data import CentreCrop, ClipRecord, ViewDataset, frame_indices, read_clip
from simvtp.model import SimVTP
from simvtp.pipelines.embed import embed, embed_captions
from testing.pipelines.embedded_clips import CAPTIONS, CLIPS, FRAMES, SIZE, STRIDE


def frames_of(record: ClipRecord, num_clips: int) -> list[tuple[float, torch.Tensor]]:
    """Start and frames of evenly spread clips, from the video decoded whole; one is the middle."""
    length = CLIPS[record.video_id]
    whole = CentreCrop(SIZE)(read_clip(record.path, num_frames=length, stride=1))
    clips = []
    for number in range(num_clips):
        position = None if num_clips == 1 else number / (num_clips - 1)
        chosen = frame_indices(length, num_frames=FRAMES, stride=STRIDE, position=position)
        clips.append((chosen[0] / 10, whole[chosen]))
    return clips


@pytest.mark.parametrize(("num_clips", "batch_size"), [(1, 3), (3, 4), (3, 2)])
def test_features_are_what_the_model_says_of_each_clip(model, records, num_clips, batch_size):
    batches = list(embed(model, records, clips_per_video=num_clips, batch_size=batch_size))
    features = torch.cat([batch.features for batch in batches])
    found = [
        (index, video_id, view, start)
        for batch in batches
        for index, video_id, view, start in zip(
            batch.indices.tolist(),
            batch.ids,
            batch.views.tolist(),
            batch.starts.tolist(),
            strict=True,
        )
    ]
    row = 0
    for index, name in enumerate(CLIPS):
        if name == "bad":
            continue
        for view, (start, clip) in enumerate(frames_of(records[index], num_clips)):
            assert found[row][:3] == (index, name, view)
            assert found[row][3] == pytest.approx(start)
            expected = model.encode_video(clip[None])[0]
            assert (features[row] - expected).abs().max() < 1e-6
            row += 1
    assert row == len(features)
    assert features.dtype == torch.float32
    assert (features.double().norm(dim=1) - 1).abs().max() < 1e-6
    assert not features.is_inference()
    unreadable = [clip for batch in batches for clip in batch.unreadable]
    assert unreadable == [(3, "no video that FFmpeg knows, or a damaged one")]


def test_one_clip_is_that_of_the_evaluation(model, records):
    cut = {"num_frames": FRAMES, "spacing": FrameSpacing(stride=STRIDE)}
    dataset = ViewDataset(records, **cut, image_size=SIZE)
    for batch in embed(model, records, batch_size=2):
        for index, feature in zip(batch.indices.tolist(), batch.features, strict=True):
            clip = dataset[index].video
            assert clip is not None
            assert (model.encode_video(clip)[0] - feature).abs().max() < 1e-6


def test_captions(model, records):
    batches = list(embed_captions(model, records, batch_size=2))
    assert [len(batch.indices) for batch in batches] == [3, 3, 3, 1]
    pairs = [(index, words) for index, name in enumerate(CLIPS) for words in CAPTIONS[name]]
    indices = torch.cat([batch.indices for batch in batches]).tolist()
    captions = [words for batch in batches for words in batch.captions]
    assert list(zip(indices, captions, strict=True)) == pairs
    for feature, words in zip(torch.cat([b.features for b in batches]), captions, strict=True):
        assert (model.encode_text(words)[0] - feature).abs().max() < 1e-6


def test_half_precision_is_close_and_of_unit_norm(model, records):
    one, other = (
        torch.cat([batch.features for batch in embed(model, records, precision=precision)])
        for precision in ("fp32", "bf16")
    )
    assert 0 < (one - other).abs().max() < 0.02
    assert (other.norm(dim=1) - 1).abs().max() < 1e-6


def test_later_records_by_themselves(model, records):
    settings = {"clips_per_video": 2, "batch_size": 4}
    whole, rest = (list(embed(model, records, start=n, **settings)) for n in (0, 4))
    for one, other in zip(whole[2:], rest, strict=True):
        assert one.indices.tolist() == other.indices.tolist()
        assert torch.equal(one.features, other.features)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"clips_per_video": 0}, "clips_per_video must be at least 1, got 0"),
        ({"num_workers": -1}, "num_workers must be at least 0, got -1"),
        ({"start": -1}, "start must be at least 0, got -1"),
    ],
)
def test_counts_are_checked_at_once(model, records, settings, message):
    with pytest.raises(ValueError, match=message):
        embed(model, records, **settings)
    with pytest.raises(TypeError, match="as load_clips reads them, got 'clips"):
        embed(model, "clips.csv", **settings)
    with pytest.raises(ValueError, match="got no records"):
        embed(model, [])


def test_features_that_are_no_numbers_are_refused(model_folder, records):
    broken = SimVTP.from_pretrained(model_folder)
    with torch.no_grad():
        next(broken.encoder.parameters()).fill_(float("nan"))
    with pytest.raises(ValueError, match=r"features of .*a\.mp4 are not finite"):
        next(embed(broken, records))
