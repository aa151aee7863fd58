"""Columns of flows: client and server, MACs, keys, addresses."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import numpy as np
import pytest
from flow_cutting import ACK, PATHS, SYN, A, B, Build, R, Row, cut_flows, flows_of, ntp, row, rule, through_partials

from iotid import config
from iotid.flows import table as flows_table
from iotid.flows.layout import KEY_WORDS, is_local


@pytest.mark.parametrize(
    ("senders", "owner", "has_conflict"),
    [
        ([B, A, A], A, True),  # a packet under another's address comes before the device's own
        ([A, B, B], B, True),
        ([A, B], A, True),  # equals: who was first
        ([B, A], B, True),
        ([B, None, A], B, True),
        ([A, A, A], A, False),
        ([None, A, None], A, False),
        # more MACs than are counted
        ([R, A, B, "02:00:00:00:00:01", "02:00:00:00:00:02", A], A, True),
        (["02:00:00:00:00:01", "02:00:00:00:00:02", A, B, R, R, R], "02:00:00:00:00:01", True),
    ],
)
def test_mac__is_that_of_most_packets_however_the_flow_is_cut(
    senders: list[str | None], owner: str, has_conflict: bool, packets_of: Build
) -> None:
    rows = [ntp(number, number, mac) for number, mac in enumerate(senders)]
    for runs in ([rows], [[packet] for packet in rows], [rows[::2], rows[1::2]]):
        (flow,) = through_partials([packets_of(run, PATHS) for run in runs], rule())
        assert (flow["client_mac"], flow["address_conflict"]) == (owner, has_conflict)
        assert flow["client_packets"] == len(rows)


def test_mac__an_address_of_the_internet_behind_several_routers_is_no_conflict(packets_of: Build) -> None:
    (flow,) = flows_of([ntp(n, n, A, up=False, remote=[B, R][n % 2]) for n in range(4)], packets_of)
    assert not flow["address_conflict"]


@pytest.mark.parametrize(("address", "everyone"), [("0.0.0.0", "255.255.255.255"), ("::", "ff02::16")])
def test_key__hosts_without_an_address_are_told_apart_by_their_macs(
    address: str, everyone: str, packets_of: Build
) -> None:
    rows = [
        ntp(n, n, mac, source_ip=address, destination_ip=everyone, destination_mac="ff:ff:ff:ff:ff:ff")
        for n, mac in enumerate([A, B, A, None])
    ]
    flows = flows_of(rows, packets_of)
    assert [(flow["client_ip"], flow["client_mac"], flow["client_packets"]) for flow in flows] == [
        (address, A, 2),
        (address, B, 1),
        (address, None, 1),
    ]
    # what an address looks like in the key is no address of another host
    (_, of_b, _), forged = flows, f"0:{B[:2]}{B[3:5]}:{B[6:8]}{B[9:11]}:{B[12:14]}{int(B[15:], 16) + 1:02x}::"
    both = flows_of([*rows, row(9, 9, source_ip=forged, destination_ip="ff02::16", protocol=17)], packets_of)
    assert of_b in both
    assert both[-1]["client_ip"] == str(ip_address(forged))


def test_local__addresses_are_those_of_the_default_of_the_sites_networks() -> None:
    edges = [
        address
        for network in map(ip_network, config.load_settings().census.inside)
        for address in (network[0], network[-1], network[0] - 1, network[-1] + 1)
    ]
    others = [ip_address(text) for text in ("52.1.2.3", "::a00:1", "2001:db8::1", "ff02::fb", "0.0.0.0", "100.64.0.1")]
    inside = [ip_network(text) for text in config.load_settings().census.inside]
    for address in [*edges, *others]:
        value = int(address)
        key = np.zeros((1, KEY_WORDS), np.uint64)
        key[0, 0] = address.version << 40
        key[0, 1], key[0, 3] = value & (2**64 - 1), value >> 64
        assert is_local(key, 0, 0) == any(address in network for network in inside), address


@pytest.mark.parametrize(
    ("rows", "client_port"),
    [
        ([row(0, 0, ACK, up=False), row(1, 1, SYN), row(2, 2, SYN, up=False)], 1000),
        ([row(0, 0, ACK, up=True), row(1, 1, SYN | ACK, up=True)], 80),
        ([row(0, 0, ACK, up=False), row(1, 1, ACK)], 80),
        ([row(0, 5, ACK, up=False), row(1, 1, ACK)], 1000),
    ],
    ids=["first_syn", "receiver_of_the_syn_ack", "first_packet", "first_in_time_not_in_file"],
)
def test_client__is_the_side_that_opened(rows: list[Row], client_port: int, packets_of: Build) -> None:
    (flow,) = flows_of(rows, packets_of)
    assert flow["client_port"] == client_port
    assert flow["direction"] == [
        1 if packet["source_port"] == client_port else -1 for packet in sorted(rows, key=lambda p: p["timestamp"])
    ]


def test_mac__of_a_side_that_never_shows_its_own_is_the_one_that_it_is_sent_to(packets_of: Build) -> None:
    rows = [row(0, 0, source_mac=None, destination_mac="0a:00:00:00:00:ff"), row(1, 1, source_mac="02:00:00:00:00:0a")]
    (flow,) = flows_of(rows, packets_of)
    assert (flow["client_mac"], flow["server_mac"]) == ("02:00:00:00:00:0a", "0a:00:00:00:00:ff")


@pytest.mark.parametrize("address", ["::", "::ffff:1.2.3.4", "2001:db8:0:1:0:0:0:1", "fe80::1", "255.255.255.255"])
def test_address__is_printed_as_pythons_ipaddress_does(address: str, packets_of: Build) -> None:
    other = "ff02::1" if ":" in address else "0.0.0.0"
    (flow,) = flows_of([row(source_ip=address, destination_ip=other)], packets_of)
    assert flow["client_ip"] == str(ip_address(address))


def test_key__vlan_version_and_file_keep_flows_apart(packets_of: Build) -> None:
    six = {"source_ip": "::a00:1", "destination_ip": "::a00:2"}  # the same numbers as the IPv4 addresses
    rows = [row(0), row(1, vlan=0), row(2, vlan=7), row(3, **six), row(4, capture_file=PATHS[1])]
    assert len(flows_of(rows, packets_of)) == 4
    assert len(flows_of(rows, packets_of, join_files=False)) == 5


def test_key__packet_to_its_own_sender_is_sent_by_the_client(packets_of: Build) -> None:
    own = {"destination_ip": "10.0.0.1", "destination_port": 1000}
    (flow,) = flows_of([row(0, 0, ACK, **own), row(1, 1, SYN | ACK, **own)], packets_of)
    assert (flow["client_packets"], flow["server_packets"], flow["direction"]) == (2, 0, [1, 1])


def test_table__values_beyond_what_one_arrow_array_holds_are_in_several(
    packets_of: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = rule(keep_bytes=3, keep_packets=2)
    packets = packets_of([row(n, n, source_port=n, data=bytes([n] * 4)) for n in range(5)], PATHS, 3)
    whole = cut_flows(packets, settings, PATHS)
    monkeypatch.setattr(flows_table, "_BINARY_BYTES", 13)
    cut = cut_flows(packets, settings, PATHS)
    assert [len(chunk) for chunk in cut["first_bytes"].chunks] == [2, 2, 1]
    assert cut.equals(whole)
    assert cut["first_bytes"].to_pylist() == [bytes([n] * 3 + [0] * 3) for n in range(5)]
    assert len(cut_flows(packets_of([], PATHS, 3), settings, PATHS)) == 0
