"""The slow, obvious twin of the capture engine: a whole uncompressed file in, packets and reasons out.

Plain Python over bytes, no windows, no arrays, nothing shared with the code.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_LAST_US = 253_402_300_799_999_999
_EPB, _SPB, _PB, _IDB, _SHB = 6, 3, 2, 1, 0x0A0D0D0A


class _BrokenError(Exception):
    """No record can start here; ``cut``: it could, but the file ends inside it."""

    def __init__(self, cut: bool = False) -> None:
        super().__init__()
        self.cut = cut


def read_capture(
    data: bytes,
    *,
    max_packet_bytes: int = 1 << 20,
    duplicate_window_us: int = 0,
    duplicate_records: int = 512,
    fragment_window_us: int = 30_000_000,
    fragment_records: int = 4096,
    tunnels: tuple[str, ...] = (),
    max_tunnels: int = 4,
    keep_bytes: int | None = None,
) -> tuple[list[dict[str, Any]], dict[str, tuple[int, int, int]]]:
    """Packets of IP flows (as schemas.PACKETS, addresses as bytes), and packets, bytes and first offset by reason.

    With ``keep_bytes`` each packet has ``first_bytes``, too: from the IP header on, addresses zeroed, zero-padded.
    """
    reader = _Pcapng(data, max_packet_bytes) if data[:4] == b"\x0a\x0d\x0d\x0a" else _Pcap(data, max_packet_bytes)
    packets: list[dict[str, Any]] = []
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    offsets: dict[str, int] = {}
    earlier: list[tuple[int, _Packet | None]] = []  # of each record, with its time
    for record in (frame for whole in reader.records() for frame in _frames(whole)):
        reason, time = record["reason"], record["timestamp"]
        packet = None
        try:
            if reason is None:
                packet = _packet(record["frame"], record["frame_length"], record["link"])
                packet = _innermost(packet, tunnels, max_tunnels)
                if packet.is_later():
                    _give_ports(packet, time, _last(earlier, fragment_records), fragment_window_us)
                reason = "flow"
        except _RejectError as reject:
            packet = None
            reason = str(reject)
        if packet is not None and duplicate_window_us > 0:
            near = [
                other for then, other in _last(earlier, duplicate_records) if abs(then - time) <= duplicate_window_us
            ]
            if any(other is not None and other.content() == packet.content() for other in near):
                reason = "duplicate"
        if reason not in ("skipped_bytes", "truncated_record"):
            earlier.append((time, packet))
        counts[reason] += reason != "skipped_bytes"
        sizes[reason] += record["frame_length"]
        offsets.setdefault(reason, record["offset"])
        if reason == "flow" and packet is not None:
            packets.append(packet.columns | _columns_of(record))
            if keep_bytes is not None:
                packets[-1]["first_bytes"] = packet.nameless[:keep_bytes].ljust(keep_bytes, b"\0")
    return packets, {reason: (counts[reason], sizes[reason], offset) for reason, offset in offsets.items()}


def _last(things: list[Any], most: int) -> list[Any]:
    return things[max(len(things) - most, 0) :]


def _columns_of(record: dict[str, Any]) -> dict[str, Any]:
    columns = {name: record[name] for name in ("offset", "timestamp", "link_type", "frame_length")}
    return columns | {"captured_length": len(record["frame"])}


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
        self.ticks = 1000 if self.ticks == 1 and self.counts_nanoseconds() else self.ticks
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
        if ticks >= 1_000_000 * self.ticks:
            fault = {
                "reason": "malformed",
                "offset": at,
                "frame_length": max(wire, captured),
                "timestamp": seconds * 10**6,
            }
            return fault, start + captured
        return _record(at, self.data[start : start + captured], wire, time, self.link), start + captured

    def counts_nanoseconds(self) -> bool:
        """Whether the fractions of a second at the file's start are all below 10**9 and mostly above 10**6."""
        at, above, below = 24, 0, 0
        while at + self.header <= min(len(self.data), 65536):
            fraction, captured = struct.unpack_from(self.order + "II", self.data, at + 4)
            if fraction >= 10**9:
                return False
            above += fraction >= 10**6
            below += 0 < fraction < 10**6
            if below > above + 64:
                return False
            at += self.header + captured
        return above > below

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
        "link": link,
    }


