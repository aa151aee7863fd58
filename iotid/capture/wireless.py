"""802.11 frames: what radios put in front, and the way to what a data frame carries (IEEE 802.11-2020, 9.2 and 9.3).

Only data frames in the clear lead to a packet: encrypted ones, management, control, later fragments of a frame and
aggregates of several (A-MSDU) are not IP for this reader. A check sequence needs no care: IP says its length.
"""

from __future__ import annotations

from typing import Final

from iotid.capture.fields import Bytes, Longs, be32, be48, byte, u16, u32
from iotid.capture.headers import DESTINATION_MAC, SOURCE_MAC
from iotid.capture.jit import kernel

PRISM, RADIOTAP, PRISM_AVS, PPI = 119, 127, 163, 192  # link types: what a radio puts in front
IEEE_802_11: Final = 105
# in this program only: data starts at a multiple of 4 bytes of the frame; each of its fields of two bytes is swapped
IEEE_802_11_PADDED: Final = 1 << 16 | 105
IEEE_802_11_SWAPPED: Final = 2 << 16 | 105

NO_HEADER: Final = -1  # instead of a link type: the radio's header is not whole
NO_DATA: Final = -1  # instead of a place

_PRISM_BYTES = 144
_TIMER, _FLAGS, _MORE_WORDS = 1 << 0, 1 << 1, 1 << 31  # bits of radiotap's words of fields
_PADDED = 0x20  # bit of radiotap's flags

_TO_SYSTEM, _FROM_SYSTEM, _PROTECTED, _HIGH_THROUGHPUT = 0x01, 0x02, 0x40, 0x80  # bits of the second byte
_EMPTY, _QOS = 0x40, 0x80  # bits of a data frame's first byte
_AGGREGATE = 0x80  # bit of the QoS field


@kernel
def radio_header(buffer: Bytes, start: int, end: int, link: int) -> tuple[int, int]:
    """The link type and start of the frame behind a radio's header; NO_HEADER where that is not whole."""
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
            inner = u32(buffer, start + 4, False)
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
    """Where the LLC header of a data frame is; 0: the frame is cut off, NO_DATA: it shows none. Sets the MACs."""
    if end - start < 2:
        return 0
    first = byte(buffer, start)
    second = byte(buffer, start + 1)
    fragment = start + 22
    if link == IEEE_802_11_SWAPPED:
        first, second = second, first
        fragment += 1
    if first & 0x0F != 0x08 or first & _EMPTY or second & _PROTECTED:
        return NO_DATA
    to_system = second & _TO_SYSTEM != 0
    from_system = second & _FROM_SYSTEM != 0
    size = 30 if to_system and from_system else 24
    qos = size
    if first & _QOS:
        size += 6 if second & _HIGH_THROUGHPUT else 2
    if end - start < size:
        return 0
    if (first & _QOS and byte(buffer, start + qos) & _AGGREGATE) or byte(buffer, fragment) & 0x0F:
        return NO_DATA
    headers[DESTINATION_MAC] = be48(buffer, start + (16 if to_system else 4))
    source = 24 if to_system and from_system else 16 if from_system else 10
    headers[SOURCE_MAC] = be48(buffer, start + source)
    return start + ((size + 3) // 4 * 4 if link == IEEE_802_11_PADDED else size)
