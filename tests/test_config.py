import re

import pytest
import torch

from simvtp.config import (
    PRESETS,
    DataConfig,
    FrameSpacing,
    MaskingConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimConfig,
    PretrainConfig,
    RunConfig,
)
from simvtp.pipelines.finetune.settings import AugmentConfig, TaskDataConfig, TuneConfig
from simvtp.seeding import derive_generator, derive_seed


@pytest.mark.parametrize(
    ("section", "values"),
    [
        (ModelConfig, {"width": 770}),
        (ModelConfig, {"image_size": 225}),
        (ModelConfig, {"depth": 0}),
        (ModelConfig, {"decoder_depth": -1}),
        (ModelConfig, {"extra_tokens": -1}),
        (ModelConfig, {"norm_eps": 0.0}),
        (ModelConfig, {"text_dropout": 1.0}),
        (MaskingConfig, {"video_ratio": 1.0}),
        (MaskingConfig, {"text_ratio": 1.5}),
        (ObjectiveConfig, {"vtc_weight": -1.0}),
        (ObjectiveConfig, {"temperature": 0.0}),
        (DataConfig, {"frame_stride": 0}),
        (DataConfig, {"frame_seconds": 0.0}),
        (DataConfig, {"frame_seconds": float("inf")}),
        (DataConfig, {"num_workers": -2}),
        (DataConfig, {"num_clips": 0}),
        (DataConfig, {"clip_starts": -1}),
        (DataConfig, {"cache_gb": -1.0}),
        (DataConfig, {"crop_scales": (1.2,)}),
        (OptimConfig, {"clip_norm": 0.0}),
        (OptimConfig, {"betas": (0.9, 1.0)}),
        (RunConfig, {"epochs": 0}),
        (RunConfig, {"max_bad_steps": 0}),
        (RunConfig, {"bucket_tokens": -1}),
        (RunConfig, {"compile": "cudagraphs"}),
        (RunConfig, {"checkpoint": "sharded"}),
    ],
)
def test_a_bad_value_is_named(section, values):
    ((name, value),) = values.items()
    shown = value[-1] if name == "betas" else value
    with pytest.raises(ValueError, match=f"(?s){name}.*{re.escape(str(shown))}"):
        section(**values)


def test_a_clip_is_told_in_seconds_or_in_frames():
    assert DataConfig().spacing == FrameSpacing(seconds=0.25)
    assert DataConfig(frame_seconds=0.5).spacing == FrameSpacing(seconds=0.5)
    assert DataConfig(frame_stride=4).spacing == FrameSpacing(stride=4)
    with pytest.raises(ValueError, match=r"got frame_seconds 0\.2 and frame_stride 4; set one"):
        DataConfig(frame_seconds=0.2, frame_stride=4)


@pytest.mark.parametrize(
    ("section", "values"),
    [
        (ModelConfig, {"mlp_ratio": float("inf")}),
        (MaskingConfig, {"text_ratio": float("nan")}),
        (ObjectiveConfig, {"pixel_weight": float("inf")}),
        (DataConfig, {"clip_seconds": 1e30}),
        (DataConfig, {"crop_scales": (1.0, float("nan"))}),
        (OptimConfig, {"lr_per_256": float("inf")}),
        (OptimConfig, {"lr_per_256": 11.0}),
        (OptimConfig, {"weight_decay": 1e30}),
        (OptimConfig, {"clip_norm": float("inf")}),
        (RunConfig, {"checkpoint_minutes": float("inf")}),
        (RunConfig, {"epochs": 10**30}),
        (TuneConfig, {"temperature": float("inf")}),
        (AugmentConfig, {"crop_scale": (0.5, float("nan"))}),
        (TaskDataConfig, {"clip_seconds": float("inf")}),
    ],
)
def test_numbers_beyond_any_use_are_refused(section, values):
    ((name, _),) = values.items()
    with pytest.raises(ValueError, match=name):
        section(**values)


def test_at_least_one_loss_must_be_on():
    off = dict.fromkeys(("pixel_weight", "word_weight", "vtc_weight", "vtm_weight"), 0.0)
    with pytest.raises(ValueError, match="nothing to learn"):
        ObjectiveConfig(**off)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_valid_and_can_be_overridden(name):
    assert ModelConfig.preset(name, num_frames=8).num_frames == 8


