"""Detects packets that were captured twice, as on mirror ports and Linux's "any" device.

A packet is a duplicate of an earlier one if protocol, addresses, VLAN, IP identification, length and every captured
byte above the IP header (ports, TCP's sequence, acknowledgement and flags, payload) are equal, and the two are at most
`window_us` and at most the ring's size in records apart. Dropped packets stay in the ring, so the result does not
depend on earlier results: a reader that starts that many records early gets the same as one that starts at the file's
first record. Packets are compared by a 64-bit digest.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from iotid.capture.fields import Bytes, Longs, be64
from iotid.capture.jit import kernel

_SEED = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio
_FACTOR = np.uint64(0xD6E8FEB86659FD93)  # odd, of balanced bits
_SHIFT = np.uint64(32)


class Ring(NamedTuple):
    """The last N records: record r is in slot r % N. The records of a bucket are a list from new to old."""

    digest: NDArray[np.uint64]  # (N,)
    time: Longs  # (N,) µs
    before: Longs  # (N,) the record before in the same bucket; -1: none
    newest: Longs  # (buckets,) the newest record of each bucket; -1: none


def new_ring(records: int) -> Ring:
    buckets = 1 << (2 * records - 1).bit_length()
    return Ring(np.zeros(records, np.uint64), np.zeros(records, np.int64), np.full(records, -1), np.full(buckets, -1))


@kernel
def find(ring: Ring, record: int, time: int, digest: np.uint64, window_us: int) -> int:
    """The slot of the newest equal packet within the window; -1 if there is none."""
    size = len(ring.digest)
    earlier = ring.newest[np.int64(digest & np.uint64(len(ring.newest) - 1))]
    while earlier >= 0 and earlier >= record - size:
        slot = earlier % size
        if ring.digest[slot] == digest and abs(ring.time[slot] - time) <= window_us:
            return slot
        earlier = ring.before[slot]
    return -1


@kernel
def insert(ring: Ring, record: int, time: int, digest: np.uint64) -> int:
    """Store a packet; return its slot."""
    bucket = np.int64(digest & np.uint64(len(ring.newest) - 1))
    slot = record % len(ring.digest)
    ring.digest[slot] = digest
    ring.time[slot] = time
    ring.before[slot] = ring.newest[bucket]
    ring.newest[bucket] = record
    return slot


@kernel
def digest_of(buffer: Bytes, start: int, end: int) -> np.uint64:
    """A 64-bit digest of ``buffer[start:end]``."""
    digest = _SEED ^ np.uint64(end - start)
    i = start
    while end - i >= 8:
        digest = mixed(digest, be64(buffer, i))
        i += 8
    rest = np.uint64(0)
    while i < end:
        rest = (rest << np.uint64(8)) | np.uint64(buffer[i])
        i += 1
    return mixed(digest, rest)


@kernel
def mixed(digest: np.uint64, word: np.uint64) -> np.uint64:
    """Mix a word into the digest; the multiplication wraps by design."""
    digest = (digest ^ word) * _FACTOR
    return digest ^ (digest >> _SHIFT)
