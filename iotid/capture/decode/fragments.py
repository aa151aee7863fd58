"""IP fragments (RFC 791, 3.2; RFC 8200, 4.5): only the first has ports, so they are stored for the later ones.

A later fragment belongs to the newest first fragment of the same version, addresses, protocol (IPv4), identification
and VLAN that is at most `window_us` away and at most the table's size in records earlier. As with duplicates, a reader
that starts that many records early gets the same result as one that starts at the file's first record. A later fragment
without a first one is counted as `later_fragment`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from iotid.capture.decode.duplicates import Ring, find, insert, new_ring
from iotid.capture.decode.headers import DESTINATION_PORT, PROTOCOL, SOURCE_PORT
from iotid.capture.fields import Longs
from iotid.capture.jit import kernel


class FirstFragments(NamedTuple):
    """The first fragments among the last N records: a ring, and the protocol and ports of each slot's packet."""

    ring: Ring
    transport: Longs  # (N,) protocol << 32 | source port << 16 | destination port


def new_fragments(records: int) -> FirstFragments:
    return FirstFragments(new_ring(records), np.zeros(records, np.int64))


@kernel
def store_first(fragments: FirstFragments, record: int, time: int, digest: np.uint64, headers: Longs) -> None:
    """Store the protocol and ports of a first fragment."""
    slot = insert(fragments.ring, record, time, digest)
    fragments.transport[slot] = headers[PROTOCOL] << 32 | headers[SOURCE_PORT] << 16 | headers[DESTINATION_PORT]


@kernel
def apply_first(
    fragments: FirstFragments, record: int, time: int, digest: np.uint64, window_us: int, headers: Longs
) -> bool:
    """Set a later fragment's protocol and ports from its first one; False if that is not stored."""
    slot = find(fragments.ring, record, time, digest, window_us)
    if slot < 0:
        return False
    transport = fragments.transport[slot]
    headers[PROTOCOL] = transport >> 32
    headers[SOURCE_PORT] = (transport >> 16) & 0xFFFF
    headers[DESTINATION_PORT] = transport & 0xFFFF
    return True
