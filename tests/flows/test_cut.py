"""The pure core: packets cut at random into partial flows merge into the flows of the twin that sees every packet."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from iotid import config, schemas
from iotid.errors import DataError
from iotid.flows import table as flows_table
from iotid.flows.cut import cut_flows, merge_flows, partial_flows
from iotid.flows.kernels import HEAD_WIDTH, KEY_WORDS, is_local
from iotid.flows.merge import Merger, merge
from iotid.flows.open_flows import OpenFlows
from iotid.flows.partial import FlowTable, Partials, head_width, packets_alone, packets_of_stretches
from iotid.flows.tasks import _blocks
from iotid.spark.shuffle import Buckets, read_blocks, read_tables

PATHS = ["a.pcap", "b.pcap", "c.pcap"]
EPOCH = datetime(2024, 2, 29, 23, 59, 50, tzinfo=UTC)
FIN, SYN, RST, ACK = 1, 2, 4, 16

Row = dict[str, Any]
Build = Callable[..., Any]


def rule(**changes: Any) -> config.Flow:
    defaults = {"max_packets": 4, "idle_timeout_s": None, "active_timeout_s": None, "tcp_close": True, "length": "ip",
                "join_files": True, "keep_bytes": 0, "keep_packets": 4}  # fmt: skip
    settings = {**defaults, **changes}
    return config.Flow(**settings | {"keep_packets": min(settings["keep_packets"], settings["max_packets"])})


def row(number: int = 0, at_s: float = 0.0, flags: int = ACK, up: bool = True, **changes: Any) -> Row:
    """A packet between 10.0.0.1:1000 and 10.0.0.2:80; ``up`` from the first to the second."""
    ends = ("source", "destination") if up else ("destination", "source")
    packet: Row = {"capture_file": PATHS[0], "offset": 24 + 100 * number, "timestamp": EPOCH + timedelta(seconds=at_s)}
    for end, name in enumerate(ends):
        packet |= {
            f"{name}_ip": f"10.0.0.{end + 1}",
            f"{name}_port": [1000, 80][end],
            f"{name}_mac": f"02:00:00:00:00:0{end + 1}",
        }
    packet |= {"link_type": 1, "frame_length": 74 + number, "captured_length": 74, "vlan": None, "protocol": 6,
               "packet_length": 60 + number, "payload_length": 8, "tcp_flags": flags,
               "tcp_window": 512 + number, "tcp_sequence": None}  # fmt: skip
    return packet | changes


def cut_at_random(rows: list[Row], dice: random.Random) -> list[list[Row]]:
    """The rows of each file in runs, as splits would hold them; the runs in any order."""
    runs = []
    for path in PATHS:
        own = [packet for packet in rows if packet["capture_file"] == path]
        borders = sorted(dice.randint(0, len(own)) for _ in range(dice.randint(0, 6)))
        runs += [own[a:b] for a, b in zip([0, *borders], [*borders, len(own)], strict=True)]
    dice.shuffle(runs)
    return runs


def through_partials(runs: list[Any], settings: config.Flow) -> list[Row]:
    """Flows by way of partial flows, stretches read again where they are unresolved; ordered by first packet."""
    partials = pa.Table.from_batches([partial_flows(run, settings, task) for task, run in enumerate(runs)])
    flows, unresolved = merge_flows(partials, settings, PATHS)
    tables = [flows]
    if len(unresolved):
        stretches = Partials.concat([Partials.from_arrow(batch) for batch in unresolved.to_batches()])
        tasks = unresolved["task"].to_pylist()
        again = [packets_of_stretches(runs[task], stretches, settings).to_arrow() for task in sorted(set(tasks))]
        flows, still = merge_flows(pa.Table.from_batches(again), settings, PATHS)
        assert len(still) == 0
        tables.append(flows)
    return sorted(pa.concat_tables(tables).to_pylist(), key=sort_key)


def sort_key(flow: Row) -> Any:
    """Every column: flows that start in one µs have no other order that the table shows."""
    return flow["first_seen"], str(sorted(flow.items(), key=lambda item: item[0]))


RULES = st.builds(
    rule,
    max_packets=st.integers(1, 5),
    idle_timeout_s=st.sampled_from([None, 2, 10]),
    active_timeout_s=st.sampled_from([None, 3, 12.5]),
    tcp_close=st.booleans(),
    length=st.sampled_from(["ip", "frame"]),
    join_files=st.booleans(),
    keep_bytes=st.sampled_from([0, 5, 16]),
    keep_packets=st.integers(1, 5),
)


@hypothesis_settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32), count=st.integers(1, 120), settings=RULES)
def test_cut__packets_cut_at_random_give_the_twins_flows(
    seed: int, count: int, settings: config.Flow, random_rows: Any, packets_of: Build, reference: ModuleType
) -> None:
    rows = random_rows(seed, count, PATHS)
    runs = [packets_of(run, PATHS, settings.keep_bytes) for run in cut_at_random(rows, random.Random(seed))]
    expected = sorted(reference.flows(rows, PATHS, **settings.model_dump()), key=sort_key)
    assert through_partials(runs, settings) == expected
    alone = cut_flows(packets_of(rows, PATHS, settings.keep_bytes), settings, PATHS)
    assert sorted(alone.to_pylist(), key=sort_key) == expected


@pytest.mark.parametrize("seed", [2, 5])
def test_partial__of_packets_far_from_the_order_of_time_is_that_of_packets_in_order(
    seed: int, random_rows: Any, packets_of: Build
) -> None:
    times = [EPOCH + timedelta(seconds=number % 7) for number in range(200)]  # many packets at each
    rows = [each | {"timestamp": time} for each, time in zip(random_rows(seed, 200, PATHS), times, strict=True)]
    ordered = sorted(rows, key=lambda each: (each["timestamp"], each["capture_file"], each["offset"]))
    expected = partial_flows(packets_of(ordered, PATHS), rule(idle_timeout_s=2))
    for some in (rows[::-1], random.Random(seed).sample(rows, len(rows))):
        assert partial_flows(packets_of(some, PATHS), rule(idle_timeout_s=2)).equals(expected)


@pytest.mark.parametrize(("name", "most"), [("offset", 2**42 - 1), ("file_index", 2**21 - 1)])
def test_partial__captures_larger_and_nights_of_more_files_than_flows_can_be_told_of_are_refused(
    name: str, most: int, packets_of: Build
) -> None:
    packets = packets_of([row()], PATHS)
    getattr(packets, name)[:] = most
    assert partial_flows(packets, rule()).num_rows == 1
    getattr(packets, name)[:] = most + 1
    with pytest.raises(DataError, match=f"{2**42} bytes and a night {2**21} captures"):
        partial_flows(packets, rule())


@pytest.mark.parametrize("seed", range(20))
def test_merge__batches_of_any_size_give_what_one_batch_gives(seed: int, random_rows: Any, packets_of: Build) -> None:
    dice = random.Random(seed)
    settings = rule(
        idle_timeout_s=dice.choice([None, 10]), active_timeout_s=dice.choice([None, 12]),
        keep_bytes=dice.choice([0, 9]), keep_packets=2,
    )  # fmt: skip
    runs = [packets_of(run, PATHS, settings.keep_bytes) for run in cut_at_random(random_rows(seed, 150, PATHS), dice)]
    width = head_width(settings)
    parts = [Partials.from_arrow(partial_flows(run, settings, task), width) for task, run in enumerate(runs)]
    ordered = Partials.concat(parts).in_merge_order()

    def merged(sizes: int) -> list[list[Any]]:
        merger = Merger(settings)
        found = [
            merger.add(ordered.take(range(a, min(a + sizes, len(ordered))))) for a in range(0, len(ordered), sizes)
        ]
        found.append(merger.finish())
        return [Partials.concat(list(several)).to_arrow().to_pylist() for several in zip(*found, strict=True)]

    assert merged(1) == merged(7) == merged(len(ordered))


def flows_of(rows: list[Row], packets_of: Build, **changes: Any) -> list[Row]:
    return through_partials([packets_of([packet], PATHS) for packet in rows], rule(**changes))


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


def syn(number: int, at_s: float, sequence: int, flags: int = SYN, up: bool = True, **changes: Any) -> Row:
    return row(number, at_s, flags, up, tcp_sequence=sequence, **changes)


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
        # every try of a port scanner
        ([syn(n, n, 1000 * n) for n in range(4)], [1, 1, 1, 1]),
        # repeated before and behind other packets
        ([syn(0, 0, 7), syn(1, 1, 7), syn(2, 2, 900, SYN | ACK, up=False), syn(3, 3, 7), syn(4, 4, 8, ACK)], [5]),
        # late: the capture shows what it opened first
        ([syn(0, 0, 900, SYN | ACK, up=False), syn(1, 1, 8, ACK), syn(2, 2, 7)], [3]),
        ([syn(0, 0, 0, ACK), syn(1, 1, 2**32 - 1)], [2]),
        # both sides at once, each repeating itself
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


A, B, R = "02:00:00:00:00:0a", "02:00:00:00:00:0b", "02:00:00:00:00:0c"
HOUR = 3600


def ntp(number: int, at_s: float, mac: str | None, up: bool = True, remote: str = R, **changes: Any) -> Row:
    """Between 192.168.1.5, which ``mac`` has then, and a server of the Internet."""
    ends = ("source", "destination") if up else ("destination", "source")
    given: Row = {f"{ends[0]}_ip": "192.168.1.5", f"{ends[0]}_mac": mac, f"{ends[0]}_port": 123}
    given |= {f"{ends[1]}_ip": "52.1.2.3", f"{ends[1]}_mac": remote, f"{ends[1]}_port": 123}
    return row(number, at_s, 0, up, protocol=17, tcp_window=0, **given | changes)


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


def test_partial__a_device_that_speaks_once_an_hour_is_one_row_whatever_its_routers_do(packets_of: Build) -> None:
    rows = [ntp(n, HOUR * n, A, remote=[B, R][n % 2]) for n in range(100)]
    assert partial_flows(packets_of(rows, PATHS), rule()).num_rows == 1


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


def test_flow__of_many_packets_is_one_small_row(packets_of: Build) -> None:
    rows = [row(number, number / 1000, ACK) for number in range(3000)]
    batch = partial_flows(packets_of(rows, PATHS), rule(max_packets=32))
    assert batch.num_rows == 1
    assert batch.nbytes < 2048


def test_merge__many_partial_flows_of_one_key_are_held_back_as_one_row(packets_of: Build) -> None:
    settings = rule()
    merger = Merger(settings)
    for number in range(50):
        part = Partials.from_arrow(partial_flows(packets_of([row(number, number)], PATHS), settings, number))
        assert len(merger.add(part).flows) == 0
    (flow,) = merger.finish().flows.to_arrow().to_pylist()
    assert len(flow["packets"]) == 4 * 8 * settings.max_packets


def test_merge__bytes_of_no_more_than_the_first_packets_are_in_any_row_whatever_it_was_merged_from(
    packets_of: Build,
) -> None:
    settings = rule(keep_bytes=12, keep_packets=2)
    rows = [row(number, number, data=bytes([number + 1] * 30)) for number in range(4)]
    whole = packets_of(rows, PATHS, 12)
    table = FlowTable(settings)
    table.add(whole)
    expected = [bytes([number + 1] * 12) + bytes(4) for number in range(2)] + [bytes(16)] * 2
    for flows in (table.flush(), merge(packets_alone(whole, settings), settings).flows):
        assert [words.tobytes() for words in flows.heads[:, HEAD_WIDTH:]] == expected


def test_from_arrow__rows_of_heads_of_another_width_are_noticed(packets_of: Build) -> None:
    batch = partial_flows(packets_of([row(data=b"abc")], PATHS, 8 * HEAD_WIDTH), rule(keep_bytes=8 * HEAD_WIDTH))
    assert len(Partials.from_arrow(batch, 2 * HEAD_WIDTH).heads) == 1
    with pytest.raises(AssertionError, match="another width"):
        Partials.from_arrow(batch)


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


def test_merge__order_in_one_capture_leaves_nothing_unresolved(packets_of: Build) -> None:
    """With every packet in time order and no active time-out only the first look at the packets is needed."""
    settings = rule(idle_timeout_s=10)
    rows = [
        row(number, number, [SYN, SYN | ACK, ACK, FIN | ACK, FIN | ACK, SYN, ACK, RST][number % 8], up=number % 3 > 0)
        for number in range(64)
    ]
    parts = [partial_flows(packets_of(rows[a : a + 5], PATHS), settings, a) for a in range(0, 64, 5)]
    flows, unresolved = merge_flows(pa.Table.from_batches(parts), settings, PATHS)
    assert (len(unresolved), sum(flows["client_packets"].to_pylist()) + sum(flows["server_packets"].to_pylist())) == (
        0,
        64,
    )


def test_merge__syn_that_a_later_read_reset_should_cut_at_is_unresolved(packets_of: Build) -> None:
    settings = rule()
    own, other = [row(0, 0, SYN), row(1, 4, SYN), row(2, 5)], [row(3, 2, RST, up=False)]
    parts = [partial_flows(packets_of(rows, PATHS), settings, task) for task, rows in enumerate([own, other])]
    flows, unresolved = merge_flows(pa.Table.from_batches(parts), settings, PATHS)
    assert (len(flows), sorted(unresolved["task"].to_pylist())) == (0, [0, 1])


def test_merge__syn_behind_a_late_packet_cuts_without_a_second_look(packets_of: Build) -> None:
    """A split that starts after the close, inside the old flow: its own packets do not show that it is closed."""
    settings = rule()
    runs = [[row(0, 0, SYN), row(1, 1, RST, up=False)], [row(2, 2), row(3, 3, SYN), row(4, 4)]]
    parts = [partial_flows(packets_of(rows, PATHS), settings, task) for task, rows in enumerate(runs)]
    flows, unresolved = merge_flows(pa.Table.from_batches(parts), settings, PATHS)
    assert ([flow["end_reason"] for flow in flows.to_pylist()], len(unresolved)) == (["closed", "end"], 0)


def test_cut__last_flow_of_an_unresolved_stretch_ends_as_the_stretch_did(packets_of: Build) -> None:
    own = [row(0, 0, SYN), row(1, 4, SYN), row(2, 5)]
    other = [row(3, 2, RST, up=False), row(4, 100), row(5, 101)]
    runs = [packets_of(rows, PATHS) for rows in (own, other)]
    flows = through_partials(runs, rule(idle_timeout_s=10))
    assert [flow["end_reason"] for flow in flows] == ["closed", "idle", "end"]


def test_kernels__pass_the_hand_made_cases_without_the_jit() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-x", __file__, "-k", "not random and not batches and not jit"]
    done = subprocess.run(command, env={**os.environ, "NUMBA_DISABLE_JIT": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_schema__is_the_contract(packets_of: Build) -> None:
    flows = cut_flows(packets_of([row()], PATHS), rule(), PATHS)
    assert flows.schema == schemas.FLOWS.arrow_schema(stored=True)
    assert partial_flows(packets_of([], PATHS), rule()).schema == schemas.PARTIAL_FLOWS.arrow_schema()


def test_table__a_flow_of_many_packets_takes_no_more_room_than_one_of_max_packets(packets_of: Build) -> None:
    one = packets_of([row()], PATHS)
    sizes = []
    for count in (4, 100_000):
        many = one.take(np.zeros(count, np.int64))
        many.offset[:] = np.arange(count)
        many.timestamp_us[:] += np.arange(count)
        table = FlowTable(rule(idle_timeout_s=60.0))
        for start in range(0, count, 30_000):
            table.add(many.take(slice(start, start + 30_000)))
        sizes.append(table.nbytes)
        (partials,) = [table.flush()]
        assert partials.packets.tolist() == [count]
        assert len(partials.heads) == 4
    assert sizes[0] == sizes[1]


def test_table__tells_the_bytes_of_what_it_holds(packets_of: Build) -> None:
    packets = packets_of([row(number, number, source_port=number % 40) for number in range(800)], PATHS)
    table = FlowTable(rule(max_packets=32))
    empty = table.nbytes
    table.add(packets)
    told, partials = table.nbytes - empty, table.flush()
    held = partials.keys.nbytes + partials.state.nbytes + partials.heads.nbytes
    assert held <= told < 1.5 * held
    assert table.nbytes == empty


def test_parcels__of_a_subscriber_with_nearly_all_flows_are_spread_evenly_and_an_elephant_is_a_row_a_task(
    packets_of: Build,
) -> None:
    buckets, runs, flows, elephant = Buckets(8, b"of this test"), 3, 4000, 6000
    sent = []
    for run in range(runs):
        table = FlowTable(rule(), run)
        start = run * 100_000
        # all flows are of one address; the elephant has more packets than all others together
        rows = [row(start + n, start + n, source_port=1024 + n % flows) for n in range(flows)]
        rows += [row(start + flows + n, start + flows + n, source_port=9) for n in range(elephant)]
        table.add(packets_of(rows, PATHS))
        partials = table.flush()
        assert len(partials) == flows + 1
        sent.append(_blocks(partials, buckets))
    of_partition = np.zeros(buckets.partitions, int)
    for bucket, pieces in read_blocks(pa.Table.from_batches(sent).sort_by("bucket").to_batches()):
        of_partition[bucket // 16] += sum(len(rows) for _, rows in read_tables(pieces))
    assert of_partition.sum() == runs * (flows + 1)
    assert of_partition.max() < 1.15 * of_partition.mean(), of_partition


def test_open_flows__are_the_same_table_in_whatever_order_flows_came(packets_of: Build) -> None:
    settings = rule(idle_timeout_s=20)
    flows = Partials.from_arrow(
        partial_flows(packets_of([row(n, n, source_port=n % 40) for n in range(100)], PATHS), settings)
    )
    dice = np.random.default_rng(1)

    def table(order: Any) -> pa.Table:
        still_open = OpenFlows(settings)
        for some in np.array_split(order, 3):
            still_open.add(flows.take(some))
        return pa.concat_tables(still_open.tables(pa.array(PATHS), 0, 7))

    first = table(np.arange(len(flows)))
    assert 10 < len(first) < len(flows)
    assert first["first_us"].to_pylist() == sorted(first["first_us"].to_pylist())
    assert all(table(dice.permutation(len(flows))) == first for _ in range(5))
