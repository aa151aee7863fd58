"""Reference for iotid.capture.containers: records of a pcap or a pcapng, and what is broken between them."""

from __future__ import annotations

import struct
from typing import Any

_LAST_US = 253_402_300_799_999_999

_EPB, _SPB, _PB, _IDB, _SHB = 6, 3, 2, 1, 0x0A0D0D0A


class _BrokenError(Exception):
    """No record can start here; ``cut``: it could, but the file ends inside it."""

    def __init__(self, cut: bool = False) -> None:
        super().__init__()
        self.cut = cut


class _Container:
    """The scan: take the record at the offset, or search for the next offset with three valid records in a row."""

    start = 0
    fewest = 1  # records or blocks in a row that prove the first where they end exactly with the file

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
        before: Any = None
        for length in range(3):
            if i == len(self.data) and length >= self.fewest:
                return True
            following, before = self.plausible(i, before)
            if following is None or following > len(self.data):
                return False
            i = following
        return True

    @staticmethod
    def fault(reason: str, offset: int, size: int) -> dict[str, Any]:
        return {"reason": reason, "offset": offset, "frame_length": size, "timestamp": 0}

    def take(self, at: int) -> tuple[dict[str, Any] | None, int]:
        raise NotImplementedError

    def plausible(self, at: int, before: Any) -> tuple[int | None, Any]:
        raise NotImplementedError


class Pcap(_Container):
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

    def plausible(self, at: int, before: Any) -> tuple[int | None, Any]:
        if at + self.header > len(self.data):
            return None, None
        seconds, ticks, captured, wire = struct.unpack_from(self.order + "IIII", self.data, at)
        good = 0 < captured <= min(self.max, wire) and wire <= 2**24 and ticks < 1_000_000 * self.ticks
        if not good or (before is not None and abs(seconds - before) > 86400):
            return None, None
        return at + self.header + captured, seconds


class Pcapng(_Container):
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

    def plausible(self, at: int, before: Any) -> tuple[int | None, Any]:
        try:
            kind, length, order = self.block(at, before or self.order)
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
