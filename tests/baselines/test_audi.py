"""AuDI: periods found in series whose periods are known, and features counted manually."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from iotid.baselines import DeviceFlows
from iotid.baselines.audi import Audi, Series, features, fingerprints, infer_periods, types

FlowsOf = Callable[[Sequence[dict[str, Any]]], DeviceFlows]
_NAMES = [f"f{number}" for number in range(1, 34)]


@pytest.mark.parametrize("period", [5, 17, 60, 240, 600])
def test_infer_periods__finds_the_period_of_an_event_in_every_period(period: int) -> None:
    found = infer_periods(np.arange(3, 1800, period), 1800)
    assert found.length.tolist() == [period]
    assert found.r[0] == pytest.approx(1, abs=0.35)  # the events of a short part are few
    assert (found.rn == found.r).all()


def test_infer_periods__jitter_of_a_second_is_in_rn() -> None:
    jitter = np.random.default_rng(1).integers(0, 2, 60)
    found = infer_periods(np.arange(0, 1800, 30) + jitter, 1800)
    assert 30 in found.length
    at = found.length.tolist().index(30)
    assert 0.3 < found.r[at].mean() < 0.7
    assert found.rn[at].mean() == pytest.approx(1, abs=0.1)


def test_infer_periods__finds_two_periods_of_a_protocol() -> None:
    seconds = np.union1d(np.arange(0, 1800, 20), np.arange(7, 1800, 90))
    assert {20, 90} & {*infer_periods(seconds, 1800).length.tolist()} == {20, 90}


@pytest.mark.parametrize(("seconds", "duration"), [([], 1800), ([0, 60], 1800), ([0, 3, 6], 9), ([0, 7, 700], 1800)])
def test_infer_periods__few_events_have_none(seconds: list[int], duration: int) -> None:
    assert not len(infer_periods(np.array(seconds, np.int64), duration).length)


@hypothesis_settings(max_examples=100, deadline=None)
@given(seconds=st.sets(st.integers(0, 299), min_size=3), beyond=st.integers(1, 100))
def test_infer_periods__are_in_range_and_occur_twice(seconds: set[int], beyond: int) -> None:
    duration = max(seconds) + beyond
    found = infer_periods(np.array(sorted(seconds)), duration)
    assert ((found.length >= 5) & (found.length <= duration / 2)).all()
    assert found.r.shape == found.rn.shape == (len(found.length), 3)
    assert (found.rn >= found.r).all()
    assert (np.diff(found.length) > 0).all()


def test_features__of_one_period_are_those_counted_manually() -> None:
    series = [
        Series(np.arange(0, 1800, 60), 17, 0.0),
        Series(np.arange(0, 1800, 20), 6, 0.5),
        Series(np.array([1, 2]), 6, 1.0),
    ]
    found = dict(zip(_NAMES, features(series, 1800).tolist(), strict=True))
    flows = {"f1": 2, "f2": 2, "f3": 1, "f4": 0, "f5": 2, "f6": 0, "f7": 1, "f8": 0.25, "f9": 0.25}
    accuracy = {"f10": 2, "f11": 1, "f12": 0}
    duration = {"f13": 1, "f14": 0, "f15": 1, "f16": 0}
    # 1,200 seconds from 0, 300 and 600 have 20 events each of period 60 (19 pairs in 1,140 s), 60 of period 20
    stability = {"f19": 2, "f21": 2, "f26": 2, "f28": 2, "f31": 2}
    stability |= dict.fromkeys(("f17", "f18", "f20", "f22", "f23", "f24", "f25", "f27", "f29", "f30", "f32", "f33"), 0)
    assert found == flows | accuracy | duration | stability


def test_fingerprints__windows_are_of_half_an_hour_and_protocols_of_server_ports(device_flows_of: FlowsOf) -> None:
    def beat(unit: int, at_s: int, **changes: Any) -> dict[str, Any]:
        return {"unit": unit, "at_us": at_s * 10**6, "protocol": 17, "server_port": 123} | changes

    rows = [
        *(beat(0, at, client_port=at + 1) for at in range(0, 2400, 40)),
        *(beat(0, at + 3, server_port=53) for at in range(0, 1800, 50)),
        *(beat(1, at, packets=[(0, -1, 60, 0)]) for at in range(0, 600, 10)),  # received only
        *(beat(2, at, is_client=False, packets=[(0, -1, 60, 0)]) for at in range(10**6, 10**6 + 600, 10)),
    ]
    features_WD, unit_W = fingerprints(device_flows_of(rows))
    assert unit_W.tolist() == [0, 0, 2]
    assert features_WD[:, 0].tolist() == [2, 1, 1]  # periodic flows
    assert features_WD[:, 6].tolist() == [1, 0, 1]  # of one source port
    assert features_WD[:, 12:16].tolist() == [[0, 2, 0, 0], [0, 1, 0, 0], [1, 0, 0, 0]]


def test_probabilities__captures_without_a_period_have_the_classes_shares(device_flows_of: FlowsOf) -> None:
    short = device_flows_of([{"unit": unit} for unit in range(4)])
    found = Audi().fit(short, np.array([0, 1, 1, 1]), 3).probabilities(short)
    assert found.tolist() == [[0.25, 0.75, 0]] * 4


def test_types__are_found_without_labels_and_captures_without_a_period_have_none(device_flows_of: FlowsOf) -> None:
    """Seven captures of each of two types, one like neither, and one of a single packet."""
    periods = [(20,)] * 7 + [(45, 200)] * 7 + [(400,)]
    rows = [
        {"unit": unit, "at_us": (at + unit % 7) * 10**6, "protocol": 17, "server_port": 1000 + number}
        for unit, own in enumerate(periods)
        for number, period in enumerate(own)
        for at in range(0, 1790, period)
    ]
    found = types(device_flows_of([*rows, {"unit": 15}])).tolist()
    assert found[:7] == found[:1] * 7
    assert found[7:14] == found[7:8] * 7
    assert found[0] != found[7]
    assert found[14] in (found[0], found[7])  # of no cluster: that of its nearest neighbours
    assert found[15] == -1


@pytest.mark.parametrize(("captures", "expected"), [(3, [0] * 3), (8, [0] * 8)])
def test_types__of_few_fingerprints_and_of_equal_ones_are_one(
    device_flows_of: FlowsOf, captures: int, expected: list[int]
) -> None:
    rows = [{"unit": unit, "at_us": at * 10**6} for unit in range(captures) for at in range(0, 1790, 30)]
    assert types(device_flows_of(rows)).tolist() == expected
    assert types(device_flows_of([{"unit": 0}])).tolist() == [-1]
