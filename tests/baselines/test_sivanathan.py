"""Sivanathan et al.: hours, words and statistics counted manually; both stages with and without bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from iotid.baselines import DeviceFlows
from iotid.baselines.sivanathan import Sivanathan, bags, hours, statistics
from tests.baselines.test_payload import client_hello, query, tcp, udp

FlowsOf = Callable[[Sequence[dict[str, Any]]], DeviceFlows]
_S = 1_000_000


def _asks(unit: int, at_s: int, name: bytes) -> dict[str, Any]:
    packets = [(0, 1, 70, 42), (_S, -1, 90, 62)]
    own = {"unit": unit, "at_us": at_s * _S, "protocol": 17, "server_port": 53, "packets": packets}
    return own | {"bytes": [udp(query(name)), udp(query(name, flags=0x8180))]}


def _opens(unit: int, at_s: int, suites: bytes) -> dict[str, Any]:
    packets = [(0, 1, 60, 0), (_S, -1, 60, 0), (_S, 1, 300, 248)]
    return {
        "unit": unit,
        "at_us": at_s * _S,
        "packets": packets,
        "bytes": [tcp(b""), tcp(b""), tcp(client_hello(suites))],
    }


_ROWS = [
    _asks(0, 0, b"one"),
    _opens(0, 10, b"\0\5"),
    _asks(0, 30, b"two"),
    {"unit": 0, "at_us": 3599 * _S, "end_us": 9000 * _S, "is_client": False, "server_port": 80},
    _opens(0, 3600, b"\0\6"),
    _asks(1, 5, b"two"),
]


def test_hours__begin_with_a_captures_first_flow(device_flows_of: FlowsOf) -> None:
    hour_N, unit_I = hours(device_flows_of(_ROWS))
    assert hour_N.tolist() == [0, 0, 0, 0, 1, 2]
    assert unit_I.tolist() == [0, 0, 1]


def test_bags__have_the_words_of_flows_that_the_device_opened(device_flows_of: FlowsOf) -> None:
    captures = device_flows_of(_ROWS)
    found = [list(zip(*map(list, words), strict=True)) for words in bags(captures, hours(captures)[0])]
    assert found[0] == [(0, 53), (0, 443), (0, 53), (1, 443), (2, 53)]
    assert found[1] == [(0, "one"), (0, "two"), (2, "two")]
    assert found[2] == [(0, "0005"), (1, "0006")]
    without = device_flows_of([{key: row[key] for key in row if key != "bytes"} for row in _ROWS])
    assert len(bags(without, hours(without)[0])) == 1


def test_statistics__are_the_means_calculated_manually(device_flows_of: FlowsOf) -> None:
    captures = device_flows_of(_ROWS)
    first, second, third = statistics(captures, hours(captures)[0]).tolist()
    volume = (160 + 420 + 160 + 60) / 4
    seconds = (1 + 2 + 1 + 5401) / 4
    rate = (160 + 210 + 160 + 60 / 5401) / 4
    sleep = ((10 - 1) + (30 - 12) + (3599 - 31)) / 3
    assert first == pytest.approx([volume, seconds, rate, sleep, 30, -1])
    assert second == pytest.approx([420, 2, 210, 0, -1, -1])
    assert third == pytest.approx([160, 1, 160, 0, -1, -1])


def test_probabilities__names_tell_devices_apart_that_are_equal_otherwise(device_flows_of: FlowsOf) -> None:
    names = [b"one", b"two"] * 6
    captures = device_flows_of([_asks(unit, 0, name) for unit, name in enumerate(names)])
    label_U = np.arange(12) % 2
    baseline = Sivanathan(1).fit(captures, label_U, 3)
    found = baseline.probabilities(captures)
    assert found.argmax(axis=1).tolist() == label_U.tolist()
    assert found.max() > 0.9
    assert "cipher suites (Siv" in baseline.origin
    unknown = baseline.probabilities(device_flows_of([_asks(0, 0, b"never")]))
    np.testing.assert_allclose(unknown.sum(), 1)


def test_fit__without_bytes_says_so(device_flows_of: FlowsOf) -> None:
    captures = device_flows_of([{"unit": 0, "server_port": 80}, {"unit": 1}])
    baseline = Sivanathan(1).fit(captures, np.array([0, 1]), 2)
    assert "without DNS names and cipher suites" in baseline.origin
    assert baseline.probabilities(captures).argmax(axis=1).tolist() == [0, 1]
