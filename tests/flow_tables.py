"""Small tables of synthetic flows, as assemble-flows writes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from iotid.config import load_settings
from iotid.partitions import Partition, PartitionKey, Store
from iotid.schemas import FLOWS, HEADER_COLUMNS

START = datetime(2024, 3, 1, tzinfo=UTC)


def _flow(number: int, given: dict[str, Any]) -> dict[str, Any]:
    lengths = given.get("packet_length", [60, 1500, 40])
    count = len(lengths)
    return {
        "capture_file": "captures/one.pcap",
        "protocol": 6,
        "vlan": None,
        "client_ip": "10.0.0.2",
        "client_port": 1024 + number % 60000,
        "server_ip": "192.0.2.1",
        "server_port": 443,
        "client_mac": None,
        "server_mac": None,
        "first_seen": START + timedelta(seconds=number),
        "last_seen": START + timedelta(seconds=number + 1),
        "client_packets": count,
        "client_bytes": sum(lengths),
        "server_packets": 0,
        "answered": given.get("server_packets", 0) > 0,
        "address_conflict": False,
        "server_bytes": 0,
        "end_reason": "end",
        "tcp_window": [1000 + length for length in lengths],
        "direction": [1] * count,
        "inter_arrival_us": [0, *([1000] * (count - 1))],
        "tcp_flags": [2] * count,
        "payload_length": [max(length - 40, 0) for length in lengths],
        **{name: [] for name in HEADER_COLUMNS},
        **given,
        "packet_length": lengths,
    }


@pytest.fixture(scope="session")
def flow_table() -> Callable[[Sequence[dict[str, Any]]], pa.Table]:
    """FLOWS as stored, of rows that name only what matters; the others are TCP flows, a second apart."""

    def make(rows: Sequence[dict[str, Any]]) -> pa.Table:
        return pa.Table.from_pylist(
            [_flow(number, row) for number, row in enumerate(rows)], schema=FLOWS.arrow_schema(stored=True)
        )

    return make


@pytest.fixture(scope="session")
def write_night() -> Callable[..., Partition]:
    """Write a partition of `flows`, in ``files`` Parquet files, as made by settings of ``flow``."""

    def write(
        store: Store, flows: pa.Table, site: str = "lab", day: str = "2024-03-01", files: int = 1, **flow: Any
    ) -> Partition:
        keys = PartitionKey.of_date(site, day)
        with store.write("flows", keys, FLOWS.version) as staged:
            size = -(-flows.num_rows // files)
            for number in range(files):
                pq.write_table(flows.slice(number * size, size), f"{staged.path}/part-{number}.parquet")
            settings = {"flow": load_settings(["local.yaml"]).flow.model_dump(mode="json") | flow}
            staged.metadata = {"rows": flows.num_rows, "settings": settings}
        return store.open("flows", keys)

    return write


@pytest.fixture(scope="session")
def of_night() -> Callable[[pa.Table], pa.Table]:
    """Adds the columns of the partition key, as ``write_night`` names them."""

    def add(flows: pa.Table) -> pa.Table:
        day = pa.array([date(2024, 3, 1)] * len(flows), pa.date32())
        return flows.append_column("site", pa.array(["lab"] * len(flows))).append_column("capture_date", day)

    return add