def test_unknown_presets_and_settings_are_named():
    with pytest.raises(ValueError, match="huge"):
        ModelConfig.preset("huge")
    with pytest.raises(ValueError, match="colour"):
        ModelConfig.from_dict({"colour": 1})


def test_seeds_depend_on_every_key_and_on_their_number():
    keys = [(), (0,), (0, 0), (1,), (0, 1), (1, 0), (1, 0, 0)]
    seeds = [derive_seed(seed, *key) for seed in (0, 1) for key in keys]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    first, again = (torch.rand(4, generator=derive_generator(3, 1, 2)) for _ in range(2))
    assert torch.equal(first, again)


def test_settings_that_exclude_each_other_are_refused():
    learned = ObjectiveConfig(learn_temperature=True)
    assert PretrainConfig(objective=learned).run.parallel == "ddp"
    with pytest.raises(ValueError, match=r"learn_temperature.*fsdp"):
        PretrainConfig(objective=learned, run=RunConfig(parallel="fsdp"))


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ({}, "bucket_tokens is 0.*set bucket_tokens, to 256"),
        ({"batch_tokens": 9000}, "as many as fit, got 9000"),
        ({"recompute": "block"}, "got block and ddp"),
        ({"parallel": "fsdp"}, "got none and fsdp"),
    ],
)
def test_graphs_go_with_shapes_that_repeat(run, message):
    bucket = {"bucket_tokens": 256} if run else {}
    with pytest.raises(ValueError, match=message):
        RunConfig(compile="graphs", **run, **bucket)
    sound = RunConfig(compile="graphs", bucket_tokens=256)
    with pytest.raises(ValueError, match="steps of one shape"):
        PretrainConfig(run=sound, model=ModelConfig(clip_sizes="up_to"))


@pytest.mark.parametrize(
    ("sizes", "masking", "message"),
    [
        # 4 x 4 tubes in 8 slices; a single tube; 1 tube, so 8 hidden tubelets.
        ({}, {"video_ratio": 0.05}, "masking.video_ratio 0.05 hides no tube of 16: 0 and 0.0625 "),
        ({}, {"video_ratio": 1 - 1e-12}, "hides every tube of 16: 0 and 0.0625 to 0.9375 work"),
        ({"image_size": 16}, {"video_ratio": 0.9}, "hides no tube of 1: only 0 works"),
        (
            {},
            {"video_ratio": 0.0625, "decode_ratio": 0.05},
            "masking.decode_ratio 0.05 reconstructs none of 8 hidden tubelets: 0.125 to 1 work",
        ),
        ({}, {"video_ratio": 0.0}, "masking.video_ratio is 0, so that no pixel is left"),
    ],
)
def test_mask_ratios_that_the_grid_rounds_to_nothing_are_refused(sizes, masking, message):
    model = ModelConfig.preset("tiny", **sizes)
    with pytest.raises(ValueError, match=re.escape(message)):
        PretrainConfig(model=model, masking=MaskingConfig(**masking))


def test_nothing_needs_to_be_hidden_where_no_pixel_is_reconstructed():
    words = ObjectiveConfig(pixel_weight=0.0)
    assert PretrainConfig(masking=MaskingConfig(video_ratio=0.0), objective=words)


def test_runs_from_scratch_balance_gradients_and_others_follow_the_paper():
    scratch, begun = PretrainConfig(), PretrainConfig(init_video="videomae.pth")
    assert (scratch.balances_gradients, scratch.masked_share) == (True, 0.15)
    assert (begun.balances_gradients, begun.masked_share) == (False, 0.0)
    chosen = ObjectiveConfig(balance="fixed", masked_first=0.5)
    assert not PretrainConfig(objective=chosen).balances_gradients
    assert PretrainConfig(objective=chosen, init_video="videomae.pth").masked_share == 0.5
    contrast = ObjectiveConfig(pixel_weight=0, word_weight=0)
    assert PretrainConfig(objective=contrast).masked_share == 0
    with pytest.raises(ValueError, match=r"masked_first is 0.5, but pixel_weight and word_weight"):
        ObjectiveConfig(pixel_weight=0, word_weight=0, masked_first=0.5)
