"""The tables' own indices: words of captions, and vectors once a scan of all takes too long."""

from collections.abc import Callable
from typing import Any

from lancedb.index import FTS, IvfFlat

# Below it, comparing a query with every vector is as fast, and exact.
ANN_ROWS = 1_000_000
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
    if "vector" in names - set(there) and num_rows >= ANN_ROWS:
        tell("indexing vectors")
        table.create_index("vector", config=IvfFlat(distance_type="cosine"))
    unknown = [table.index_stats(name).num_unindexed_rows for name in there.values()]
    if any(unknown) or table.version > _KEPT_VERSIONS:
        tell("tidying up")
        table.optimize()
