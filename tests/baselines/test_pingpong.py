"""PingPong: pairs and signatures that a reader can find by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from iotid.baselines.pingpong import PingPong, packet_pairs
from tests.baselines.toy_captures import captures_of, packets


def _pairs(table: Any) -> list[tuple[int, bool, int, int]]:
    found = packet_pairs(table)
    return list(zip(*(column.tolist() for column in found), strict=True))


def test_packet_pairs__consecutive_payloads_in_opposite_directions(flow_table: Any) -> None:
    table = flow_table([packets(0, 556, 0, -1293, 0, 20, -30, 7)])
    assert _pairs(table) == [(0, True, 556, 1293), (0, True, 20, 30)]  # 7 has no answer


def test_packet_pairs__a_packet_is_in_one_pair_and_a_repeated_direction_in_none(flow_table: Any) -> None:
    table = flow_table([packets(1, 2, -3, 4, -5, -6, 7, 8), packets(-9, 10)])
    # 1 is followed by its own direction; 2 -3 and 4 -5 are pairs; -6 7 is one; 8 ends the flow
    assert _pairs(table) == [(0, True, 2, 3), (0, True, 4, 5), (0, False, 6, 7), (1, False, 9, 10)]


def _slow_pairs(payloads: list[int]) -> list[tuple[int, int]]:
    """One packet after the other, as the paper describes it."""
    shown, found, at = [length for length in payloads if length], [], 0
    while at + 1 < len(shown):
        if (shown[at] > 0) != (shown[at + 1] > 0):
            found.append((shown[at], shown[at + 1]))
            at += 1
        at += 1
    return found


def test_packet_pairs__equal_a_slow_reading_of_random_flows(flow_table: Any) -> None:
    random = np.random.default_rng(1)
    flows = [random.integers(-3, 4, random.integers(1, 20)).tolist() for _ in range(200)]
    found = packet_pairs(flow_table([packets(*flow) for flow in flows]))
    signed = np.where(found.by_client, 1, -1)
    rows = zip(found.flow.tolist(), (signed * found.first).tolist(), (-signed * found.second).tolist(), strict=True)
    assert list(rows) == [(number, *pair) for number, flow in enumerate(flows) for pair in _slow_pairs(flow)]


def test_packet_pairs__only_of_tcp(flow_table: Any) -> None:
    assert _pairs(flow_table([{"protocol": 17, **packets(5, -6)}])) == []


@pytest.fixture
def fitted(flow_table: Any) -> PingPong:
    """Cam: 100 -> 200 (exact) and 300..306 -> 50; plug: 100 -> 200, too, and 700 <- 80; clock: UDP alone."""
    cam = [[packets(100, -200), packets(300 + number, -50)] for number in (0, 3, 6)]
    plug = [[packets(100, -200), packets(-80, 700)] for _ in range(3)]
    clock = [[{"protocol": 17, **packets(48, -48)}] for _ in range(2)]
    label = np.array([0, 0, 0, 1, 1, 1, 2, 2])
    return PingPong().fit(captures_of(flow_table, [*cam, *plug, *clock]), label, 4)


def test_pingpong__weights_and_shares_by_hand(fitted: PingPong, flow_table: Any) -> None:
    """100 -> 200 weighs 1/2 for both, the others 1: a kind's score is the weight found of 1 + 1.5."""
    shared, of_cam = packets(100, -200), packets(296, -60)  # 300 to 306 is a range, extended by 10
    found = fitted.probabilities(captures_of(flow_table, [[shared], [shared, of_cam], [packets(-80, 700)]]))
    np.testing.assert_allclose(found, [[0.5, 0.5, 0, 0], [0.75, 0.25, 0, 0], [0, 1, 0, 0]])


def test_pingpong__a_cluster_of_equal_pairs_matches_exactly(fitted: PingPong, flow_table: Any) -> None:
    found = fitted.probabilities(captures_of(flow_table, [[packets(-80, 701)], [packets(80, -700)]]))
    np.testing.assert_allclose(found, [[0, 0, 1, 0]] * 2)  # nothing matches: the kind without signature


def test_pingpong__without_tcp_the_answer_is_the_kind_without_signature(fitted: PingPong, flow_table: Any) -> None:
    found = fitted.probabilities(captures_of(flow_table, [[{"protocol": 17, **packets(9)}], []]))
    np.testing.assert_allclose(found, [[0, 0, 1, 0]] * 2)


def test_pingpong__a_pair_of_too_few_captures_is_no_signature(flow_table: Any) -> None:
    captures = [[packets(100, -200)], [packets(100, -200)], [packets(400, -500)]]
    found = PingPong().fit(captures_of(flow_table, captures), np.zeros(3, np.int64), 2)
    np.testing.assert_allclose(found.probabilities(captures_of(flow_table, [captures[0]])), [[1, 0]])
    assert len(found._boxes_S5) == 0
    other = PingPong().fit(captures_of(flow_table, captures), np.array([0, 0, 1]), 2)
    assert other._boxes_S5.tolist() == [[1, 100, 100, 200, 200], [1, 400, 400, 500, 500]]
