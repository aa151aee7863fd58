"""tshark's dissection, live: time, lengths, addresses, ports, TCP's flags and window of every packet, in order."""

from __future__ import annotations

import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from iotid import config
from iotid.capture import read_packets

pytestmark = pytest.mark.captures

_FIELDS = [
    "frame.protocols", "frame.time_epoch", "frame.len", "frame.cap_len", "ip.src", "ip.dst", "ip.len", "ip.proto",
    "ip.frag_offset", "ipv6.src", "ipv6.dst", "ipv6.plen", "ipv6.fraghdr.offset", "tcp.srcport", "tcp.dstport",
    "tcp.flags", "tcp.window_size_value", "udp.srcport", "udp.dstport", "sctp.srcport", "sctp.dstport",
]  # fmt: skip
_OPTIONS = ["ip.defragment", "ipv6.defragment", "tcp.desegment_tcp_streams", "tcp.analyze_sequence_numbers"]  # all off
_TRANSPORTS = {"tcp": 6, "udp": 17, "sctp": 132}
_QUOTING = {"icmp": 1, "icmpv6": 58}  # packets that these or TCP carry are payload
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# time, frame lengths on the wire and as captured, addresses, ports, flags, window; then protocol, length of the packet
Packet = tuple[Any, ...]


def test_tshark__packets_have_its_lengths_addresses_ports_flags_and_windows(
    captures: Path, capture_settings: config.Capture, judge: Any
) -> None:
    if shutil.which("tshark") is None:
        pytest.skip("tshark is not installed: make peers-setup")
    paths = _sample(captures)
    with ThreadPoolExecutor(2) as workers:  # one more while this process compares
        outputs = workers.map(_tshark, paths)
        outcomes = {
            str(Path(path).relative_to(captures)): _difference(_iotid(path, capture_settings), _read(output))
            for path, output in zip(paths, outputs, strict=True)
        }
    judge("tshark", outcomes)


def _sample(captures: Path) -> list[str]:
    """Every 25th of aalto, 12th of lsif, 4th of nDPI's and 2nd of Arkime's."""
    ndpi = sorted(path for path in (captures / "conformance" / "ndpi").iterdir() if path.suffix != ".out")
    arkime = sorted((captures / "conformance" / "arkime").glob("*.pcap"))
    aalto, lsif = (sorted((captures / name).rglob("*.pcap")) for name in ("aalto", "lsif"))
    return [str(path) for path in aalto[::25] + lsif[::12] + ndpi[::4] + arkime[::2]]


def _tshark(path: str) -> str:
    options = [word for option in _OPTIONS for word in ("-o", f"{option}:FALSE")]
    fields = [word for field in _FIELDS for word in ("-e", field)]
    command = ["tshark", "-n", "-r", path, *options, "-T", "fields", *fields]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ran.returncode in (0, 2), ran.stderr  # 2: the capture ends inside a record
    return ran.stdout


def _read(output: str) -> list[Packet]:
    """The packets of IP, but not fragments behind the first: their ports are in another packet."""
    packets = [_packet(dict(zip(_FIELDS, line.split("\t"), strict=True))) for line in output.splitlines()]
    return [packet for packet in packets if packet is not None]


def _packet(fields: dict[str, str]) -> Packet | None:
    """The innermost packet. A field has a value for each layer that has it, from the outermost in."""
    layers = {"ip": 0, "ipv6": 0, "tcp": 0, "udp": 0, "sctp": 0}
    inner = above = ""
    for layer in fields["frame.protocols"].split(":"):
        if layer in ("ip", "ipv6"):
            inner, above = layer, ""
        elif layer in _TRANSPORTS or layer in _QUOTING:
            above = layer
        if layer in layers:
            layers[layer] += 1
        if layer in _QUOTING or layer == "tcp":
            break
    if not inner:
        return None

    def value(field: str, layer: str) -> int:
        return int(fields[field].split(",")[layers[layer] - 1], 0) if fields[field] else 0

    if (inner == "ip" and value("ip.frag_offset", "ip")) or any(
        int(offset) for offset in fields["ipv6.fraghdr.offset"].split(",") if offset and inner == "ipv6"
    ):
        return None
    ends = [fields[f"{inner}.{end}"].split(",") for end in ("src", "dst")]
    if not all(len(end) >= layers[inner] and end[layers[inner] - 1] for end in ends):  # tshark gave up on the header
        return None
    addresses = [str(ip_address(end[layers[inner] - 1])) for end in ends]
    ports = [value(f"{above}.{end}", above) if above in _TRANSPORTS else 0 for end in ("srcport", "dstport")]
    protocol = (_TRANSPORTS | _QUOTING).get(above)
    flags, window = (value(f"tcp.{name}", "tcp") if above == "tcp" else 0 for name in ("flags", "window_size_value"))
    seconds, fraction = fields["frame.time_epoch"].split(".")
    time = _EPOCH + timedelta(seconds=int(seconds), microseconds=int(fraction[:6]))
    wire = int(fields["frame.len"])
    length = value("ip.len", "ip") if inner == "ip" else value("ipv6.plen", "ipv6") + 40
    return (time, wire, int(fields["frame.cap_len"]), *addresses, *ports, flags & 0xFF, window, protocol, length)


def _iotid(path: str, settings: config.Capture) -> list[Packet]:
    columns = [
        "timestamp", "frame_length", "captured_length", "source_ip", "destination_ip", "source_port",
        "destination_port", "tcp_flags", "tcp_window", "protocol", "packet_length",
    ]  # fmt: skip
    table = read_packets(path, settings=settings.model_copy(update={"fragment_records": 0})).select(columns)
    return [tuple(row.values()) for row in table.to_pylist()]


def _difference(ours: list[Packet], expected: list[Packet]) -> str | None:
    if len(ours) != len(expected):
        return f"iotid has {len(ours)} packets, tshark {len(expected)}"
    for number, (mine, its) in enumerate(zip(ours, expected, strict=True)):
        *mine_rest, protocol, length = mine
        *its_rest, its_protocol, its_length = its
        # a protocol that tshark has no dissector for is not compared, nor a wrong length: its rule is iotid's own
        same = mine_rest == its_rest and its_protocol in (None, protocol)
        if not same or (length != its_length and 0 < its_length <= its[1]):
            return f"packet {number} of IP: iotid {mine[1:]}, tshark {its[1:]}"
    return None
