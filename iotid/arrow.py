"""Helpers for Arrow columns."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa


def one_chunk(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """The column as one array, whether it comes from a record batch or a table."""
    return column.combine_chunks() if hasattr(column, "combine_chunks") else column


def content_hash(*tables: pa.Table) -> str:
    """Sixteen hexadecimal digits of a hash of the tables' rows, in their order."""
    import pyarrow as pa

    digest = hashlib.sha256()
    for table in tables:
        out = pa.BufferOutputStream()
        with pa.ipc.new_stream(out, table.schema.remove_metadata()) as writer:
            writer.write_table(table.replace_schema_metadata().combine_chunks())
        digest.update(out.getvalue())
    return digest.hexdigest()[:16]
