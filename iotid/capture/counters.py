"""Counts the packets and bytes of each capture that are in flows and, by reason, those that are not."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

from iotid.errors import DataError
from iotid.inputs import check_type, parse_json
from iotid.schemas import COUNTERS, typed

if TYPE_CHECKING:
    import pyarrow as pa

_log = logging.getLogger(__name__)

# why a packet is not in a flow; `unknown_link_type` and `unknown_ether_type` are followed by the number
REASONS = (
    "flow",
    "not_ip",
    "later_fragment",
    "truncated",
    "malformed",
    "unknown_link_type",
    "unknown_ether_type",
    "unknown_interface",
    "duplicate",
)
(
    FLOW,
    NOT_IP,
    LATER_FRAGMENT,
    TRUNCATED,
    MALFORMED,
    UNKNOWN_LINK_TYPE,
    UNKNOWN_ETHER_TYPE,
    UNKNOWN_INTERFACE,
    DUPLICATE,
) = range(len(REASONS))

UNREADABLE = "unreadable"  # bytes of captures in quarantine; the number of their packets is not known
OVERLAP = "overlap"  # counts no packets: its offset is where a capture has another capture's first packet

_METADATA_KEY = b"iotid.counters"


class Counters:
    """Packets, bytes and the first offset of each (capture file, reason)."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, str], tuple[int, int, int]] = {}
        self.unreadable: dict[str, str] = {}  # captures in quarantine -> reason

    def add(self, capture_file: str, reason: str, packets: int, num_bytes: int, first_offset: int) -> None:
        key = (capture_file, reason)
        counted, size, first = self._sums.get(key, (0, 0, first_offset))
        self._sums[key] = (counted + packets, size + num_bytes, min(first, first_offset))

    def quarantine(self, capture_file: str, num_bytes: int, offset: int, why: str) -> None:
        """Count bytes of a capture that cannot be read."""
        self.add(capture_file, UNREADABLE, 0, num_bytes, offset)
        self.unreadable.setdefault(capture_file, why)

    def merge(self, other: Counters) -> None:
        self.unreadable = other.unreadable | self.unreadable
        for row in other:
            self.add(*row)

    def __iter__(self) -> Iterator[tuple[str, str, int, int, int]]:
        """(capture file, reason, packets, bytes, first offset), sorted."""
        return ((*key, *sums) for key, sums in sorted(self._sums.items()))

    def packets(self, reason: str | None = None) -> int:
        """Packets counted under a reason, or under all."""
        return sum(packets for _, counted, packets, _, _ in self if reason in (None, counted))

    def log_overlaps(self) -> int:
        """Log how many captures have another capture's first packet; return their number."""
        found = [(path, offset) for path, reason, _, _, offset in self if reason == OVERLAP]
        if found:
            _log.warning(
                "%d captures overlap others, so their common packets are counted twice: %s has another capture's first "
                "packet at byte %d; give each packet once: remove copies, and where rotated files overlap, set "
                "capture.duplicate_window_us, and capture.duplicate_records to as many packets as they share",
                len(found), *found[0],
            )  # fmt: skip
        return len(found)

    def table(self) -> pa.Table:
        """Rows of schemas.COUNTERS without the columns that name the partition."""
        import pyarrow as pa

        columns = list(zip(*self, strict=True)) or [()] * 5
        return pa.table([list(column) for column in columns], schema=COUNTERS.arrow_schema(stored=True))

    def attach(self, table: pa.Table) -> pa.Table:
        """The table with these counters in its schema's metadata, where `counters` reads them."""
        metadata = {**(table.schema.metadata or {}), _METADATA_KEY: json.dumps(list(self)).encode()}
        return table.replace_schema_metadata(metadata)


def counters(table: pa.Table) -> pa.Table:
    """The counters of a table of packets or flows: schemas.COUNTERS without site and date.

    Raises:
        InputError: ``table`` is no table of pyarrow.
        DataError: the counters are missing (some operations drop a schema's metadata) or damaged.
    """
    import pyarrow as pa

    check_type("table", table, pa.Table, "the table that read_packets or from_captures returned")
    stored = (table.schema.metadata or {}).get(_METADATA_KEY)
    if stored is None:
        raise DataError("the table has no counters; take them from the table that iotid returned, before changing it")
    found = Counters()
    try:
        rows = parse_json(stored)
        typed.check(list[list[str | int]], rows, "counters")
        for row in rows:
            found.add(*row)
        return found.table()
    except (TypeError, ValueError) as fault:
        raise DataError(
            f"the table's counters are damaged ({fault}); take them from the table that iotid returned"
        ) from None
