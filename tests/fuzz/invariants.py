"""What must hold of any file whatever: the fuzzer and the suite check the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from iotid import config
from iotid.capture import find_captures, read_packets, read_splits, split_captures
from iotid.capture.counters import Counters, counters
from iotid.capture.packets import to_arrow
from iotid.errors import InputError

_NOT_RECORDS = (
    "skipped_bytes",
    "broken_compression",
    "truncated_record",
)  # counted, but no record that was walked over

# everything on that the reader can do; packets small enough for a broken length to be seen early
EVERYTHING = {
    "max_packet_bytes": 4096,
    "duplicate_window_us": 1000,
    "duplicate_records": 8,
    "fragment_window_us": 1_000_000,
    "fragment_records": 8,
    "tunnels": ("gre", "ip_in_ip", "6in4", "vxlan", "geneve", "gtp_u", "capwap", "tzsp"),
    "max_tunnels": 3,
}
_LARGE, _LEAST = 1 << 16, 4096  # chunk_bytes
_SPLIT_BYTES = 256


def settings_with(**changes: Any) -> config.Capture:
    return config.load_settings().capture.model_copy(update=changes)


def check(path: Path, settings: config.Capture) -> list[Any] | None:
    """Read the file whole, in small chunks and in small splits: the same packets and counts, none of them lost.

    Returns the counters' rows, or None where the file is no capture. Any other fault is one of ours.
    """
    try:
        whole = read_packets(str(path), settings=settings.model_copy(update={"chunk_bytes": _LARGE}))
    except InputError:
        return None
    counted = counters(whole)
    in_chunks = read_packets(str(path), settings=settings.model_copy(update={"chunk_bytes": _LEAST}))
    assert in_chunks.equals(whole), "chunks change packets"
    assert counters(in_chunks).equals(counted), "chunks change counters"
    small = settings.model_copy(update={"chunk_bytes": _LEAST, "split_bytes": _SPLIT_BYTES})
    _check_splits(path, small, whole)
    rows = counted.to_pylist()
    assert len(whole) == sum(row["packets"] for row in rows if row["reason"] == "flow"), "packets are lost"
    assert all(row["packets"] >= 0 and row["bytes"] >= 0 for row in rows), "a count is negative"
    return rows


def _check_splits(path: Path, settings: config.Capture, whole: Any) -> None:
    splits = split_captures(find_captures([str(path)]).captures, settings).splits
    found = Counters()
    tables = [
        to_arrow(packets, [str(path)])
        for split in splits
        for packets in read_splits([split], settings, found, header_fields=True)
    ]
    rows = [row for table in tables for row in table.to_pylist()]
    assert rows == whole.to_pylist(), "splits change packets"
    assert found.table().equals(counters(whole)), "splits change counters"
    starts = np.array([split.start for split in splits])
    ends = np.array([split.stop for split in splits])
    assert (starts[1:] == ends[:-1]).all(), "splits do not tile the file"
    if splits[-1].records >= 0:
        walked = sum(split.records for split in splits)
        counted_records = sum(packets for _, reason, packets, *_ in found if reason not in _NOT_RECORDS)
        assert walked <= counted_records, "records are lost"  # an aggregate counts as several
