"""Flows of captures of a device: their packets in order, the ends seen from the device, bytes, and the vote."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from iotid import baselines
from iotid.baselines import DeviceFlows
from iotid.baselines.device_flows import COLUMNS, mean_vote, shares

FlowsOf = Callable[[Sequence[dict[str, Any]]], DeviceFlows]
Toy = Callable[[int], tuple[DeviceFlows, np.ndarray]]

_ROWS = [
    {"unit": 0, "at_us": 100, "packets": [(0, 1, 60, 0), (50, -1, 61, 0), (25, 1, 62, 4)], "bytes": [b"a", b"bb"]},
    # the device is the server, and the flow's second packet comes between those of the first
    {"unit": 0, "at_us": 120, "is_client": False, "client_ip": "192.0.2.9", "server_ip": "10.0.0.1", "server_port": 80,
     "packets": [(0, 1, 70, 0), (30, -1, 71, 0)], "bytes": [b"c"]},
    {"unit": 1, "at_us": 90, "server_ip": "192.0.2.9", "packets": [(0, 1, 80, 0)]},
]  # fmt: skip


def test_packets__are_by_capture_and_time_and_know_flow_number_and_sender(device_flows_of: FlowsOf) -> None:
    found = device_flows_of(_ROWS).packets(["packet_length"])
    assert found["packet_length"].tolist() == [60, 70, 61, 71, 62, 80]
    assert found["time_us"].tolist() == [100, 120, 150, 150, 175, 90]
    assert found["flow"].tolist() == [0, 1, 0, 1, 0, 2]
    assert found["number"].tolist() == [0, 0, 1, 1, 2, 0]
    assert found["sent"].tolist() == [1, 0, 0, 1, 1, 1]
    first = device_flows_of(_ROWS).packets(["packet_length"], 1)
    assert first["packet_length"].tolist() == [60, 70, 80]


def test_packets__flows_without_packets_are_left_out(device_flows_of: FlowsOf) -> None:
    empty = {"unit": 0, "at_us": 110, "packets": []}
    found = device_flows_of([*_ROWS, empty, {**empty, "unit": 2}]).packets([])
    assert found["time_us"].tolist() == [100, 120, 150, 150, 175, 90]
    assert found["flow"].tolist() == [0, 2, 0, 2, 0, 3]


def test_ends__are_seen_from_the_device(device_flows_of: FlowsOf) -> None:
    flows = device_flows_of(_ROWS)
    assert flows.local_port.tolist() == [50000, 80, 50000]
    assert flows.remote_port.tolist() == [443, 50000, 443]
    assert flows.remote.tolist() == [0, 1, 1]
    assert {"protocol", *COLUMNS} <= {*flows.flows.column_names}


def test_bytes_of__are_those_of_the_packet_and_empty_where_not_kept(device_flows_of: FlowsOf) -> None:
    flows = device_flows_of(_ROWS)
    found = flows.bytes_of(np.array([1, 0, 0, 2]), np.array([0, 1, 4, 0]))
    assert [each.rstrip(b"\0") for each in found] == [b"c", b"bb", b"", b""]
    assert list(map(len, found)) == [250, 250, 0, 250]
    without = device_flows_of([{}]).bytes_of(np.array([0]), np.array([0]))
    assert without == [b""]


def test_mean_vote__is_the_mean_of_instances_and_the_prior_without_any() -> None:
    class Model:
        classes_ = np.array([0, 2])

        def predict_proba(self, features: np.ndarray) -> np.ndarray:
            return np.stack([features, 1 - features], axis=1)

    found = mean_vote(Model(), np.array([0.5, 1.0, 0.0]), np.array([0, 0, 2]), 3, shares(np.array([0, 2, 2, 2]), 3))
    np.testing.assert_allclose(found, [[0.75, 0, 0.25], [0.25, 0, 0.75], [0, 0, 1]])


@pytest.mark.parametrize("name", list(baselines.capture_baselines(1)))
def test_every_capture_baseline__learns_a_toy_and_a_seed_repeats_itself(name: str, toy_captures: Toy) -> None:
    (train, label_U), (test, expected_U) = toy_captures(1), toy_captures(2)
    first, again = (baselines.capture_baselines(3)[name].fit(train, label_U, 5).probabilities(test) for _ in range(2))
    assert (first == again).all()
    assert first.shape == (24, 5)
    np.testing.assert_allclose(first.sum(axis=1), 1)
    assert not first[:, [2, 4]].any(), "labels without captures"
    assert (first.argmax(axis=1) == expected_U).mean() > 0.9


@pytest.mark.parametrize("name", list(baselines.capture_baselines(1)))
def test_every_capture_baseline__answers_for_captures_in_which_nothing_is_sent(
    name: str, toy_captures: Toy, device_flows_of: FlowsOf
) -> None:
    baseline = baselines.capture_baselines(3)[name].fit(*toy_captures(1), 5)
    silent = device_flows_of([{"unit": 0, "packets": [(0, -1, 60, 0)]}, {"unit": 1}])
    for captures in (silent, device_flows_of([{"packets": [(0, -1, 60, 0)]}])):
        np.testing.assert_allclose(baseline.probabilities(captures).sum(axis=1), 1)
    assert baseline.origin


@pytest.mark.parametrize("name", list(baselines.capture_baselines(1)))
def test_every_capture_baseline__one_label_is_certain(name: str, toy_captures: Toy) -> None:
    captures, label_U = toy_captures(1)
    found = baselines.capture_baselines(3)[name].fit(captures, label_U * 0, 1).probabilities(captures)
    np.testing.assert_allclose(found, 1)
