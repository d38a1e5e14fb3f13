"""Tubes and tubelets that a mask ratio comes to: what rounds to none of them is refused."""

import math

from simvtp.config.checks import is_in, require


def num_hidden_tubes(num_tubes: int, *, ratio: float, name: str = "ratio") -> int:
    """Tubes that a ratio hides, rounded down; 0 hides none.

    Args:
        num_tubes: tube positions of a clip, rows times columns of its grid.
        ratio: share of them to hide, in [0, 1).
        name: what the ratio is called where it was set.

    Raises:
        ValueError: the ratio is outside [0, 1), or above 0 and yet hides no tube, or hides all.
    """
    fits = is_in(0, ratio, 1) and ratio < 1
    require(fits, f"{name} must lie in [0, 1) so that a tube is left, got {ratio}")
    # Rounding first: 0.29 * 100 is 28.999999999999996, and 29 positions were meant.
    hidden = int(round(ratio * num_tubes, 9))
    if ratio == 0 or 0 < hidden < num_tubes:
        return hidden
    working = f"0 and {_rounded_up(1 / num_tubes)} to {_rounded_down(1 - 1 / num_tubes)} work"
    if num_tubes == 1:
        working = "only 0 works; more tubes come of larger images or smaller patches"
    raise ValueError(
        f"{name} {ratio} hides {'every' if hidden else 'no'} tube of {num_tubes}: {working}"
    )


def num_decoded_tubelets(num_hidden: int, *, ratio: float, name: str = "ratio") -> int:
    """Hidden tubelets that a ratio reconstructs, rounded to the nearest count.

    Args:
        num_hidden: hidden tubelets of a clip.
        ratio: share of them to reconstruct, in (0, 1].
        name: what the ratio is called where it was set.

    Raises:
        ValueError: the ratio is outside (0, 1], or reconstructs none of the hidden tubelets.
    """
    require(
        is_in(0, ratio, 1) and ratio > 0,
        f"{name} must lie in (0, 1] so that something is reconstructed, got {ratio}",
    )
    decoded = round(ratio * num_hidden)
    require(
        decoded > 0 or num_hidden == 0,
        f"{name} {ratio} reconstructs none of {num_hidden} hidden tubelets: "
        f"{_rounded_up(1 / max(1, num_hidden))} to 1 work",
    )
    return decoded


def _rounded_up(share: float) -> str:
    return f"{math.ceil(1e4 * share) / 1e4:g}"


def _rounded_down(share: float) -> str:
    return f"{math.floor(1e4 * share) / 1e4:g}"
