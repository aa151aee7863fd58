"""Reference for decode.wireless: 802.11 data frames, and the headers that radios add."""

from __future__ import annotations

from dataclasses import dataclass

from .wire import Below, RejectError, be, le


@dataclass
class _Body:
    """The body of an 802.11 data frame in the clear."""

    at: int
    is_aggregate: bool
    is_mesh: bool
    source: bytes
    destination: bytes


def data_frame_body(frame: bytes, padded: bool) -> _Body:
    """IEEE 802.11-2020, 9.2.4 and 9.3.2.1."""
    be(frame, 0, 2)
    version, kind, subtype = frame[0] & 3, frame[0] >> 2 & 3, frame[0] >> 4
    to_system, from_system, protected, order = (bool(frame[1] & bit) for bit in (0x01, 0x02, 0x40, 0x80))
    if (version, kind) != (0, 2) or subtype & 4 or protected:
        raise RejectError("not_ip")
    size = 30 if to_system and from_system else 24
    qos = size if subtype & 8 else None
    if qos is not None:
        size += 6 if order else 2
    be(frame, 0, size)
    if frame[22] % 16:
        raise RejectError("not_ip")
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


def ieee_802_11(frame: bytes, padded: bool = False) -> Below:
    """What a data frame in the clear carries starts with an LLC header."""
    body = data_frame_body(frame, padded)
    if body.is_aggregate:
        if later_subframe_offsets(frame, body, len(frame)):
            raise RejectError("not_ip")
        kind, at, source, destination = subframe(frame[body.at :], body.is_mesh)
        return kind, body.at + at, source, destination
    if body.is_mesh:
        return _behind_mesh_control(frame, body.at, body.source, body.destination)
    return 0, body.at, body.source, body.destination


def later_subframe_offsets(frame: bytes, body: _Body, wire: int) -> list[int]:
    """Where subframes start but the first: each is filled up to a multiple of 4 bytes (9.3.2.2)."""
    found, at = [], body.at
    while at + 14 < len(frame):
        mesh_control = {0: 6, 1: 12, 2: 18}.get(frame[at + 14], 0) if body.is_mesh else 0
        size = 14 + mesh_control + be(frame, at + 12, 2)
        at += size + -size % 4
        if at + 14 >= wire:
            break
        found.append(at)
    return found


def subframe(frame: bytes, is_mesh: bool) -> Below:
    destination, source, _ = frame[:6], frame[6:12], be(frame, 12, 2)
    return _behind_mesh_control(frame, 14, source, destination) if is_mesh else (0, 14, source, destination)


def _behind_mesh_control(frame: bytes, at: int, source: bytes, destination: bytes) -> Below:
    """9.2.4.8.3: flags, time to live, a sequence number, and up to two addresses of those outside the mesh."""
    if be(frame, at, 1) == 0:
        be(frame, at, 6)
        return 0, at + 6, source, destination
    if frame[at] == 1:
        be(frame, at, 12)
        return 0, at + 12, frame[at + 6 : at + 12], destination
    if frame[at] == 2:
        be(frame, at, 18)
        return 0, at + 18, frame[at + 12 : at + 18], frame[at + 6 : at + 12]
    return 0, at, source, destination  # reserved: no such field


def ieee_802_11_swapped(frame: bytes) -> Below:
    """The same with the bytes of its fields of two bytes swapped: control, duration, sequence and QoS."""
    be(frame, 0, 2)
    both = frame[0] & 3 == 3
    fields = [0, 2, 22] + ([30 if both else 24] if frame[1] & 0x80 else [])
    repaired = bytearray(frame)
    for at in fields:
        repaired[at : at + 2] = repaired[at : at + 2][::-1]
    return ieee_802_11(bytes(repaired))


def sized(size: int, link: int | str) -> tuple[int, int | str]:
    if size < 8:
        raise RejectError("short")
    return size, min(link, (1 << 26) - 1) if isinstance(link, int) else link


def _at_least_8(frame: bytes) -> None:
    be(frame, 0, 8)


def prism(frame: bytes) -> tuple[int, int | str]:
    _at_least_8(frame)
    return 144, 105


def avs(frame: bytes) -> tuple[int, int | str]:
    _at_least_8(frame)
    return sized(be(frame, 4, 4), 105)


def ppi(frame: bytes) -> tuple[int, int | str]:
    _at_least_8(frame)
    return sized(le(frame, 2, 2), le(frame, 4, 4))


def radiotap(frame: bytes) -> tuple[int, int | str]:
    """https://www.radiotap.org: the flags say whether the radio padded the frame's header to a multiple of 4."""
    present, size = le(frame, 4, 4), le(frame, 2, 2)
    try:
        at = 4
        while le(frame[:size], at, 4) >> 31:
            at += 4
        at += 4
        if present & 1:  # the time, aligned to its 8 bytes
            at += -at % 8 + 8
        padded = bool(present & 2 and be(frame[:size], at, 1) & 0x20)
    except RejectError:
        padded = False
    return sized(size, "padded 802.11" if padded else 105)
