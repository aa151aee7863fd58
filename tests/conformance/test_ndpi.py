"""nDPI's flows: endpoints, VLAN, packets and bytes of each direction.

Four rules of nDPI's are not iotid's, and iotid's flows are brought to them before the comparison: of a fragmented
packet only the first fragment counts; only TCP and UDP have ports; bytes are those captured, not those on the wire;
and it skips a frame shorter than 28 bytes, or whose IP header claims more than was captured of the packet.
"""

from __future__ import annotations

import re
import socket
from collections import Counter
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from iotid import config
from iotid.capture import read_packets
from iotid.flows import from_captures

pytestmark = pytest.mark.captures

# one direction only is printed as "->"; addresses of version 6 are in brackets
_LINE = re.compile(
    r"^\t\d+\t(?P<protocol>\S+) (?P<a>\S+) <?-> (?P<b>\S+) (?:\[VLAN: (?P<vlan>\d+)\])?"
    r".*?\[(?P<pa>\d+) pkts/(?P<ba>\d+) bytes <?-> (?P<pb>\d+) pkts/(?P<bb>\d+) bytes\]"
)
_NAMES = {
    "ICMP": 1, "IGMP": 2, "IPIP": 4, "TCP": 6, "EGP": 8, "UDP": 17, "GRE": 47, "ESP": 50, "AH": 51, "ICMPV6": 58,
    "OSPF": 89, "PIM": 103, "VRRP": 112, "PGM": 113, "SCTP": 132,
}  # fmt: skip
_WITH_PORTS = (6, 17)
_SHORTEST = 28  # bytes captured of a frame: IPv4 and UDP

# protocol, VLAN (0: none), and of each side its address, port, packets and bytes; the sides in no order, since nDPI
# calls the first sender the client and iotid the one that opened the connection
Flow = tuple[int, int, tuple[tuple[str, int, int, int], ...]]
Endpoint = tuple[str, int]
# protocol, VLAN, both endpoints in order: of each endpoint packets and bytes that it sent
Sums = dict[tuple[int, int, Endpoint, Endpoint], dict[Endpoint, list[int]]]

_PCAP = (b"\xd4\xc3\xb2\xa1", b"\xa1\xb2\xc3\xd4", b"\x4d\x3c\xb2\xa1", b"\xa1\xb2\x3c\x4d")


def test_ndpi__flows_have_its_endpoints_packets_and_bytes(
    suite: Path, capture_settings: config.Capture, judge: Any
) -> None:
    expected = {path.name.removesuffix(".out"): _read(path) for path in sorted((suite / "ndpi").glob("*.out"))}
    paths = [str(suite / "ndpi" / name) for name in expected]
    ours = _iotid(paths, capture_settings.model_copy(update={"fragment_records": 0}))
    judge(
        "ndpi",
        {name: _difference(_flows(ours[path]), expected[name]) for name, path in zip(expected, paths, strict=True)},
    )


def _read(path: Path) -> Counter[Flow]:
    """The flows that the text lists; lines of other tables have another form."""
    flows: Counter[Flow] = Counter()
    for line in path.read_text(errors="replace").splitlines():
        if found := _LINE.match(line):
            protocol = _NAMES[found["protocol"]] if found["protocol"] in _NAMES else int(found["protocol"])
            sides = [
                (*_endpoint(found["a"]), int(found["pa"]), int(found["ba"])),
                (*_endpoint(found["b"]), int(found["pb"]), int(found["bb"])),
            ]
            flows[protocol, int(found["vlan"] or 0), tuple(sorted(sides))] += 1
    return flows


def _endpoint(text: str) -> tuple[str, int]:
    address, port = text.rsplit(":", 1)
    return address.strip("[]"), int(port)


def _printed(address: str) -> str:
    """As nDPI prints it: inet_ntop's text with each ":0:" written as "::"."""
    if ":" not in address:
        return address
    return socket.inet_ntop(socket.AF_INET6, socket.inet_pton(socket.AF_INET6, address)).replace(":0:", "::")


def _flows(sums: Sums) -> Counter[Flow]:
    flows: Counter[Flow] = Counter()
    for (protocol, vlan, *ends), counts in sums.items():
        if any(packets for packets, _ in counts.values()):
            sides = [(_printed(end[0]), end[1], *counts[end]) for end in sorted(set(ends))]
            if len(sides) == 1:  # a host that talks to its own port: the sender is one side, no one is the other
                sides.append((*sides[0][:2], 0, 0))
            flows[protocol, vlan, tuple(sorted(sides))] += 1
    return flows


def _iotid(paths: list[str], settings: config.Capture) -> dict[str, Sums]:
    ours: dict[str, Sums] = {path: {} for path in paths}
    flows = from_captures(paths, max_packets=1, tcp_close=False, join_files=False, capture=settings)
    for row in flows.to_pylist():
        ends = [(row[f"{side}_ip"], row[f"{side}_port"]) for side in ("client", "server")]
        for sender, side in ((0, "client"), (1, "server")):
            _count(ours[row["capture_file"]], row, ends, sender, row[f"{side}_packets"], row[f"{side}_bytes"])
    columns = [
        "capture_file", "protocol", "vlan", "source_ip", "source_port", "destination_ip", "destination_port", "offset",
        "frame_length", "captured_length", "packet_length",
    ]  # fmt: skip
    contents = {path: Path(path).read_bytes() for path in paths}
    for row in read_packets(paths, settings=settings).select(columns).to_pylist():
        path, wire, captured = row["capture_file"], row["frame_length"], row["captured_length"]
        skipped = captured < _SHORTEST or _claims_more(contents[path], row)
        if skipped or captured < wire:
            ends = [(row[f"{side}_ip"], row[f"{side}_port"]) for side in ("source", "destination")]
            _count(ours[path], row, ends, 0, -skipped, -wire if skipped else captured - wire)
    return ours


def _count(sums: Sums, row: dict[str, Any], ends: list[Endpoint], sender: int, packets: int, num_bytes: int) -> None:
    """Add packets and bytes that ``ends[sender]`` sent."""
    protocol = row["protocol"]
    if protocol not in _WITH_PORTS:
        ends = [(address, 0) for address, _ in ends]
    low, high = sorted(ends)
    counts = sums.setdefault((protocol, row["vlan"] or 0, low, high), {low: [0, 0], high: [0, 0]})[ends[sender]]
    counts[0] += packets
    counts[1] += num_bytes


def _claims_more(content: bytes, row: dict[str, Any]) -> bool:
    """Whether the IP header claims more bytes than were captured.

    Where it claims more than the frame has, iotid's length ends with the frame: that is where the header is looked for.
    """
    record_header = 16 if content[:4] in _PCAP else 28
    captured_end = row["offset"] + record_header + row["captured_length"]
    at = captured_end - row["captured_length"] + row["frame_length"] - row["packet_length"]
    address = ip_address(row["source_ip"])
    header = content[at : min(at + 40, captured_end)]
    if not header[12 if address.version == 4 else 8 :].startswith(address.packed):
        return False
    claimed = int.from_bytes(header[2:4]) if address.version == 4 else 40 + int.from_bytes(header[4:6])
    return claimed > captured_end - at


def _difference(ours: Counter[Flow], expected: Counter[Flow]) -> str | None:
    if ours == expected:
        return None
    here, there = list((ours - expected).elements()), list((expected - ours).elements())
    return f"{len(here)} flows only iotid has, as {here[:1]}; {len(there)} only nDPI has, as {there[:1]}"
