"""Random changes of clips and batches: what they depend on, and what they keep."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from simvtp.data.video.augment import ClipAugment, MixAugment


def generator(seed):
    return torch.Generator().manual_seed(seed)


def clip(frames=3, height=20, width=30, seed=0):
    shape = (frames, 3, height, width)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator(seed))


@given(
    seed=st.integers(0, 2**40),
    height=st.integers(8, 40),
    width=st.integers(8, 40),
    operations=st.integers(0, 2),
)
def test_clips_depend_on_the_generator_alone(seed, height, width, operations):
    augment = ClipAugment(
        16, flip_probability=0.5, num_operations=operations, erase_probability=0.5
    )
    video = clip(height=height, width=width)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = augment(video, generator=generator(seed))
    assert torch.equal(torch.get_rng_state(), state), "the global generator was used"
    torch.manual_seed(2)
    assert torch.equal(augment(video, generator=generator(seed)), first)
    assert first.shape == (3, 3, 16, 16)
    assert first.dtype == torch.uint8


@given(seed=st.integers(0, 1000))
def test_all_frames_change_alike(seed):
    still = clip(frames=1).expand(4, -1, -1, -1)
    augment = ClipAugment(16, flip_probability=0.5, num_operations=2, erase_probability=0.5)
    changed = augment(still, generator=generator(seed))
    assert torch.equal(changed, changed[:1].expand_as(changed))


def test_a_whole_crop_of_the_right_size_changes_nothing_but_flips():
    video = clip(height=16, width=16)
    whole = {"scale": (1.0, 1.0), "ratio": (1.0, 1.0)}
    assert torch.equal(ClipAugment(16, **whole)(video, generator=generator(0)), video)
    flipped = ClipAugment(16, **whole, flip_probability=1.0)(video, generator=generator(0))
    assert torch.equal(flipped, video.flip(-1))


@pytest.mark.parametrize(
    "wrong",
    [
        *({"size": 0}, {"num_operations": -1}, {"ratio": (2.0, 1.0)}, {"ratio": (0.0, 1.0)}),
        *({"scale": (0.0, 1.0)}, {"scale": (0.9, 0.5)}, {"magnitude": 31}),
        *({"flip_probability": 1.1}, {"erase_probability": -0.1}),
    ],
)
def test_impossible_numbers_are_refused(wrong):
    with pytest.raises(ValueError, match="got"):
        ClipAugment(**({"size": 16} | wrong))


@given(seed=st.integers(0, 10_000))
def test_cuts_keep_to_their_area_and_ratio(seed):
    """Each pixel tells its place, so the first and last ones of the cut tell its sides."""
    across = torch.arange(200, dtype=torch.uint8).expand(160, 200)
    down = torch.arange(160, dtype=torch.uint8)[:, None].expand(160, 200)
    video = torch.stack([across, down, torch.zeros_like(down)])[None]
    augment = ClipAugment(64, scale=(0.3, 0.6), ratio=(0.8, 1.25))
    cut = augment(video, generator=generator(seed))[0].float()
    # The centres of the outermost of 64 pixels stand 63/64 of a side apart.
    width, height = (
        (cut[channel].max() - cut[channel].min()).item() * 64 / 63 for channel in (0, 1)
    )
    assert 0.3 * 0.93 < width * height / (160 * 200) < 0.6 * 1.07
    assert 0.8 * 0.93 < width / height < 1.25 * 1.07


def test_operations_and_erasing_act_as_often_as_asked():
    video = clip(height=32, width=32).clamp(min=1)
    whole = {"scale": (1.0, 1.0), "ratio": (1.0, 1.0)}
    changed = [
        not torch.equal(
            ClipAugment(32, **whole, num_operations=2, magnitude=20)(
                video, generator=generator(seed)
            ),
            video,
        )
        for seed in range(40)
    ]
    # One of the 14 operations leaves a clip as it is.
    assert sum(changed) > 30
    erase = ClipAugment(32, **whole, erase_probability=0.25)
    erased = 0
    for seed in range(400):
        black = (erase(video, generator=generator(seed)) == 0).all(dim=(0, 1))
        erased += bool(black.any())
        rows, columns = black.any(dim=1).nonzero(), black.any(dim=0).nonzero()
        if len(rows):
            assert black[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].all()
    # Four standard deviations of 400 draws.
    assert erased / 400 == pytest.approx(0.25, abs=0.087)


def test_no_other_device_is_seeded(monkeypatch):
    def refuse(seed):
        raise AssertionError("the generators of CUDA devices were set")

    monkeypatch.setattr(torch.cuda, "manual_seed_all", refuse)
    state = torch.get_rng_state()
    ClipAugment(16, num_operations=1)(clip(), generator=generator(0))
    MixAugment()(clip()[None].expand(2, -1, -1, -1, -1), torch.eye(2), seed=0)
    assert torch.equal(torch.get_rng_state(), state)


def test_mixing_treats_all_frames_alike_and_leaves_the_batch_as_it_was():
    still = torch.stack([clip(frames=1, seed=seed).expand(4, -1, -1, -1) for seed in range(3)])
    before = still.clone()
    for alphas in ((0.8, 0.0), (0.0, 1.0)):
        mix = MixAugment(mixup_alpha=alphas[0], cutmix_alpha=alphas[1])
        outcomes = [mix(still, torch.eye(3), seed=seed)[0] for seed in range(5)]
        for mixed in outcomes:
            assert torch.equal(mixed, mixed[:, :1].expand_as(mixed))
        assert len({tuple(mixed.flatten().tolist()) for mixed in outcomes}) == 5
    assert torch.equal(still, before)


@pytest.mark.parametrize("alphas", [(0.8, 0.0), (0.0, 1.0), (0.8, 1.0)])
def test_targets_are_mixed_as_the_pixels_are(alphas):
    """Each clip is one grey: its mean tells how much of which clip is in it."""
    levels = torch.tensor([0, 100, 200, 40], dtype=torch.uint8)
    video = levels.view(4, 1, 1, 1, 1).expand(4, 2, 3, 32, 32)
    targets = torch.eye(4)
    mix = MixAugment(mixup_alpha=alphas[0], cutmix_alpha=alphas[1])
    for seed in range(8):
        mixed, soft = mix(video, targets, seed=seed)
        assert mixed.dtype == torch.uint8
        assert mixed.shape == video.shape
        torch.testing.assert_close(soft.sum(dim=1), torch.ones(4))
        expected = soft @ levels.float()
        torch.testing.assert_close(mixed.float().mean(dim=(1, 2, 3, 4)), expected, atol=1, rtol=0)
        again, soft_again = mix(video, targets, seed=seed)
        assert torch.equal(mixed, again)
        assert torch.equal(soft, soft_again)


def test_a_single_clip_and_switched_off_mixing_stay_as_they_are():
    video, targets = clip()[None], torch.ones(1, 2) / 2
    for mix in (MixAugment(), MixAugment(mixup_alpha=0, cutmix_alpha=0)):
        mixed, soft = mix(video, targets, seed=0)
        assert torch.equal(mixed, video)
        assert torch.equal(soft, targets)
    with pytest.raises(ValueError, match="alphas must be >= 0"):
        MixAugment(mixup_alpha=-1)
