"""Helpers for Arrow columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa


def one_chunk(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """The column as one array, whether it comes from a record batch or a table."""
    return column.combine_chunks() if hasattr(column, "combine_chunks") else column
