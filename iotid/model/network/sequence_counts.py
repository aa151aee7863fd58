"""What training showed word for word: how many flows of each class had exactly these sequences.

Most flows of a network repeat others to the byte. Of a sequence that training holds a hundred times, the labels that
it had there say more than any network; of one that it never showed, only the network can say something. Both are one
posterior: the network's answer is the prior, with the weight of ``strength`` flows, the flows remembered are the
evidence, and the probability of a class is (flows of it + strength * network's answer) / (all flows + strength), the
mean of a Dirichlet distribution (in language models, MacKay and Peto 1995).

Shape suffixes: N rows, D distinct rows remembered, E pairs of a distinct row and a label that it had, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from iotid.dataset.hashes import mix
from iotid.model.arrays import Spec

if TYPE_CHECKING:
    from iotid.dataset import EncodedFlows

_MOST_FLOWS = 2.0**53  # of one sequence and label, which floating-point numbers still count
_MOST = 1e6  # flows that the network's answer may weigh


@dataclass(frozen=True)
class SequenceCounts:
    """``keys`` (D,): sorted hashes of rows of ids; those of row d are ``labels`` and ``flows`` (E,) from ``starts[d]``
    (D + 1,) on. Rows with one hash would be taken for one: with a billion of them the chance is one in 40. A sender
    who chooses a row can make it so, and gains what sending the other row itself would."""

    keys: NDArray[np.uint64]
    starts: NDArray[np.int64]
    labels: NDArray[np.int64]
    flows: NDArray[np.int64]
    strength: float = 1.0

    @classmethod
    def of(cls, rows: EncodedFlows) -> SequenceCounts:
        """What ``rows`` show; a row counts as its flows."""
        key_N = _keys(rows.sequences)
        order = np.lexsort((rows.label, key_N))
        key_N, label_N, flows_N = key_N[order], rows.label[order], rows.num_flows[order]
        new_pair_N = np.ones(len(order), np.bool_)
        new_pair_N[1:] = (key_N[1:] != key_N[:-1]) | (label_N[1:] != label_N[:-1])
        first_E = np.flatnonzero(new_pair_N)
        keys, starts = np.unique(key_N[first_E], return_index=True)
        flows_E = np.add.reduceat(flows_N, first_E) if len(first_E) else np.zeros(0, np.int64)
        return cls(keys, np.append(starts, len(first_E)).astype(np.int64), label_N[first_E], flows_E)

    def seen(self, sequences: Mapping[str, NDArray[np.int32]], num_classes: int) -> NDArray[np.float64]:
        """(N, C) flows of each class that training showed with the sequences of each row."""
        seen_NC = np.zeros((len(next(iter(sequences.values()))), num_classes))
        if not len(self.keys):
            return seen_NC
        key_N = _keys(sequences)
        place_N = np.minimum(np.searchsorted(self.keys, key_N), len(self.keys) - 1)
        known = np.flatnonzero(self.keys[place_N] == key_N)
        place = place_N[known]
        counts = self.starts[place + 1] - self.starts[place]
        entry = np.repeat(self.starts[place] - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())
        seen_NC[np.repeat(known, counts), self.labels[entry]] = self.flows[entry]
        return seen_NC

    def join(
        self, sequences: Mapping[str, NDArray[np.int32]], probabilities_NC: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """The posterior (N, C) of the network's probabilities and what is remembered of each row."""
        return _posterior(self.seen(sequences, probabilities_NC.shape[1]), probabilities_NC, self.strength).astype(
            np.float32
        )

    def fitted(self, validation: EncodedFlows, probabilities_NC: NDArray[np.float32]) -> SequenceCounts:
        """This memory with the strength under which the labels of ``validation`` are likeliest.

        ``probabilities_NC``: the network's own for its rows.
        """
        from scipy.optimize import minimize_scalar

        seen_NC = self.seen(validation.sequences, probabilities_NC.shape[1])
        row_N = np.arange(len(validation.label))

        def surprise(log_strength: float) -> float:
            told_N = _posterior(seen_NC, probabilities_NC, np.exp(log_strength))[row_N, validation.label]
            return -float(validation.num_flows @ np.log(np.maximum(told_N, 1e-12)))

        found = minimize_scalar(surprise, bounds=(np.log(1e-3), np.log(_MOST)), method="bounded")
        return replace(self, strength=float(np.exp(found.x)))

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """All that is remembered, by name."""
        told: dict[str, NDArray[np.generic]] = {"keys": self.keys.view(np.int64), "starts": self.starts}
        return {**told, "labels": self.labels, "flows": self.flows, "strength": np.array([self.strength])}

    @staticmethod
    def specs(classes: int) -> dict[str, Spec]:
        """What ``to_arrays`` gives of a model of so many classes."""
        return {
            "keys": Spec("I64", ("D",), -(2.0**63), 2.0**63),
            "starts": Spec("I64", ("D+1",), 0),
            "labels": Spec("I64", ("E",), 0, classes - 1),
            "flows": Spec("I64", ("E",), 1, _MOST_FLOWS),
            "strength": Spec("F64", (1,), 1e-12),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> SequenceCounts:
        """What ``to_arrays`` told of, of arrays that fit ``specs``.

        Raises:
            KeyError: a part of it is missing.
            ValueError: parts do not fit each other.
        """
        keys, starts, labels, flows = (arrays[name].astype(np.int64) for name in ("keys", "starts", "labels", "flows"))
        memory = cls(keys.view(np.uint64), starts, labels, flows, float(arrays["strength"].astype(np.float64)[0]))
        if not (memory.keys[1:] > memory.keys[:-1]).all():
            raise ValueError("array memory.keys: must rise")
        if starts[0] != 0 or starts[-1] != len(labels) or not (starts[1:] > starts[:-1]).all():
            raise ValueError(f"array memory.starts: must rise from 0 to {len(labels)}, the length of memory.labels")
        return memory


def _posterior(
    seen_NC: NDArray[np.float64], probabilities_NC: NDArray[np.floating], strength: float
) -> NDArray[np.float64]:
    found: NDArray[np.float64] = seen_NC + strength * probabilities_NC
    return found / found.sum(axis=1, keepdims=True)


def _keys(sequences: Mapping[str, NDArray[np.int32]]) -> NDArray[np.uint64]:
    """(N,) one hash for all ids of a row, the characteristics in the order of their names."""
    columns = [ids_N.astype(np.uint64) for name in sorted(sequences) for ids_N in sequences[name].T]
    return np.asarray(mix(columns))
