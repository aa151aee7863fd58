"""Counts the training flows of each class with exactly the same sequences, and combines them with the network.

Most flows of a network are exact duplicates. The labels of a sequence that occurs a hundred times in training predict
better than any network; for a new sequence there is only the network. Both give one posterior, with the network's
output as prior: the probability of a class is (flows of it + strength * network's probability) / (all flows +
strength), the mean of a Dirichlet distribution (in language models, MacKay and Peto 1995).

Shape suffixes: N rows, D distinct training rows, E pairs of a distinct row and one of its labels, C classes.
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

_MOST_FLOWS = 2.0**53  # of one sequence and label, still exact in floating point
_MAX_STRENGTH = 1e6


@dataclass(frozen=True)
class SequenceCounts:
    """``keys`` (D,): sorted hashes of rows of ids; ``labels`` and ``flows`` (E,): entries of row d begin at
    ``starts[d]`` (D + 1,).

    Rows with the same hash count as equal; among a billion rows the chance of a collision is one in 40. A sender who
    provokes a collision gains no more than by sending the other row.
    """

    keys: NDArray[np.uint64]
    starts: NDArray[np.int64]
    labels: NDArray[np.int64]
    flows: NDArray[np.int64]
    strength: float = 1.0

    @classmethod
    def of(cls, rows: EncodedFlows) -> SequenceCounts:
        """The counts of ``rows``; each row counts as its ``num_flows`` flows."""
        key_N = _keys(rows.sequences)
        order = np.lexsort((rows.label, key_N))
        key_N, label_N, flows_N = key_N[order], rows.label[order], rows.num_flows[order]
        new_pair_N = np.ones(len(order), np.bool_)
        new_pair_N[1:] = (key_N[1:] != key_N[:-1]) | (label_N[1:] != label_N[:-1])
        first_E = np.flatnonzero(new_pair_N)
        keys, starts = np.unique(key_N[first_E], return_index=True)
        flows_E = np.add.reduceat(flows_N, first_E) if len(first_E) else np.zeros(0, np.int64)
        return cls(keys, np.append(starts, len(first_E)).astype(np.int64), label_N[first_E], flows_E)

    def lookup(self, sequences: Mapping[str, NDArray[np.int32]], num_classes: int) -> NDArray[np.float64]:
        """(N, C) number of training flows of each class with the sequences of each row."""
        count_NC = np.zeros((len(next(iter(sequences.values()))), num_classes))
        if not len(self.keys):
            return count_NC
        key_N = _keys(sequences)
        index_N = np.minimum(np.searchsorted(self.keys, key_N), len(self.keys) - 1)
        known = np.flatnonzero(self.keys[index_N] == key_N)
        index = index_N[known]
        counts = self.starts[index + 1] - self.starts[index]
        entry = np.repeat(self.starts[index] - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())
        count_NC[np.repeat(known, counts), self.labels[entry]] = self.flows[entry]
        return count_NC

    def posterior(
        self, sequences: Mapping[str, NDArray[np.int32]], probabilities_NC: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """(N, C) posterior from the network's probabilities and the counts of each row."""
        return _posterior(self.lookup(sequences, probabilities_NC.shape[1]), probabilities_NC, self.strength).astype(
            np.float32
        )

    def fitted(self, validation: EncodedFlows, probabilities_NC: NDArray[np.float32]) -> SequenceCounts:
        """A copy with the strength that maximises the likelihood of the labels of ``validation``.

        ``probabilities_NC``: the network's output for its rows.
        """
        from scipy.optimize import minimize_scalar

        count_NC = self.lookup(validation.sequences, probabilities_NC.shape[1])
        row_N = np.arange(len(validation.label))

        def negative_log_likelihood(log_strength: float) -> float:
            probability_N = _posterior(count_NC, probabilities_NC, np.exp(log_strength))[row_N, validation.label]
            return -float(validation.num_flows @ np.log(np.maximum(probability_N, 1e-12)))

        found = minimize_scalar(negative_log_likelihood, bounds=(np.log(1e-3), np.log(_MAX_STRENGTH)), method="bounded")
        return replace(self, strength=float(np.exp(found.x)))

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """All counts, by name."""
        arrays: dict[str, NDArray[np.generic]] = {"keys": self.keys.view(np.int64), "starts": self.starts}
        return {**arrays, "labels": self.labels, "flows": self.flows, "strength": np.array([self.strength])}

    @staticmethod
    def specs(classes: int) -> dict[str, Spec]:
        """Specifications of ``to_arrays``, for a model of this number of classes."""
        return {
            "keys": Spec("I64", ("D",), -(2.0**63), 2.0**63),
            "starts": Spec("I64", ("D+1",), 0),
            "labels": Spec("I64", ("E",), 0, classes - 1),
            "flows": Spec("I64", ("E",), 1, _MOST_FLOWS),
            "strength": Spec("F64", (1,), 1e-12),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> SequenceCounts:
        """The inverse of ``to_arrays``, for arrays that match ``specs``.

        Raises:
            KeyError: an array is missing.
            ValueError: the arrays are inconsistent.
        """
        keys, starts, labels, flows = (arrays[name].astype(np.int64) for name in ("keys", "starts", "labels", "flows"))
        counts = cls(keys.view(np.uint64), starts, labels, flows, float(arrays["strength"].astype(np.float64)[0]))
        if not (counts.keys[1:] > counts.keys[:-1]).all():
            raise ValueError("array memory.keys: must be strictly increasing")
        if starts[0] != 0 or starts[-1] != len(labels) or not (starts[1:] > starts[:-1]).all():
            raise ValueError(
                f"array memory.starts: must be strictly increasing from 0 to {len(labels)}, the length of memory.labels"
            )
        return counts


def _posterior(
    count_NC: NDArray[np.float64], probabilities_NC: NDArray[np.floating], strength: float
) -> NDArray[np.float64]:
    found: NDArray[np.float64] = count_NC + strength * probabilities_NC
    return found / found.sum(axis=1, keepdims=True)


def _keys(sequences: Mapping[str, NDArray[np.int32]]) -> NDArray[np.uint64]:
    """(N,) one hash of all ids of a row, characteristics in the order of their names."""
    columns = [ids_N.astype(np.uint64) for name in sorted(sequences) for ids_N in sequences[name].T]
    return np.asarray(mix(columns))