def _frames(record: dict[str, Any]) -> Any:
    """The record, or, where it is an 802.11 frame of several packets, one frame for each: they tile its bytes."""
    if record["reason"] is not None:
        yield record
        return
    frame, wire = record["frame"], record["frame_length"]
    starts, link = _later_subframes(frame, wire, record["link"])
    for start, end in zip([0, *starts], [*starts, wire], strict=True):
        place = record["offset"] + min(start, len(frame))
        own = {"offset": place, "frame": frame[start:end], "frame_length": end - start}
        yield record | own | ({"link": link} if start else {})


class _RejectError(Exception):
    """Carries the reason why a frame gives no packet; `short`: a header runs over what was captured."""


@dataclass
class _Packet:
    """A packet of IP; ``columns`` are those of schemas.PACKETS that its frame tells."""

    columns: dict[str, Any]
    version: int
    identification: int
    fragment: tuple[int, bool]  # offset in units of 8 bytes, and whether more are to come
    above: bytes  # what was captured above IP
    wire_above: int  # bytes of it on the wire
    nameless: bytes  # what was captured from the IP header on, with zeros for the addresses

    @property
    def carried(self) -> int:
        """The protocol that IPv4's header names, before any extension header."""
        return self.nameless[9]

    def is_fragment(self) -> bool:
        return self.fragment != (0, False)

    def is_later(self) -> bool:
        return self.fragment[0] > 0

    def datagram(self) -> Any:
        """What fragments of one datagram share: RFC 791, 3.2, and RFC 8200, 4.5; a VLAN is a network of its own."""
        protocol = self.carried if self.version == 4 else None
        ends = self.columns["source_ip"], self.columns["destination_ip"]
        return self.version, *ends, protocol, self.identification, self.columns["vlan"]

    def content(self) -> Any:
        """What makes two packets equal."""
        return self.datagram(), self.columns["protocol"], self.fragment, self.columns["packet_length"], self.above


def _give_ports(packet: _Packet, time: int, earlier: list[tuple[int, _Packet | None]], window_us: int) -> None:
    """Give a later fragment what only the first one shows: the newest first one among the earlier packets."""
    for then, first in reversed(earlier):
        if first is None or first.fragment != (0, True):
            continue
        if first.datagram() == packet.datagram() and abs(then - time) <= window_us:
            packet.columns |= {name: first.columns[name] for name in ("protocol", "source_port", "destination_port")}
            return
    raise _RejectError("later_fragment")


def _packet(frame: bytes, wire: int, link: int | str) -> _Packet:
    try:
        version, at, columns = _below_ip(frame, link)
        packet = _ip(frame[at:], wire - at, version)
    except _RejectError as reject:
        if str(reject) != "short":
            raise
        raise _RejectError("truncated" if len(frame) < wire else "malformed") from None
    packet.columns |= columns
    return packet


def _be(data: bytes, at: int, size: int) -> int:
    if at + size > len(data):
        raise _RejectError("short")
    return int.from_bytes(data[at : at + size], "big")


def _le(data: bytes, at: int, size: int) -> int:
    _be(data, at, size)
    return int.from_bytes(data[at : at + size], "little")


# --- link layers: a frame in; an EtherType (or "by version", "other"), where its data starts, both addresses

_Below = tuple[int | str, int, bytes | None, bytes | None]
_FAMILIES = {2: 0x0800, 10: 0x86DD, 24: 0x86DD, 28: 0x86DD, 30: 0x86DD}


_VLANS = (0x8100, 0x88A8, 0x9100, 0x9200, 0x9300)
# bytes between the EtherType of a tag and the next one
_TAGS = dict.fromkeys(_VLANS, 2) | {
    0x8926: 4, 0x892F: 4, 0xF1C1: 4, 0x893F: 6, 0x8909: 6, 0x8988: 6, 0xDADA: 6,
}  # fmt: skip
_BRIDGES = {0x88E7: 4, 0x6558: 0, 0x8903: 2}  # bytes between the EtherType and an Ethernet header
_NO_IP = {
    0x0806, 0x8035, 0x88CC, 0x888E, 0x88C7, 0x8863, 0x0842, 0x9000, 0x2000, 0x2003, 0x8808, 0x8809, 0x8902, 0x88E3,
    0x88F5, 0x88F6, 0x8940, 0x88FB, 0x22EA, 0x22F0, 0x22F4, 0x88F7, 0x890D, 0x893A, 0x887B, 0x88E1, 0x8912,
    *range(0x6000, 0x6008), 0x809B, 0x80F3, 0x8137, 0x8138, 0x8204, 0x8102, 0x8899, 0x886F, 0x88D9, 0x8819, 0x8892,
    0x88A4, 0x88AB, 0x88B8, 0x88B9, 0x88BA, 0x88CD, 0x88A2, 0x889A, 0x8906, 0x8914, 0x8915, 0x88F8, 0x88CA, 0x88D8,
    0x88DC,
}  # fmt: skip


