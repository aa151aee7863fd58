"""From frames to packets: link layers, IP, transport, lengths that lie, headers that are cut."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from iotid import config
from iotid.capture import find_captures, read_splits
from iotid.capture.counters import Counters

Read = Callable[..., tuple[list[dict[str, Any]], dict[str, tuple[int, int]]]]


def test_decode__tcp_over_ethernet_gives_every_column(one: Callable[..., Any], make: SimpleNamespace) -> None:
    row = one(make.ethernet(make.ipv4(make.tcp(b"hello", flags=0x12, window=65535, words=8))))
    row.pop("capture_file")
    row.pop("timestamp")
    assert row == {
        "offset": 24, "link_type": 1, "frame_length": 71, "captured_length": 71, "vlan": None,
        "source_mac": "02:00:00:00:00:01", "destination_mac": "02:00:00:00:00:02",
        "source_ip": "10.0.0.1", "destination_ip": "192.168.1.2", "protocol": 6,
        "source_port": 50000, "destination_port": 443, "packet_length": 57, "payload_length": 5,
        "tcp_flags": 0x12, "tcp_window": 65535,
    }  # fmt: skip


def test_decode__cooked_frames_name_the_sender_only(one: Callable[..., Any], make: SimpleNamespace) -> None:
    head = struct.pack(">HHH", 4, 1, 6) + make.mac_a + b"\0\0\x08\0"
    row = one(head + make.ipv4(make.tcp()), 113)
    assert (row["source_mac"], row["destination_mac"]) == ("02:00:00:00:00:01", None)
    without = struct.pack(">HHH", 4, 772, 0) + bytes(8) + b"\x08\0"
    assert one(without + make.ipv4(make.tcp()), 113)["source_mac"] is None


@pytest.mark.parametrize(
    ("tags", "vlan"),
    [([], None), ([(0x8100, 5)], 5), ([(0x88A8, 5), (0x8100, 0x6007)], 7), ([(0x9100, 9), (0x8100, 0)], 9),
     ([(0x8100, 1)] * 40, 1)],
)  # fmt: skip
def test_decode__innermost_vlan_is_kept_and_a_priority_tag_is_none(
    tags: list[tuple[int, int]], vlan: int | None, one: Callable[..., Any], make: SimpleNamespace
) -> None:
    assert one(make.ethernet(make.ipv4(make.tcp()), tags=tags))["vlan"] == vlan


def test_decode__protocols_without_ports_are_packets_with_port_0(
    one: Callable[..., Any], make: SimpleNamespace
) -> None:
    row = one(make.ethernet(make.ipv4(b"\x08\0" + bytes(10), 1)))
    assert (row["protocol"], row["source_port"], row["payload_length"], row["packet_length"]) == (1, 0, 12, 32)


@pytest.mark.parametrize("protocol", [33, 132, 136])
def test_decode__other_transports_show_ports_and_payload_above_ip(
    protocol: int, one: Callable[..., Any], make: SimpleNamespace
) -> None:
    row = one(make.ethernet(make.ipv4(struct.pack(">HH", 7, 8) + bytes(12), protocol)))
    assert (row["source_port"], row["destination_port"], row["payload_length"]) == (7, 8, 16)


def test_decode__ipv6_extension_headers_are_stepped_over(one: Callable[..., Any], make: SimpleNamespace) -> None:
    hop, routing, destination = b"\x2b\0" + bytes(6), b"\x3c\1" + bytes(14), b"\x33\0" + bytes(6)
    authentication = b"\x06\4" + bytes(22)
    row = one(
        make.ethernet(
            make.ipv6(make.tcp(b"abc"), first=0, extensions=hop + routing + destination + authentication), 0x86DD
        )
    )
    assert (row["protocol"], row["destination_port"], row["payload_length"]) == (6, 443, 3)


def test_decode__first_fragments_have_ports_and_later_ones_are_counted(
    one: Callable[..., Any], make: SimpleNamespace
) -> None:
    assert one(make.ethernet(make.ipv4(make.udp(bytes(8)), 17, fragment=0x2000)))["destination_port"] == 53
    assert one(make.ethernet(make.ipv4(make.tcp()[:8], fragment=0x2000)))["tcp_window"] == 0
    assert one(make.ethernet(make.ipv4(bytes(16), 17, fragment=0x2001))) == "later_fragment"
    first, later = b"\x11\0\0\1" + bytes(4), b"\x11\0\0\x08" + bytes(4)
    assert one(make.ethernet(make.ipv6(make.udp(), first=44, extensions=first), 0x86DD))["destination_port"] == 53
    assert one(make.ethernet(make.ipv6(make.udp(), first=44, extensions=later), 0x86DD)) == "later_fragment"


@pytest.mark.parametrize(
    ("claimed", "packet_length"),
    [(45, 45), (0, 51), (60000, 51), (40, 40)],
    ids=["true", "0: offload", "longer than the frame", "padded"],
)
def test_decode__ip_total_length_that_lies_has_one_rule_each(
    claimed: int, packet_length: int, one: Callable[..., Any], make: SimpleNamespace
) -> None:
    row = one(make.ethernet(make.ipv4(make.tcp(b"12345"), length=claimed) + bytes(6)))
    assert (row["packet_length"], row["payload_length"]) == (packet_length, packet_length - 40)


def test_decode__ipv6_payload_length_0_means_the_frame_unless_nothing_follows(
    one: Callable[..., Any], make: SimpleNamespace
) -> None:
    assert one(make.ethernet(make.ipv6(make.tcp(b"12345"), length=0), 0x86DD))["packet_length"] == 65
    row = one(make.ethernet(make.ipv6(b"", 59, length=0) + bytes(6), 0x86DD))
    assert (row["protocol"], row["packet_length"], row["payload_length"]) == (59, 40, 0)


def test_decode__lengths_come_from_the_wire_when_the_snap_length_cuts(
    one: Callable[..., Any], make: SimpleNamespace
) -> None:
    frame = make.ethernet(make.ipv4(make.tcp(bytes(1000))))
    row = one(frame[:70], wire=len(frame))
    assert (row["frame_length"], row["captured_length"], row["payload_length"]) == (1054, 70, 1000)
    cut_behind_ports = one(frame[:38], wire=len(frame))
    assert (cut_behind_ports["source_port"], cut_behind_ports["tcp_flags"], cut_behind_ports["tcp_window"]) == (
        50000,
        0,
        0,
    )
    assert one(frame[:36], wire=len(frame)) == "truncated"
    assert one(b"", wire=60) == "truncated"


def test_decode__sequence_number_is_tcps_where_it_was_captured(
    make: SimpleNamespace, tmp_path: Path, capture_settings: config.Capture
) -> None:
    transports = [make.tcp(sequence=2**32 - 1, words=7), make.tcp(sequence=5), make.tcp(sequence=5)]
    frames = [make.ethernet(make.ipv4(transport)) for transport in transports]
    frames += [
        make.ethernet(make.ipv6(make.tcp(sequence=9)), 0x86DD),
        make.ethernet(make.ipv4(make.udp(bytes(20)), 17)),
    ]
    wire = len(frames[0])
    path = tmp_path / "a.pcap"
    path.write_bytes(make.pcap([frames[0], frames[1][:42], frames[2][:41], *frames[3:]], wire=wire))
    (packets,) = read_splits(find_captures([str(path)]).captures, capture_settings, Counters())
    assert packets.tcp_sequence.tolist() == [2**32 - 1, 5, -1, 9, -1]


@pytest.mark.parametrize(
    "packet",
    [
        {"length": 19},
        {"header": 4},
        {"header": 15},
        {"version": 5},
    ],
)
def test_decode__ip_headers_that_contradict_themselves_are_malformed(
    packet: dict[str, int], one: Callable[..., Any], make: SimpleNamespace
) -> None:
    assert one(make.ethernet(make.ipv4(make.tcp(), **packet))) == "malformed"


def test_decode__tcp_offset_below_or_beyond_the_packet_leaves_no_payload(
    one: Callable[..., Any], make: SimpleNamespace
) -> None:
    for words, size in ((4, 31), (15, 20), (0, 20)):
        row = one(make.ethernet(make.ipv4((make.tcp(words=words) + bytes(11))[:size])))
        assert (row["tcp_window"], row["payload_length"], row["packet_length"]) == (4321, 0, 20 + size)


def test_decode__a_packet_too_short_for_its_transport_header_is_malformed(
    one: Callable[..., Any], make: SimpleNamespace
) -> None:
    assert one(make.ethernet(make.ipv4(make.tcp()[:19]))) == "malformed"
    assert one(make.ethernet(make.ipv4(make.udp()[:6], 17))) == "malformed"


@pytest.mark.parametrize(
    ("link", "frame", "reason"),
    [
        (1, bytes(12) + b"\x08\x06" + bytes(28), "not_ip"),
        (1, bytes(12) + b"\x00\x26" + bytes(38), "not_ip"),
        (1, bytes(12) + b"\x88\xcc" + bytes(38), "not_ip"),
        (1, bytes(12) + b"\x99\x99" + bytes(38), "unknown_ether_type_0x9999"),
        (1, bytes(12) + b"\x81\0\0\7\x12\x34" + bytes(38), "unknown_ether_type_0x1234"),
        (1, bytes(12) + b"\x88\xe5\x2c" + bytes(40), "unknown_ether_type_0x88e5"),
        (113, bytes(14) + b"\x05\xdd" + bytes(38), "unknown_ether_type_0x05dd"),
        (258, struct.pack("<III", 108, 1, 147) + bytes(96 + 40), "unknown_link_type_147"),
        (192, struct.pack("<BBHI", 0, 0, 8, 0xF0000001) + bytes(40), "unknown_link_type_67108863"),
        (149, bytes(60), "unknown_link_type_149"),
        (147, bytes(60), "unknown_link_type_147"),
        (101, b"\x10" + bytes(40), "not_ip"),
        (9, b"\xc0\x21" + bytes(10), "not_ip"),
        (0, bytes(40), "not_ip"),
        (1, bytes(9), "malformed"),
    ],
)
def test_decode__foreign_frames_are_counted_by_reason(
    link: int, frame: bytes, reason: str, one: Callable[..., Any]
) -> None:
    assert one(frame, link) == reason


def test_decode__scapy_reads_the_same(read: Read, make: SimpleNamespace) -> None:
    from scapy.layers.inet import IP, TCP, UDP
    from scapy.layers.inet6 import IPv6, IPv6ExtHdrHopByHop
    from scapy.layers.l2 import Dot1Q, Ether

    link = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
    packets = [
        link
        / IP(src="1.2.3.4", dst="5.6.7.8")
        / TCP(sport=1, dport=2, flags="SA", window=512, options=[("MSS", 1400)]),
        link / Dot1Q(vlan=3) / Dot1Q(vlan=4) / IP(src="1.2.3.4", dst="5.6.7.8") / UDP(sport=3, dport=4) / b"payload",
        link / IPv6(src="2001:db8::1", dst="::1") / IPv6ExtHdrHopByHop() / TCP(sport=5, dport=6, window=9, flags="F"),
    ]
    rows, _ = read(make.pcap([bytes(packet) for packet in packets]))
    for row, packet in zip(rows, [Ether(bytes(packet)) for packet in packets], strict=True):
        network = packet[IP] if IP in packet else packet[IPv6]
        transport = packet[TCP] if TCP in packet else packet[UDP]
        assert (row["source_ip"], row["destination_ip"]) == (network.src, network.dst)
        assert (row["source_port"], row["destination_port"]) == (transport.sport, transport.dport)
        assert row["packet_length"] == len(network)
        assert row["payload_length"] == len(bytes(transport.payload))
        assert row["tcp_window"] == (transport.window if TCP in packet else 0)
        assert row["tcp_flags"] == (int(transport.flags) if TCP in packet else 0)


@pytest.mark.parametrize("keep_bytes", [1, 8, 20, 33, 250])
def test_keep__bytes_are_the_packets_without_link_layer_addresses_and_padding(
    keep_bytes: int, first_bytes: Callable[..., list[bytes]], make: SimpleNamespace
) -> None:
    four = make.ipv4(make.tcp(b"hello"), source="10.99.98.97", target="96.95.94.93")
    six = make.ipv6(make.udp(b"x" * 300), 17)
    padded, long = make.ethernet(four, tags=[(0x8100, 5)]) + b"\xee" * 9, make.ethernet(six, 0x86DD)
    room = keep_bytes + -keep_bytes % 8
    expected = [
        (four[:12] + bytes(8) + four[20:])[:keep_bytes].ljust(room, b"\0"),
        (six[:8] + bytes(32) + six[40:])[:keep_bytes].ljust(room, b"\0"),
        (six[:8] + bytes(32) + six[40:50])[:keep_bytes].ljust(room, b"\0"),
    ]
    # the last one is cut off 10 bytes behind its header, after a longer one in its place
    captured = [padded, long, (3_000_000_000_000_000, long[:64], len(long))]
    assert first_bytes(make.pcap(captured), keep_bytes) == expected


def test_keep__of_a_tunnel_that_is_taken_off_only_the_inner_packet_is_there(
    first_bytes: Callable[..., list[bytes]], make: SimpleNamespace
) -> None:
    inner = make.ipv4(make.tcp(b"inside"))
    data = make.pcap([make.ethernet(make.ipv4(b"\0\0\x08\0" + inner, 47))])
    (off,) = first_bytes(data, 64, tunnels=("gre",))
    assert off == (inner[:12] + bytes(8) + inner[20:]).ljust(64, b"\0")
    (on,) = first_bytes(data, 64)
    assert on[:20] != off[:20]
    assert first_bytes(data, 0) == [b""]
