import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from simvtp.data.datasets.tasks import LabelledSample, QuestionSample
from simvtp.data.video.augment import MixAugment
from simvtp.tasks import LabelledCollator, QuestionCollator


def labelled(labels):
    generator = torch.Generator().manual_seed(0)
    return [
        LabelledSample(
            torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8, generator=generator),
            label,
            index,
            seed=100 + index,
        )
        for index, label in enumerate(labels)
    ]


def asked(lengths):
    """Questions whose ids tell the question and the option they belong to."""
    return [
        QuestionSample(
            torch.full((4, 3, 16, 16), index, dtype=torch.uint8),
            tuple(torch.full((n,), 10 * index + place) for place, n in enumerate(each)),
            index - 1,
            index,
        )
        for index, each in enumerate(lengths)
    ]


@given(
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=5),
    smoothing=st.sampled_from([0.0, 0.1, 0.5]),
)
def test_targets_are_smoothed_one_hot(labels, smoothing):
    batch = LabelledCollator(5, label_smoothing=smoothing)(labelled(labels))
    assert batch.targets.dtype == torch.float32
    for label, target in zip(labels, batch.targets.tolist(), strict=True):
        for number, value in enumerate(target):
            own = 1 - smoothing if number == label else 0.0
            assert value == pytest.approx(own + smoothing / 5, abs=1e-6)
    assert batch.index.tolist() == list(range(len(labels)))


def test_mixing_is_drawn_from_the_samples_alone():
    samples = labelled([0, 1, 2])
    collate = LabelledCollator(3, label_smoothing=0.1, mix=MixAugment())
    torch.manual_seed(0)
    first = collate(samples)
    torch.manual_seed(1)
    again = collate(samples)
    assert torch.equal(first.video, again.video)
    assert torch.equal(first.targets, again.targets)
    plain = LabelledCollator(3, label_smoothing=0.1)(samples)
    assert not torch.equal(first.video, plain.video)
    torch.testing.assert_close(first.targets.sum(dim=1), torch.ones(3))
    other = collate([samples[1], samples[2], samples[0]])
    assert not torch.equal(other.targets.sort(dim=0)[0], first.targets.sort(dim=0)[0])


@pytest.mark.parametrize("smoothing", [-0.1, 1.0])
def test_impossible_smoothing_is_refused(smoothing):
    with pytest.raises(ValueError, match="label_smoothing must lie in"):
        LabelledCollator(3, label_smoothing=smoothing)


@given(
    st.integers(1, 4).flatmap(
        lambda options: st.lists(
            st.lists(st.integers(1, 9), min_size=options, max_size=options),
            min_size=1,
            max_size=6,
        )
    )
)
def test_questions_are_packed_with_what_belongs_to_them(lengths):
    batch = QuestionCollator()(asked(lengths))
    assert batch.num_options == len(lengths[0])
    assert len(batch.text_lengths) == len(lengths) * batch.num_options
    assert batch.text_lengths[:: batch.num_options] == tuple(sorted(n for n, *_ in lengths))
    texts = iter(batch.token_ids.split(batch.text_lengths))
    rows = zip(batch.index.tolist(), batch.answers.tolist(), batch.video, strict=True)
    for number, answer, video in rows:
        assert answer == number - 1
        assert (video == number).all()
        for place in range(batch.num_options):
            assert next(texts).tolist() == [10 * number + place] * lengths[number][place]
    assert batch.text.layout.lengths == batch.text_lengths


def test_questions_of_a_batch_must_have_as_many_options():
    with pytest.raises(ValueError, match=r"as many options each, got \[1, 2\]"):
        QuestionCollator()(asked([[3], [3, 4]]))


@pytest.mark.parametrize(
    "batch", [LabelledCollator(3)(labelled([0, 2])), QuestionCollator()(asked([[3, 4]]))]
)
def test_all_tensors_move_together(batch):
    moved = batch.to(torch.device("meta"))
    assert type(moved) is type(batch)
    for name, value in vars(batch).items():
        if isinstance(value, torch.Tensor):
            assert getattr(moved, name).is_meta, name
        else:
            assert getattr(moved, name) == value
