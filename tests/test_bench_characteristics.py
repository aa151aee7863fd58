"""The benchmark of characteristics: what its variants hide, and its scores within and across laboratories."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pyarrow as pa
import pytest

_BENCH = Path(__file__).parent / "bench"


@pytest.fixture
def bench(module_at: Callable[[Path], ModuleType], monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(_BENCH)  # it imports what lies beside it
    return module_at(_BENCH / "characteristics.py")


def test_without_full_lengths__changes_only_lengths_from_1400_on(
    bench: ModuleType, flow_table: Callable[..., pa.Table]
) -> None:
    flows = flow_table([{"packet_length": [60, 1500, 1400]}, {"packet_length": [1399]}, {"packet_length": [1452, 40]}])
    changed = bench.without_full_lengths(flows.slice(1))
    assert changed["packet_length"].to_pylist() == [[1399], [1400, 40]]
    changed = bench.without_full_lengths(flows)
    assert changed["packet_length"].to_pylist() == [[60, 1400, 1400], [1399], [1400, 40]]
    assert changed.schema.equals(flows.schema)
    assert changed.drop_columns("packet_length").equals(flows.drop_columns("packet_length"))


def test_without_local_flows__keeps_servers_outside(bench: ModuleType, flow_table: Callable[..., pa.Table]) -> None:
    servers = ["8.8.8.8", "192.168.1.1", "239.255.255.250", "2001:4860::1", "fe80::1", "255.255.255.255"]
    found = bench.without_local_flows(flow_table([{"server_ip": server} for server in servers]))
    assert found["server_ip"].to_pylist() == ["8.8.8.8", "2001:4860::1"]


def test_row__is_in_per_cent(bench: ModuleType) -> None:
    found = {"aalto": {"bag": 0.9321}, "across": {"census_wrong": 0.0}}
    assert bench.row("lengths", found, [("aalto", "bag"), ("across", "census_wrong")]).split() == [
        "lengths",
        "93.2",
        "0.0",
    ]