def _below_ip(frame: bytes, link: int | str) -> tuple[int, int, dict[str, Any]]:
    """4 or 6, where the IP header starts, VLAN and MACs."""
    link, start = _unwrapped(frame, link)
    if link not in _LINKS:
        raise _RejectError(f"unknown_link_type_{link}")
    kind, at, source, destination, *rest = _LINKS[link](frame[start:])
    vlan = rest[0] if rest else None
    at += start
    while kind not in (0x0800, 0x86DD):
        if kind in _TAGS:
            size = _TAGS[kind]
            following = _be(frame, at + size, 2)
            if kind in _VLANS or (kind == 0xDADA and frame[at + 2] & 0x20):
                vlan = _be(frame, at + size - 2, 2) % 4096 or vlan
            kind, at = following, at + size + 2
        elif kind in _BRIDGES:
            at += _BRIDGES[kind]
            kind, _, source, destination = _ethernet(frame[at:])
            at += 14
        elif kind == 0x88E5:
            _be(frame, at, 6)
            if frame[at] & 0x0C:  # encrypted, or changed in another way
                raise _RejectError("unknown_ether_type_0x88e5")
            at += 14 if frame[at] & 0x20 else 6
            kind, at = _be(frame, at, 2), at + 2
        elif kind in (0x8847, 0x8848):
            kind, at = "by version" if _be(frame, at, 4) & 0x100 else kind, at + 4
        elif kind == 0x8864:
            _be(frame, at, 6)
            kind, at = _ppp(frame, at + 6)
        elif kind == 0x880B:
            kind, at = _ppp(frame, at)
        elif kind == "by version":
            kind = {4: 0x0800, 6: 0x86DD}.get(_be(frame, at, 1) >> 4, "other")
        elif _is_llc(kind) and len(frame) >= at + 8 and frame[at : at + 6] in _SNAP:
            kind, at = _be(frame, at + 6, 2), at + 8
        elif isinstance(kind, int) and kind > 1500 and kind not in _NO_IP:
            raise _RejectError(f"unknown_ether_type_0x{kind:04x}")
        else:
            raise _RejectError("not_ip")
    columns = {"vlan": vlan, "source_mac": source, "destination_mac": destination}
    return 4 if kind == 0x0800 else 6, at, columns


def _is_llc(kind: int | str) -> bool:
    return isinstance(kind, int) and (kind <= 1500 or kind == 0x8870)


_SNAP = (b"\xaa\xaa\3\0\0\0", b"\xaa\xaa\3\0\0\xf8")


def _without_header(kind: int | str) -> Callable[[bytes], _Below]:
    return lambda _frame: (kind, 0, None, None)


def _ethernet(frame: bytes) -> _Below:
    return _be(frame, 12, 2), 14, frame[6:12], frame[:6]


def _cooked(frame: bytes) -> _Below:
    return _be(frame, 14, 2), 16, frame[6:12] if _be(frame, 4, 2) == 6 else None, None


def _cooked_2(frame: bytes) -> _Below:
    _be(frame, 0, 20)
    return _be(frame, 0, 2), 20, frame[12:18] if frame[11] == 6 else None, None


def _null(frame: bytes) -> _Below:
    return _FAMILIES.get(min(_be(frame, 0, 4), _le(frame, 0, 4)), "other"), 4, None, None


def _hdlc(frame: bytes) -> _Below:
    _be(frame, 0, 4)
    return _be(frame, 2, 2), 4, None, None


def _ppp_or_hdlc(frame: bytes) -> _Below:
    _be(frame, 0, 4)
    return _hdlc(frame) if frame[0] in (0x0F, 0x8F) else (*_ppp(frame, 0), None, None)


