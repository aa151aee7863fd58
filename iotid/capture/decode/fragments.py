"""IP fragments: only the first shows ports, so what it showed is remembered for the later ones.

A later fragment belongs to the newest first fragment of the same version, addresses, protocol (IPv4), identification
and VLAN that is at most `window_us` away and at most as many records earlier in the same file as the table holds. As
with repeats, this asks nothing about what was found before, so a reader that starts that many records early gives the
same answer as one that starts at the file's first record. A later fragment whose first one is not found is counted.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from iotid.capture.decode.duplicates import Ring, new_ring, put, seek
from iotid.capture.decode.headers import DESTINATION_PORT, PROTOCOL, SOURCE_PORT
from iotid.capture.fields import Longs
from iotid.capture.jit import kernel


class FirstFragments(NamedTuple):
    """The first fragments among the last N records: a ring, and what each slot's packet showed."""

    ring: Ring
    shown: Longs  # (N,) protocol << 32 | source port << 16 | destination port


def new_fragments(records: int) -> FirstFragments:
    return FirstFragments(new_ring(records), np.zeros(records, np.int64))


@kernel
def remember(fragments: FirstFragments, record: int, time: int, digest: np.uint64, headers: Longs) -> None:
    """Keep what a first fragment shows."""
    slot = put(fragments.ring, record, time, digest)
    fragments.shown[slot] = headers[PROTOCOL] << 32 | headers[SOURCE_PORT] << 16 | headers[DESTINATION_PORT]


@kernel
def recall(
    fragments: FirstFragments, record: int, time: int, digest: np.uint64, window_us: int, headers: Longs
) -> bool:
    """Set a later fragment's protocol and ports from its first one; False: that is not known."""
    slot = seek(fragments.ring, record, time, digest, window_us)
    if slot < 0:
        return False
    shown = fragments.shown[slot]
    headers[PROTOCOL] = shown >> 32
    headers[SOURCE_PORT] = (shown >> 16) & 0xFFFF
    headers[DESTINATION_PORT] = shown & 0xFFFF
    return True
