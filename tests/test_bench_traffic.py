"""The benchmark of little traffic: which flows are before a cut, and scores of devices that differ in later flows."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow as pa
import pytest

from iotid.config import load_settings
from iotid.dataset import LabelledFlows
from iotid.labels import Device, DeviceList

_BENCH = Path(__file__).parent / "bench"
_MINUTE = 60_000_000


@pytest.fixture
def bench(module_at: Callable[[Path], ModuleType], monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(_BENCH)  # it imports what lies beside it
    return module_at(_BENCH / "traffic.py")


def test_prefixes__count_flows_and_minutes_from_each_sets_first_begin(bench: ModuleType) -> None:
    sets = np.array([7, 3, 7, 7, 3, 7])
    begins = np.array([5 * _MINUTE, 0, 4 * _MINUTE, 5 * _MINUTE, 60 * _MINUTE, 9 * _MINUTE + 1])
    found = {cut: np.flatnonzero(before).tolist() for cut, before in bench.prefixes(sets, begins).items()}
    assert found["1 flows"] == [1, 2]
    assert found["2 flows"] == [0, 1, 2, 4], "rows 0 and 3 begin at the same time: the first of them is the second flow"
    assert found["5 flows"] == found["100 flows"] == found["whole"] == [0, 1, 2, 3, 4, 5]
    assert found["1 min"] == [1, 2], "a flow that begins a minute later is after the cut"
    assert found["5 min"] == [0, 1, 2, 3]
    assert found["15 min"] == found["60 min"] == [0, 1, 2, 3, 5]
    assert found["240 min"] == found["1440 min"] == [0, 1, 2, 3, 4, 5]


def test_score_fold__devices_that_begin_alike_are_found_by_their_later_flows(
    bench: ModuleType, flow_table: Callable[..., pa.Table], of_night: Callable[[pa.Table], pa.Table]
) -> None:
    names, settings = ("cam", "hub", "plug"), load_settings()
    rows = []
    for number, name in enumerate(names):
        own = [[100 * number + 300, 41, 60 + number], [100 * number + 350, 900, 77], [100 * number + 390, 50, 51]]
        for capture in range(6):
            place = {"capture_file": f"{name}-{capture}.pcap", "client_mac": f"02:00:00:00:00:0{number}"}
            rows += [{**place, "packet_length": lengths} for lengths in ([60, 60, 52], *own)]
    table = of_night(flow_table(rows))
    devices = tuple(
        Device(name=name, model=name, vendor=name, type="thing", mac=f"02:00:00:00:00:0{number}")
        for number, name in enumerate(names)
    )
    flows = LabelledFlows.of(table, DeviceList(devices, "list.yaml"), settings.dataset, settings.flow)
    found = bench.score_fold(flows, flows.folds(3) == 0, settings)
    assert all(len(scored.outcome) == 6 for scored in found.values())
    first, whole = found["1 flows"], found["whole"]
    assert "right" not in first.outcome
    assert first.bag.sum() == 2, "one answer for three kinds"
    assert set(first.flows) == {1}
    assert not first.whole.any()
    assert not first.minutes.any()
    assert set(whole.outcome) == {"right"}
    assert whole.bag.all()
    assert set(whole.similar_rank) == {1}
    assert whole.whole.all()
    np.testing.assert_allclose(whole.minutes, timedelta(seconds=3) / timedelta(minutes=1))
    assert bench.shares(whole)["right"] == 1
    assert bench.shares(first) | {"right": 0.0, "bag": 0.3333, "flows": 1.0, "whole": 0.0} == bench.shares(first)
