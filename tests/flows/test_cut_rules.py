"""Where a flow ends: time-outs, closed connections, new SYNs, addresses that go to another device."""

from __future__ import annotations

import random
from types import ModuleType

import pyarrow as pa
import pytest
from flow_cutting import (
    ACK,
    FIN,
    HOUR,
    PATHS,
    RST,
    SYN,
    A,
    B,
    Build,
    R,
    Row,
    cut_flows,
    flows_of,
    merge_flows,
    ntp,
    partial_flows,
    row,
    rule,
    sort_key,
    syn,
    through_partials,
)


def test_cut__gap_longer_than_idle_timeout_starts_a_new_flow(packets_of: Build) -> None:
    rows = [row(0, 0), row(1, 10), row(2, 20.000001)]
    flows = flows_of(rows, packets_of, idle_timeout_s=10)
    assert [(flow["client_packets"], flow["end_reason"]) for flow in flows] == [(2, "idle"), (1, "end")]


def test_cut__packet_beyond_the_active_timeout_starts_the_next_flow(packets_of: Build) -> None:
    rows = [row(number, 4 * number) for number in range(7)]
    flows = flows_of(rows, packets_of, active_timeout_s=8)
    assert [(flow["client_packets"], flow["end_reason"]) for flow in flows] == [
        (3, "active"),
        (3, "active"),
        (1, "end"),
    ]


def test_cut__syn_after_both_fins_starts_a_new_flow(packets_of: Build) -> None:
    rows = [row(0, 0, SYN), row(1, 1, FIN | ACK), row(2, 2, FIN | ACK, up=False), row(3, 3), row(4, 4, SYN)]
    flows = flows_of(rows, packets_of)
    assert [flow["end_reason"] for flow in flows] == ["closed", "end"]
    assert [flow["client_packets"] + flow["server_packets"] for flow in flows] == [4, 1]


def test_cut__syn_after_one_sides_fin_does_not_cut(packets_of: Build) -> None:
    rows = [row(0, 0, SYN), row(1, 1, FIN | ACK), row(2, 2, FIN | ACK), row(3, 3, SYN)]
    assert [flow["end_reason"] for flow in flows_of(rows, packets_of)] == ["end"]


def test_cut__syn_after_a_reset_starts_a_new_flow_unless_closing_is_off(packets_of: Build) -> None:
    rows = [row(0, 0, SYN), row(1, 1, RST | ACK, up=False), row(2, 2, SYN), row(3, 3, SYN | ACK, up=False)]
    assert [flow["end_reason"] for flow in flows_of(rows, packets_of)] == ["closed", "end"]
    assert [flow["end_reason"] for flow in flows_of(rows, packets_of, tcp_close=False)] == ["end"]


def test_cut__syn_with_ack_never_cuts(packets_of: Build) -> None:
    rows = [row(0, 0, RST), row(1, 1, SYN | ACK)]
    assert [flow["end_reason"] for flow in flows_of(rows, packets_of)] == ["end"]


