"""The network's answers, kept by sequence: those for training's sequences in the bundle, later ones in memory.

Most flows of a network are exact duplicates of earlier ones, and the network's answer depends on a flow's sequences
alone, to the last bit (see `iotid.model.bundle`). So an answer that is kept equals one that is computed again.

Shape suffixes: N rows, D distinct rows, M packets kept of each flow, C classes.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from iotid.dataset.arrays import distinct_rows, side_by_side
from iotid.model.arrays import Spec

if TYPE_CHECKING:
    from iotid.dataset import EncodedFlows

_KEY_BYTES = 16
_ENTRY_BYTES = 200  # of a key and its place in a dict, which RecentAnswers needs beside each answer
_SUM_TOLERANCE = 1e-3


def keys_of(sequences: Mapping[str, NDArray[np.int32]]) -> NDArray[np.uint64]:
    """(N, 2): 128 bits of BLAKE2b of all ids of a row, characteristics in the order of their names.

    The chance that any two of a billion sequences share a key is below 1e-20, and nobody can find two that do. So
    a sender of packets cannot choose a flow that is taken for another one.
    """
    rows_NW = np.ascontiguousarray(side_by_side(sequences), dtype="<i4")
    content, width = rows_NW.tobytes(), 4 * rows_NW.shape[1]
    digests = [blake2b(content[at : at + width], digest_size=_KEY_BYTES).digest() for at in _starts(content, width)]
    return np.frombuffer(b"".join(digests), "<u8").reshape(-1, 2).astype(np.uint64, copy=False)


def _starts(content: bytes, width: int) -> range:
    return range(0, len(content), width)


@dataclass(frozen=True)
class KeptAnswers:
    """``keys`` (D, 2): as of `keys_of`, the first column strictly increasing; ``probabilities`` float32 (D, C): the
    network's answer for each, without the counts of sequences."""

    keys: NDArray[np.uint64]
    probabilities: NDArray[np.float32]

    @classmethod
    def of(cls, keys: NDArray[np.uint64], probabilities: NDArray[np.float32]) -> KeptAnswers:
        """Of distinct keys in any order. Of two that agree in their first half, which never happens, one is kept."""
        _, at = np.unique(keys[:, 0], return_index=True)
        return cls(np.ascontiguousarray(keys[at]), np.ascontiguousarray(probabilities[at]))

    def find(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        """(N,) the row of ``probabilities`` for each key, or -1."""
        if not len(self.keys):
            return np.full(len(keys), -1)
        at_N = np.minimum(np.searchsorted(self.keys[:, 0], keys[:, 0]), len(self.keys) - 1)
        return np.where((self.keys[at_N] == keys).all(axis=1), at_N, -1)

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """All answers, by name."""
        return {"keys": self.keys.view(np.int64), "probabilities": self.probabilities}

    @staticmethod
    def specs(classes: int) -> dict[str, Spec]:
        """Specifications of ``to_arrays``, for a model of this number of classes."""
        return {
            "keys": Spec("I64", ("D", 2), -(2.0**63), 2.0**63),
            "probabilities": Spec("F32", ("D", classes), 0, 1),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> KeptAnswers:
        """The inverse of ``to_arrays``, for arrays that match ``specs``.

        Raises:
            KeyError: an array is missing.
            ValueError: the arrays are inconsistent.
        """
        keys = np.ascontiguousarray(arrays["keys"].astype(np.int64)).view(np.uint64)
        probabilities = arrays["probabilities"].astype(np.float32)
        if not (keys[1:, 0] > keys[:-1, 0]).all():
            raise ValueError("array answers.keys: must be strictly increasing in its first column")
        if not (np.abs(probabilities.sum(axis=1) - 1) < _SUM_TOLERANCE).all():
            raise ValueError("array answers.probabilities: must sum to 1 in each row")
        return cls(keys, probabilities)


def most_frequent(rows: EncodedFlows, classes: int, max_bytes: int) -> dict[str, NDArray[np.int32]]:
    """The distinct sequences of ``rows`` that stand for most flows, as many as have answers of ``max_bytes``."""
    together_NW = np.concatenate(list(rows.sequences.values()), axis=1)
    distinct_DW, which_N = distinct_rows(together_NW)
    flows_D = np.bincount(which_N, weights=rows.num_flows, minlength=len(distinct_DW))
    chosen = np.argsort(-flows_D, kind="stable")[: max_bytes // (_KEY_BYTES + 4 * classes)]
    parts = np.split(distinct_DW[chosen], len(rows.sequences), axis=1)
    return dict(zip(rows.sequences, parts, strict=True))


class RecentAnswers:
    """The answers that a process used last, up to a number of bytes; safe to use from several threads.

    A copy, or what pickle restores, starts empty.
    """

    def __init__(self, classes: int, max_bytes: int) -> None:
        self._classes, self._max_bytes = classes, max_bytes
        self.capacity = max(0, max_bytes) // (4 * classes + _ENTRY_BYTES)
        self._lock = threading.Lock()
        self._slots: OrderedDict[bytes, int] = OrderedDict()  # key -> row of _answers; the last used is the last
        self._answers = np.empty((0, classes), np.float32)  # grows with the entries

    def __reduce__(self) -> tuple[type[RecentAnswers], tuple[int, int]]:
        return RecentAnswers, (self._classes, self._max_bytes)

    def __len__(self) -> int:
        return len(self._slots)

    def find(self, keys: NDArray[np.uint64], to: NDArray[np.float32]) -> NDArray[np.bool_]:
        """(N,) whether there is an answer for each key; those found are written to these rows of ``to`` (N, C)."""
        with self._lock:
            if not self._slots:
                return np.zeros(len(keys), np.bool_)
            slots_N = np.array([self._slots.get(key, -1) for key in _as_bytes(keys)], np.int64)
            found_N = slots_N >= 0
            for key in _as_bytes(keys[found_N]):
                self._slots.move_to_end(key)
            to[found_N] = self._answers[slots_N[found_N]]
        return found_N

    def add(self, keys: NDArray[np.uint64], answers: NDArray[np.float32]) -> None:
        """Keep the answers (N, C) for these keys, instead of those that were not used for longest."""
        if not self.capacity:
            return
        keys, answers = keys[-self.capacity :], answers[-self.capacity :]
        with self._lock:
            if (due := min(self.capacity, len(self._slots) + len(keys))) > len(self._answers):
                grown = np.empty((min(self.capacity, max(due, 2 * len(self._answers))), self._classes), np.float32)
                grown[: len(self._answers)] = self._answers
                self._answers = grown
            for key, answer in zip(_as_bytes(keys), answers, strict=True):
                slot = self._slots.pop(key, -1)
                if slot < 0:
                    full = len(self._slots) == self.capacity
                    slot = self._slots.popitem(last=False)[1] if full else len(self._slots)
                self._slots[key] = slot
                self._answers[slot] = answer


def _as_bytes(keys: NDArray[np.uint64]) -> list[bytes]:
    content = keys.tobytes()
    return [content[at : at + _KEY_BYTES] for at in _starts(content, _KEY_BYTES)]
