"""Counting flows of labels, against one flow after the other."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import pyarrow as pa

from iotid.config import load_settings
from iotid.dataset import count_flows
from iotid.labels import Device, DeviceList

_MACS = {"cam": "02:00:00:00:00:01", "plug": "02:00:00:00:00:02", "hub": "02:00:00:00:00:03"}


class _File(NamedTuple):
    flows: pa.Table
    site: str = "home"
    capture_date: str = "2026-01-01"

    def read(self, columns: Iterable[str]) -> Iterator[pa.RecordBatch]:
        yield from self.flows.select(list(columns)).to_batches(max_chunksize=7)

    def superseded(self, flows: pa.RecordBatch, later: pa.Table) -> pa.BooleanArray:
        raise AssertionError("there is one partition")


def test_count_flows__counts_each_label_and_protocol_over_files_and_batches(flow_table: Callable[..., Any]) -> None:
    chosen = random.Random(1)
    ends = [*_MACS.values(), "02:00:00:00:00:99", None]
    rows = [
        {"client_mac": chosen.choice(ends), "server_mac": chosen.choice(ends), "protocol": chosen.choice([1, 6, 17])}
        for _ in range(200)
    ]
    devices = DeviceList(tuple(Device(name=name, mac=mac) for name, mac in _MACS.items() if name != "hub"))
    named = {mac: name for name, mac in _MACS.items() if name != "hub"}
    expected: Counter[tuple[str, int]] = Counter()
    for row in rows:
        name = named.get(row["client_mac"])  # the servers are outside: a MAC there is the gateway's
        if name and row["protocol"] != 1:
            expected[name, row["protocol"]] += 1
    files = [_File(flow_table(rows[:120])), _File(flow_table(rows[120:])), _File(flow_table([]))]
    settings = load_settings(overrides=["dataset.label=name", "dataset.min_flows=1000"]).dataset
    assert count_flows(files, devices, settings) == dict(expected)
    assert len(expected) == 4


def test_count_flows__of_devices_that_are_not_there_is_empty(flow_table: Callable[..., Any]) -> None:
    devices = DeviceList((Device(name="cam", mac=_MACS["cam"]),))
    assert count_flows([_File(flow_table([{}]))], devices, load_settings().dataset) == {}
