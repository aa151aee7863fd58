"""Slow, obvious twins of the kernels: plain Python over bytes, no windows, no arrays, nothing shared with the code."""

from __future__ import annotations

import struct
from collections import Counter
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from itertools import pairwise
from typing import Any

# ---------------------------------------------------------------------------------------------------------------------
# captures: a whole uncompressed file in, packets and reasons out
# ---------------------------------------------------------------------------------------------------------------------

_LAST_US = 253_402_300_799_999_999
_EPB, _SPB, _PB, _IDB, _SHB = 6, 3, 2, 1, 0x0A0D0D0A


class _BrokenError(Exception):
    """No record can start here; ``cut``: it could, but the file ends inside it."""

    def __init__(self, cut: bool = False) -> None:
        super().__init__()
        self.cut = cut


def read_capture(
    data: bytes, *, max_packet_bytes: int = 1 << 20, duplicate_window_us: int = 0, duplicate_records: int = 512
) -> tuple[list[dict[str, Any]], Counter[str], Counter[str]]:
    """Packets of IP flows (as schemas.PACKETS, addresses as bytes), and packets and bytes by reason."""
    reader = _Pcapng(data, max_packet_bytes) if data[:4] == b"\x0a\x0d\x0d\x0a" else _Pcap(data, max_packet_bytes)
    packets: list[dict[str, Any]] = []
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    earlier: list[tuple[int, Any]] = []
    for record in reader.records():
        reason = record["reason"]
        packet: dict[str, Any] = {}
        same: Any = None
        if reason is None:
            reason, packet, same = _decode(record)
            repeated = any(
                key == same and abs(time - record["timestamp"]) <= duplicate_window_us
                for time, key in earlier[-duplicate_records:]
            )
            if reason == "flow" and duplicate_window_us > 0 and repeated:
                reason = "duplicate"
        if reason not in ("skipped_bytes", "truncated_record"):
            earlier.append((record["timestamp"], same if same is not None else object()))
        counts[reason] += reason != "skipped_bytes"
        sizes[reason] += record["frame_length"]
        if reason == "flow":
            packets.append(packet)
    return packets, counts, sizes


class _Container:
    """The walk: take what is at the position, or look for the next place from where three in a row can be taken."""

    start = 0
    fewest = 1  # things in a row that prove the first where they end exactly with the file

    def __init__(self, data: bytes, max_packet_bytes: int) -> None:
        self.data = data
        self.max = max_packet_bytes

    def records(self) -> Any:
        if len(self.data) < self.start:
            yield self.fault("skipped_bytes", 0, len(self.data))
            return
        at = self.start
        while at < len(self.data):
            try:
                record, following = self.take(at)
            except _BrokenError as broken:
                following = next((i for i in range(at + 1, len(self.data)) if self.is_chain(i)), len(self.data))
                lost = broken.cut and following == len(self.data)
                record = self.fault("truncated_record" if lost else "skipped_bytes", at, following - at)
            if record is not None:
                yield record
            at = following

    def is_chain(self, at: int) -> bool:
        i = at
        memory: Any = None
        for length in range(3):
            if i == len(self.data) and length >= self.fewest:
                return True
            following, memory = self.plausible(i, memory)
            if following is None or following > len(self.data):
                return False
            i = following
        return True

    @staticmethod
    def fault(reason: str, offset: int, size: int) -> dict[str, Any]:
        return {"reason": reason, "offset": offset, "frame_length": size, "timestamp": 0}

    def take(self, at: int) -> tuple[dict[str, Any] | None, int]:
        raise NotImplementedError

    def plausible(self, at: int, memory: Any) -> tuple[int | None, Any]:
        raise NotImplementedError


class _Pcap(_Container):
    start = 24
    fewest = 2

    def __init__(self, data: bytes, max_packet_bytes: int) -> None:
        super().__init__(data, max_packet_bytes)
        magics = {0xA1B2C3D4: (1, 16), 0xA1B23C4D: (1000, 16), 0xA1B2CD34: (1, 24)}
        for order in "<>":
            (magic,) = struct.unpack_from(order + "I", data)
            if magic in magics:
                self.order = order
                self.ticks, self.header = magics[magic]
        if len(data) >= 24:
            self.link = struct.unpack_from(self.order + "I", data, 20)[0] & 0x03FFFFFF

    def take(self, at: int) -> tuple[dict[str, Any] | None, int]:
        if at + self.header > len(self.data):
            raise _BrokenError
        seconds, ticks, captured, wire = struct.unpack_from(self.order + "IIII", self.data, at)
        if captured > self.max or wire >= 2**31 or seconds == ticks == captured == wire == 0:
            raise _BrokenError
        start = at + self.header
        if start + captured > len(self.data):
            raise _BrokenError(cut=True)
        time = seconds * 1_000_000 + ticks // self.ticks
        return _record(at, self.data[start : start + captured], wire, time, self.link), start + captured

    def plausible(self, at: int, memory: Any) -> tuple[int | None, Any]:
        if at + self.header > len(self.data):
            return None, None
        seconds, ticks, captured, wire = struct.unpack_from(self.order + "IIII", self.data, at)
        good = 0 < captured <= min(self.max, wire) and wire <= 2**24 and ticks < 1_000_000 * self.ticks
        if not good or (memory is not None and abs(seconds - memory) > 86400):
            return None, None
        return at + self.header + captured, seconds


