"""A split: the byte range of one capture that one reader reads."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FileSplit:
    """Bytes ``start`` to ``stop`` of one capture's uncompressed stream. schemas.SPLITS describes the fields."""

    file_index: int
    path: str
    file_bytes: int
    container: str
    compression: str
    split: int
    start: int
    stop: int
    warm_up: int
    context: str
    records: int
    fingerprint: str = ""  # of the file; empty: do not check it
    first_packet: str = ""  # of the file; empty: unknown
