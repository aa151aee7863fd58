"""From a frame to its IP header: every link type and every tag gives the same packet; what is not read is named."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from iotid.capture.decode.headers import HEADERS_SIZE, UNKNOWN_LINK
from iotid.capture.decode.link import LINK_TYPES
from iotid.capture.decode.network import network_layer
from iotid.errors import DataError

Agrees = Callable[..., dict[str, tuple[int, int]]]

_DOCS = Path(__file__).parents[3] / "docs" / "captures.md"


@pytest.mark.parametrize("kind", ["by_link", "by_tag"])
def test_link__every_link_type_and_tag_gives_the_same_packet(
    kind: str, read: Callable[..., Any], agrees: Agrees, frames: ModuleType, make: SimpleNamespace
) -> None:
    cases = getattr(frames, kind)(make)
    for link in sorted({link for _, link, _ in cases}):
        of_link = [(name, frame) for name, its, frame in cases if its == link]
        data = make.pcap([frame for _, frame in of_link], link=link)
        agrees(data)
        rows, counted = read(data)
        assert counted.keys() == {"flow"}, counted
        for row, (name, frame) in zip(rows, of_link, strict=True):
            seen = (row["source_port"], row["destination_port"], row["payload_length"], row["packet_length"])
            assert seen == (*frames.PORTS, 9, 57 if ":" in row["source_ip"] else 37), name
            assert (row["link_type"], row["frame_length"]) == (link, len(frame)), name


def _by_link_type(frames: ModuleType, make: SimpleNamespace) -> dict[int, list[bytes]]:
    """A frame of every kind that is read, tagged ones among them, by number of the link type."""
    cases = [*frames.by_link(make), *(case for case in frames.by_tag(make) if " and " not in case[0])]
    of_link: dict[int, list[bytes]] = {}
    for _, link, frame in cases:
        of_link.setdefault(link, []).append(frame)
    return of_link


def test_link__every_frame_cut_anywhere_agrees_with_the_reference(
    agrees: Agrees, frames: ModuleType, make: SimpleNamespace
) -> None:
    for link, whole in _by_link_type(frames, make).items():
        cuts = [(1_000_000, frame[:i], len(frame)) for frame in whole for i in range(len(frame))]
        agrees(make.pcap(cuts, link=link))
        agrees(make.pcap([frame[:i] for frame in whole for i in range(len(frame))], link=link))


def test_link__headers_with_any_bit_turned_over_agree_with_the_reference(
    agrees: Agrees, frames: ModuleType, make: SimpleNamespace
) -> None:
    of_link = _by_link_type(frames, make)
    for link in of_link.keys() - {239}:
        begin = 12 if link == 1 else 0
        agrees(make.pcap(make.flipped(of_link[link], begin, begin + 12), link=link))


def test_link__ether_types_without_ip_are_those_of_the_reference_alone(
    agrees: Agrees, capture_reference: ModuleType, make: SimpleNamespace
) -> None:
    no_ip = capture_reference.link.NO_IP
    numbers = {number + step for number in no_ip for step in (-1, 0, 1)} | {1500, 1501, 1535, 1536}
    counted = agrees(make.pcap([make.ethernet(bytes(46), number) for number in sorted(numbers)]))
    assert counted["not_ip"][0] >= len(no_ip)


def test_link__every_number_of_a_link_type_is_read_as_the_reference_reads_it(
    agrees: Agrees, frames: ModuleType, make: SimpleNamespace
) -> None:
    bodies = [make.ethernet(make.ipv4(make.tcp())), make.ipv4(make.tcp()), b"\xff\x03\0\x21" + make.ipv4(make.tcp())]
    for link in {*range(300)} - {239}:  # what is no log of netfilter's has no byte order
        agrees(make.pcap(bodies, link=link))


@pytest.mark.parametrize("order", ["<", ">"])
def test_link__netfilter_log_is_read_in_its_byte_order_for_every_packet_length(
    order: str, read: Callable[..., Any], agrees: Agrees, frames: ModuleType, make: SimpleNamespace
) -> None:
    packets = [make.ipv4(make.udp(bytes(size - 28)), 17) for size in (28, 250, 252, 508, 1021, 1276, 1280, 1500, 9000)]
    for flags in (0, 0x8000, 0x4000):
        logged = [frames.nflog(2, [(1, bytes(4)), (9 | flags, packet)], order) for packet in packets]
        data = make.pcap(logged, link=239)
        agrees(data)
        assert [row["packet_length"] for row in read(data)[0]] == [len(packet) for packet in packets]


def test_link__tagged_frames_without_ip_cut_anywhere_agree_with_the_reference(
    agrees: Agrees, frames: ModuleType, make: SimpleNamespace
) -> None:
    found = []
    for kind in (0x0806, 0x9999, 0x0010):  # ARP, an unknown number, the length of a frame of LLC
        rest = kind.to_bytes(2, "big") + bytes(4)
        found += [frames.OUTER + tag + rest for tag in frames.TAGS.values()]
        found += [frames.OUTER + between + make.ethernet(bytes(4), kind) for between in frames.BRIDGES.values()]
    cuts = [(1_000_000, frame[:i], len(frame)) for frame in found for i in range(12, len(frame) + 1)]
    assert agrees(make.pcap(cuts)).keys() == {"not_ip", "truncated", "unknown_ether_type_0x9999"}


def test_link__macs_are_those_of_the_innermost_ethernet_header(
    one: Callable[..., Any], frames: ModuleType, make: SimpleNamespace
) -> None:
    for name, between in frames.BRIDGES.items():
        row = one(frames.OUTER + between + make.ethernet(make.ipv4(make.tcp())))
        assert (row["source_mac"], row["destination_mac"]) == ("02:00:00:00:00:01", "02:00:00:00:00:02"), name


def test_link__vlans_are_those_of_vlan_tags_alone(
    one: Callable[..., Any], frames: ModuleType, make: SimpleNamespace
) -> None:
    macs, rest = make.mac_b + make.mac_a, b"\x08\0" + make.ipv4(make.tcp())
    vlans = {name: one(macs + tag + rest)["vlan"] for name, tag in frames.TAGS.items()}
    assert {name for name, vlan in vlans.items() if vlan is not None} == {"802.1Q", "802.1ad", *(
        f"0x9{i}00" for i in (1, 2, 3)
    )}  # fmt: skip
    assert one(macs + frames.TAGS["HSR"] + frames.TAGS["802.1Q"] + rest)["vlan"] == 7
    assert one(macs + frames.TAGS["802.1Q"] + frames.TAGS["MACsec"] + rest)["vlan"] == 7


@pytest.mark.parametrize(
    ("link", "tag", "vlan"),
    [
        (284, b"\xe0\x28\x60\x2a", 42),
        (284, b"\xc0\x28\x60\x2a", None),
        (284, b"\x20\x28\x60\0", None),
        (285, b"\xda\xda\0\0\x20\x28\x61\x2a", 298),
        (285, b"\xda\xda\0\0\0\x28\x61\x2a", None),
        (1, b"\xda\xda\0\0\x20\x28\x61\x2a", 298),
        (281, b"\x20\x28\x60\x2a", None),
    ],
)
def test_link__marvells_tag_stands_for_a_vlan_tag_where_its_bit_says_so(
    link: int, tag: bytes, vlan: int | None, one: Callable[..., Any], make: SimpleNamespace
) -> None:
    row = one(make.mac_b + make.mac_a + tag + b"\x08\0" + make.ipv4(make.tcp()), link)
    assert (row["vlan"], row["source_mac"]) == (vlan, "02:00:00:00:00:01")


@pytest.mark.parametrize(
    ("frame", "link", "reason"),
    [
        (bytes(12) + b"\x99\x99" + bytes(40), 1, "unknown_ether_type_0x9999"),
        (bytes(40), 147, "unknown_link_type_147"),
    ],
)
def test_link__strict_names_what_is_not_read(
    frame: bytes, link: int, reason: str, read: Callable[..., Any], make: SimpleNamespace
) -> None:
    data = make.pcap([frame], link=link)
    assert read(data)[1] == {reason: (1, len(frame))}
    with pytest.raises(DataError, match=f"byte 24: {reason}; "):
        read(data, strict=True)


def test_link__unknown_numbers_are_counted_one_by_one(read: Callable[..., Any], make: SimpleNamespace) -> None:
    kinds = [0x9999, 0x1234, 0x9999, 0x0806]
    _, counted = read(make.pcap([make.ethernet(bytes(46), kind) for kind in kinds]))
    assert counted == {
        "unknown_ether_type_0x9999": (2, 120),
        "unknown_ether_type_0x1234": (1, 60),
        "not_ip": (1, 60),
    }


@pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed: make peers-setup")
def test_link__tshark_sees_the_same_packets_in_what_it_reads(
    tmp_path: Path, frames: ModuleType, make: SimpleNamespace
) -> None:
    cases = [
        *((*case, 1) for kind in ("by_link", "by_tag", "by_radio") for case in getattr(frames, kind)(make)),
        *((*case, 2) for case in frames.aggregates(make)),
    ]
    seen = 0
    for link in sorted({link for _, link, *_ in cases}):
        of_link = [(name, frame, packets) for name, its, frame, packets in cases if its == link]
        path = tmp_path / "made.pcap"
        path.write_bytes(make.pcap([frame for _, frame, _ in of_link], link=link))
        command = ["tshark", "-n", "-r", str(path), "-T", "fields", "-e", "udp.dstport", "-e", "udp.length"]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=120)
        if ran.returncode:
            assert "unsupported" in ran.stderr, ran.stderr
            continue
        for line, (name, _, packets) in zip(ran.stdout.splitlines(), of_link, strict=True):
            if line.strip():  # else it does not read so far
                port, size = str(frames.PORTS[1]), "17"
                assert line.split("\t") == [",".join([port] * packets), ",".join([size] * packets)], name
                seen += 1
    assert seen > 0.7 * len(cases)


def test_table__has_a_row_for_each_link_type_that_is_read() -> None:
    headers, empty = np.empty(HEADERS_SIZE, np.int64), np.frombuffer(b"", np.uint8)
    read = [link for link in range(400) if network_layer(empty, 0, 0, link, headers) != UNKNOWN_LINK]
    assert [row.number for row in LINK_TYPES] == read


def test_frames__are_there_for_every_link_type_that_is_read(frames: ModuleType, make: SimpleNamespace) -> None:
    assert {link for _, link, _ in [*frames.by_link(make), *frames.by_radio(make)]} == {
        row.number for row in LINK_TYPES
    }


def test_docs__name_the_link_types_that_are_read() -> None:
    table = _DOCS.read_text().partition("## Link types")[2].partition("\n## ")[0]
    assert {int(number) for number in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)} == {
        row.number for row in LINK_TYPES
    }
