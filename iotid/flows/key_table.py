"""Kernels of the hash table of partial flows by key: open addressing, linear probing, a keyed hash."""

from __future__ import annotations

from typing import Any

import numpy as np

from iotid.capture.jit import kernel
from iotid.flows.layout import KEY_WORDS, Array, same

SECRET_WORDS = 2 * KEY_WORDS + 1  # of a table's secret, uint64: one for each half of a key's words, and one more

_HALF, _LOW = np.uint64(32), np.uint64(0xFFFFFFFF)


@kernel
def find_slot(slots: Array, secret: Array, keys: Array, key: Array) -> Any:
    """The slot of the row of ``keys`` that equals ``key``, or the free slot for it.

    An attacker can choose keys by sending packets, and must not make them collide. The hash is Multilinear (Lemire,
    Kaser 2014, after Carter, Wegman 1979): each half of a word times its own secret number. To anyone without the
    secret, the upper 32 bits of any two keys are independent and uniform. The finalizer of MurmurHash3, a bijection of
    these bits, breaks up arithmetic progressions of consecutive keys, which slow down linear probing (Thorup, Zhang
    2012).
    """
    mixed = secret[KEY_WORDS * 2]
    for word in range(KEY_WORDS):
        mixed += (key[word] & _LOW) * secret[2 * word] + (key[word] >> _HALF) * secret[2 * word + 1]
    mixed >>= _HALF
    mixed = (mixed ^ mixed >> np.uint64(16)) * np.uint64(0x85EBCA6B) & _LOW
    mixed = (mixed ^ mixed >> np.uint64(13)) * np.uint64(0xC2B2AE35) & _LOW
    mixed ^= mixed >> np.uint64(16)
    mask = len(slots) - 1
    slot: Any = np.int64(mixed & np.uint64(mask))
    while slots[slot] >= 0:
        if same(keys, slots[slot], key):
            break
        slot = (slot + 1) & mask
    return slot


@kernel
def number_keys(keys: Array, slots: Array, secret: Array, first_row: Array) -> None:
    """Write for every row the first row with the same key, int64 (n,). ``slots``: a power of two above n, all -1."""
    for i in range(len(keys)):
        slot = find_slot(slots, secret, keys, keys[i])
        if slots[slot] < 0:
            slots[slot] = i
        first_row[i] = slots[slot]


@kernel
def refill_slots(slots: Array, secret: Array, keys: Array, old_slots: Array) -> None:
    """Move the rows of a full table of slots into a larger one."""
    for row in old_slots:
        if row >= 0:
            slots[find_slot(slots, secret, keys, keys[row])] = row