def _ppp(frame: bytes, at: int) -> tuple[int | str, int]:
    if frame[at : at + 2] == b"\xff\x03":
        at += 2
    if at + 2 > len(frame):
        return "other", at
    size = 1 if frame[at] & 1 else 2
    protocol = _be(frame, at, size)
    return {0x21: 0x0800, 0x57: 0x86DD, 0x281: 0x8847, 0x283: 0x8847}.get(protocol, "other"), at + size


def _nflog(frame: bytes) -> _Below:
    """Attributes as in https://www.tcpdump.org/linktypes/LINKTYPE_NFLOG.html, each aligned to 4 bytes."""
    _be(frame, 0, 4)
    source, at = None, 4
    while True:
        # types are below 256, but for two flags on top: the byte order is the one in which this one is
        read = min(_le, _be, key=lambda order: order(frame, at + 2, 2) & 0x3FFF)
        size, attribute = read(frame, at, 2), read(frame, at + 2, 2) & 0x3FFF
        if size < 4:
            raise _RejectError("not_ip")
        if attribute == 9:
            return _FAMILIES.get(frame[0], "other"), at + 4, source, None
        if attribute == 8 and size >= 16 and _be(frame, at + 4, 2) == 6:
            _be(frame, at, 16)
            source = frame[at + 8 : at + 14]
        at += size + -size % 4


@dataclass
class _Body:
    """The body of an 802.11 data frame in the clear."""

    at: int
    is_aggregate: bool
    is_mesh: bool
    source: bytes
    destination: bytes


def _body(frame: bytes, padded: bool) -> _Body:
    """IEEE 802.11-2020, 9.2.4 and 9.3.2.1."""
    _be(frame, 0, 2)
    version, kind, subtype = frame[0] & 3, frame[0] >> 2 & 3, frame[0] >> 4
    to_system, from_system, protected, order = (bool(frame[1] & bit) for bit in (0x01, 0x02, 0x40, 0x80))
    if (version, kind) != (0, 2) or subtype & 4 or protected:
        raise _RejectError("not_ip")
    size = 30 if to_system and from_system else 24
    qos = size if subtype & 8 else None
    if qos is not None:
        size += 6 if order else 2
    _be(frame, 0, size)
    if frame[22] % 16:
        raise _RejectError("not_ip")
    one, two, three, four = frame[4:10], frame[10:16], frame[16:22], frame[24:30]
    source, destination = {
        (False, False): (two, one),
        (False, True): (three, one),
        (True, False): (two, three),
        (True, True): (four, three),
    }[to_system, from_system]
    is_aggregate = qos is not None and bool(frame[qos] & 0x80)
    is_mesh = qos is not None and bool(frame[qos + 1] & 0x01) and from_system
    return _Body(size + -size % 4 if padded else size, is_aggregate, is_mesh, source, destination)


def _ieee_802_11(frame: bytes, padded: bool = False) -> _Below:
    """What a data frame in the clear carries starts with an LLC header."""
    body = _body(frame, padded)
    if body.is_aggregate:
        if _subframes(frame, body, len(frame)):
            raise _RejectError("not_ip")
        kind, at, source, destination = _subframe(frame[body.at :], body.is_mesh)
        return kind, body.at + at, source, destination
    if body.is_mesh:
        return _behind_mesh_control(frame, body.at, body.source, body.destination)
    return 0, body.at, body.source, body.destination


def _later_subframes(frame: bytes, wire: int, link: int | str) -> tuple[list[int], str]:
    """Where the second and further subframes start in a frame of so many bytes on the wire, and what they are."""
    try:
        link, start = _unwrapped(frame, link)
        if link not in (105, "padded 802.11"):
            return [], ""
        body = _body(frame[start:], link != 105)
    except _RejectError:
        return [], ""
    if not body.is_aggregate:
        return [], ""
    later = _subframes(frame[start:], body, wire - start)
    return [start + at for at in later], "mesh subframe" if body.is_mesh else "subframe"


def _subframes(frame: bytes, body: _Body, wire: int) -> list[int]:
    """Where subframes start but the first: each is filled up to a multiple of 4 bytes (9.3.2.2)."""
    found, at = [], body.at
    while at + 14 < len(frame):
        mesh_control = {0: 6, 1: 12, 2: 18}.get(frame[at + 14], 0) if body.is_mesh else 0
        size = 14 + mesh_control + _be(frame, at + 12, 2)
        at += size + -size % 4
        if at + 14 >= wire:
            break
        found.append(at)
    return found