@pytest.mark.parametrize(
    ("rows", "sizes"),
    [
        # power cut: nothing closes the first connection
        ([syn(0, 0, 7), syn(1, 1, 900, SYN | ACK, up=False), syn(2, 2, 8, ACK), syn(3, 60, 5000)], [3, 1]),
        # its own FIN alone
        ([syn(0, 0, 7), syn(1, 1, 8, FIN | ACK), syn(2, 2, 901, ACK, up=False), syn(3, 3, 5000)], [3, 1]),
        # captured from its middle on
        ([syn(0, 0, 77, ACK), syn(1, 1, 901, ACK, up=False), syn(2, 2, 5000)], [2, 1]),
        # the other side opens the next one
        ([syn(0, 0, 7), syn(1, 1, 900, SYN | ACK, up=False), syn(2, 2, 5000, up=False)], [2, 1]),
        # every attempt of a port scanner
        ([syn(n, n, 1000 * n) for n in range(4)], [1, 1, 1, 1]),
        # repeated before and behind other packets
        ([syn(0, 0, 7), syn(1, 1, 7), syn(2, 2, 900, SYN | ACK, up=False), syn(3, 3, 7), syn(4, 4, 8, ACK)], [5]),
        # late: the capture shows what it opened first
        ([syn(0, 0, 900, SYN | ACK, up=False), syn(1, 1, 8, ACK), syn(2, 2, 7)], [3]),
        ([syn(0, 0, 0, ACK), syn(1, 1, 2**32 - 1)], [2]),
        # both sides at the same time, each repeating itself
        ([syn(0, 0, 7), syn(1, 0, 90, up=False), syn(2, 1, 7), syn(3, 1, 90, up=False)], [4]),
        # the answer to a challenge: RFC 5961, section 4
        (
            [syn(0, 0, 7), syn(1, 9, 5000), syn(2, 9, 901, ACK, up=False), syn(3, 9, 8, RST), syn(4, 10, 5000)],
            [1, 3, 1],
        ),
        # an answer opens nothing
        ([syn(0, 0, 7), syn(1, 1, 900, SYN | ACK, up=False), syn(2, 2, 901, SYN | ACK, up=False)], [3]),
    ],
)
def test_cut__syn_with_another_number_opens_a_new_flow_and_a_repeated_one_does_not(
    rows: list[Row], sizes: list[int], packets_of: Build
) -> None:
    flows = flows_of(rows, packets_of)
    assert [flow["client_packets"] + flow["server_packets"] for flow in flows] == sizes
    assert {flow["end_reason"] for flow in flows[:-1]} <= {"closed"}
    whole = cut_flows(packets_of(rows, PATHS), rule(), PATHS).to_pylist()
    assert [flow["client_packets"] + flow["server_packets"] for flow in whole] == sizes
    assert len(flows_of(rows, packets_of, tcp_close=False)) == 1


def test_cut__syns_repeated_a_thousand_times_are_one_partial_flow(packets_of: Build) -> None:
    rows = [syn(number, number, 7, source_port=1000) for number in range(1000)]
    assert partial_flows(packets_of(rows, PATHS), rule()).num_rows == 1


_MDNS = {"destination_ip": "224.0.0.251", "destination_mac": "01:00:5e:00:00:fb"}


