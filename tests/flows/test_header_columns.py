"""Header fields of first packets: against scapy's decoding, the reference implementation, and hostile options."""

from __future__ import annotations

import random
import struct
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from flow_cutting import ACK, PATHS, Build, cut_flows, row, rule, syn
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from iotid.capture import read_packets
from iotid.flows import from_captures
from iotid.flows.as_table import flows_of
from iotid.schemas import HEADER_COLUMNS

_KINDS = {"EOL": 0, "NOP": 1, "MSS": 2, "WScale": 3, "SAckOK": 4, "SAck": 5, "Timestamp": 8}
_LISTS: list[list[tuple[str, Any]]] = [
    [("MSS", 1460), ("SAckOK", b""), ("Timestamp", (7, 0)), ("NOP", None), ("WScale", 7)],  # Linux's SYN
    [("MSS", 65535), ("NOP", None), ("WScale", 255), ("NOP", None), ("NOP", None), ("SAckOK", b"")],
    [("NOP", None), ("NOP", None), ("Timestamp", (2**32 - 1, 5))],
    [("NOP", None), ("NOP", None), ("SAck", (1, 2, 3, 4))],
    [("MSS", 536), ("EOL", None)],
    [],
]


def _fnv_1a(content: bytes) -> int:
    digest = 0x811C9DC5
    for byte in content:
        digest = (digest ^ byte) * 0x01000193 & 0xFFFFFFFF
    return digest


def test_columns__are_what_scapy_decodes_of_both_families(tmp_path: Path) -> None:
    from scapy.layers.inet import IP, TCP, UDP
    from scapy.layers.inet6 import IPv6
    from scapy.layers.l2 import Ether
    from scapy.utils import rdpcap, wrpcap

    made = []
    for number, options in enumerate(_LISTS):
        ports = {"sport": 2000 + number, "dport": 443}
        made.append(IP(ttl=255 - number, tos=184, flags="DF", id=number) / TCP(**ports, options=options))
        made.append(IPv6(hlim=number, tc=number << 5) / TCP(**ports, options=options))
        made.append(IP(ttl=number, tos=3, id=9) / UDP(**ports))
    frames = [Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / packet for packet in made]
    for number, frame in enumerate(frames):
        frame.time = 1_700_000_000 + number
    path = tmp_path / "scapy.pcap"
    wrpcap(str(path), frames)
    found = from_captures(path, header_fields=True).select(HEADER_COLUMNS).to_pylist()
    assert len(found) == len(frames)
    for flow, frame in zip(found, rdpcap(str(path)), strict=True):
        ip = frame[IP] if IP in frame else frame[IPv6]
        options = frame[TCP].options if TCP in frame else []
        kinds, values = bytes(_KINDS[name] for name, _ in options), dict(options)
        if kinds.count(0) > 1:  # scapy takes the padding behind the end of the list for options
            kinds = kinds[: kinds.index(0) + 1]
        assert flow == {
            "ttl": [ip.ttl if IP in frame else ip.hlim],
            "dscp": [(ip.tos if IP in frame else ip.tc) >> 2],
            "dont_fragment": [int("DF" in ip.flags) if IP in frame else 1],
            "ip_id_step": [1 if IP in frame else 0],
            "tcp_options": [_fnv_1a(kinds) & 0x7FFFFFFF if kinds else 0],
            "tcp_mss": [values.get("MSS", 0)],
            "tcp_window_scale": [values["WScale"] + 1 if "WScale" in values else 0],
            "timestamp_rate": [1 if "Timestamp" in values else 0],
        }


def test_options__hash_of_their_order_is_the_same_everywhere(tmp_path: Path) -> None:
    options = [b"\2\4\5\xb4\4\2\x08\x0a\0\0\0\1\0\0\0\0\1\3\3\7", b"\1\1\x08\x0a\0\0\0\1\0\0\0\0"]
    flows = from_captures(_capture(tmp_path, [_tcp(each) for each in options]), header_fields=True, tcp_close=False)
    assert flows["tcp_options"].to_pylist() == [[853641209, 969722733]]