def _subframe(frame: bytes, is_mesh: bool) -> _Below:
    destination, source, _ = frame[:6], frame[6:12], _be(frame, 12, 2)
    return _behind_mesh_control(frame, 14, source, destination) if is_mesh else (0, 14, source, destination)


def _behind_mesh_control(frame: bytes, at: int, source: bytes, destination: bytes) -> _Below:
    """9.2.4.8.3: flags, time to live, a sequence number, and up to two addresses of those outside the mesh."""
    if _be(frame, at, 1) == 0:
        _be(frame, at, 6)
        return 0, at + 6, source, destination
    if frame[at] == 1:
        _be(frame, at, 12)
        return 0, at + 12, frame[at + 6 : at + 12], destination
    if frame[at] == 2:
        _be(frame, at, 18)
        return 0, at + 18, frame[at + 12 : at + 18], frame[at + 6 : at + 12]
    return 0, at, source, destination  # reserved: no such field


def _ieee_802_11_swapped(frame: bytes) -> _Below:
    """The same with the bytes of its fields of two bytes swapped: control, duration, sequence and QoS."""
    _be(frame, 0, 2)
    both = frame[0] & 3 == 3
    fields = [0, 2, 22] + ([30 if both else 24] if frame[1] & 0x80 else [])
    repaired = bytearray(frame)
    for at in fields:
        repaired[at : at + 2] = repaired[at : at + 2][::-1]
    return _ieee_802_11(bytes(repaired))


def _dsa(size: int, has_vlan: bool) -> Callable[[bytes], Any]:
    """A switch's tag of so many bytes between MACs and EtherType; Marvell's ends with what it made of a VLAN tag."""

    def read(frame: bytes) -> Any:
        _be(frame, 0, 14 + size)
        tag = frame[8 + size : 12 + size]
        vlan = _be(tag, 2, 2) % 4096 or None if has_vlan and tag[0] & 0x20 else None
        return _be(frame, 12 + size, 2), 14 + size, frame[6:12], frame[:6], vlan

    return read


def _ipoib(frame: bytes) -> _Below:
    _be(frame, 0, 44)
    return _be(frame, 40, 2), 44, None, None


def _enc(frame: bytes) -> _Below:
    _be(frame, 0, 12)
    return _null(frame)[0], 12, None, None


def _pflog(frame: bytes) -> _Below:
    _be(frame, 0, 4)
    size = frame[0] + -frame[0] % 4
    _be(frame, 0, size)
    if size == 0:
        raise _RejectError("short")
    return _FAMILIES.get(frame[1], "other"), size, None, None


def _frame_relay(frame: bytes) -> _Below:
    """Q.922 (an address of up to 4 bytes, the last one odd), then RFC 2427, or an EtherType (Cisco)."""
    _be(frame, 0, 4)
    at = next((i for i in range(1, 4) if frame[i - 1] & 1), 4)
    _be(frame, at, 2)
    if frame[at] != 3:
        return _be(frame, at, 2), at + 2, None, None
    at += 2 if frame[at + 1] == 0 else 1
    protocol = _be(frame, at, 1)
    if protocol != 0x80:
        return {0xCC: 0x0800, 0x8E: 0x86DD}.get(protocol, "other"), at + 1, None, None
    _be(frame, at, 6)
    organization, kind = frame[at + 1 : at + 4], _be(frame, at + 4, 2)
    if organization == b"\0\x80\xc2" and kind in (1, 7):
        return 0x6558, at + 6, None, None
    return kind if organization == bytes(3) else "other", at + 6, None, None


# --- what a capturing system puts in front of frames of another link type


def _unwrapped(frame: bytes, link: int | str) -> tuple[int | str, int]:
    """The link type of what is behind it all, and where that starts."""
    at = 0
    while link in _WRAPPERS:
        found = _WRAPPERS[link](frame[at:])
        if found is None:
            break
        size, link = found
        if at + size > len(frame):
            raise _RejectError("short")
        at += size
    return link, at


