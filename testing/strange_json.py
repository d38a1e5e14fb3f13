"""JSON with any value at any place."""

import copy
from typing import Any

from hypothesis import strategies as st

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["", "..", "/", "a/b", "\0", "pipe:ls", "train", "path", "\ud800"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


def places(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a document, the whole of it first."""
    items = []
    if isinstance(document, dict):
        items = list(document.items())
    elif isinstance(document, list):
        items = list(enumerate(document))
    inside = [place for key, value in items for place in places(value, (*path, key))]
    return [path, *inside]


@st.composite
def strange(draw: st.DrawFn, documents: list[Any]) -> Any:
    """One of the documents, with any value at a place of it, or without what is there."""
    document = copy.deepcopy(draw(st.sampled_from(documents)))
    path = draw(st.sampled_from(places(document)))
    if not path:
        return draw(VALUES)
    holder = document
    for key in path[:-1]:
        holder = holder[key]
    if draw(st.booleans()):
        holder[path[-1]] = draw(VALUES)
    else:
        del holder[path[-1]]
    return document
