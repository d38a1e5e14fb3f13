"""Photographs and small clips beside whole ones: sizes by source, refused or trained on."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.small_runs import logged
from simvtp.config import (
    DataConfig,
    DataSource,
    MaskingConfig,
    ModelConfig,
    PretrainConfig,
    RunConfig,
)
from simvtp.data import load_clips, load_tokenizer, train_tokenizer
from simvtp.model import SimVTP
from simvtp.pipelines.pretrain import command as pretrain
from simvtp.pipelines.pretrain.setup import build_training_loader, load_data

MODEL = ModelConfig(
    num_frames=4,
    image_size=32,
    patch_size=8,
    width=16,
    depth=1,
    num_heads=2,
    decoder_width=16,
    decoder_depth=1,
    decoder_heads=2,
    clip_sizes="up_to",
)


def settings_of(corpus, photographs, out, **model):
    train, root = str(corpus.train), str(corpus.root)
    return PretrainConfig(
        model=replace(MODEL, **model),
        masking=MaskingConfig(video_ratio=0.5),
        data=DataConfig(
            train=(
                DataSource(path=train, root=root, name="videos"),
                DataSource(path=str(photographs), num_frames=2, name="photos"),
                DataSource(
                    path=str(corpus.train), root=str(corpus.root), image_size=16, name="small"
                ),
            ),
            epoch_clips=24,
            num_workers=0,
        ),
        run=replace(PretrainConfig().run, batch_size=12, out=str(out)),
    )


def test_a_photograph_is_a_clip_of_one_tubelet_beside_whole_clips(corpus, photographs, tmp_path):
    config = settings_of(corpus, photographs, tmp_path)
    data = load_data(config.data)
    train_tokenizer(data.train.captions(), vocab_size=200).save(str(tmp_path / "words.json"))
    loader = build_training_loader(
        config,
        train=data.train,
        files=data.files,
        tokenizer=load_tokenizer(tmp_path / "words.json"),
    )
    seen = 0
    for batch in loader.loader:
        sizes = [tuple(group.video.shape[1:]) for group in batch.groups]
        assert sizes == [(4, 3, 32, 32), (2, 3, 32, 32), (4, 3, 16, 16)]
        ends = np.cumsum([len(group.video) for group in batch.groups])
        for number, group in enumerate(batch.groups):
            for index in batch.index[ends[number] - len(group.video) : ends[number]].tolist():
                assert data.train.source_of(index) == number
        stills, numbers = batch.groups[1].video, batch.index[ends[0] : ends[1]]
        for still, index in zip(stills, numbers.tolist(), strict=True):
            photo = index - data.train.clips_of(1).start
            assert (still.float() - (25 * photo + 10)).abs().max() <= 3
            seen += 1
        # Half of the places of each grid, in all of its slices.
        kept = [group.keep.shape[1] for group in batch.groups]
        assert kept == [2 * 16 // 2, 16 // 2, 2 * 4 // 2]
        loader.sampler.advance()
    assert seen == 5  # Of 24 clips the share of 8 among 40.


@pytest.mark.parametrize(
    ("source", "model", "reason"),
    [
        (
            {"num_frames": 2},
            {"clip_sizes": "fixed"},
            "2 and the model 4.*clip_sizes up_to",
        ),
        ({"num_frames": 8}, {}, "num_frames 8 and the model 4"),
        ({"num_frames": 3}, {}, "num_frames must be a multiple of tubelet_frames"),
        ({"image_size": 20}, {}, "image_size must be a multiple of patch_size"),
        ({"image_size": 8}, {}, "masking.video_ratio"),
        ({"num_frames": 0}, {}, "num_frames must be at least 1"),
    ],
)
def test_sizes_that_the_model_cannot_take_are_refused(source, model, reason):
    with pytest.raises(ValueError, match=reason):
        PretrainConfig(
            model=replace(MODEL, **model),
            masking=MaskingConfig(video_ratio=0.5),
            data=DataConfig(train=(DataSource(path="a.csv", **source),)),
        )


@pytest.mark.parametrize(
    ("data", "run", "reason"),
    [
        ({"cache_gb": 1, "clip_starts": 1}, {}, "cache_gb 1 keeps clips of one size"),
        ({}, {"parallel": "fsdp"}, "fsdp gathers weights for each size of clips.*use ddp"),
    ],
)
def test_clips_of_several_sizes_are_not_kept_decoded_nor_trained_on_in_shares(data, run, reason):
    with pytest.raises(ValueError, match=reason):
        PretrainConfig(
            model=MODEL,
            masking=MaskingConfig(video_ratio=0.5),
            data=DataConfig(train=(DataSource(path="a.csv", num_frames=2),), **data),
            run=RunConfig(**run),
        )


def test_a_run_over_videos_and_photographs(corpus, photographs, settings_for, tmp_path):
    sources = (
        f"[{{path: {corpus.train}, root: {corpus.root}, name: videos}}, "
        f"{{path: {photographs}, num_frames: 2, name: photos}}]"
    )
    run = tmp_path / "run"
    settings = {"data__train": sources, "model__clip_sizes": "up_to", "run__epochs": 1}
    assert pretrain.main(settings_for(run, **settings, model__patch_size=8)) == 0
    line = next(line for line in logged(run) if "event" not in line)
    for source in ("videos", "photos"):
        assert line[f"clips {source}"] > 0
        assert line[f"pixels {source}"] > 0
    model = SimVTP.from_pretrained(run / "model")
    assert model.config.clip_sizes == "up_to"
    still = torch.zeros(1, 2, 3, 32, 32, dtype=torch.uint8)
    assert model.encode_video(still).norm().item() == pytest.approx(1)
    assert len(load_clips(photographs)) == 8
