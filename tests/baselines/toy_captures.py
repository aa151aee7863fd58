"""Captures of made-up devices, as input of baselines that classify captures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from iotid.baselines import DeviceFlows
from tests.flow_tables import START

Row = dict[str, Any]


def packets(*payloads: int, gap_us: int = 1000) -> Row:
    """The lists of a flow: bytes of each packet's payload, negative if the server sends it; 0 is the client's ACK."""
    return {
        "payload_length": [abs(length) for length in payloads],
        "packet_length": [abs(length) + 40 for length in payloads],
        "direction": [-1 if length < 0 else 1 for length in payloads],
        "inter_arrival_us": [gap_us * (number > 0) for number in range(len(payloads))],
        "tcp_window": [0] * len(payloads),
        "tcp_flags": [24] * len(payloads),
        "client_packets": sum(length >= 0 for length in payloads),
        "server_packets": sum(length < 0 for length in payloads),
    }


def at(seconds: float) -> Row:
    """The times of a flow of one second."""
    first = START + timedelta(seconds=seconds)
    return {"first_seen": first, "last_seen": first + timedelta(seconds=1)}


def captures_of(flow_table: Callable[[Sequence[Row]], pa.Table], captures: Sequence[Sequence[Row]]) -> DeviceFlows:
    """The captures' flows; a device is the client unless its row has ``is_client``."""
    rows = [dict(row) for capture in captures for row in capture]
    is_client = np.array([row.pop("is_client", True) for row in rows], np.bool_)
    unit = np.repeat(np.arange(len(captures)), [len(capture) for capture in captures])
    return DeviceFlows(flow_table(rows), unit, is_client, len(captures))
