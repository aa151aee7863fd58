"""Censuses of unknown devices in groups, as stored rows; for tests of what persons say about groups."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from iotid.partitions import Partition, PartitionKey, Store
from iotid.schemas import CENSUS, GROUPS

G, H = "g0123456789", "gabcdefabcd"


def row(device: str, group: str | None, **more: Any) -> dict[str, Any]:
    """An unknown device of a group, or one without."""
    seen = datetime(2026, 1, 1, 12, tzinfo=UTC)
    return {
        "device_id": device, "status": "unknown" if group else "undecided", "confidence": 0.1, "kinds": [],
        "runners_up": [], "similar_kinds": [], "unlike_kind": None,
        "unexplained": 1.0, "household": 0.1, "reason": "None.", "marks": [], "group_name": group,
        "flows": 4, "bytes": 400, "first_seen": seen, "last_seen": seen, "addresses": [], "change": "baseline",
        "new_kinds": [], "watched": False, "first_seen_ever": seen, "dates_present": 1, "earlier_names": [], **more,
    }  # fmt: skip


def write(store: Store, site: str, day: int, *rows: dict[str, Any], key_fingerprint: str | None = None) -> Partition:
    """A census of these rows; each of its groups uses its own name as a service."""
    table = pa.Table.from_pylist(list(rows), schema=CENSUS.arrow_schema(stored=True))
    groups = [
        {"group_name": name, "services": [f"TCP {name}"], "protocol": [6], "payload_length": [70], "share": [1.0]}
        for name in sorted({each["group_name"] for each in rows if each["group_name"]} - {"others"})
    ]
    key = PartitionKey.of_date(site, f"2026-01-{day:02}")
    with store.write("census", key, CENSUS.version) as staged:
        pq.write_table(table, f"{staged.path}/part-0.parquet", filesystem=staged.filesystem)
        if key_fingerprint is None:
            stored = pa.Table.from_pylist(groups, schema=GROUPS.arrow_schema())
            pq.write_table(stored, f"{staged.path}/_groups.pq", filesystem=staged.filesystem)
        staged.metadata |= {"key_fingerprint": key_fingerprint}
    return store.open("census", key)


@pytest.fixture
def write_grouped_census() -> Callable[..., Partition]:
    return write


@pytest.fixture
def grouped_row() -> Callable[..., dict[str, Any]]:
    return row