class _Pcapng(_Container):
    def __init__(self, data: bytes, max_packet_bytes: int) -> None:
        super().__init__(data, max_packet_bytes)
        self.order = "<"
        self.interfaces: list[tuple[int, int, int, int]] = []  # link type, snap length, ticks per second, offset

    def block(self, at: int, order: str) -> tuple[int, int, str]:
        """Type, length and byte order; raises where no block can start."""
        if at + 12 > len(self.data):
            raise _BrokenError
        (kind,) = struct.unpack_from(order + "I", self.data, at)
        if kind == _SHB:
            magics = {b"\x1a\x2b\x3c\x4d": ">", b"\x4d\x3c\x2b\x1a": "<"}
            if self.data[at + 8 : at + 12] not in magics:
                raise _BrokenError
            order = magics[self.data[at + 8 : at + 12]]
        (length,) = struct.unpack_from(order + "I", self.data, at + 4)
        if length % 4 or length < {_SHB: 28, _IDB: 20, _EPB: 32, _PB: 32, _SPB: 16}.get(kind, 12):
            raise _BrokenError
        return kind, length, order

    def take(self, at: int) -> tuple[dict[str, Any] | None, int]:
        kind, length, order = self.block(at, self.order)
        if length > max(1 << 24, self.max + (1 << 16)):
            raise _BrokenError
        if at + length > len(self.data):
            raise _BrokenError(cut=kind in (_EPB, _SPB, _PB))
        body = self.data[at + 8 : at + length - 4]
        if struct.unpack_from(order + "I", self.data, at + length - 4)[0] != length:
            raise _BrokenError
        record = None
        if kind == _SHB:
            self.order, self.interfaces = order, []
        elif kind == _IDB:
            self.interfaces.append(self.interface(body))
        elif kind in (_EPB, _SPB, _PB):
            record = self.packet(at, kind, body)
        return record, at + length

    def interface(self, body: bytes) -> tuple[int, int, int, int]:
        link, _, snap = struct.unpack_from(self.order + "HHI", body)
        resolution, offset = 10**6, 0
        i = 8
        while i + 4 <= len(body):
            code, size = struct.unpack_from(self.order + "HH", body, i)
            i += 4
            if code == 0 or i + size > len(body):
                break
            if code == 9 and size == 1:
                resolution = 2 ** (body[i] & 0x7F) if body[i] & 0x80 else 10 ** body[i]
            elif code == 14 and size == 8:
                (offset,) = struct.unpack_from(self.order + "q", body, i)
            i += (size + 3) // 4 * 4
        return link, snap, resolution, offset

    def packet(self, at: int, kind: int, body: bytes) -> dict[str, Any]:
        number, frame, ticks, captured = 0, body[20:], 0, 0
        if kind == _SPB:
            (wire,) = struct.unpack_from(self.order + "I", body)
            frame = body[4:]
            captured = min(wire, len(frame))
        else:
            number, high, low, captured, wire = struct.unpack_from(self.order + "IIIII", body)
            ticks = (high << 32) | low
            if kind == _PB:
                (number,) = struct.unpack_from(self.order + "H", body)
        if captured > len(frame) or captured > self.max or wire >= 2**31:
            return {"reason": "malformed", "offset": at, "frame_length": 0, "timestamp": 0}
        if number >= len(self.interfaces):
            return {"reason": "unknown_interface", "offset": at, "frame_length": max(wire, captured), "timestamp": 0}
        link, snap, resolution, offset = self.interfaces[number]
        if kind == _SPB:
            captured = min(captured, snap or captured)
            return _record(at, frame[:captured], wire, 0, link)
        time = ticks * 10**6 // resolution + offset * 10**6
        if not 0 <= time <= _LAST_US:
            return {"reason": "malformed", "offset": at, "frame_length": max(wire, captured), "timestamp": 0}
        return _record(at, frame[:captured], wire, time, link)

    def plausible(self, at: int, memory: Any) -> tuple[int | None, Any]:
        try:
            kind, length, order = self.block(at, memory or self.order)
        except _BrokenError:
            return None, None
        named = 0 < kind < 0x10000 or kind in (_SHB, 0xBAD, 0x40000BAD) or kind >= 2**31
        if not named or length > self.max + (1 << 16) or at + length > len(self.data):
            return None, None
        if struct.unpack_from(order + "I", self.data, at + length - 4)[0] != length:
            return None, None
        return at + length, order


