"""IoT SENTINEL: features of packets and fingerprints calculated manually, and the edit distance against a recursion."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from iotid.baselines import DeviceFlows
from iotid.baselines.iot_sentinel import IotSentinel, edit_distance, fingerprint, sent_vectors

FlowsOf = Callable[[Sequence[dict[str, Any]]], DeviceFlows]


def test_sent_vectors__are_those_of_the_packets_sent_counted_manually(device_flows_of: FlowsOf) -> None:
    rows = [
        {"packets": [(0, 1, 60, 0), (1, -1, 999, 0), (1, 1, 60, 0), (1, 1, 90, 30)]},
        {"at_us": 10, "protocol": 17, "server_ip": "192.0.2.2", "server_port": 53, "packets": [(0, 1, 70, 42)]},
        {"at_us": 20, "is_client": False, "client_port": 2000, "client_ip": "192.0.2.3", "server_port": 80,
         "packets": [(0, 1, 60, 0), (1, -1, 61, 0)]},
        {"at_us": 30, "protocol": 1, "client_port": 0, "server_port": 0},
        {"unit": 1, "server_ip": "192.0.2.2", "server_port": 5000},
    ]  # fmt: skip
    first, second = sent_vectors(device_flows_of(rows))
    # ICMP, ICMPv6, TCP, UDP; HTTP, HTTPS, DHCP, SSDP, DNS, mDNS, NTP; length, payload, destination, port classes
    assert first.tolist() == [
        [0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 60, 0, 1, 3, 1],  # its duplicate follows, with only a received one between
        [0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 90, 1, 1, 3, 1],
        [0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 70, 1, 2, 3, 1],
        [0, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 61, 0, 3, 1, 2],
        [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 60, 0, 1, 0, 0],
    ]
    assert second.tolist() == [[0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 60, 0, 1, 3, 2]]


def test_fingerprint__has_the_first_12_distinct_packets_and_zeros() -> None:
    assert fingerprint(np.array([[5], [3], [5], [4], [3]], np.int32)).tolist() == [5, 3, 4] + [0] * 9
    assert fingerprint(np.arange(1, 20, dtype=np.int32)[:, np.newaxis]).tolist() == list(range(1, 13))
    assert fingerprint(np.zeros((0, 2), np.int32)).tolist() == [0] * 24


def _slow_distance(first: Sequence[int], second: Sequence[int]) -> int:
    @cache
    def of(i: int, j: int) -> int:
        if not i or not j:
            return i + j
        found = [of(i - 1, j) + 1, of(i, j - 1) + 1, of(i - 1, j - 1) + (first[i - 1] != second[j - 1])]
        if i > 1 and j > 1 and first[i - 1] == second[j - 2] and first[i - 2] == second[j - 1]:
            found.append(of(i - 2, j - 2) + 1)
        return min(found)

    return of(len(first), len(second))


_SEQUENCE = st.lists(st.integers(0, 3), max_size=12)


@given(first=_SEQUENCE, second=_SEQUENCE)
def test_edit_distance__is_that_of_the_recursive_definition(first: list[int], second: list[int]) -> None:
    found = edit_distance(np.array(first, np.int64), np.array(second, np.int64))
    assert found == _slow_distance(tuple(first), tuple(second))


def test_edit_distance__a_transposition_is_one_edit() -> None:
    assert edit_distance(np.array([1, 2, 3]), np.array([2, 1, 3])) == 1
    assert edit_distance(np.array([1, 2, 3]), np.array([3, 2, 1])) == 2


def test_probabilities__the_edit_distance_decides_if_several_forests_accept(device_flows_of: FlowsOf) -> None:
    class Accepting:
        def predict_proba(self, points: np.ndarray) -> np.ndarray:
            return np.tile([0.1, 0.9], (len(points), 1))

    def capture(unit: int, lengths: Sequence[int]) -> dict[str, Any]:
        return {"unit": unit, "packets": [(1, 1, length, 0) for length in lengths]}

    train = device_flows_of([capture(0, [60, 70, 80, 90]), capture(1, [60, 71, 81, 91])])
    baseline = IotSentinel(1, trees=5).fit(train, np.array([0, 1]), 3)
    baseline._forests = {0: Accepting(), 1: Accepting()}
    found = baseline.probabilities(device_flows_of([capture(0, [60, 71, 81, 90]), capture(1, [60, 70, 80])]))
    assert found.tolist() == [[0, 1, 0], [1, 0, 0]]


def test_probabilities__scores_decide_if_no_forest_accepts(device_flows_of: FlowsOf) -> None:
    class Refusing:
        def __init__(self, score: float) -> None:
            self._score = score

        def predict_proba(self, points: np.ndarray) -> np.ndarray:
            return np.tile([1 - self._score, self._score], (len(points), 1))

    captures = device_flows_of([{"unit": 0}, {"unit": 1, "server_port": 80}])
    baseline = IotSentinel(1, trees=5).fit(captures, np.array([0, 1]), 3)
    for scores, expected in (((0.1, 0.3), [0.25, 0.75, 0]), ((0, 0), [0.5, 0.5, 0])):
        baseline._forests = dict(enumerate(map(Refusing, scores)))
        np.testing.assert_allclose(baseline.probabilities(captures), [expected] * 2)
