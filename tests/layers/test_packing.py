import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from simvtp.layers import PackedLayout, join_rows, pack, segment_mean, unpack

CPU = torch.device("cpu")
lengths = st.lists(st.integers(1, 7), min_size=1, max_size=8)


def sequences(sizes, width=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(size, width, generator=generator) for size in sizes]


@given(sizes=lengths)
def test_unpack_undoes_pack(sizes):
    parts = sequences(sizes)
    packed = pack(parts)
    assert packed.layout.lengths == tuple(sizes)
    for part, again in zip(parts, unpack(packed), strict=True):
        assert torch.equal(part, again)


@given(sizes=lengths)
def test_mean_is_that_of_each_sequence(sizes):
    parts = [part.double() for part in sequences(sizes)]
    expected = torch.stack([sum(row for row in part) / len(part) for part in parts])
    torch.testing.assert_close(segment_mean(pack(parts)), expected)


@given(data=st.data(), count=st.integers(1, 6), num_packs=st.integers(1, 4))
def test_join_puts_each_sequence_behind_that_of_the_pack_before(data, count, num_packs):
    sizes = st.lists(st.integers(1, 5), min_size=count, max_size=count)
    parts = [sequences(data.draw(sizes), seed=seed) for seed in range(num_packs)]
    packs = [pack(part) for part in parts]
    rows = join_rows(*(each.layout for each in packs))
    sources = torch.cat([each.values for each in packs])
    expected = [torch.cat(together) for together in zip(*parts, strict=True)]
    assert torch.equal(sources[rows], torch.cat(expected))
    assert torch.equal(sources[rows][rows.argsort()], sources)


@given(sizes=lengths)
def test_layout_describes_the_rows(sizes):
    layout = PackedLayout(tuple(sizes), CPU)
    assert layout.total_tokens == sum(sizes)
    assert layout.positions.tolist() == [place for size in sizes for place in range(size)]
    assert layout.offsets.tolist() == [sum(sizes[:n]) for n in range(len(sizes) + 1)]
    assert layout.offsets.dtype == torch.int32
    rows = layout.rows_by_length
    if rows is None:
        assert len(layout.runs) == len(set(sizes))
    else:
        assert sorted(rows.tolist()) == list(range(sum(sizes)))
    ordered = [run.length for run in layout.runs for _ in range(run.num_sequences)]
    assert sorted(ordered) == sorted(sizes)


@pytest.mark.parametrize("sizes", [(), (3, 0)])
def test_empty_sequences_are_refused(sizes):
    with pytest.raises(ValueError, match="at least one token"):
        PackedLayout(sizes, CPU)


def test_joining_needs_as_many_sequences():
    with pytest.raises(ValueError, match="2 and 1"):
        join_rows(PackedLayout((1, 2), CPU), PackedLayout((1,), CPU))
    with pytest.raises(ValueError, match="got no pack; give one layout"):
        join_rows()