def _sized(size: int, link: int | str) -> tuple[int, int | str]:
    if size < 8:
        raise _RejectError("short")
    return size, min(link, (1 << 26) - 1) if isinstance(link, int) else link


def _at_least_8(frame: bytes) -> None:
    _be(frame, 0, 8)


def _prism(frame: bytes) -> tuple[int, int | str]:
    _at_least_8(frame)
    return 144, 105


def _avs(frame: bytes) -> tuple[int, int | str]:
    _at_least_8(frame)
    return _sized(_be(frame, 4, 4), 105)


def _ppi(frame: bytes) -> tuple[int, int | str]:
    _at_least_8(frame)
    return _sized(_le(frame, 2, 2), _le(frame, 4, 4))


def _radiotap(frame: bytes) -> tuple[int, int | str]:
    """https://www.radiotap.org: the flags say whether the radio padded the frame's header to a multiple of 4."""
    present, size = _le(frame, 4, 4), _le(frame, 2, 2)
    try:
        at = 4
        while _le(frame[:size], at, 4) >> 31:
            at += 4
        at += 4
        if present & 1:  # the time, aligned to its 8 bytes
            at += -at % 8 + 8
        padded = bool(present & 2 and _be(frame[:size], at, 1) & 0x20)
    except _RejectError:
        padded = False
    return _sized(size, "padded 802.11" if padded else 105)


def _pktap(frame: bytes) -> tuple[int, int | str] | None:
    """Apple's: length, kind, link type; other bytes under its number are none of it."""
    _be(frame, 0, 12)
    size = _le(frame, 0, 4)
    return _sized(size, _le(frame, 8, 4)) if 108 <= size <= 1024 else None


def _fixed(size: int, link: int) -> Callable[[bytes], tuple[int, int | str]]:
    return lambda _frame: (size, link)


_WRAPPERS: dict[int | str, Callable[[bytes], tuple[int, int | str] | None]] = {
    119: _prism, 127: _radiotap, 163: _avs, 192: _ppi, 258: _pktap, 149: _pktap, 8: _fixed(16, 101),
    166: _fixed(2, 9), 204: _fixed(1, 9), 205: _fixed(1, 104), 206: _fixed(1, 107), 240: _fixed(4, 1),
    274: _fixed(8, 1), 282: _fixed(4, 1),
}  # fmt: skip
_LINKS: dict[int | str, Callable[[bytes], Any]] = {
    0: _null, 1: _ethernet, 9: _ppp_or_hdlc, 50: _ppp_or_hdlc, 104: _hdlc, 108: _null, 113: _cooked, 239: _nflog,
    276: _cooked_2, 105: _ieee_802_11, "padded 802.11": lambda frame: _ieee_802_11(frame, padded=True),
    "swapped 802.11": _ieee_802_11_swapped, "subframe": lambda frame: _subframe(frame, False),
    "mesh subframe": lambda frame: _subframe(frame, True), 281: _dsa(4, False), 284: _dsa(4, True),
    285: _dsa(8, True), 242: _ipoib, 109: _enc, 117: _pflog, 107: _frame_relay, 100: _without_header(0),
    **dict.fromkeys((12, 14, 101), _without_header("by version")), 228: _without_header(0x0800),
    229: _without_header(0x86DD), 51: _without_header(0x8864), 219: _without_header(0x8847),
}  # fmt: skip


# --- tunnels: what is above IP, or above UDP, in; the link type of the frame inside and where it starts out

_Inside = tuple[int | str, int]
_LINK_OF_TYPE = {0x0800: 228, 0x86DD: 229, 0x6558: 1, 0x880B: 9, 0x8847: 219}  # EtherType to link type


def _innermost(packet: _Packet, wanted: tuple[str, ...], most: int) -> _Packet:
    """The packet inside its outermost ``most`` tunnels, as far as there is a packet of IP inside."""
    for _ in range(most):
        try:
            link, at = _inside(packet, wanted)
            inner = _packet(packet.above[at:], packet.wire_above - at, link)
        except _RejectError:
            break
        if inner.columns["vlan"] is None:
            inner.columns["vlan"] = packet.columns["vlan"]
        packet = inner
    return packet


