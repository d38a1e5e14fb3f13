"""Token sequences of unequal length laid end to end, so that no padding is ever computed."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, groupby
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from simvtp.layers.input_checks import describe
from simvtp.layers.precision import full_precision


class Run(NamedTuple):
    """Neighbouring sequences of one length."""

    num_sequences: int
    length: int


@dataclass(frozen=True)
class PackedLayout:
    """Where each sequence stands in a packed `(total_tokens, width)` tensor.

    The lengths are host integers, so that shapes never wait for a device; what attention and
    pooling need on the device is derived once and shared by all layers.

    Args:
        lengths: tokens of each sequence, each at least 1.
        device: device of the packed tokens.

    Raises:
        TypeError: the lengths are no tuple of whole numbers, or the device is no torch.device.
        ValueError: there is no sequence or an empty one.
    """

    lengths: tuple[int, ...]
    device: torch.device

    def __post_init__(self) -> None:
        is_tuple = isinstance(self.lengths, tuple)
        are_whole = is_tuple and all(isinstance(length, int) for length in self.lengths)
        if not are_whole or not isinstance(self.device, torch.device):
            raise TypeError(
                "lengths must be a tuple of whole numbers and device a torch.device, got "
                f"{describe(self.lengths)} and {describe(self.device)}; a tensor's are "
                "tuple(lengths.tolist())"
            )
        if not self.lengths or min(self.lengths) < 1:
            raise ValueError(
                "a pack needs one or more sequences of at least one token each, got lengths "
                f"{self.lengths[:8]}; leave empty sequences out"
            )

    @property
    def num_sequences(self) -> int:
        """Sequences in the pack."""
        return len(self.lengths)

    @cached_property
    def total_tokens(self) -> int:
        """Rows of the packed tensor."""
        return sum(self.lengths)

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """First row of each sequence, and the total at the end."""
        return (0, *accumulate(self.lengths))

    @cached_property
    def offsets(self) -> Tensor:
        """`starts` as int32 on the device, as variable-length attention kernels take them."""
        return to_device(torch.tensor(self.starts, dtype=torch.int32), self.device)

    @cached_property
    def device_lengths(self) -> Tensor:
        """`lengths` as int64 on the device."""
        return to_device(torch.tensor(self.lengths), self.device)

    @cached_property
    def positions(self) -> Tensor:
        """Place of each row within its sequence, `(total_tokens,)` int64."""
        lengths = torch.tensor(self.lengths)
        first = torch.tensor(self.starts[:-1]).repeat_interleave(lengths)
        return to_device(torch.arange(self.total_tokens) - first, self.device)

    @cached_property
    def rows_by_length(self) -> Tensor | None:
        """Row order that puts sequences of equal length side by side; None if they are already."""
        if len(_runs_of(self.lengths)) == len(set(self.lengths)):
            return None
        order = sorted(range(self.num_sequences), key=self.lengths.__getitem__)
        starts = torch.tensor(self.starts[:-1])[order]
        lengths = torch.tensor(self.lengths)[order]
        within = PackedLayout(tuple(lengths.tolist()), torch.device("cpu")).positions
        return to_device(starts.repeat_interleave(lengths) + within, self.device)

    @cached_property
    def runs(self) -> tuple[Run, ...]:
        """Runs of equal length, in the order of `rows_by_length`."""
        grouped = self.rows_by_length is not None
        return _runs_of(sorted(self.lengths) if grouped else self.lengths)


class PackedTokens(NamedTuple):
    """Packed token sequences.

    Attributes:
        values: `(total_tokens, width)`, the sequences one after the other.
        layout: their lengths.
    """

    values: Tensor
    layout: PackedLayout


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a host tensor to a device without making the host wait."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def require_packed(name: str, tokens: object, *, width: int | None = None) -> None:
    """Refuse what is not packed, or not as many tokens as its layout says, or of another width.

    Raises:
        TypeError: it is no `PackedTokens`.
        ValueError: the values do not go with the layout, or are not `width` wide.
    """
    fix = "pack sequences first: pack(list(batch))"
    if not isinstance(tokens, PackedTokens) or not isinstance(tokens.layout, PackedLayout):
        raise TypeError(f"{name} must be packed, got {describe(tokens)}; {fix}")
    values, total = tokens.values, tokens.layout.total_tokens
    if values.ndim < 1 or len(values) != total or width not in (None, values.shape[-1]):
        columns = "" if width is None else f" of width {width}"
        raise ValueError(
            f"{name} must hold the {total} tokens of its layout{columns}, got shape "
            f"{tuple(values.shape)}; {fix}"
        )


def pack(sequences: Sequence[Tensor]) -> PackedTokens:
    """Lay `(tokens_i, width)` sequences end to end.

    Raises:
        TypeError: they are no list of tensors.
        ValueError: there is no sequence or an empty one, or they are of different widths, number
            formats or devices.
    """
    _check_sequences(sequences)
    lengths = tuple(len(sequence) for sequence in sequences)
    device = sequences[0].device if sequences else torch.device("cpu")
    layout = PackedLayout(lengths, device)
    return PackedTokens(torch.cat(list(sequences)), layout)


def unpack(tokens: PackedTokens) -> list[Tensor]:
    """Inverse of `pack`: views of the sequences, `(tokens_i, width)` each.

    Raises:
        TypeError: the tokens are not packed.
        ValueError: there are more or fewer than their layout says.
    """
    require_packed("tokens", tokens)
    return list(tokens.values.split(tokens.layout.lengths))


def fill_up(tokens: PackedTokens, *, multiple: int) -> PackedTokens:
    """Add a sequence of zeros that ends a pack at a multiple of some tokens, so that totals repeat.

    It always is added, of 1 to `multiple` tokens: the number of sequences repeats as well. No other
    sequence sees it; its rows are the last ones.

    Raises:
        TypeError: the tokens are not packed.
        ValueError: there are more or fewer than their layout says.
    """
    require_packed("tokens", tokens)
    layout = tokens.layout
    missing = multiple - layout.total_tokens % multiple
    values = functional.pad(tokens.values, (0, 0, 0, missing))
    return PackedTokens(values, PackedLayout((*layout.lengths, missing), layout.device))


def segment_mean(tokens: PackedTokens) -> Tensor:
    """Mean of each sequence over its tokens, `(num_sequences, width)`, at least float32.

    Raises:
        TypeError: the tokens are not packed.
        ValueError: there are more or fewer than their layout says.
    """
    # The sum below trusts the lengths.
    require_packed("tokens", tokens)
    layout = tokens.layout
    return torch.segment_reduce(
        full_precision(tokens.values), "mean", lengths=layout.device_lengths, axis=0, unsafe=True
    )


def mean_tokens(tokens: PackedTokens | Tensor, key_mask: Tensor | None = None) -> Tensor:
    """Mean of each sequence over its real tokens, `(num_sequences, width)`, at least float32.

    Args:
        tokens: a pack, or `(batch, tokens, width)`.
        key_mask: `(batch, tokens)` bool, True where a token is real; None when all are.

    Raises:
        ValueError: the pack holds more or fewer tokens than its layout says.
    """
    if isinstance(tokens, PackedTokens):
        return segment_mean(tokens)
    values = full_precision(tokens)
    if key_mask is None:
        return values.mean(dim=1)
    weights = key_mask.to(values.dtype)
    return (values * weights[..., None]).sum(dim=1) / weights.sum(dim=1, keepdim=True)


def join_rows(*layouts: PackedLayout) -> Tensor:
    """Rows that join sequence i of each of several packs, one behind the other.

    Args:
        layouts: layouts of the packs in the order of the parts of a joined sequence, all with as
            many sequences.

    Returns:
        `(total_tokens of all,)` int64 on the host: indexing the packs' concatenated values with it
        gives the joined pack, whose lengths are the sums. Its argsort says where each source row
        went.

    Raises:
        TypeError: they are no layouts.
        ValueError: there is none, or they hold different numbers of sequences.
    """
    for layout in layouts:
        if not isinstance(layout, PackedLayout):
            raise TypeError(f"rows of layouts are joined, got {describe(layout)}; give pack.layout")
    counts = [layout.num_sequences for layout in layouts]
    if len(set(counts)) != 1:
        raise ValueError(
            "all packs must hold the same number of sequences, got "
            f"{' and '.join(map(str, counts)) or 'no pack'}; give one layout for each part"
        )
    sequence = [
        torch.arange(layout.num_sequences).repeat_interleave(torch.tensor(layout.lengths))
        for layout in layouts
    ]
    # A stable sort by sequence keeps the rows of earlier packs ahead of those of later ones.
    return torch.cat(sequence).argsort(stable=True)


def _check_sequences(sequences: Sequence[Tensor]) -> None:
    is_list = isinstance(sequences, Sequence) and not isinstance(sequences, str | bytes)
    if not is_list or not all(isinstance(one, Tensor) for one in sequences):
        raise TypeError(
            f"pack takes a list of tensors (tokens, width), got {describe(sequences)}; "
            "a batch (batch, tokens, width) is packed by pack(list(batch))"
        )
    kinds = {(one.shape[1:], one.dtype, one.device, one.ndim > 0) for one in sequences}
    if len(kinds) > 1 or any(one.ndim == 0 for one in sequences):
        raise ValueError(
            "sequences must be tensors (tokens, width) of one width, number format and device, got "
            f"{', '.join(describe(one) for one in sequences[:4])}; convert them first"
        )


def _runs_of(lengths: Sequence[int]) -> tuple[Run, ...]:
    return tuple(Run(len(list(group)), length) for length, group in groupby(lengths))