@pytest.mark.parametrize(
    ("options", "order", "mss"),
    [
        (b"\2\4\1\0\5\0\0\0", False, 256),  # a length of 0
        (b"\2\4\1\0\5\1\0\0", False, 256),  # ... of 1
        (b"\2\4\1\0\5\5\0\0", False, 256),  # beyond the header
        (b"\2\4\1\0\1\1\1\5", False, 256),  # no length
        (b"\2\4\1\0\0\5\0\0", True, 256),  # nothing counts behind the end of the list
        (b"\2\3\1\1", True, 0),  # another length than an MSS has
        (b"\2\4\1\0\2\4\2\0", True, 512),  # the last one
        (b"", False, 0),
    ],
)
def test_options__that_are_malformed_have_no_order(tmp_path: Path, options: bytes, order: bool, mss: int) -> None:
    flow = _flow_of(_capture(tmp_path, [_tcp(options)]))
    assert (flow["tcp_options"][0] > 0, flow["tcp_mss"]) == (order, [mss])


@pytest.mark.parametrize("captured", range(14 + 20 + 4, 14 + 20 + 20 + 21))
def test_options__that_are_cut_off_have_no_order(tmp_path: Path, captured: int) -> None:
    frame = _tcp(b"\2\4\1\0\1\1\1\3\3\7\1\1\1\1\1\1\1\1\1\1")
    flow = _flow_of(_capture(tmp_path, [(frame[:captured], len(frame))]))
    options = captured - 54
    assert (flow["tcp_options"][0] > 0) is (options == 20)
    assert flow["tcp_mss"] == [256 if options >= 4 else 0]
    assert flow["tcp_window_scale"] == [8 if options >= 10 else 0]
    assert flow["ttl"] == [77]


def test_options__of_a_later_fragment_are_payload(tmp_path: Path) -> None:
    whole = _tcp(b"\2\4\1\0" + b"\1" * 4, fragment=0x2000)
    later = _tcp(b"\2\4\2\0" + b"\1" * 4, fragment=4)
    flow = _flow_of(_capture(tmp_path, [whole, later]))
    assert flow["tcp_mss"] == [256, 0]
    assert flow["tcp_options"][1] == 0
    assert flow["ttl"] == [77, 77]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    options=st.lists(
        st.one_of(
            st.binary(max_size=40),
            st.lists(st.sampled_from([b"\1", b"\0", b"\2\4\5\xb4", b"\3\3\7", b"\x08\x0a12345678", b"\x08", b"\2\2"]))
            .map(b"".join)
            .map(lambda joined: joined[:40]),
        ),
        min_size=1,
        max_size=20,
    ),
    words=st.integers(0, 15),
    cut=st.integers(0, 60),
)
def test_columns__equal_the_references_of_random_options(
    tmp_path: Path, reference: ModuleType, options: list[bytes], words: int, cut: int
) -> None:
    frames: list[Any] = []
    for number, each in enumerate(options):
        frame = _tcp(each, words=words if number % 2 else None, port=1000 + number)
        frames.append((frame[: max(14 + 20 + 4, len(frame) - cut)] if number % 3 else frame, len(frame)))
    path = _capture(tmp_path, frames)
    packets = read_packets(path).to_pylist()
    for packet in packets:
        packet["data"] = reference.data_of(packet)
    found = from_captures(path, header_fields=True, max_packets=4).select(HEADER_COLUMNS).to_pylist()
    expected = reference.flows(packets, [str(path)], header_fields=True, max_packets=4)
    assert found == [{name: flow[name] for name in HEADER_COLUMNS} for flow in expected]


def test_columns__are_empty_unless_they_are_asked_for(tmp_path: Path) -> None:
    path = _capture(tmp_path, [_tcp(b"\2\4\1\0")])
    plain, full = from_captures(path), from_captures(path, header_fields=True)
    assert all(plain[name].to_pylist() == [[]] for name in HEADER_COLUMNS)
    assert all(len(full[name][0]) == 1 for name in HEADER_COLUMNS)
    assert plain.drop(list(HEADER_COLUMNS)).equals(full.drop(list(HEADER_COLUMNS)))
    assert plain.schema.equals(full.schema)
    with_bytes = from_captures(path, header_fields=True, keep_bytes=40)
    assert with_bytes.select(HEADER_COLUMNS).equals(full.select(HEADER_COLUMNS))
    assert with_bytes["first_bytes"].equals(from_captures(path, keep_bytes=40)["first_bytes"])