def _inside(packet: _Packet, wanted: tuple[str, ...]) -> _Inside:
    protocol, source, target = (packet.columns[name] for name in ("protocol", "source_port", "destination_port"))
    for name, (carrier, to, either, read) in _TUNNELS:
        named = protocol == carrier and (carrier != 17 or target in to or target in either or source in either)
        if named and name in wanted and not packet.is_fragment():
            above = 8 if carrier == 17 else 0
            link, at = read(packet.above[above:])
            return link, above + at
    raise _RejectError("no tunnel")


def _sound(is_sound: bool) -> None:
    if not is_sound:
        raise _RejectError("no tunnel")


def _link_of_type(ether_type: int) -> int:
    _sound(ether_type in _LINK_OF_TYPE)
    return _LINK_OF_TYPE[ether_type]


def _gre(data: bytes) -> _Inside:
    """RFC 2784, 2890 (key, sequence number), 2637 (version 1: acknowledgement); draft-foschiano-erspan."""
    flags, kind = _be(data, 0, 2), _be(data, 2, 2)
    checksum, routing, key, sequence = (bool(flags & bit) for bit in (0x8000, 0x4000, 0x2000, 0x1000))
    version = flags & 7
    _sound(version < 2 and not routing)
    acknowledgement = version == 1 and bool(flags & 0x80)
    at = 4 + 4 * (checksum + key + sequence + acknowledgement)
    if kind == 0x88BE:
        return 1, at + 8 if sequence else at
    if kind == 0x22EB:
        return 1, at + (20 if _be(data, at + 11, 1) & 1 else 12)
    return _link_of_type(kind), at


def _vxlan(data: bytes) -> _Inside:
    """RFC 7348: the flag I is set."""
    _sound(bool(_be(data, 0, 8) >> 56 & 0x08))
    return 1, 8


def _vxlan_gpe(data: bytes) -> _Inside:
    """draft-ietf-nvo3-vxlan-gpe: without the flag P it is Ethernet."""
    _be(data, 0, 8)
    following = data[3] if data[0] & 0x04 else 3
    _sound(following in (1, 2, 3))
    return {1: 228, 2: 229, 3: 1}[following], 8


def _geneve(data: bytes) -> _Inside:
    """RFC 8926: version 0, the options' length in words."""
    _be(data, 0, 8)
    _sound(data[0] >> 6 == 0)
    return _link_of_type(_be(data, 2, 2)), 8 + data[0] % 64 * 4


def _gtp_u(data: bytes) -> _Inside:
    """3GPP TS 29.281, 5.1 and 5.2: version 1, no GTP', G-PDU; extension headers in words, the next one's type last."""
    _be(data, 0, 8)
    _sound(data[0] >> 4 == 3 and data[1] == 255)
    at = 8
    if data[0] & 7:
        at = 12
        following = _be(data, 11, 1) if data[0] & 4 else 0
        while following:
            size = _be(data, at, 1) * 4
            _sound(size > 0)
            following, at = _be(data, at + size - 1, 1), at + size
    return 101, at


def _capwap(data: bytes) -> _Inside:
    """RFC 5415, 4.3: HLEN in words, WBID, the flags T (native), F (fragment), K (keep-alive)."""
    _be(data, 0, 8)
    size, binding, native = (data[1] >> 3) * 4, data[2] >> 1 & 31, data[2] & 1
    _sound(data[0] == 0 and size >= 8 and data[3] & 0x88 == 0)
    _sound(not native or binding == 1)
    if not native:
        return 1, size
    # Cisco's frames come with swapped bytes: there is only one version of the protocol, 0
    swapped = size + 2 <= len(data) and data[size] & 3 != 0 and data[size + 1] & 3 == 0
    return "swapped 802.11" if swapped else 105, size


def _tzsp(data: bytes) -> _Inside:
    """Version 1, a received packet; tags 0 (padding) and 1 (end) stand alone, others have a length."""
    _sound(_be(data, 0, 2) == 0x0100 and _be(data, 2, 2) in (1, 18))
    at = 4
    while _be(data, at, 1) != 1:
        at += 1 if data[at] == 0 else 2 + _be(data, at + 1, 1)
    return {1: 1, 18: 105}[data[3]], at + 1


