"""Packages that a plain install leaves out: what to install where one is wanted and missing."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NO_PLOTS = "no pictures and no TensorBoard events: pip install 'simvtp[plots]'"


class MissingPackageError(ModuleNotFoundError, ValueError):
    """A package of an extra cannot be imported; commands refuse what needs it on one line."""


@contextmanager
def needs(extra: str, what: str) -> Iterator[None]:
    """Around imports of packages of an extra: a missing one is told with what installs it.

    Args:
        extra: its name in `simvtp[...]`.
        what: what needs it, as the beginning of a sentence.

    Raises:
        MissingPackageError: a package is missing, or cannot be loaded.
    """
    try:
        yield
    except ImportError as error:
        message = f"{what} needs more packages ({error}): pip install 'simvtp[{extra}]'"
        raise MissingPackageError(message, name=error.name) from error


def has_plots() -> bool:
    """Whether there is what draws pictures and writes TensorBoard's events."""
    return all(find_spec(name) is not None for name in ("matplotlib", "tensorboard"))


def require_figures() -> None:
    """Refuse what is to end in a picture, before its work begins.

    Raises:
        MissingPackageError: there is nothing to draw with.
    """
    with needs("plots", "a picture"):
        import matplotlib.figure  # noqa: F401


def new_figure(width: float, height: float) -> "Figure":
    """An empty picture of this size in inches, with no window and nothing global about it.

    Raises:
        MissingPackageError: there is nothing to draw with.
    """
    with needs("plots", "a picture"):
        from matplotlib.figure import Figure
    return Figure(figsize=(width, height), layout="constrained")
