"""The benchmark of unlike_kind: what it mixes into captures, the worst window of packets, and a small run of all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow as pa
import pytest

from iotid.baselines import device_flows
from iotid.config import load_settings
from iotid.dataset import LabelledFlows
from iotid.labels import Device, DeviceList, owner
from iotid.studies import protocols

_BENCH = Path(__file__).parent / "bench"
_NAMES, _CAPTURES = ("cam", "hub", "plug"), 12


@pytest.fixture
def bench(module_at: Callable[[Path], ModuleType], monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(_BENCH)  # it imports what lies beside it
    return module_at(_BENCH / "unlike_kind.py")


@pytest.fixture
def flows(flow_table: Callable[..., pa.Table], of_night: Callable[[pa.Table], pa.Table]) -> LabelledFlows:
    """Twelve captures of each of three devices, with ten flows each."""
    rows = []
    for number, name in enumerate(_NAMES):
        own = [[100 * number + 300, 41, 60 + number], [100 * number + 350, 900, 77], [100 * number + 390, 50]]
        for capture in range(_CAPTURES):
            place = {"capture_file": f"{name}-{capture}.pcap", "client_mac": f"02:00:00:00:00:0{number}"}
            rows += [
                {
                    **place, "packet_length": own[each % 3], "payload_length": [0] * len(own[each % 3]),
                    "tcp_flags": [16] * len(own[each % 3]), "inter_arrival_us": [0] * len(own[each % 3]),
                    "direction": [1] * len(own[each % 3]),
                }
                for each in range(10)
            ]  # fmt: skip
    devices = tuple(
        Device(name=name, model=name, vendor=name, type="thing", mac=f"02:00:00:00:00:0{number}")
        for number, name in enumerate(_NAMES)
    )
    settings = load_settings()
    further = (*owner.READ, *device_flows.COLUMNS)
    listed = DeviceList(devices, "list.yaml")
    return LabelledFlows.of(of_night(flow_table(rows)), listed, settings.dataset, settings.flow, further=further)


def _lengths(captures: device_flows.DeviceFlows, unit: int) -> list[list[int]]:
    own = pa.array(np.flatnonzero(captures.unit == unit))
    found: list[list[int]] = captures.flows["packet_length"].take(own).to_pylist()
    return found


def test_worst_windows__of_250_packets_or_of_all(bench: ModuleType) -> None:
    few, many = np.arange(10) < 4, np.zeros(1000, np.bool_)
    many[300:500] = True  # 200 of the worst 250
    found = bench.worst_windows(np.concatenate([few, many]), np.repeat([0, 2], [10, 1000]), 3)
    assert found.tolist() == [0.4, 0.0, 0.8]


def test_conditions__add_foreign_flows_and_syns_and_keep_the_own(bench: ModuleType, flows: LabelledFlows) -> None:
    captures, label = bench.captures_of(flows, np.arange(len(flows.label)))
    random, kinds = np.random.default_rng(1), label
    assert captures.units == len(_NAMES) * _CAPTURES
    mixed = bench.mixed(captures, kinds, 0.2, random)
    scan, flood = (bench.with_syns(captures, random, is_scan=each) for each in (True, False))
    swap = bench.swapped(captures, kinds, random)
    for unit in range(captures.units):
        own = _lengths(captures, unit)
        foreign = _lengths(mixed, unit)
        for each in own:
            foreign.remove(each)
        assert len(foreign) == round(0.2 * 10 / 0.8)
        assert not any(each in own for each in foreign)
        assert sum(each == [40] for each in _lengths(scan, unit)) == bench.SYNS
        assert sum(each == own[0][:1] for each in _lengths(flood, unit)) == bench.SYNS
        assert not any(each in own for each in _lengths(swap, unit))
    for each in (mixed, scan, flood, swap):
        assert (np.diff(each.unit) >= 0).all()
        assert all((np.diff(each.column("first_seen")[each.unit == unit]) >= 0).all() for unit in (0, 35))
    of_first = scan.flows.take(pa.array(np.flatnonzero(scan.unit == 0))).to_pylist()
    syns = [row for row in of_first if row["packet_length"] == [40]]
    assert {row["server_port"] for row in syns} == {bench.TELNET}
    assert len({row["server_ip"] for row in syns}) == bench.SYNS
    assert len({row["tcp_window"][0] for row in syns}) == 1


def test_fold__ordinary_captures_are_like_their_kind_and_swapped_ones_are_not(
    bench: ModuleType, flows: LabelledFlows
) -> None:
    part = np.where(flows.folds(3) == 0, protocols.TEST, protocols.TRAIN).astype(np.int8)
    fold = bench.Fold(flows, part, load_settings(), 60)
    assert fold.recordings == 24
    random = np.random.default_rng(1)
    scores = {name: fold.score(each) for name, each in fold.conditions(random).items()}
    ordinary, rates = scores["ordinary"], {}
    for name, found in scores.items():
        rates[name] = bench.rates(ordinary, found)
    assert rates["ordinary"]["p_0.05"] == rates["ordinary"]["not_named"] == rates["ordinary"]["published"] == 0
    assert rates["swap"]["p_0.05"] == rates["swap"]["not_named"] == rates["swap"]["score_auc"] == 1
    assert rates["scan"]["p_0.05"] == rates["scan"]["score_at_5"] == 1
    assert rates["swap"]["share_auc"] > 0.9
    assert rates["swap"]["mean_auc"] > 0.9
    assert rates["mixed 1 %"]["score_auc"] <= rates["mixed 20 %"]["score_auc"]
    lines = bench.table(rates)
    assert len(lines) == 1 + len(rates)
    assert len({len(line) for line in lines}) == 1