# setting, protocol, destination ports, ports of either side
_TUNNELS: list[tuple[str, tuple[int, tuple[int, ...], tuple[int, ...], Callable[[bytes], _Inside]]]] = [
    ("gre", (47, (), (), _gre)),
    ("ip_in_ip", (4, (), (), lambda _: (228, 0))),
    ("6in4", (41, (), (), lambda _: (229, 0))),
    ("vxlan", (17, (4789, 8472), (), _vxlan)),
    ("vxlan", (17, (4790,), (), _vxlan_gpe)),
    ("geneve", (17, (6081,), (), _geneve)),
    ("gtp_u", (17, (), (2152,), _gtp_u)),
    ("capwap", (17, (), (5247,), _capwap)),
    ("tzsp", (17, (37008,), (), _tzsp)),
]


# --- IP and what is right above it


def _ip(data: bytes, on_wire: int, version: int) -> _Packet:
    """The packet from its IP header on. ``data`` is what was captured of it and what follows it."""
    if data and data[0] >> 4 != version:
        raise _RejectError("malformed")
    _be(data, 0, 20 if version == 4 else 40)
    read = _ipv4 if version == 4 else _ipv6
    length, header, protocol, identification, fragment = read(data, on_wire)
    above, wire_above = data[header:length], length - header
    ends = (data[12:16], data[16:20]) if version == 4 else (data[8:24], data[24:40])
    columns = {
        "source_ip": ends[0],
        "destination_ip": ends[1],
        "protocol": protocol,
        "packet_length": length,
        **_transport(above, wire_above, None if fragment[0] else protocol, fragment[1]),
    }
    data = data[:length]
    nameless = data[:12] + bytes(8) + data[20:] if version == 4 else data[:8] + bytes(32) + data[40:]
    return _Packet(columns, version, identification, fragment, above, wire_above, nameless)


_Network = tuple[int, int, int, int, tuple[int, bool]]  # length, header's length, protocol, identification, fragment


def _ipv4(data: bytes, on_wire: int) -> _Network:
    header, claimed = data[0] % 16 * 4, _be(data, 2, 2)
    length = on_wire if claimed == 0 else min(claimed, on_wire)
    if header < 20 or length < header:
        raise _RejectError("malformed")
    fragment = _be(data, 6, 2) & 0x1FFF, bool(data[6] & 0x20)
    own = length, header, data[9], _be(data, 4, 2), fragment
    return own if fragment[0] else _behind_extensions(data, own, 4)


def _ipv6(data: bytes, on_wire: int) -> _Network:
    protocol, payload = data[6], _be(data, 4, 2)
    length = on_wire if payload == 0 and protocol != 59 else min(payload + 40, on_wire)
    if length < 40:
        raise _RejectError("malformed")
    return _behind_extensions(data, (length, 40, protocol, 0, (0, False)), 6)


def _behind_extensions(data: bytes, network: _Network, version: int) -> _Network:
    """Extension headers stepped over (RFC 8200, 4302); for hop-by-hop options and fragments IPv4 has its own header."""
    length, header, protocol, identification, fragment = network
    whole = len(data) >= length
    data = data[:length]
    stepped_over = (43, 51, 60, 135, 139, 140) + ((0, 44) if version == 6 else ())
    try:
        while protocol in stepped_over and not fragment[0]:
            _be(data, header, 8)
            units = data[header + 1]
            if protocol == 44:
                identification = _be(data, header + 4, 4)
                fragment = _be(data, header + 2, 2) >> 3, bool(data[header + 3] & 1)
            size = {44: 8, 51: (units + 2) * 4}.get(protocol, (units + 1) * 8)
            protocol, header = data[header], header + size
        if header > length:
            raise _RejectError("malformed")
        _be(data, 0, header)
    except _RejectError as reject:
        raise _RejectError("malformed" if str(reject) == "short" and whole else str(reject)) from None
    return length, header, protocol, identification, fragment


def _transport(above: bytes, on_wire: int, protocol: int | None, more_fragments: bool) -> dict[str, int]:
    found = dict.fromkeys(("source_port", "destination_port", "tcp_flags", "tcp_window"), 0) | {
        "payload_length": on_wire
    }
    least = {6: 20, 17: 8, 33: 4, 132: 4, 136: 4}.get(protocol or 0)
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
            if least < 20:
                least = on_wire
        found["tcp_flags"] = above[13] if len(above) > 13 else 0
        found["tcp_window"] = _be(above, 14, 2) if len(above) > 15 else 0
    if protocol in (6, 17):
        found["payload_length"] = max(on_wire - least, 0)
    return found
