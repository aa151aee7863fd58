"""Hamad et al.: features of sequences of packets, counted one by one."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from iotid.baselines import DeviceFlows
from iotid.baselines.hamad import Hamad, sequence_features

FlowsOf = Callable[[Sequence[dict[str, Any]]], DeviceFlows]


def test_sequence_features__are_the_statistics_counted_one_by_one(device_flows_of: FlowsOf) -> None:
    rows = [
        {"window": 500, "flags": 0b10010, "packets": [(0, 1, 60, 0), (10**6, -1, 999, 0), (10**6, 1, 160, 100)]},
        {"at_us": 5 * 10**6, "protocol": 17, "client_port": 123, "server_port": 123, "server_ip": "192.0.2.2",
         "window": 0, "packets": [(0, 1, 76, 48)]},
        {"unit": 1, "protocol": 1, "client_port": 0, "server_port": 0, "window": 0},
    ]  # fmt: skip
    features_ID, unit_I = sequence_features(device_flows_of(rows))
    assert unit_I.tolist() == [0, 1]

    def described(*values: float) -> list[float]:
        return [statistics.mean(values), statistics.pstdev(values), sum(values), min(values), max(values)]

    expected = [
        *described(60, 160, 76),
        *described(0, 100, 48),
        *described(60, 60, 28),
        *described(500, 500, 0),
        *described(0, 2, 3),
        *(2, 1, 0),  # TCP, UDP, others
        *(0, 2, 0, 0, 0, 0, 1),  # HTTP, HTTPS, DHCP, SSDP, DNS, mDNS, NTP
        *(0, 2, 0, 0, 2, 0),  # FIN, SYN, RST, PSH, ACK, URG
        *(1, 0, 2, 3, 0, 0),  # system, user and dynamic ports of source and destination
        *(2, 2, 2, 2),  # addresses, source and destination ports, flows
    ]
    np.testing.assert_allclose(features_ID[0], expected)
    np.testing.assert_allclose(features_ID[1, 25:28], [0, 0, 1])
    assert features_ID.shape == (2, 51)


def test_sequence_features__sequences_have_20_packets_and_begin_with_a_capture(device_flows_of: FlowsOf) -> None:
    rows = [
        {"unit": 0, "packets": [(1, 1, 60, 0)] * 45},
        {"unit": 1, "packets": [(1, 1, 60, 0)] * 20},
        {"unit": 2, "packets": [(1, -1, 60, 0)] * 3},
        {"unit": 3},
    ]
    features_ID, unit_I = sequence_features(device_flows_of(rows))
    assert unit_I.tolist() == [0, 0, 0, 1, 3]
    assert (features_ID[:, 2] / 60).tolist() == [20, 20, 5, 20, 1]
    np.testing.assert_allclose(features_ID[:, 22], np.array([19, 19, 4, 19, 0]) / 1e6)


def test_hamad__captures_of_one_direction_have_the_shares_of_training(device_flows_of: FlowsOf) -> None:
    """No device sends a packet."""
    received = device_flows_of([{"unit": unit, "packets": [(0, -1, 60, 0)]} for unit in range(3)])
    fitted = Hamad(0, trees=3).fit(received, np.array([0, 1, 1]), 3)
    np.testing.assert_allclose(fitted.probabilities(received), [[1 / 3, 2 / 3, 0]] * 3)
