"""The table of partial flows: what an attacker who chooses the keys can do to it."""

from __future__ import annotations

import numpy as np
import pytest

from iotid.flows import partial
from iotid.flows.key_table import SECRET_WORDS, number_keys
from iotid.flows.layout import KEY_WORDS

_COUNT = 4096
_MULTIPLIER = 0xBF58476D1CE4E5B9
_WORD = (1 << 64) - 1


def _colliding() -> np.ndarray:
    """Keys that are equal to a hash of multiplications and xor-shifts without a secret: each undoes its first word."""
    keys = np.zeros((_COUNT, KEY_WORDS), np.uint64)
    for row in range(_COUNT):
        mixed = (row + 1) * _MULTIPLIER & _WORD
        keys[row, 0], keys[row, 1] = row + 1, mixed ^ mixed >> 29
    return keys


def _neighbours() -> np.ndarray:
    """Keys that differ in the lowest bits of two words only, as the addresses and ports of a scan do."""
    keys = np.zeros((_COUNT, KEY_WORDS), np.uint64)
    keys[:, 0], keys[:, 1] = np.arange(_COUNT) % 64, np.arange(_COUNT) // 64
    return keys


def _longest_run(slots: np.ndarray) -> int:
    """Slots in use one after the other: what a search walks over at worst."""
    free = np.flatnonzero(slots < 0)
    return int(np.diff(free, prepend=-1).max()) - 1


@pytest.mark.parametrize("make", [_colliding, _neighbours])
@pytest.mark.parametrize("seed", range(3))
def test_number_keys__chosen_keys_spread_over_the_slots(make, seed: int) -> None:  # type: ignore[no-untyped-def]
    keys = make()
    secret = np.random.default_rng(seed).integers(0, 1 << 64, SECRET_WORDS, np.uint64)
    slots, first_row = np.full(4 * _COUNT, -1, np.int64), np.empty(_COUNT, np.int64)
    number_keys(keys, slots, secret, first_row)
    assert first_row.tolist() == list(range(_COUNT))
    assert _longest_run(slots) < 64  # of 4,096 keys that all meet, it is 4,096


def test_number_keys__rows_do_not_depend_on_the_secret_and_slots_do() -> None:
    keys = np.concatenate([_neighbours(), _neighbours()[::-1]])
    found = []
    for seed in range(2):
        secret = np.random.default_rng(seed).integers(0, 1 << 64, SECRET_WORDS, np.uint64)
        slots, first_row = np.full(4 * len(keys), -1, np.int64), np.empty(len(keys), np.int64)
        number_keys(keys, slots, secret, first_row)
        found.append((slots.tolist(), first_row.tolist()))
    assert found[0][1] == found[1][1]
    assert found[0][0] != found[1][0]


def test_first_rows__of_equal_keys_are_the_first() -> None:
    keys = np.concatenate([_colliding()[:100], _colliding()[:100]])
    assert partial.first_rows(keys).tolist() == [*range(100), *range(100)]
