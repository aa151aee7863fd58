"""Small synthetic traffics, written row by row."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import pytest

from iotid.dataset import DeviceTraffic

_TYPES = {
    "capture_file": pa.string(),
    "device": pa.string(),
    "second": pa.int64(),
    "sent": pa.bool_(),
    "frame_length": pa.int32(),
    "packets": pa.int64(),
    "label": pa.int64(),
}


@pytest.fixture(scope="session")
def traffic_of() -> Callable[[Sequence[dict[str, Any]]], DeviceTraffic]:
    """A traffic, put in its order, of rows that name only what matters."""

    def make(rows: Sequence[dict[str, Any]]) -> DeviceTraffic:
        usual = {
            "capture_file": "a",
            "device": "02:00:00:00:00:01",
            "second": 0,
            "sent": True,
            "packets": 1,
            "label": 0,
        }
        whole = sorted(({**usual, **row} for row in rows), key=lambda row: [row[name] for name in list(_TYPES)[:5]])
        table = pa.Table.from_pylist(whole, schema=pa.schema(list(_TYPES.items())))
        encoded = table["capture_file"].combine_chunks().dictionary_encode()
        return DeviceTraffic(table.set_column(0, "capture_file", encoded), ("cam", "plug", "kettle"))

    return make


@pytest.fixture(scope="session")
def random_rows() -> list[dict[str, Any]]:
    """Rows of three captures and three devices over two hours, each (capture, device, second, sent, length) once."""
    rng = random.Random(1)
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for _ in range(3000):
        device = rng.randrange(3)
        row = {
            "capture_file": rng.choice("abc"),
            "device": f"02:00:00:00:00:0{device}",
            "second": 1_500_000_000 + rng.choice((rng.randrange(7200), rng.randrange(20))),
            "sent": rng.random() < 0.6,
            "frame_length": rng.choice((60, 66, 90, 1514)),
        }
        rows[tuple(row.values())] = {**row, "packets": rng.choice((1, 1, 2, 7)), "label": (2, 0, 2)[device]}
    return list(rows.values())
