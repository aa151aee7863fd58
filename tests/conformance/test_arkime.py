"""Arkime's sessions: endpoints, MACs, packets and bytes of each direction, the length of each packet in order."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from ipaddress import ip_address
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest

from iotid import config
from iotid.capture import read_packets
from iotid.flows import from_captures

pytestmark = pytest.mark.captures

_RECORD_HEADER = 16  # bytes that Arkime adds to each length in packetLen: those of the record's header in the file
_MAX_PACKETS = 4096

# Arkime has one session for all packets of a routing protocol, and finds DHCP's by what the messages say: the packets
# of each are compared as one session a capture, without endpoints
_ROUTING = {2: "IGMP", 46: "RSVP", 88: "EIGRP", 89: "OSPF", 103: "PIM"}
_DHCP_PORTS = {67, 68, 546, 547}
_ANY = ("any", 0)

Endpoint = tuple[str, int]
# protocol and both endpoints in no order: Arkime calls the first sender the source, iotid the one that opened;
# VLANs are in no key of Arkime's
Key = tuple[int, tuple[Endpoint, ...]]


@dataclass
class Session:
    """Packets of one key: of Arkime, all the sessions that its time-outs or a reused port cut them into."""

    packets: dict[Endpoint, int] = field(default_factory=dict)
    bytes: dict[Endpoint, int] = field(default_factory=dict)
    macs: dict[Endpoint, set[str]] = field(default_factory=dict)
    lengths: list[tuple[datetime, int, int]] = field(default_factory=list)  # time, byte of the capture, bytes

    def add(self, endpoint: Endpoint, packets: int, num_bytes: int, macs: set[str]) -> None:
        self.packets[endpoint] = self.packets.get(endpoint, 0) + packets
        self.bytes[endpoint] = self.bytes.get(endpoint, 0) + num_bytes
        self.macs.setdefault(endpoint, set()).update(macs)


@pytest.fixture(scope="module")
def sessions(suite: Path, capture_settings: config.Capture) -> dict[str, tuple[dict[Key, Session], dict[Key, Session]]]:
    """Of each capture iotid's and Arkime's."""
    tests = sorted((suite / "arkime").glob("*.test"))
    paths = [str(path.with_suffix(".pcap")) for path in tests]
    flows = from_captures(
        paths, max_packets=_MAX_PACKETS, tcp_close=False, length="frame", join_files=False, capture=capture_settings
    )
    ours: dict[str, dict[Key, Session]] = {path: {} for path in paths}
    for row in flows.to_pylist():
        sides = [(row[f"{side}_ip"], row[f"{side}_port"]) for side in ("client", "server")]
        session, sides = _session(ours[row["capture_file"]], row["protocol"], sides)
        for side, endpoint in zip(("client", "server"), sides, strict=True):
            session.add(endpoint, row[f"{side}_packets"], row[f"{side}_bytes"], {row[f"{side}_mac"]} - {None})
        gaps = [timedelta(microseconds=gap) for gap in row["inter_arrival_us"][1:]]
        times = accumulate(gaps, initial=row["first_seen"])
        session.lengths += [(time, 0, length) for time, length in zip(times, row["packet_length"], strict=True)]
    expected = _read(
        tests, read_packets(paths, settings=capture_settings).select(["capture_file", "offset", "timestamp"])
    )
    return {Path(path).name: (ours[path], expected[path]) for path in paths}


def test_arkime__flows_have_its_endpoints_counts_and_lengths(sessions: Any, judge: Any) -> None:
    judge("arkime", {name: _difference(*both) for name, both in sessions.items()})


def test_arkime__flows_have_its_macs(sessions: Any, judge: Any) -> None:
    judge("arkime_macs", {name: _difference_of_macs(*both) for name, both in sessions.items()})


def _read(tests: list[Path], packets: Any) -> dict[str, dict[Key, Session]]:
    """Sessions by capture. Arkime lists packets in the order of the capture: ``packets`` has when each was seen."""
    seen = {(row["capture_file"], row["offset"]): row["timestamp"] for row in packets.to_pylist()}
    expected: dict[str, dict[Key, Session]] = {}
    for path in tests:
        capture = str(path.with_suffix(".pcap"))
        expected[capture] = {}
        for entry in json.loads(path.read_text())["sessions3"]:
            body = entry["body"]
            if "ip" not in body["source"]:  # of LLDP, IS-IS, ARP …
                continue
            sides = [(str(ip_address(body[side]["ip"])), body[side]["port"]) for side in ("source", "destination")]
            session, sides = _session(expected[capture], body["ipProtocol"], sides)
            for side, endpoint in zip(("source", "destination"), sides, strict=True):
                session.add(endpoint, body[side]["packets"], body[side]["bytes"], set(body[side].get("mac", [])))
            never = datetime.max.replace(tzinfo=next(iter(seen.values())).tzinfo)
            session.lengths += [
                (seen.get((capture, place), never), place, length - _RECORD_HEADER)
                for place, length in zip(body["packetPos"], body["packetLen"], strict=True)
            ]
    return expected


def _session(sessions: dict[Key, Session], protocol: int, sides: list[Endpoint]) -> tuple[Session, list[Endpoint]]:
    """The session of a protocol between two sides, and the names of the sides in it."""
    if protocol in _ROUTING or (protocol == 17 and {port for _, port in sides} <= _DHCP_PORTS):
        sides = [_ANY, _ANY]
    return sessions.setdefault((protocol, tuple(sorted(sides))), Session()), sides


def _difference(ours: dict[Key, Session], expected: dict[Key, Session]) -> str | None:
    if ours.keys() != expected.keys():
        here, there = sorted(ours.keys() - expected.keys()), sorted(expected.keys() - ours.keys())
        return f"{len(here)} keys only iotid has, as {here[:1]}; {len(there)} only Arkime has, as {there[:1]}"
    for key, session in expected.items():
        for what in ("packets", "bytes"):
            if getattr(ours[key], what) != getattr(session, what):
                return f"{key}: {what} {getattr(ours[key], what)}, Arkime {getattr(session, what)}"
        # Arkime may save the first packets of a session only
        lengths = [length for *_, length in sorted(session.lengths)][:_MAX_PACKETS]
        mine = [length for *_, length in sorted(ours[key].lengths, key=lambda entry: entry[0])]
        if mine[: len(lengths)] != lengths:
            return f"{key}: lengths {mine}, Arkime {lengths}"
    return None


def _difference_of_macs(ours: dict[Key, Session], expected: dict[Key, Session]) -> str | None:
    """Of the sessions with the same counts. Arkime lists every MAC that it saw, iotid's flow has the first."""
    for key in ours.keys() & expected.keys():
        # Arkime shows no MACs of 802.11 and NFLOG
        if ours[key].packets != expected[key].packets or not any(expected[key].macs.values()):
            continue
        for endpoint, macs in ours[key].macs.items():
            known = expected[key].macs[endpoint]
            if endpoint != _ANY and (not macs <= known or bool(macs) != bool(known)):
                return f"{key}: MAC of {endpoint} {macs}, Arkime {known}"
    return None
