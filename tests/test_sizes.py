"""Clips of several sizes in one packed step: each sequence is what it is by itself."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from simvtp.batch import Batch, Collator
from simvtp.layers import gather_tubelets, grid_of, place_within
from simvtp.losses import pixel_targets, sample_negatives_within
from simvtp.masking import RunningCellMasker, TextMasker, TubeMasker
from simvtp.objective import Objective
from simvtp.step_features import ExtraTerm
from testing.sample_batches import MASK, SPECIAL, samples_of, small_config, small_model

TUBELET = (2, 4, 4)
WHOLE, STILL, SHORT, SMALL = (4, 16, 16), (2, 16, 16), (2, 16, 8), (4, 8, 8)


def cut(samples, shapes):
    """The samples, each with the first frames, rows and columns of its clip."""
    return [
        sample._replace(video=sample.video[:frames, :, :height, :width].contiguous())
        for sample, (frames, height, width) in zip(samples, shapes, strict=True)
    ]


def collator(**overrides):
    return Collator(
        TubeMasker((2, 4, 4), ratio=0.5),
        text_masker=TextMasker(MASK, special_ids=SPECIAL, ratio=0.5),
        tubelet=TUBELET,
        **overrides,
    )


def mixed_batch(lengths=(3, 5, 4, 4, 2, 6, 3), **overrides) -> Batch:
    shapes = [WHOLE, STILL, SMALL, STILL, WHOLE, SHORT, STILL]
    return collator(**overrides)(cut(samples_of(list(lengths)), shapes[: len(lengths)]))


@given(grid=st.tuples(*[st.integers(1, 4)] * 3), more=st.tuples(*[st.integers(0, 3)] * 3))
def test_a_small_clips_tubelets_have_the_first_places_along_each_axis(grid, more):
    within = tuple(own + extra for own, extra in zip(grid, more, strict=True))
    placed = place_within(torch.arange(math.prod(grid)), grid=grid, within=within)
    numbers = torch.arange(math.prod(within)).view(within)
    wanted = numbers[: grid[0], : grid[1], : grid[2]].flatten()
    assert placed.equal(wanted)
    if any(more):
        with pytest.raises(ValueError, match="a clip may have up to"):
            place_within(torch.zeros(1).long(), grid=within, within=grid)


def test_clips_of_one_size_stand_together_and_keep_their_captions_and_masks():
    samples = cut(samples_of([3, 5, 4, 4]), [STILL, WHOLE, SMALL, STILL])
    batch = collator(decode_masker=RunningCellMasker((2, 4, 4), ratio=0.5))(samples)
    assert [tuple(group.video.shape[1:]) for group in batch.groups] == [
        (4, 3, 16, 16),
        (2, 3, 16, 16),
        (4, 3, 8, 8),
    ]
    assert batch.index.tolist() == [1, 0, 3, 2]
    place = 0
    for group in batch.groups:
        for video, keep, decode in zip(group.video, group.keep, group.decode, strict=True):
            sample = samples[int(batch.index[place])]
            assert video.equal(sample.video)
            grid = grid_of(video[None], tubelet=TUBELET)
            positions = grid[1] * grid[2]
            # The same positions in every slice, half of them.
            assert len(keep) == math.prod(grid) // 2
            assert set(keep.tolist()) == {
                number + slot * positions
                for number in keep[: positions // 2].tolist()
                for slot in range(grid[0])
            }
            assert len(decode) == math.prod(grid) // 4
            assert not set(decode.tolist()) & set(keep.tolist())
            place += 1
    moved = batch.to(torch.device("cpu"))
    assert all(a.video.equal(b.video) for a, b in zip(batch.groups, moved.groups, strict=True))


def by_itself(model, batch):
    """The four terms in loops over sequences, each encoded alone; negatives drawn as given."""
    config = model.config
    starts = torch.tensor([0, *batch.text_lengths]).cumsum(0).tolist()
    hidden = torch.zeros(len(batch.token_ids), dtype=torch.bool)
    hidden[batch.masked_index] = True

    def encoded(*parts):
        return model.encoder.encode_padded(torch.cat(parts, dim=1))

    videos, clean, masked, joint, group_of = [], [], [], [], []
    pixel_sum, pixel_count, word_losses = 0.0, 0, []
    place = 0
    for number, group in enumerate(batch.groups):
        clips = zip(group.video, group.keep, group.decode, strict=True)
        for video, keep, decode in ([part[None] for part in clip] for clip in clips):
            own = slice(starts[place], starts[place + 1])
            tokens = model.video_embedding(video, keep)
            words = model.text_embedding(batch.masked_ids[own][None])
            seen = encoded(tokens, words)
            grid = grid_of(video, tubelet=TUBELET)
            numbers = torch.arange(config.num_video_tokens).view(config.grid)
            numbers = numbers[: grid[0], : grid[1], : grid[2]].flatten()
            predicted = model.pixel_decoder(
                seen[:, : keep.shape[1]], keep=numbers[keep], decode=numbers[decode]
            )
            targets = pixel_targets(video, decode, tubelet=TUBELET)
            pixel_sum = pixel_sum + (predicted - targets).square().sum()
            pixel_count += predicted.numel()
            logits = model.word_decoder.head(seen[0, keep.shape[1] :][hidden[own]])
            wanted = batch.token_ids[own][hidden[own]]
            word_losses.append(functional.cross_entropy(logits, wanted, reduction="none"))
            videos.append(encoded(tokens).mean(dim=1)[0])
            clean.append(encoded(model.text_embedding(batch.token_ids[own][None])).mean(dim=1)[0])
            joint.append(seen.mean(dim=1)[0])
            masked.append(words)
            group_of.append((number, tokens))
            place += 1
    return {
        "pixels": pixel_sum / pixel_count,
        "words": torch.cat(word_losses).mean(),
        "videos": torch.stack(videos),
        "texts": torch.stack(clean),
        "joint": torch.stack(joint),
        "pairs": lambda i, j: encoded(group_of[j][1], masked[i]).mean(dim=1)[0],
        "groups": [number for number, _ in group_of],
    }


@pytest.mark.parametrize("positions", ["formula", "axes"])
def test_a_mixed_step_is_that_of_each_sequence_by_itself(positions):
    model = small_model(clip_sizes="up_to", video_positions=positions)
    batch = mixed_batch()
    objective = Objective(model, negatives="random")
    losses = objective(batch, generator=torch.Generator().manual_seed(3))
    losses.total.backward()
    alone = by_itself(model, batch)
    video, text = (functional.normalize(alone[name], dim=1) for name in ("videos", "texts"))
    # It is kept in float32.
    logits = text @ video.T / objective.contrast.temperature.detach()
    own = torch.arange(batch.num_clips)
    vtc = functional.cross_entropy(logits, own) + functional.cross_entropy(logits.T, own)
    negatives = sample_negatives_within(
        batch.keys,
        sizes=[len(group.video) for group in batch.groups],
        generator=torch.Generator().manual_seed(3),
    )
    matched = [model.match_head(feature) for feature in alone["joint"]]
    unmatched = [
        model.match_head(alone["pairs"](i, j))
        for i, (j, valid) in enumerate(zip(*(part.tolist() for part in negatives), strict=True))
        if valid
    ]
    labels = torch.tensor([1] * len(matched) + [0] * len(unmatched))
    vtm = functional.cross_entropy(torch.stack([*matched, *unmatched]), labels)
    wanted = {"pixels": alone["pixels"], "words": alone["words"], "vtc": vtc, "vtm": vtm}
    for name, value in wanted.items():
        torch.testing.assert_close(losses.terms[name], value, rtol=1e-12, atol=1e-12)
    gradient = {name: weight.grad for name, weight in model.named_parameters()}
    model.zero_grad()
    sum(wanted.values()).backward()
    for name, weight in model.named_parameters():
        torch.testing.assert_close(gradient[name], weight.grad, rtol=1e-5, atol=1e-7)
    # Of the two pairs that are alone with their size none is drawn, of the others all.
    assert len(unmatched) == 5


@given(
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    seed=st.integers(0, 1000),
    hard=st.booleans(),
)
def test_negatives_stay_within_their_group(sizes, seed, hard):
    generator = torch.Generator().manual_seed(seed)
    count = sum(sizes)
    keys = torch.randint(0, max(2, count), (count,), generator=generator)
    similarity = torch.rand(count, count, generator=generator) if hard else None
    found = sample_negatives_within(keys, sizes=sizes, similarity=similarity, generator=generator)
    group = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    assert group[found.videos].equal(group)
    for pair, (video, valid) in enumerate(zip(*(part.tolist() for part in found), strict=True)):
        others = [o for o in range(count) if group[o] == group[pair] and keys[o] != keys[pair]]
        assert valid == bool(others)
        assert not valid or video in others


def test_sizes_that_do_not_add_up_are_refused():
    with pytest.raises(ValueError, match=r"sizes must add up to the batch of 3 pairs, got \[2\]"):
        sample_negatives_within(torch.arange(3), sizes=[2])


def test_a_model_of_fixed_sizes_refuses_smaller_clips_and_another_larger_ones():
    with pytest.raises(ValueError, match="sample and crop the clip to that size"):
        Objective(small_model())(mixed_batch())
    model = small_model(clip_sizes="up_to")
    still = torch.zeros(2, 2, 3, 16, 16, dtype=torch.uint8)
    assert model.encode_video(still).shape == (2, 16)
    with pytest.raises(ValueError, match=r"up to 2 x 4 x 4 tubelets.*got 3 x 4 x 4"):
        model.encode_video(torch.zeros(1, 6, 3, 16, 16, dtype=torch.uint8))


def test_whole_clips_give_the_same_whether_others_may_be_smaller():
    batch = collator()(samples_of([3, 5, 4]))
    results = []
    for sizes in ("fixed", "up_to"):
        model = small_model(clip_sizes=sizes)
        torch.manual_seed(0)
        results.append(Objective(model)(batch, generator=torch.Generator().manual_seed(1)))
    for name, value in results[0].terms.items():
        torch.testing.assert_close(results[1].terms[name], value, rtol=1e-12, atol=1e-12)


def test_a_term_that_takes_one_size_is_told_where_to_find_several():
    def term(features):
        return features.tubelets.sum()

    objective = Objective(
        small_model(clip_sizes="up_to"),
        extra_terms={"own": ExtraTerm(1.0, term, needs=("joint",))},
    )
    with pytest.raises(ValueError, match="take tubelets_by_size"):
        objective(mixed_batch())


def test_what_is_gathered_is_what_the_small_clip_shows():
    batch = mixed_batch()
    config = small_config(clip_sizes="up_to")
    for group in batch.groups:
        tubelets = gather_tubelets(group.video, group.decode, tubelet=config.tubelet)
        columns = group.video.shape[-1] // 4
        positions = group.video.shape[-2] // 4 * columns
        for clip in range(len(group.video)):
            for place, number in enumerate(group.decode[clip].tolist()):
                time, at = divmod(number, positions)
                row, column = divmod(at, columns)
                cell = group.video[
                    clip,
                    2 * time : 2 * time + 2,
                    :,
                    4 * row : 4 * row + 4,
                    4 * column : 4 * column + 4,
                ]
                assert tubelets[clip, place].equal(cell.transpose(0, 1))
