"""DEFT: sessions and features by hand, and groups of devices that the forest does not know."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from iotid.baselines.deft import _APPLICATIONS, Deft, _clusters, device_sessions
from iotid.baselines.ports import APPLICATIONS
from tests.baselines.toy_captures import at, captures_of, packets


def test_device_sessions__quarter_hours_since_the_captures_first_flow(flow_table: Any) -> None:
    captures = captures_of(flow_table, [[at(0), at(899), at(900), at(2000)], [], [at(500), at(1399)]])
    sessions = device_sessions(captures)
    assert sessions.unit.tolist() == [0, 0, 0, 2]
    assert np.expm1(sessions.features).round(9)[:, len(_APPLICATIONS)].tolist() == [0, 0, 0, 0]  # all are to port 443
    https = list(_APPLICATIONS).index("https")
    assert np.expm1(sessions.features).round(9)[:, https].tolist() == [2, 1, 1, 2]


def test_device_sessions__sums_means_and_deviations_by_hand(flow_table: Any) -> None:
    dns = {"protocol": 17, "server_port": 53, "server_ip": "10.0.0.1", **packets(30, -50), "is_client": False}
    web = {"server_port": 80, "client_bytes": 300, "server_bytes": 100, **packets(1, -2, 3), **at(1)}
    game = {"server_port": 9999, "client_bytes": 500, "server_bytes": 700, **packets(1), **at(2)}
    (found,) = np.expm1(device_sessions(captures_of(flow_table, [[dns, web, game]])).features)
    A = len(_APPLICATIONS) + 3
    flows, bytes_sent = found[:A], found[3 * A : 4 * A]
    assert flows.round(9).tolist() == [1, 0, 1, *[0] * (A - 6), 1, 0, 0]
    assert bytes_sent[[2, A - 3]].round(6).tolist() == [300, 500]
    # mean of TCP and UDP, deviation of TCP and UDP: milliseconds, packets, bytes, bytes of a packet
    statistics = found[5 * A : 5 * A + 16].reshape(4, 4)
    assert statistics[0].round(6).tolist() == [1000, 1000, 0, 0]
    assert statistics[1].round(6).tolist() == [2, 2, 1, 0]
    assert statistics[2, [0, 2]].round(6).tolist() == [800, 400]
    assert found[-3:].round(9).tolist() == [2, 3, round(2 / 3, 9)]  # addresses, ports, share opened


def test_applications__have_the_ports_of_the_other_baselines_and_more() -> None:
    assert set(APPLICATIONS) < set(_APPLICATIONS)
    for name, ports in APPLICATIONS.items():
        assert set(ports) <= set(_APPLICATIONS[name])
    assert list(_APPLICATIONS)[:3] == ["dns", "dhcp", "http"]  # the order is that of the features
    every = [port for ports in _APPLICATIONS.values() for port in ports]
    assert len(set(every)) == len(every) == 15


def _device(port: int, size: int, random: np.random.Generator) -> list[dict[str, Any]]:
    return [
        {"server_port": port, "client_bytes": int(size * random.uniform(0.9, 1.1)), **packets(*[5] * 3), **at(100 * i)}
        for i in range(12)
    ]


@pytest.fixture
def captures(flow_table: Any) -> tuple[Any, np.ndarray]:
    """Five captures of each of two known devices."""
    random = np.random.default_rng(1)
    rows = [_device(port, size, random) for port, size in ((443, 500), (1883, 90)) for _ in range(5)]
    return captures_of(flow_table, rows), np.repeat([0, 2], 5)


def test_deft__learns_two_devices_and_answers_captures_without_flows(captures: Any, flow_table: Any) -> None:
    own, label = captures
    answers = [Deft(1).fit(own, label, 3).probabilities(own) for _ in range(2)]
    np.testing.assert_array_equal(*answers)
    assert answers[0].argmax(axis=1).tolist() == label.tolist()
    assert answers[0].sum(axis=1) == pytest.approx(1)
    udp = [{"protocol": 17, **packets(9)}]
    found = Deft(1).fit(own, label, 3).probabilities(captures_of(flow_table, [udp, []]))
    assert found.sum(axis=1) == pytest.approx(1)
    assert found[1].tolist() == [0.5, 0, 0.5]  # the shares in training


def test_deft__groups_are_known_classes_or_clusters_of_what_is_rejected(
    captures: Any, flow_table: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, label = captures
    deft, random = Deft(1).fit(own, label, 3), np.random.default_rng(2)
    new = [_device(port, size, random) for port, size in ((80, 20), (123, 90_000)) for _ in range(4)]
    shown = captures_of(flow_table, [*new, _device(1883, 90, random), []])
    monkeypatch.setattr(deft, "_forest", _Rejecting(deft._forest, known=8))
    groups = deft.groups(shown).tolist()
    assert groups[8] == 2
    assert set(groups[:4]).isdisjoint(groups[4:8])
    assert min(groups[:8]) >= 3  # no class has their numbers


class _Rejecting:
    """A forest that is sure of one capture alone; each capture here has two sessions."""

    def __init__(self, forest: Any, known: int) -> None:
        self.classes_, self._forest, self._known = forest.classes_, forest, known

    def predict_proba(self, features: np.ndarray) -> np.ndarray:
        found = self._forest.predict_proba(features)
        unsure = np.arange(len(found)) // 2 != self._known
        return np.where(unsure[:, np.newaxis], 0.49, found)


def test_clusters__the_elbow_finds_three_heaps() -> None:
    random = np.random.default_rng(1)
    points = np.repeat([[0.0, 0], [10, 0], [0, 10]], 20, axis=0) + random.normal(0, 0.1, (60, 2))
    assert len(set(_clusters(points, 1).tolist())) == 3
    assert _clusters(np.zeros((5, 2)), 1).tolist() == [0] * 5
