"""Items cut into parts that machines work on by themselves."""

from collections.abc import Iterator, Sequence
from typing import Generic, NamedTuple, TypeVar, overload

from simvtp.engines.local import Stage

Item = TypeVar("Item")


class Part(NamedTuple, Generic[Item]):
    """Neighbouring items.

    Attributes:
        number: of the part.
        start: number of its first item.
        items: the items.
    """

    number: int
    start: int
    items: tuple[Item, ...]


class PartView(Sequence[Item]):
    """The items of a part under the numbers that they have among all, up to its end."""

    def __init__(self, part: Part[Item]) -> None:
        self._start = part.start
        self._items = part.items

    def __len__(self) -> int:
        return self._start + len(self._items)

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Item, ...]: ...
    def __getitem__(self, index: int | slice) -> Item | tuple[Item, ...]:
        if isinstance(index, slice):
            return tuple(self[number] for number in range(*index.indices(len(self))))
        if not self._start <= index < len(self):
            raise IndexError(f"item {index} is not in the part [{self._start}, {len(self)})")
        return self._items[index - self._start]


def parts_of(
    stage: Stage[Item, object], items: Sequence[Item], *, start: int, size: int
) -> Iterator[Part[Item]]:
    """Parts of at least `size` items, cut where the stage allows it; only the last has fewer.

    Args:
        stage: says where a part may end.
        items: all items.
        start: number of the first one that counts.
        size: least number of items of a part.
    """
    held: list[Item] = []
    first, number = start, 0
    for place in range(start, len(items)):
        item = items[place]
        held.append(item)
        if len(held) >= size and stage.may_cut(place, item):
            yield Part(number, first, tuple(held))
            held, first, number = [], place + 1, number + 1
    if held:
        yield Part(number, first, tuple(held))
