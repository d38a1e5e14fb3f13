"""Sequences of a step out of any number of parts, against lists."""

from itertools import chain

import torch
from hypothesis import given
from hypothesis import strategies as st

from simvtp.layers import PackedLayout
from simvtp.step_tokens import StepTokens, TokenPart

CPU = torch.device("cpu")


def build(lengths):
    """Parts one after the other; a token's value is its row."""
    parts, first = {}, 0
    for name, of_part in lengths.items():
        parts[name] = TokenPart(PackedLayout(tuple(of_part), CPU), first, first)
        first += sum(of_part)
    return StepTokens(torch.arange(float(first))[:, None], parts)


def sequences_of(tokens, name):
    part = tokens.parts[name]
    rows = torch.arange(part.first, part.first + part.layout.total_tokens)
    return [rows.tolist() for rows in rows.split(part.layout.lengths)]


@given(data=st.data(), count=st.integers(1, 5), num_parts=st.integers(1, 4))
def test_sequences_are_their_parts_one_behind_the_other(data, count, num_parts):
    lengths = st.lists(st.integers(1, 4), min_size=count, max_size=count)
    tokens = build({str(number): data.draw(lengths) for number in range(num_parts)})
    names = data.draw(st.permutations(sorted(tokens.parts)))[: data.draw(st.integers(1, num_parts))]
    parts = [sequences_of(tokens, name) for name in names]
    expected = [[*chain(*together)] for together in zip(*parts, strict=True)]
    group = tokens.join(*names)
    assert [rows.tolist() for rows in group.rows.split(group.lengths)] == expected
    joined = [*chain(*expected)]
    for part, places in zip(parts, tokens.places(*names), strict=True):
        assert [joined[place] for place in places] == [*chain(*part)]


@given(data=st.data(), count=st.integers(1, 4), ranks=st.integers(1, 3), rank=st.integers(0, 2))
def test_another_sequence_of_all_ranks_can_be_chosen(data, count, ranks, rank):
    text = data.draw(st.lists(st.integers(1, 4), min_size=count, max_size=count))
    tokens, length, rank = build({"text": text, "sound": [2] * count}), 3, rank % ranks
    start = len(tokens.values)
    clips = TokenPart(PackedLayout((length,) * count, CPU), start + rank * count * length, start)
    values = torch.zeros(start + ranks * count * length, 1)
    tokens = StepTokens(values, {**tokens.parts, "video": clips})
    numbers = st.lists(st.integers(0, ranks * count - 1), min_size=count, max_size=count)
    chosen = torch.tensor(data.draw(numbers))
    group = tokens.join("video", "text", "sound", chosen={"video": chosen})
    others = zip(sequences_of(tokens, "text"), sequences_of(tokens, "sound"), strict=True)
    expected = [
        [*range(start + number * length, start + number * length + length), *words, *sound]
        for number, (words, sound) in zip(chosen.tolist(), others, strict=True)
    ]
    assert [rows.tolist() for rows in group.rows.split(group.lengths)] == expected
    own = rank * count + torch.arange(count)
    assert torch.equal(tokens.join("video", chosen={"video": own}).rows, tokens.join("video").rows)


@given(data=st.data(), lengths=st.lists(st.integers(1, 3), min_size=1, max_size=5))
def test_of_several_lengths_one_as_long_stands_in(data, lengths):
    tokens = build({"before": [1], "clips": lengths})
    tokens = StepTokens(
        tokens.values,
        {"clips": tokens.parts["clips"]._replace(start=tokens.parts["clips"].first)},
    )
    alike = [[other for other, length in enumerate(lengths) if length == own] for own in lengths]
    chosen = [data.draw(st.sampled_from(numbers)) for numbers in alike]
    group = tokens.join("clips", chosen={"clips": torch.tensor(chosen)})
    own = sequences_of(tokens, "clips")
    assert [rows.tolist() for rows in group.rows.split(group.lengths)] == [own[n] for n in chosen]