@pytest.mark.parametrize(
    ("rows", "sizes"),
    [
        ([ntp(0, 0, A), ntp(1, 0.1, A, up=False), ntp(2, HOUR, B), ntp(3, HOUR + 0.1, B, up=False)], [2, 2]),
        ([ntp(0, 0, A), ntp(1, HOUR, B), ntp(2, 2 * HOUR, A)], [1, 1, 1]),
        ([ntp(n, HOUR * n, mac, **_MDNS) for n, mac in enumerate([A, A, B, B])], [2, 2]),
        # only one direction is captured
        ([ntp(n, HOUR * n, mac, up=False) for n, mac in enumerate([A, A, B])], [2, 1]),
        # only a sender's MAC is shown
        ([ntp(0, 0, A), ntp(1, 1, None, up=False), ntp(2, HOUR, B), ntp(3, HOUR, None, up=False)], [2, 2]),
        # the new device is seen late: what shows no MAC stays where it is
        ([ntp(0, 0, A), ntp(1, HOUR, None, up=False), ntp(2, HOUR, B)], [2, 1]),
        ([ntp(n, HOUR * n, mac, destination_ip="10.9.9.9") for n, mac in enumerate([A, B])], [1, 1]),
        (
            [ntp(n, HOUR * n, mac, source_ip="fe80::5", destination_ip="2001:db8::1") for n, mac in enumerate([A, B])],
            [1, 1],
        ),
        # addresses of the Internet: the routers take turns
        ([ntp(n, HOUR * n, A, up=n % 2 > 0, remote=[A, R][n // 2 % 2]) for n in range(8)], [8]),
        ([ntp(n, HOUR * n, mac, source_ip="52.7.7.7") for n, mac in enumerate([A, B])], [2]),
        # a mirror port or two routers inside: MACs change faster than an address is handed on
        ([ntp(n, HOUR * (n // 2) + 0.001 * (n % 2), [A, B][n % 2]) for n in range(8)], [8]),
        ([ntp(0, 0, A), ntp(1, 60, B), ntp(2, HOUR, A), ntp(3, 2 * HOUR, R)], [4]),
        ([ntp(0, 0, A), ntp(1, 60.000001, B)], [1, 1]),
        # no MAC at all
        ([ntp(n, HOUR * n, None) for n in range(3)], [3]),
    ],
)
def test_cut__address_that_goes_to_another_mac_starts_a_new_flow(
    rows: list[Row], sizes: list[int], packets_of: Build
) -> None:
    flows = flows_of(rows, packets_of)
    assert [flow["client_packets"] + flow["server_packets"] for flow in flows] == sizes
    assert {flow["end_reason"] for flow in flows[:-1]} <= {"moved"}
    together = partial_flows(packets_of(rows, PATHS), rule())
    merged, _ = merge_flows(pa.Table.from_batches([together]), rule(), PATHS)
    assert merged.to_pylist() == flows
    shuffled = random.Random(1).sample(rows, len(rows))
    assert cut_flows(packets_of(shuffled, PATHS), rule(), PATHS).to_pylist() == flows


@pytest.mark.parametrize(
    ("runs", "sizes"),
    [
        # one capture shows the device before, and what shows no MAC; another shows the device after
        ([[ntp(0, 0, A), ntp(1, HOUR + 1, None, up=False)], [ntp(2, HOUR, B), ntp(3, HOUR + 2, B)]], [1, 3]),
        ([[ntp(0, 0, A), ntp(1, HOUR + 1, A)], [ntp(2, HOUR, B), ntp(3, HOUR + 2, B)]], [1, 3]),
        ([[ntp(0, 0, A), ntp(1, HOUR, B), ntp(2, HOUR + 2, B)], [ntp(3, HOUR + 1, B), ntp(4, HOUR + 3, B)]], [1, 4]),
        ([[ntp(0, 0, A), ntp(1, 30, A)], [ntp(2, 10, B), ntp(3, 60, B)]], [4]),
        ([[ntp(0, 0, A), ntp(1, 30, B), ntp(2, HOUR + 1, B)], [ntp(3, HOUR, A), ntp(4, HOUR + 2, A)]], [5]),
    ],
)
def test_cut__address_that_moves_while_captures_overlap_starts_a_new_flow(
    runs: list[list[Row]], sizes: list[int], packets_of: Build, reference: ModuleType
) -> None:
    flows = through_partials([packets_of(rows, PATHS) for rows in runs], rule())
    assert [flow["client_packets"] + flow["server_packets"] for flow in flows] == sizes
    rows = [packet for run in runs for packet in run]
    assert flows == sorted(reference.flows(rows, PATHS, **rule().model_dump()), key=sort_key)


def test_cut__both_devices_of_an_address_are_named(packets_of: Build) -> None:
    flows = flows_of([ntp(0, 0, A), ntp(1, HOUR, B), ntp(2, HOUR + 1, B, up=False)], packets_of)
    assert [(flow["client_mac"], flow["client_packets"], flow["server_packets"]) for flow in flows] == [
        (A, 1, 0),
        (B, 1, 1),
    ]


def test_cut__last_flow_of_an_unresolved_interval_ends_as_the_interval_did(packets_of: Build) -> None:
    own = [row(0, 0, SYN), row(1, 4, SYN), row(2, 5)]
    other = [row(3, 2, RST, up=False), row(4, 100), row(5, 101)]
    runs = [packets_of(rows, PATHS) for rows in (own, other)]
    flows = through_partials(runs, rule(idle_timeout_s=10))
    assert [flow["end_reason"] for flow in flows] == ["closed", "idle", "end"]
