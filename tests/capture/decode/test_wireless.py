"""802.11: what radios put in front, every kind of data frame, mesh control, and aggregates of several packets."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from iotid.flows import from_captures

Agrees = Callable[..., dict[str, tuple[int, int]]]


def _of_link(cases: list[Any]) -> dict[int, list[Any]]:
    found: dict[int, list[Any]] = {}
    for name, link, frame in cases:
        found.setdefault(link, []).append((name, frame))
    return found


def test_wireless__every_data_frame_behind_every_radio_is_one_packet(
    read: Callable[..., Any], agrees: Agrees, frames: ModuleType, make: SimpleNamespace
) -> None:
    for link, cases in _of_link(frames.by_radio(make)).items():
        data = make.pcap([frame for _, frame in cases], link=link)
        assert agrees(data).keys() == {"flow"}
        for row, (name, frame) in zip(read(data)[0], cases, strict=True):
            assert (row["destination_port"], row["payload_length"]) == (frames.PORTS[1], 9), name
            assert (row["link_type"], row["frame_length"]) == (link, len(frame)), name


def test_wireless__data_frames_cut_anywhere_agree_with_the_reference(
    agrees: Agrees, frames: ModuleType, make: SimpleNamespace
) -> None:
    for link, cases in _of_link(frames.by_radio(make)).items():
        whole = [frame for name, frame in cases if link == 105 or "padded" in name]
        cuts = [(1_000_000, frame[:i], len(frame)) for frame in whole for i in range(0, len(frame) - 40)]
        agrees(make.pcap(cuts, link=link))


def test_wireless__headers_with_any_bit_turned_over_agree_with_the_reference(
    agrees: Agrees, frames: ModuleType, make: SimpleNamespace
) -> None:
    for link, cases in _of_link(frames.by_radio(make)).items():
        whole = [frame for name, frame in cases if link == 105 or "padded" in name]
        agrees(make.pcap(make.flipped(whole, 0, 40), link=link))


def test_wireless__an_aggregate_of_two_packets_is_two_packets_that_tile_the_frame(
    read: Callable[..., Any], agrees: Agrees, frames: ModuleType, make: SimpleNamespace
) -> None:
    for link, cases in _of_link(frames.aggregates(make)).items():
        data = make.pcap([frame for _, frame in cases], link=link)
        counted = agrees(data)
        assert counted == {"flow": (2 * len(cases), sum(len(frame) for _, frame in cases))}
        rows, _ = read(data)
        at = 24
        for name, frame in cases:
            first, second, *rows = rows
            assert (first["source_ip"], second["source_ip"]) == ("10.0.0.1", "2001:db8::1"), name
            assert first["link_type"] == second["link_type"] == link, name
            assert first["frame_length"] + second["frame_length"] == len(frame), name
            assert (first["offset"], second["offset"]) == (at, at + first["frame_length"]), name
            assert first["timestamp"] == second["timestamp"], name
            at += 16 + len(frame)


def test_wireless__aggregates_cut_anywhere_agree_with_the_reference_and_lose_no_byte(
    agrees: Agrees, frames: ModuleType, make: SimpleNamespace
) -> None:
    for link, cases in _of_link(frames.aggregates(make)).items():
        cuts = [(1_000_000, frame[:i], len(frame)) for _, frame in cases for i in range(0, len(frame), 3)]
        for data in (make.pcap(cuts, link=link), make.pcap([frame for _, frame, _ in cuts], link=link)):
            counted = agrees(data)
            assert sum(packets for packets, _ in counted.values()) >= len(cuts)
        assert sum(size for _, size in agrees(make.pcap(cuts, link=link)).values()) == sum(wire for *_, wire in cuts)


def test_wireless__an_aggregate_cut_by_the_snap_length_has_a_truncated_packet(
    read: Callable[..., Any], frames: ModuleType, make: SimpleNamespace
) -> None:
    _, link, frame = frames.aggregates(make)[0]
    rows, counted = read(make.pcap([(0, frame[:110], len(frame))], link=link))
    assert (len(rows), counted["flow"][0], counted["truncated"][0]) == (1, 1, 1)


def test_wireless__both_packets_of_an_aggregate_are_in_their_flow_in_order(
    tmp_path: Path, frames: ModuleType, make: SimpleNamespace
) -> None:
    llc = b"\xaa\xaa\3\0\0\0\x08\0"
    packets = [make.ipv4(make.tcp(b"x" * size)) for size in (1, 2, 3)]
    first, second, third = (frames.subframe(llc + packet) for packet in packets)
    path = tmp_path / "a.pcap"
    path.write_bytes(make.pcap([(10**15, frames.data(first + second + third, qos=0x80))], link=105))
    (flow,) = from_captures([str(path)]).to_pylist()
    assert flow["payload_length"] == [1, 2, 3]
    assert flow["client_bytes"] + flow["server_bytes"] == path.stat().st_size - 40


def test_wireless__subframes_that_are_no_packets_are_counted(
    read: Callable[..., Any], agrees: Agrees, frames: ModuleType, make: SimpleNamespace
) -> None:
    llc = b"\xaa\xaa\3\0\0\0"
    bodies = [
        llc + b"\x08\x06" + bytes(28),
        llc + b"\x08\0" + make.ipv4(make.tcp()),
        llc + b"\x99\x99",
        llc + b"\x08\0\x45",
    ]
    frame = frames.data(b"".join(frames.subframe(body) for body in bodies), qos=0x80)
    data = make.pcap([frame], link=105)
    agrees(data)
    assert {reason: packets for reason, (packets, _) in read(data)[1].items()} == {
        "not_ip": 1, "flow": 1, "unknown_ether_type_0x9999": 1, "malformed": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("at", "bits"),
    [(0, 0x08), (0, 0x04), (0, 0x01), (0, 0x40), (1, 0x40), (22, 0x01), (22, 0x0F)],
    ids=["management", "control", "version", "empty", "encrypted", "second fragment", "last fragment"],
)
def test_wireless__what_is_no_data_in_the_clear_is_one_frame_and_not_ip(
    at: int, bits: int, read: Callable[..., Any], agrees: Agrees, frames: ModuleType, make: SimpleNamespace
) -> None:
    body = b"\xaa\xaa\3\0\0\0\x08\0" + make.ipv4(make.tcp())
    frame = bytearray(frames.data(frames.subframe(body) + frames.subframe(body, last=True), qos=0x80))
    assert read(make.pcap([bytes(frame)], link=105))[1].keys() == {"flow"}
    frame[at] ^= bits
    for _, link, radio in frames.radios(bytes(frame)):
        data = make.pcap([radio], link=link)
        agrees(data)
        assert read(data)[1] == {"not_ip": (1, len(radio))}


@pytest.mark.parametrize(("addresses", "source", "destination"), [(0, 4, 2), (1, 3, 2), (2, 4, 3)])
def test_wireless__mesh_control_names_the_stations_outside_the_mesh(
    addresses: int, source: int, destination: int, one: Callable[..., Any], frames: ModuleType, make: SimpleNamespace
) -> None:
    body = frames.mesh_control(addresses) + b"\xaa\xaa\3\0\0\0\x08\0" + make.ipv4(make.tcp())
    row = one(frames.data(body, to_system=True, from_system=True, qos=0x100), 105)
    assert (row["source_mac"], row["destination_mac"]) == (
        f"02:00:00:00:09:0{source}",
        f"02:00:00:00:09:0{destination}",
    )


def test_wireless__the_mesh_bit_of_a_station_is_none(
    one: Callable[..., Any], frames: ModuleType, make: SimpleNamespace
) -> None:
    body = b"\xaa\xaa\3\0\0\0\x08\0" + make.ipv4(make.tcp())
    assert one(frames.data(body, to_system=True, qos=0x100), 105)["protocol"] == 6
    assert one(frames.data(body, to_system=True, from_system=True, qos=0x100), 105)["protocol"] == 6  # 0xAA: reserved


def test_wireless__a_row_of_aggregates_is_found_to_repeat_like_any_packets(
    agrees: Agrees, frames: ModuleType, make: SimpleNamespace
) -> None:
    aggregates = [frame for _, link, frame in frames.aggregates(make) if link == 105]
    counted = agrees(make.pcap(aggregates, link=105), duplicate_window_us=10**6, duplicate_records=3)
    assert counted["duplicate"][0] > 0
    assert counted["flow"][0] + counted["duplicate"][0] == 2 * len(aggregates)
    once = agrees(make.pcap(aggregates[:1], link=105), duplicate_window_us=10**6, duplicate_records=1)
    assert once["flow"][0] == 2


@pytest.mark.parametrize(
    ("present", "data", "more", "pads"),
    [
        (0, b"\x20", (), False),
        (1, bytes(8) + b"\x20", (), False),
        (2, b"\x20", (), True),
        (2, b"\xdf", (), False),
        (3, bytes(8) + b"\x20", (), True),
        (3, b"\x20" + bytes(8), (), False),
        (2, b"\x20", (0,), True),
        (2, b"\x20", (1 << 31, 0), True),
        (3, bytes(4 + 8) + b"\x20", (0,), True),
        (3, bytes(8) + b"\x20", (1 << 31, 0), True),
        (2, b"", (), False),
    ],
)
def test_wireless__radiotaps_flags_are_read_from_where_the_words_of_fields_put_them(
    present: int, data: bytes, more: tuple[int, ...], pads: bool, one: Callable[..., Any], frames: ModuleType,
    make: SimpleNamespace,
) -> None:  # fmt: skip
    frame = frames.data(b"\xaa\xaa\3\0\0\0\x08\0" + make.ipv4(make.tcp()), qos=0)
    padded = frame[:26] + bytes(2) + frame[26:]
    header = frames.radiotap(present, data, more)
    assert isinstance(one(header + (padded if pads else frame), 127), dict)
    assert one(header + (frame if pads else padded), 127) == "not_ip"


@pytest.mark.parametrize(
    ("link", "header"),
    [
        (119, struct.pack("<II", 0x44, 144).ljust(144, b"\0")),
        (127, struct.pack("<BBHI", 0, 0, 24, 0).ljust(24, b"\0")),
        (163, struct.pack(">II", 0x80211001, 24).ljust(24, b"\0")),
        (192, struct.pack("<BBHI", 0, 0, 24, 105).ljust(24, b"\0")),
    ],
)
def test_wireless__a_radios_header_that_is_not_whole_is_truncated(
    link: int, header: bytes, one: Callable[..., Any]
) -> None:
    for size in range(len(header)):
        assert one(header[:size], link, 1000) == "truncated"