def _record(offset: int, frame: bytes, wire: int, time: int, link: int) -> dict[str, Any]:
    return {
        "reason": None,
        "offset": offset,
        "frame": frame,
        "frame_length": max(wire, len(frame)),
        "timestamp": time,
        "link_type": link,
    }


class _RejectError(Exception):
    """Carries the reason why a frame gives no packet; `short`: a header runs over what was captured."""


def _decode(record: dict[str, Any]) -> tuple[str, dict[str, Any], Any]:
    frame, wire = record["frame"], record["frame_length"]
    try:
        kind, at, vlan, source, destination = _below_ip(frame, record["link_type"])
        packet, same = _ip(frame[at:], wire - at, kind)
    except _RejectError as reject:
        reason = str(reject)
        if reason == "short":
            reason = "truncated" if len(frame) < wire else "malformed"
        return reason, {}, None
    packet |= {
        "offset": record["offset"],
        "timestamp": record["timestamp"],
        "link_type": record["link_type"],
        "frame_length": wire,
        "captured_length": len(frame),
        "vlan": vlan,
        "source_mac": source,
        "destination_mac": destination,
    }
    return "flow", packet, (same, vlan)


def _be(data: bytes, at: int, size: int) -> int:
    if at + size > len(data):
        raise _RejectError("short")
    return int.from_bytes(data[at : at + size], "big")


def _below_ip(frame: bytes, link: int) -> tuple[int, int, int | None, bytes | None, bytes | None]:
    """4 or 6, where the IP header starts, VLAN, MACs."""
    source = destination = vlan = None
    kind: int | str
    if link == 1:
        kind, at = _be(frame, 12, 2), 14
        destination, source = frame[:6], frame[6:12]
    elif link == 113:
        kind, at = _be(frame, 14, 2), 16
        source = frame[6:12] if _be(frame, 4, 2) == 6 else None
    elif link == 276:
        _be(frame, 0, 20)
        kind, at = _be(frame, 0, 2), 20
        source = frame[12:18] if frame[11] == 6 else None
    elif link in (12, 14, 101):
        kind, at = "by version", 0
    elif link in (228, 229):
        kind, at = {228: 0x0800, 229: 0x86DD}[link], 0
    elif link in (0, 108):
        family = min(_be(frame, 0, 4), int.from_bytes(frame[:4], "little"))
        kind, at = {2: 0x0800, 10: 0x86DD, 24: 0x86DD, 28: 0x86DD, 30: 0x86DD}.get(family, "other"), 4
    elif link == 51:
        kind, at = 0x8864, 0
    elif link in (9, 50, 104):
        _be(frame, 0, 4)
        if link == 104 or (link == 50 and frame[0] in (0x0F, 0x8F)):
            kind, at = _be(frame, 2, 2), 4
        else:
            kind, at = _ppp(frame, 0)
    else:
        raise _RejectError(f"unknown_link_type_{link}")
    while kind not in (0x0800, 0x86DD):
        if kind in (0x8100, 0x88A8, 0x9100):
            kind, tag, at = _be(frame, at + 2, 2), _be(frame, at, 2) % 4096, at + 4
            vlan = tag or vlan
        elif kind in (0x8847, 0x8848):
            kind, at = "by version" if _be(frame, at, 4) & 0x100 else kind, at + 4
        elif kind == 0x8864:
            _be(frame, at, 6)
            kind, at = _ppp(frame, at + 6)
        elif kind == "by version":
            kind = {4: 0x0800, 6: 0x86DD}.get(_be(frame, at, 1) >> 4, "other")
        elif (
            isinstance(kind, int)
            and kind <= 1500
            and frame[at : at + 6] == b"\xaa\xaa\3\0\0\0"
            and at + 8 <= len(frame)
        ):
            kind, at = _be(frame, at + 6, 2), at + 8
        else:
            raise _RejectError("not_ip")
    return 4 if kind == 0x0800 else 6, at, vlan, source, destination


