"""Which devices were in which group of unknown devices, so that they stay in it.

A device is recognised by its MAC if that is globally administered; other MACs and addresses may be another device's on
the next date. Stored are hashes, as names in files of their own would be one more place with addresses; a hash hides no
MAC from someone who tries all of them.

Shape suffixes: N devices, E devices stored with groups.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from iotid.arrow import one_chunk

MAX_DEVICES = 4096  # stored for a group
MAX_ABSENT = 90  # censuses with the group, for which a device without flows is remembered
_GLOBAL_MAC = "^[0-9a-f][048c](:[0-9a-f]{2}){5}$"  # IEEE 802: bit 0 of the first byte is multicast, bit 1 local
_NO_GROUP = -1


@dataclass(frozen=True)
class Members:
    """The devices of earlier groups and of now.

    Attributes:
        home: (N,) index of the earlier group that each device was in, -1 if none.
        is_new: (N,) whether it is known to have been in none.
        hash: (N,) hash of each device that can be recognised; 0 of others.
        group: (E,) index of the earlier group of each stored device.
        stored: (E,) its hash.
        absent: (E,) for how many censuses it has been absent.
    """

    home: NDArray[np.int64]
    is_new: NDArray[np.bool_]
    hash: NDArray[np.int64]
    group: NDArray[np.int64]
    stored: NDArray[np.int64]
    absent: NDArray[np.int64]

    @classmethod
    def of(cls, devices: pa.Array, earlier: pa.Table) -> Members:
        """``devices``: ids; ``earlier``: GROUPS."""
        is_global_N = pc.match_substring_regex(devices, _GLOBAL_MAC).to_numpy(zero_copy_only=False)
        hash_N = np.zeros(len(devices), np.int64)
        hash_N[is_global_N] = [_hash(mac) for mac in devices.filter(pa.array(is_global_N)).to_pylist()]
        lists = one_chunk(earlier["device"])
        group_E = pc.list_parent_indices(lists).to_numpy().astype(np.int64)
        stored_E = lists.flatten().to_numpy(zero_copy_only=False).astype(np.int64)
        absent_E = one_chunk(earlier["absent"]).flatten().to_numpy(zero_copy_only=False).astype(np.int64)
        order_E = np.lexsort((group_E, absent_E, stored_E))  # the last group of a device counts
        known, first = np.unique(stored_E[order_E], return_index=True)
        position_N = np.searchsorted(known, hash_N)
        is_known_N = np.isin(hash_N, known) & is_global_N
        home_N = np.full(len(devices), _NO_GROUP)
        home_N[is_known_N] = group_E[order_E][first][position_N[is_known_N]]
        return cls(home_N, is_global_N & ~is_known_N & bool(len(known)), hash_N, group_E, stored_E, absent_E)

    def size(self, group: int) -> int:
        """Number of devices stored for an earlier group; 0 for a new one."""
        start, end = np.searchsorted(self.group, [group, group + 1])
        return int(end - start)

    def columns(self, rows: NDArray[np.int64], before: Sequence[int]) -> dict[str, list[int]]:
        """The columns ``device`` and ``absent`` (GROUPS) of a group: its devices now (``rows`` of N), and those of the
        earlier groups ``before`` that are now nowhere."""
        here = np.unique(self.hash[rows][self.hash[rows] != 0])
        ranges = [np.arange(*np.searchsorted(self.group, [group, group + 1])) for group in before]
        rest = np.concatenate([np.zeros(0, np.int64), *ranges])
        rest = rest[~self._is_here[rest] & (self.absent[rest] < MAX_ABSENT)]
        device = np.concatenate([here, self.stored[rest]])
        absent = np.concatenate([np.zeros(len(here), np.int64), self.absent[rest] + 1])
        device, first = np.unique(device, return_index=True)
        latest = np.sort(np.lexsort((device, absent[first]))[:MAX_DEVICES])
        return {"device": device[latest].tolist(), "absent": absent[first][latest].tolist()}

    def without_those_here(self, groups: pa.Table) -> pa.Table:
        """Earlier groups (GROUPS) without the devices that are present, and so in other groups now."""
        here = set(self.hash.tolist())
        rows = groups.select(["device", "absent"]).to_pylist()
        for row in rows:
            if row["device"] and not here.isdisjoint(row["device"]):
                kept = [pair for pair in zip(row["device"], row["absent"], strict=True) if pair[0] not in here]
                row["device"], row["absent"] = [device for device, _ in kept], [absent for _, absent in kept]
        for name in ("device", "absent"):
            index = groups.schema.get_field_index(name)
            field = groups.schema.field(index)
            groups = groups.set_column(index, field, pa.array([row[name] for row in rows], field.type))
        return groups

    @cached_property
    def _is_here(self) -> NDArray[np.bool_]:
        """(E,) whether the device is present."""
        return np.isin(self.stored, self.hash)


def _hash(mac: str) -> int:
    """63 bits, not 0."""
    return int.from_bytes(hashlib.blake2b(mac.encode(), digest_size=8).digest(), "big") >> 1 or 1
