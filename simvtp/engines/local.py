"""Work on many items in one order, wherever it runs, and on this machine."""

from collections.abc import Collection, Generator, Iterator, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
Item_contra = TypeVar("Item_contra", contravariant=True)
Result_co = TypeVar("Result_co", covariant=True)


class Stage(Protocol[Item_contra, Result_co]):
    """Work on items in their order, that gives the same results in whatever parts it is done.

    It goes to other machines as a pickle, so that it holds plain values, or a model on the CPU.
    """

    @property
    def folders(self) -> Collection[Path]:
        """Folders that it reads from or writes to, and that each machine must have."""
        ...

    def may_cut(self, number: int, item: Item_contra) -> bool:
        """Whether a part may end after this item, so that the results stay the same."""
        ...

    def results(self, items: Sequence[Item_contra], start: int) -> Iterator[Result_co]:
        """Results of the items from number `start` on, in order."""
        ...


class Engine(Protocol):
    """Runs stages.

    Attributes:
        device: that stages compute on, "cpu" or "cuda"; None where this process may choose.
    """

    device: str | None

    def run(
        self, stage: Stage[Item, Result], items: Sequence[Item], *, start: int = 0
    ) -> Generator[Result, None, None]:
        """Results of the items from number `start` on, in order, each once."""
        ...


class LocalEngine:
    """Runs stages in this process and those that they start."""

    device: str | None = None

    def run(
        self, stage: Stage[Item, Result], items: Sequence[Item], *, start: int = 0
    ) -> Generator[Result, None, None]:
        """Results of the items from number `start` on, in order."""
        yield from stage.results(items, start)