def _ppp(frame: bytes, at: int) -> tuple[int | str, int]:
    if frame[at : at + 2] == b"\xff\x03":
        at += 2
    if at + 2 > len(frame):
        return "other", at
    size = 1 if frame[at] & 1 else 2
    protocol = _be(frame, at, size)
    return {0x21: 0x0800, 0x57: 0x86DD, 0x281: 0x8847, 0x283: 0x8847}.get(protocol, "other"), at + size


def _ip(data: bytes, on_wire: int, version: int) -> tuple[dict[str, Any], Any]:
    """The packet from its IP header on, and what makes two packets equal. ``data`` is what was captured."""
    if data and data[0] >> 4 != version:
        raise _RejectError("malformed")
    identification, more = 0, False
    if version == 4:
        _be(data, 0, 20)
        header, claimed = data[0] % 16 * 4, _be(data, 2, 2)
        length = on_wire if claimed == 0 else min(claimed, on_wire)
        if header < 20 or length < header:
            raise _RejectError("malformed")
        if _be(data, 6, 2) & 0x1FFF:
            raise _RejectError("later_fragment")
        _be(data, 0, header)
        more = bool(data[6] & 0x20)
        protocol, identification = data[9], _be(data, 4, 2)
        source, destination, data = data[12:16], data[16:20], data[:length]
    else:
        _be(data, 0, 40)
        protocol, payload = data[6], _be(data, 4, 2)
        length = on_wire if payload == 0 and protocol != 59 else min(payload + 40, on_wire)
        if length < 40:
            raise _RejectError("malformed")
        whole = len(data) >= length
        source, destination, data = data[8:24], data[24:40], data[:length]
        header = 40
        try:
            while protocol in (0, 43, 44, 51, 60):
                _be(data, header, 8)
                units = data[header + 1]
                size = {44: 8, 51: (units + 2) * 4}.get(protocol, (units + 1) * 8)
                if protocol == 44:
                    if _be(data, header + 2, 2) >> 3:
                        raise _RejectError("later_fragment")
                    more = more or bool(data[header + 3] & 1)
                protocol, header = data[header], header + size
            if header > length:
                raise _RejectError("malformed")
            _be(data, 0, header)
        except _RejectError as reject:
            raise _RejectError("malformed" if str(reject) == "short" and whole else str(reject)) from None
    above, payload = data[header:], length - header
    packet = {
        "source_ip": source,
        "destination_ip": destination,
        "protocol": protocol,
        "packet_length": length,
        **_transport(above, payload, protocol, more),
    }
    return packet, (source, destination, protocol, length, identification, more, above)


def _transport(above: bytes, on_wire: int, protocol: int, more_fragments: bool) -> dict[str, int]:
    found = dict.fromkeys(("source_port", "destination_port", "tcp_flags", "tcp_window"), 0) | {
        "payload_length": on_wire
    }
    least = {6: 20, 17: 8, 33: 4, 132: 4, 136: 4}.get(protocol)
    if least is None:
        return found
    if on_wire < (4 if more_fragments else least):
        raise _RejectError("malformed")
    if len(above) < 4:
        raise _RejectError("truncated")
    found["source_port"], found["destination_port"] = struct.unpack_from(">HH", above)
    if protocol == 6:
        if len(above) > 12:
            least = (above[12] >> 4) * 4
            if least < 20 or (least > on_wire and not more_fragments):
                raise _RejectError("malformed")
        found["tcp_flags"] = above[13] if len(above) > 13 else 0
        found["tcp_window"] = _be(above, 14, 2) if len(above) > 15 else 0
    if protocol in (6, 17):
        found["payload_length"] = max(on_wire - least, 0)
    return found


# ---------------------------------------------------------------------------------------------------------------------
# flows: packets of schemas.PACKETS in, rows of schemas.FLOWS out; every packet of a key is seen, in order
# ---------------------------------------------------------------------------------------------------------------------


