"""A byte range of one capture, as planners make it, tables store it and readers read it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FileSplit:
    """Bytes ``start`` to ``end`` of one capture's uncompressed stream, which one reader reads.

    The fields are the columns of schemas.SPLITS that say what and where; that table describes them.
    """

    file_index: int
    path: str
    file_bytes: int
    container: str
    compression: str
    split: int
    start: int
    end: int
    warm_up: int
    context: str
    records: int
    fingerprint: str = ""  # of the file; empty: not checked
    first_packet: str = ""  # of the file; empty: not known
