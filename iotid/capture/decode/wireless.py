"""802.11 frames: the headers that radios add, and the payload of data frames (IEEE 802.11-2020, 9.2 and 9.3).

Only unencrypted data frames have packets: encrypted, management and control frames and later fragments count as
`not_ip`. An aggregate (A-MSDU) is a sequence of subframes, each with its own header; `iotid.capture.decode.frames`
divides it into frames of one subframe each. A frame check sequence needs no code: IP has a length.
"""

from __future__ import annotations

from typing import Final

from iotid.capture.decode.headers import DESTINATION_MAC, SOURCE_MAC
from iotid.capture.fields import Bytes, Longs, be16, be32, be48, byte, u16, u32
from iotid.capture.jit import kernel

PRISM, RADIOTAP, PRISM_AVS, PPI = 119, 127, 163, 192  # link types: headers that radios add
IEEE_802_11: Final = 105
LINK_TYPE_BITS: Final = (1 << 26) - 1  # of a file's link types
# in this program only, above those bits: data starts at a multiple of 4 bytes of the frame; each
# of its fields of two bytes is swapped; a later subframe of an aggregate, its header first, which a mesh lengthens
IEEE_802_11_PADDED: Final = 1 << 26 | 105
IEEE_802_11_SWAPPED: Final = 2 << 26 | 105
SUBFRAME: Final = 4 << 26
MESH_SUBFRAME: Final = 8 << 26

NO_HEADER: Final = -1  # instead of a link type: the radio's header is incomplete
NO_DATA: Final = -1  # instead of an offset

SUBFRAME_HEADER: Final = 14  # bytes: destination, source, length of what follows

_PRISM_BYTES = 144
_TIMER, _FLAGS, _MORE_WORDS = 1 << 0, 1 << 1, 1 << 31  # bits of radiotap's words of fields
_PADDED = 0x20  # bit of radiotap's flags

_TO_SYSTEM, _FROM_SYSTEM, _PROTECTED, _HIGH_THROUGHPUT = 0x01, 0x02, 0x40, 0x80  # bits of the second byte
_EMPTY, _QOS = 0x40, 0x80  # bits of a data frame's first byte
_AGGREGATE, _MESH = 0x80, 0x01  # bits of the QoS field's first and second byte
_MESH_BYTES = 6  # of the mesh control field without its addresses


@kernel
def radio_header(buffer: Bytes, start: int, end: int, link: int) -> tuple[int, int]:
    """(link type, start) of the frame behind a radio's header; NO_HEADER if that is incomplete."""
    if end - start < 8:
        return NO_HEADER, start
    inner: int = IEEE_802_11
    if link == PRISM:
        size = _PRISM_BYTES
    elif link == PRISM_AVS:
        size = be32(buffer, start + 4)
    else:
        size = u16(buffer, start + 2, False)
        if link == PPI:
            inner = min(u32(buffer, start + 4, False), LINK_TYPE_BITS)
    if size < 8 or size > end - start:
        return NO_HEADER, start
    if link == RADIOTAP and _is_padded(buffer, start, start + size):
        inner = IEEE_802_11_PADDED
    return inner, start + size


@kernel
def _is_padded(buffer: Bytes, start: int, end: int) -> bool:
    """Radiotap's words of fields, the time at a multiple of 8 bytes, then the flags (https://www.radiotap.org)."""
    fields = u32(buffer, start + 4, False)
    at = start + 8
    more = fields
    while more & _MORE_WORDS:
        if end - at < 4:
            return False
        more = u32(buffer, at, False)
        at += 4
    if fields & _TIMER:
        at = start + (at - start + 7) // 8 * 8 + 8
    return fields & _FLAGS != 0 and at < end and byte(buffer, at) & _PADDED != 0


