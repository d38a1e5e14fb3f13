"""Position tables for another grid or another length."""

from torch import Tensor
from torch.nn import functional


def interpolate_positions(
    table: Tensor, *, source: tuple[int, int, int], target: tuple[int, int, int]
) -> Tensor:
    """Learned positions of one grid for another, trilinearly; the corners stay where they are.

    Args:
        table: `(tokens, width)` in the order of time, rows and columns.
        source: tubelets along time, height and width that the table is for.
        target: tubelets along time, height and width that are wanted.

    Returns:
        `(target tokens, width)`, in the number format of `table`.

    Raises:
        ValueError: the table has not one row per tubelet of `source`.
    """
    if len(table) != source[0] * source[1] * source[2]:
        raise ValueError(
            f"a position table must have one row per tubelet, got {len(table)} for a grid of "
            f"{' x '.join(map(str, source))}"
        )
    if source == target:
        return table
    # With the corners aligned a linear ramp stays one, at the rims too.
    volume = table.double().T.unflatten(1, source).unsqueeze(0)
    resized = functional.interpolate(volume, size=target, mode="trilinear", align_corners=True)
    return resized.squeeze(0).flatten(1).T.to(table.dtype).contiguous()


def spread_positions(
    table: Tensor, *, grid: tuple[int, int, int], antialias: bool = False
) -> Tensor:
    """Learned positions of an image's patches for a clip: the same in each slice.

    For another number of patches they are interpolated bicubically, as transformers and timm do.

    Args:
        table: `(patches, width)` of a square image, row by row.
        grid: tubelets along time, height and width.
        antialias: smooth them as torch does for pictures, as timm does.

    Returns:
        `(tubelets, width)`.

    Raises:
        ValueError: the table is of no square.
    """
    _, rows, columns = square_grid(len(table), num_slices=1)
    if (rows, columns) != grid[1:]:
        image = table.double().T.unflatten(1, (rows, columns)).unsqueeze(0)
        resized = functional.interpolate(image, size=grid[1:], mode="bicubic", antialias=antialias)
        table = resized.squeeze(0).flatten(1).T.to(table.dtype)
    return table.repeat(grid[0], 1)


def square_grid(num_tokens: int, *, num_slices: int) -> tuple[int, int, int]:
    """Grid of `num_tokens` tubelets in `num_slices` square slices.

    Raises:
        ValueError: there is no such grid.
    """
    side = round((num_tokens / num_slices) ** 0.5) if num_slices > 0 else 0
    if side == 0 or num_slices * side * side != num_tokens:
        raise ValueError(
            f"a table of {num_tokens} learned positions is no {num_slices} square slices; say how "
            "many frames it was made for with --source-frames"
        )
    return num_slices, side, side


def cut_text_positions(table: Tensor, *, max_length: int) -> Tensor:
    """First rows of a table of text positions.

    Raises:
        ValueError: the table is shorter; there is nothing to make up the others from.
    """
    if len(table) < max_length:
        raise ValueError(
            f"the source has positions for {len(table)} words, {max_length} are asked for; set "
            f"max_text_length to {len(table)} at most"
        )
    return table[:max_length].contiguous()