def flows(
    packets: list[dict[str, Any]],
    paths: list[str],
    *,
    max_packets: int = 32,
    idle_timeout_s: float | None = None,
    active_timeout_s: float | None = None,
    tcp_close: bool = True,
    length: str = "ip",
    join_files: bool = True,
) -> list[dict[str, Any]]:
    """Rows of schemas.FLOWS as stored, ordered by first packet, from rows of schemas.PACKETS in any order."""
    rank = {path: index for index, path in enumerate(paths)}
    by_key: dict[Any, list[dict[str, Any]]] = {}
    for packet in sorted(packets, key=lambda p: (p["timestamp"], rank[p["capture_file"]], p["offset"])):
        ends = frozenset({_sender(packet), _receiver(packet)})
        file = None if join_files else packet["capture_file"]
        by_key.setdefault((file, packet["vlan"], packet["protocol"], ends), []).append(packet)
    found = []
    for of_key in by_key.values():
        flow: list[dict[str, Any]] = []
        for packet in of_key:
            reason = _cut(flow, packet, idle_timeout_s, active_timeout_s, tcp_close) if flow else None
            if reason:
                found.append((flow, reason))
                flow = []
            flow.append(packet)
        found.append((flow, "end"))
    found.sort(key=lambda item: (item[0][0]["timestamp"], rank[item[0][0]["capture_file"]], item[0][0]["offset"]))
    return [_flow_row(flow, reason, max_packets, length) for flow, reason in found]


def _sender(packet: dict[str, Any]) -> tuple[Any, int]:
    return ip_address(packet["source_ip"]), packet["source_port"]


def _receiver(packet: dict[str, Any]) -> tuple[Any, int]:
    return ip_address(packet["destination_ip"]), packet["destination_port"]


def _flags(packet: dict[str, Any]) -> set[str]:
    if packet["protocol"] != 6:
        return set()
    names = {1: "FIN", 2: "SYN", 4: "RST", 16: "ACK"}
    return {name for bit, name in names.items() if packet["tcp_flags"] & bit}


def _opens(packet: dict[str, Any]) -> bool:
    return "SYN" in _flags(packet) and "ACK" not in _flags(packet)


def _answers(packet: dict[str, Any]) -> bool:
    return {"SYN", "ACK"} <= _flags(packet)


def _us(time: Any) -> int:
    return (time - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def _cut(
    flow: list[dict[str, Any]],
    packet: dict[str, Any],
    idle_timeout_s: float | None,
    active_timeout_s: float | None,
    tcp_close: bool,
) -> str | None:
    now = _us(packet["timestamp"])
    if idle_timeout_s is not None and now - _us(flow[-1]["timestamp"]) > idle_timeout_s * 1e6:
        return "idle"
    if active_timeout_s is not None and now - _us(flow[0]["timestamp"]) > active_timeout_s * 1e6:
        return "active"
    fins = {_sender(seen) for seen in flow if "FIN" in _flags(seen)}
    closed = len(fins) == 2 or any("RST" in _flags(seen) for seen in flow)
    return "closed" if tcp_close and _opens(packet) and closed else None


def _flow_row(flow: list[dict[str, Any]], reason: str, max_packets: int, length: str) -> dict[str, Any]:
    first = flow[0]
    client, server = _sender(first), _receiver(first)
    answer = next((packet for packet in flow if _answers(packet)), None)
    opening = next((packet for packet in flow if _opens(packet)), None)
    if opening:
        client, server = _sender(opening), _receiver(opening)
    elif answer:
        client, server = _receiver(answer), _sender(answer)
    up = [packet for packet in flow if _sender(packet) == client]
    down = [packet for packet in flow if _sender(packet) != client]
    macs_of_client = [packet["source_mac"] for packet in up] + [packet["destination_mac"] for packet in down]
    macs_of_server = [packet["source_mac"] for packet in down] + [packet["destination_mac"] for packet in up]
    head = flow[:max_packets]
    times = [_us(packet["timestamp"]) for packet in head]
    return {
        "capture_file": first["capture_file"],
        "protocol": first["protocol"],
        "vlan": first["vlan"],
        "client_ip": str(client[0]),
        "client_port": client[1],
        "server_ip": str(server[0]),
        "server_port": server[1],
        "client_mac": next((mac for mac in macs_of_client if mac), None),
        "server_mac": next((mac for mac in macs_of_server if mac), None),
        "first_seen": first["timestamp"],
        "last_seen": flow[-1]["timestamp"],
        "client_packets": len(up),
        "client_bytes": sum(packet["frame_length"] for packet in up),
        "server_packets": len(down),
        "server_bytes": sum(packet["frame_length"] for packet in down),
        "end_reason": reason,
        "packet_length": [packet["packet_length" if length == "ip" else "frame_length"] for packet in head],
        "tcp_window": [packet["tcp_window"] for packet in head],
        "direction": [1 if _sender(packet) == client else -1 for packet in head],
        "inter_arrival_us": [0] + [later - earlier for earlier, later in pairwise(times)],
        "tcp_flags": [packet["tcp_flags"] for packet in head],
        "payload_length": [packet["payload_length"] for packet in head],
    }
