"""Values of a graph's inputs checked; Triton runs this file on its own, beside the graph."""

import numpy as np


def check_attention_mask(mask: np.ndarray) -> None:
    """See that each row begins with at least one 1 and goes on with 0 from the first 0 on.

    Raises:
        ValueError: a row is empty, holds something else, or has padding before a real token.
    """
    valid = (mask == 0) | (mask == 1)
    if not valid.all():
        raise ValueError(
            f"attention_mask must be 1 at real tokens and 0 at padding, got {mask[~valid][0]}"
        )
    empty = np.flatnonzero(mask[:, 0] == 0)
    if len(empty):
        raise ValueError(
            f"attention_mask must begin with 1 in each row, row {empty[0]} begins with padding; "
            "leave out empty captions and pad on the right"
        )
    gaps = np.flatnonzero((np.diff(mask, axis=1) > 0).any(axis=1))
    if len(gaps):
        raise ValueError(
            f"attention_mask must have its padding on the right, row {gaps[0]} has a real token "
            "after padding"
        )


def check_indices(name: str, values: np.ndarray, *, count: int, advice: str) -> None:
    """See that the numbers in an input are those of rows of a table.

    Raises:
        ValueError: one is negative, or `count` or more.
    """
    # On a GPU a number beyond the table reads foreign memory, without an error.
    if values.min() < 0 or values.max() >= count:
        raise ValueError(
            f"{name} must be from 0 to {count - 1}, got {values.min()} to {values.max()}; {advice}"
        )