@kernel
def data_of_frame(buffer: Bytes, start: int, end: int, link: int, headers: Longs) -> int:
    """Offset of a data frame's LLC header; 0 if the frame is cut off, NO_DATA if it has none. Sets the MACs.

    For an aggregate: that of its only subframe. Several subframes, possible only inside a tunnel, are NO_DATA.
    """
    at, is_aggregate, is_mesh = body_of_frame(buffer, start, end, link)
    if at <= 0:
        return at
    if is_aggregate:
        if end - at > SUBFRAME_HEADER and end - next_subframe(buffer, at, is_mesh) > SUBFRAME_HEADER:
            return NO_DATA
        return data_of_subframe(buffer, at, end, is_mesh, headers)
    second = byte(buffer, start + (0 if link == IEEE_802_11_SWAPPED else 1))
    to_system = second & _TO_SYSTEM != 0
    from_system = second & _FROM_SYSTEM != 0
    headers[DESTINATION_MAC] = be48(buffer, start + (16 if to_system else 4))
    source = 24 if to_system and from_system else 16 if from_system else 10
    headers[SOURCE_MAC] = be48(buffer, start + source)
    return _skip_mesh_control(buffer, at, end, headers) if is_mesh else at


@kernel
def data_of_subframe(buffer: Bytes, at: int, end: int, is_mesh: bool, headers: Longs) -> int:
    """As `data_of_frame`, of the subframe at ``at``."""
    if end - at < SUBFRAME_HEADER:
        return 0
    headers[DESTINATION_MAC] = be48(buffer, at)
    headers[SOURCE_MAC] = be48(buffer, at + 6)
    at += SUBFRAME_HEADER
    return _skip_mesh_control(buffer, at, end, headers) if is_mesh else at


@kernel
def next_subframe(buffer: Bytes, at: int, is_mesh: bool) -> int:
    """Where the next subframe starts; of the one at ``at``, at least a byte of the body was captured.

    Each but the last is padded to a multiple of 4 bytes. Its length does not include the mesh control field.
    """
    size = SUBFRAME_HEADER + be16(buffer, at + 12) + (_mesh_control(buffer, at + SUBFRAME_HEADER) if is_mesh else 0)
    return at + (size + 3) // 4 * 4


@kernel
def body_of_frame(buffer: Bytes, start: int, end: int, link: int) -> tuple[int, bool, bool]:
    """(where a data frame's body starts, 0: cut off, NO_DATA: none; whether it is an aggregate; whether of a mesh)."""
    if end - start < 2:
        return 0, False, False
    swapped = 1 if link == IEEE_802_11_SWAPPED else 0
    first = byte(buffer, start + swapped)
    second = byte(buffer, start + 1 - swapped)
    if first & 0x0F != 0x08 or first & _EMPTY or second & _PROTECTED:
        return NO_DATA, False, False
    from_system = second & _FROM_SYSTEM != 0
    size = 30 if second & _TO_SYSTEM and from_system else 24
    qos = start + size
    if first & _QOS:
        size += 6 if second & _HIGH_THROUGHPUT else 2
    if end - start < size:
        return 0, False, False
    if byte(buffer, start + 22 + swapped) & 0x0F:
        return NO_DATA, False, False
    is_aggregate = first & _QOS != 0 and byte(buffer, qos + swapped) & _AGGREGATE != 0
    # from a station outside a mesh the bit is a part of another field
    is_mesh = first & _QOS != 0 and byte(buffer, qos + 1 - swapped) & _MESH != 0 and from_system
    return start + ((size + 3) // 4 * 4 if link == IEEE_802_11_PADDED else size), is_aggregate, is_mesh


@kernel
def _skip_mesh_control(buffer: Bytes, at: int, end: int, headers: Longs) -> int:
    """Skip a mesh control field, if one is there; its addresses are those outside the mesh."""
    if end - at < 1:
        return 0
    size = _mesh_control(buffer, at)
    if end - at < size:
        return 0
    if size == _MESH_BYTES + 12:
        headers[DESTINATION_MAC] = be48(buffer, at + 6)
    if size > _MESH_BYTES:
        headers[SOURCE_MAC] = be48(buffer, at + size - 6)
    return at + size


@kernel
def _mesh_control(buffer: Bytes, at: int) -> int:
    """Bytes of the mesh control field: flags, time to live, a sequence number, addresses; 0: its flags are reserved."""
    addresses = byte(buffer, at)
    return _MESH_BYTES + 6 * addresses if addresses <= 2 else 0
