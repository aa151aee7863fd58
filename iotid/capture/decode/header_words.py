"""What a packet's IP and TCP headers show beside lengths and windows, packed into HEADER_WORDS int64.

The first word has the fields of fixed size at the shifts below. The second has the order of the TCP options in its
lower ORDER_BITS, and the sender's timestamp above them.
"""

from __future__ import annotations

import numpy as np

from iotid.capture.decode.headers import (
    FRAGMENT,
    IP_OFFSET,
    LENGTH,
    MORE_FRAGMENTS,
    PROTOCOL,
    TRANSPORT_OFFSET,
    VERSION,
)
from iotid.capture.fields import Bytes, Longs, be16, be32, byte
from iotid.capture.jit import kernel

HEADER_WORDS = 2

# the first word, from its lowest bits: 8 bits of TTL or hop limit, and then
DSCP = 8  # 6 bits
DONT_FRAGMENT = 14  # 1 bit; set in IPv6, whose packets no router fragments
WINDOW_SCALE = 15  # 9 bits: shift count + 1; 0: no such option
MSS = 24  # 16 bits; 0: no such option
IDENTIFICATION = 40  # 17 bits: identification + 1; 0: IPv6
HAS_TIMESTAMP = 57  # 1 bit

ORDER_BITS = 31
ORDER_MASK = (1 << ORDER_BITS) - 1

_TCP = 6
_END, _NO_OPERATION, _MSS, _WINDOW_SCALE, _TIMESTAMP = 0, 1, 2, 3, 8  # RFC 9293, 3.2; RFC 7323
_FNV_OFFSET, _FNV_PRIME = 0x811C9DC5, 0x01000193  # FNV-1a with 32 bits (Fowler, Noll, Vo)


@kernel
def write_header_words(buffer: Bytes, end: int, headers: Longs, words: Longs, n: np.uint64) -> None:
    """Write the words of the packet in ``headers``, of a frame captured up to ``end``, into row ``n`` of ``words``.

    The order of the options is a hash of their kinds, up to the end of the list. It is 0 if there are none, or if the
    list was not captured whole or an option's length is wrong; options before that fault are still read.
    """
    at = headers[IP_OFFSET]
    if headers[VERSION] == 6:
        word = byte(buffer, at + 7) | (be16(buffer, at) >> 6 & 0x3F) << DSCP | 1 << DONT_FRAGMENT
    else:
        word = byte(buffer, at + 8) | (byte(buffer, at + 1) >> 2) << DSCP
        word |= (byte(buffer, at + 6) >> 6 & 1) << DONT_FRAGMENT | (be16(buffer, at + 4) + 1) << IDENTIFICATION
    first = headers[TRANSPORT_OFFSET] + 20
    captured = min(end, at + headers[LENGTH])
    order, timestamp = 0, 0
    if headers[PROTOCOL] == _TCP and headers[FRAGMENT] & (MORE_FRAGMENTS - 1) == 0 and captured > first:
        stop = first - 20 + (byte(buffer, first - 8) >> 4) * 4
        is_whole = first < stop <= captured
        stop = min(stop, captured)
        digest, mss, scale = _FNV_OFFSET, 0, 0
        option = first
        while option < stop:
            kind = byte(buffer, option)
            digest = (digest ^ kind) * _FNV_PRIME & 0xFFFFFFFF
            if kind == _END:
                break
            size = 1
            if kind != _NO_OPERATION:
                size = byte(buffer, option + 1) if option + 1 < stop else 0
                if size < 2 or option + size > stop:
                    is_whole = False
                    break
            if kind == _MSS and size == 4:
                mss = be16(buffer, option + 2)
            elif kind == _WINDOW_SCALE and size == 3:
                scale = byte(buffer, option + 2) + 1
            elif kind == _TIMESTAMP and size == 10:
                timestamp = be32(buffer, option + 2)
                word |= 1 << HAS_TIMESTAMP
            option += size
        word |= scale << WINDOW_SCALE | mss << MSS
        if is_whole:
            order = max(digest & ORDER_MASK, 1)
    words[n, 0] = word
    words[n, 1] = order | timestamp << ORDER_BITS