def _columns(packets_of: Build, rows: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    given = rule(max_packets=32, header_fields=True, **changes)
    (flow,) = cut_flows(packets_of(rows, PATHS, 0, True), given, PATHS).to_pylist()
    found: dict[str, Any] = flow
    return found


def _header(**changes: Any) -> dict[str, Any]:
    fields = {"ttl": 64, "dscp": 0, "dont_fragment": 0, "identification": 0, "options": 0, "mss": 0}
    return fields | {"window_scale": 0, "timestamp": None} | changes


def test_ip_id_step__compares_with_the_senders_packet_before(packets_of: Build) -> None:
    steps = [(True, 65535), (False, 9), (True, 0), (True, 0), (True, 2), (False, 18), (True, 12), (True, 1012),
             (False, 17), (True, 2013)]  # fmt: skip
    rows = [
        row(number, number, ACK, up, header=_header(identification=given)) for number, (up, given) in enumerate(steps)
    ]
    assert _columns(packets_of, rows)["ip_id_step"] == [1, 1, 3, 2, 4, 4, 5, 5, 6, 6]


@pytest.mark.parametrize(
    ("hertz", "expected"),
    [(0, 2), (2, 2), (49, 2), (50, 3), (100, 3), (157, 3), (158, 4), (250, 4), (499, 4), (500, 5), (1000, 5),
     (1999, 5), (2000, 6), (1_000_000, 6), (-100, 2)],
)  # fmt: skip
def test_timestamp_rate__is_that_since_the_senders_first_timestamp(
    packets_of: Build, hertz: int, expected: int
) -> None:
    begin, seconds = 2**32 - 3, [0, 0.05, 0.099999, 0.1, 1, 60]
    ticks = [(begin + round(hertz * at)) % 2**32 for at in seconds]
    rows = [row(n, at, header=_header(timestamp=tick)) for n, (at, tick) in enumerate(zip(seconds, ticks, strict=True))]
    rows += [row(10, 0.5, header=_header()), syn(11, 60, 1, 18, False, header=_header(timestamp=5))]
    found = _columns(packets_of, rows)["timestamp_rate"]
    assert found[:3] == [1, 1, 1]
    assert found[4] == 0  # has none
    assert found[5:] == [expected, expected, 1]


def _tcp(options: bytes, *, words: int | None = None, port: int = 1000, fragment: int = 0) -> bytes:
    options += bytes(-len(options) % 4)
    words = 5 + len(options) // 4 if words is None else words
    above = struct.pack(">HHIIBBHHH", port, 443, 1, 0, words << 4, 2, 1024, 0, 0) + options + b"payload!"
    header = struct.pack(">BBHHHBBH", 0x45, 0x2E, 20 + len(above), 7, fragment, 77, 6, 0)
    return bytes(12) + b"\x08\0" + header + bytes([10, 0, 0, 1, 10, 0, 0, 2]) + above


def _capture(folder: Path, frames: list[Any]) -> Path:
    """A pcap of frames, or of (captured bytes, length on the wire), a second apart."""
    records = [struct.pack("<IHHIIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)]
    for number, frame in enumerate(frames):
        data, wire = frame if isinstance(frame, tuple) else (frame, len(frame))
        records.append(struct.pack("<IIII", 1_700_000_000 + number, 0, len(data), wire) + data)
    path = folder / "made.pcap"
    path.write_bytes(b"".join(records))
    return path


def _flow_of(path: Path) -> dict[str, Any]:
    (flow,) = from_captures(path, header_fields=True).to_pylist()
    found: dict[str, Any] = flow
    return found


@pytest.mark.parametrize("seed", range(5))
def test_columns__of_randomly_mutated_packets_are_in_their_ranges(tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    frames = []
    for _ in range(400):
        frame = bytearray(_tcp(b"\2\4\5\xb4\4\2\x08\x0a\0\0\0\1\0\0\0\0\1\3\3\7", port=dice.randrange(1000, 1010)))
        for _ in range(dice.randrange(1, 6)):
            frame[dice.randrange(14, len(frame))] = dice.choice([0, 1, 2, 8, 0x0F, 0x7F, 0xFF, dice.randrange(256)])
        frames.append((bytes(frame[: dice.randrange(14, len(frame) + 1)]), len(frame)))
    flows = from_captures(_capture(tmp_path, frames), header_fields=True)
    assert len(flows) > 0
    assert flows_of(flows, HEADER_COLUMNS).to_pydict() == flows.select(HEADER_COLUMNS).to_pydict()
