"""Small synthetic traffics and flows, written row by row."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from iotid.baselines import DeviceFlows
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
_LIST = pa.list_(pa.int32())
_FLOW_TYPES = {
    "protocol": pa.int32(),
    "client_ip": pa.string(),
    "client_port": pa.int32(),
    "server_ip": pa.string(),
    "server_port": pa.int32(),
    "first_seen": pa.timestamp("us", tz="UTC"),
    "last_seen": pa.timestamp("us", tz="UTC"),
    **dict.fromkeys(("client_packets", "server_packets", "client_bytes", "server_bytes"), pa.int64()),
    **dict.fromkeys(("packet_length", "payload_length", "tcp_window", "tcp_flags", "direction"), _LIST),
    "inter_arrival_us": pa.list_(pa.int64()),
    "first_bytes": pa.binary(),
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


@pytest.fixture(scope="session")
def device_flows_of() -> Callable[[Sequence[dict[str, Any]]], DeviceFlows]:
    """Flows of captures of a device, in their order, of rows that name only what matters.

    ``packets``: (µs since the packet before, direction, length, payload length) of each; ``bytes``: first bytes of
    each, of which at most four packets of 250 bytes are kept.
    """

    def make(rows: Sequence[dict[str, Any]]) -> DeviceFlows:
        usual = {"unit": 0, "is_client": True, "protocol": 6, "at_us": 0, "packets": [(0, 1, 60, 0)], "window": 100}
        usual |= {"client_ip": "10.0.0.1", "client_port": 50000, "server_ip": "192.0.2.1", "server_port": 443}
        whole = sorted(({**usual, **row} for row in rows), key=lambda row: (row["unit"], row["at_us"]))
        keeps = any("bytes" in row for row in rows)
        columns: dict[str, Any] = {name: [row[name] for row in whole] for name in list(usual) if name in _FLOW_TYPES}
        gap, direction, length, payload = (
            [[packet[part] for packet in row["packets"]] for row in whole] for part in range(4)
        )
        columns |= {
            "first_seen": [row["at_us"] for row in whole],
            "last_seen": [row.get("end_us", row["at_us"] + sum(of)) for row, of in zip(whole, gap, strict=True)],
            "packet_length": length,
            "payload_length": payload,
            "direction": direction,
            "inter_arrival_us": gap,
            "tcp_window": [[row["window"]] * len(row["packets"]) for row in whole],
            "tcp_flags": [[row.get("flags", 0)] * len(row["packets"]) for row in whole],
        }
        for end, sign in (("client", 1), ("server", -1)):
            sent = [[packet[2] for packet in row["packets"] if packet[1] == sign] for row in whole]
            columns |= {f"{end}_packets": list(map(len, sent)), f"{end}_bytes": list(map(sum, sent))}
        if keeps:
            columns["first_bytes"] = [
                b"".join(each[:250].ljust(250, b"\0") for each in row.get("bytes", [])[:4]).ljust(1000, b"\0")
                for row in whole
            ]
        schema = pa.schema([(name, _FLOW_TYPES[name]) for name in columns])
        unit, is_client = (np.array([row[name] for row in whole]) for name in ("unit", "is_client"))
        units = int(unit.max()) + 1
        return DeviceFlows(pa.table(columns, schema), unit, is_client.astype(bool), units, 4 if keeps else 0)

    return make


@pytest.fixture(scope="session")
def toy_captures(
    device_flows_of: Callable[[Sequence[dict[str, Any]]], DeviceFlows],
) -> Callable[[int], tuple[DeviceFlows, np.ndarray]]:
    """24 captures of labels 0, 1 and 3, which differ in ports, lengths and periods, and overlap in some flows."""

    def make(seed: int) -> tuple[DeviceFlows, np.ndarray]:
        random = np.random.default_rng(seed)
        label_U = np.arange(24) % 3
        rows = []
        for unit, label in enumerate(label_U.tolist()):
            for turn in range(20):
                length = 100 + 40 * label + int(random.integers(0, 3))
                at_us = turn * (20, 33, 70)[label] * 1_000_000 + unit * 10**10
                own = {"unit": unit, "at_us": at_us, "protocol": 17, "client_port": int(random.integers(40000, 60000))}
                rows.append({**own, "server_port": 7000 + label, "packets": [(0, 1, length, length - 28)]})
                if turn in (0, 7):  # too few to be periodic
                    rows.append({**own, "at_us": at_us + 10**6, "server_port": 53, "packets": [(0, 1, 70, 42)]})
            request, response = 200 + 90 * label, 700 - 90 * label
            packets = [(0, 1, request + 40, request), (20_000, -1, response + 40, response)]
            rows.append({"unit": unit, "at_us": unit * 10**10, "server_port": 443, "packets": packets})
        return device_flows_of(rows), np.array([0, 1, 3])[label_U]

    return make
