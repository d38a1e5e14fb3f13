"""Random changes of clips and batches: what they depend on, and what they keep."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from simvtp.data.augment import ClipAugment
from simvtp.data.mix import MixAugment


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
    [{"scale": (0.0, 1.0)}, {"scale": (0.9, 0.5)}, {"magnitude": 31}, {"flip_probability": 1.1}],
)
def test_impossible_numbers_are_refused(wrong):
    with pytest.raises(ValueError, match="got"):
        ClipAugment(16, **wrong)


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
