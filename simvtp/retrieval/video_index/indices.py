"""The tables' own indices: words of captions, and vectors once a scan of all takes too long."""

from collections.abc import Callable
from typing import Any

from lancedb.index import FTS, IvfSq

# Up to so many vectors a query is compared with each of them, which is exact; see docs/search.md.
EXACT_ROWS = 50_000
# Beyond, with a byte for each number, and the best candidates with the vectors themselves.
CANDIDATES_PER_RESULT = 10
# The share of the vectors that is looked at: random ones, which have no neighbourhoods, need most.
_PROBED_SHARE = 0.5
_ROWS_PER_PARTITION = 4096
_KEPT_VERSIONS = 64


def bring_up_to_date(table: Any, *, tell: Callable[[str], None]) -> None:
    """Make the indices that a table needs, or add to them the rows that they do not know.

    Args:
        table: moments or files.
        tell: gets a word about what takes long.
    """
    there = {index.columns[0]: index.name for index in table.list_indices()}
    names = set(table.schema.names)
    num_rows = table.count_rows()
    if "caption" in names - set(there) and table.count_rows("caption IS NOT NULL"):
        tell("indexing words")
        table.create_index("caption", config=FTS())
    if "vector" in names - set(there) and num_rows > EXACT_ROWS:
        tell("indexing vectors")
        parts = num_rows // _ROWS_PER_PARTITION
        table.create_index("vector", config=IvfSq(distance_type="cosine", num_partitions=parts))
    unknown = [table.index_stats(name).num_unindexed_rows for name in there.values()]
    if any(unknown) or table.version > _KEPT_VERSIONS:
        tell("tidying up")
        table.optimize()


def num_probes(table: Any) -> int:
    """Partitions of the vectors that a query looks into."""
    return max(1, round(table.count_rows() / _ROWS_PER_PARTITION * _PROBED_SHARE))
