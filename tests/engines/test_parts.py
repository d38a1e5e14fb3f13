"""Parts hold each item once, under its number, and end where the stage allows it."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simvtp.engines.parts import PartView, parts_of


@given(
    num_items=st.integers(0, 40),
    start=st.integers(0, 45),
    size=st.integers(1, 9),
    cuts=st.sets(st.integers(0, 40)),
)
def test_parts_together_are_the_items(num_items, start, size, cuts):
    items = [f"item {number}" for number in range(num_items)]
    asked = []
    stage = SimpleNamespace(may_cut=lambda number, item: asked.append(item) or number in cuts)
    parts = list(parts_of(stage, items, start=start, size=size))
    assert [item for part in parts for item in part.items] == items[start:]
    assert [part.number for part in parts] == list(range(len(parts)))
    assert all(item == items[int(item.split()[1])] for item in asked)
    place = start
    for part in parts:
        assert part.start == place
        place += len(part.items)
        if place < num_items:
            assert place - 1 in cuts
            assert len(part.items) >= size
            # It ends at the first place where it may.
            assert not any(number in cuts for number in range(part.start + size - 1, place - 1))
        view = PartView(part)
        assert len(view) == place
        assert [view[number] for number in range(part.start, place)] == list(part.items)
        assert view[part.start : place] == part.items
        for outside in (part.start - 1, place):
            with pytest.raises(IndexError, match="not in the part"):
                view[outside]
