"""Count the shapes that the steps of a run have: `python -m benchmarks.totals`.

A CUDA graph is captured for each. No step is computed: captions are drawn, and their packs filled
up as the encoder does it. A step is its encoder call over joint, video and text sequences, and one
over as many pairs that do not match, drawn by similarity.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from benchmarks.measure import command_line
from simvtp.layers import PackedLayout, PackedTokens
from simvtp.layers.packing import fill_up
from simvtp.printing import Console

_CLIPS, _BUCKETS = (16, 64, 256), (0, 256, 1024, 4096)
# 16 x 224 x 224 in tubelets of 2 x 16 x 16, of whose tubes a tenth is seen.
_KEEP = 160


def main() -> int:
    """Count, print the table and write the JSON file."""
    parser = argparse.ArgumentParser("python -m benchmarks.totals", description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--captions", default="6-40", help="fewest and most tokens of a caption")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    low, high = (int(part) for part in options.captions.split("-"))
    rows = []
    for clips in _CLIPS:
        generator = torch.Generator().manual_seed(0)
        captions = torch.randint(low, high + 1, (options.steps, clips), generator=generator)
        rows += [count_shapes(captions.tolist(), bucket=bucket) for bucket in _BUCKETS]
    _print(rows)
    if options.json is not None:
        result = {"command": command_line("benchmarks.totals"), "rows": rows}
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


def count_shapes(captions: Sequence[Sequence[int]], *, bucket: int) -> dict[str, Any]:
    """The shapes of steps whose captions have these tokens.

    Returns:
        `shapes`; the step that brought the last new one (`last_new`); the share that filling adds
        to the tokens, and to what attention computes (`more_tokens`, `more_attention`).
    """
    seen: dict[tuple[int, ...], int] = {}
    own, all_of_it = torch.zeros(2), torch.zeros(2)
    for number, texts in enumerate(captions, start=1):
        joint = [_KEEP + text for text in texts]
        packs = [[*joint, *[_KEEP] * len(texts), *texts], joint]
        filled = [_filled(pack, bucket) for pack in packs]
        seen.setdefault(tuple(sum(pack) for pack in filled), number)
        own += sum(_work(pack) for pack in packs)
        all_of_it += sum(_work(pack) for pack in filled)
    tokens, attention = (all_of_it / own - 1).tolist()
    return {
        "clips": len(captions[0]),
        "bucket": bucket,
        "shapes": len(seen),
        "last_new": max(seen.values()),
        "more_tokens": tokens,
        "more_attention": attention,
    }


def _filled(lengths: Sequence[int], bucket: int) -> Sequence[int]:
    if bucket == 0:
        return lengths
    layout = PackedLayout(tuple(lengths), torch.device("cpu"))
    tokens = PackedTokens(torch.empty(layout.total_tokens, 1), layout)
    return fill_up(tokens, multiple=bucket).layout.lengths


def _work(lengths: Sequence[int]) -> torch.Tensor:
    """Tokens, and pairs of tokens that attention scores."""
    sizes = torch.tensor(lengths, dtype=torch.float64)
    return torch.stack([sizes.sum(), sizes.square().sum()])


def _print(rows: Sequence[dict[str, Any]]) -> None:
    table = Table(title="shapes of the steps of a run")
    for name in ("clips", "bucket", "shapes", "last new at step", "more tokens", "more attention"):
        table.add_column(name, justify="right")
    for row in rows:
        shares = (f"{row[name]:.1%}" for name in ("more_tokens", "more_attention"))
        numbers = (str(row[name]) for name in ("clips", "bucket", "shapes", "last_new"))
        table.add_row(*numbers, *shares)
    Console().print(table)


if __name__ == "__main__":
    raise SystemExit(main())
