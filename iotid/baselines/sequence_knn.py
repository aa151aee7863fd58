"""k nearest neighbours on the sequences, which deep networks often fail to beat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from iotid.baselines.sequences import RawValues, label_counts
from iotid.dataset.arrays import exact_keys, side_by_side

if TYPE_CHECKING:
    from iotid.dataset import EncodedFlows, Encoding


class SequenceKnn:
    """The ``neighbours`` nearest training flows by L1 distance over the raw values of the first ``packets`` packets.

    Jerabek et al. 2025 (arXiv 2506.08655): sizes, directions and times of the first N packets, N mostly 10 or fewer,
    each scaled, L1. A reconstruction: here the characteristics are those of the dataset, and each is divided by its
    standard deviation over the training flows' packets instead of by a factor searched on validation.

    Equal sequences are one point with all their flows, so a row with ``num_flows`` = 5 is five neighbours at the same
    distance. If only some of a point's flows are among the k neighbours, its labels share their votes.
    """

    origin = "k-NN on sequences (arXiv 2506.08655; reconstruction)"

    def __init__(self, encoding: Encoding, *, neighbours: int = 3, packets: int = 10) -> None:
        self._raw = RawValues(encoding)
        self._neighbours = neighbours
        self._packets = packets

    def fit(self, train: EncodedFlows, num_classes: int) -> Self:
        from sklearn.neighbors import NearestNeighbors

        first = self._first_packets(train.sequences)
        self._scale = {name: self._spread(name, ids_NM, train.num_flows) for name, ids_NM in first.items()}
        first_U, self._flows_UC = label_counts(
            exact_keys(side_by_side(first)), train.label, train.num_flows, num_classes
        )
        self._flows_U = np.asarray(self._flows_UC.sum(axis=1)).ravel()
        points_UD = self._points({name: ids_NM[first_U] for name, ids_NM in first.items()})
        near = min(self._neighbours, len(points_UD))
        # a tree, not brute force: short flows are padded with zeros, so the points use few of the D dimensions
        self._index: Any = NearestNeighbors(n_neighbors=near, metric="manhattan", algorithm="kd_tree", n_jobs=-1)
        self._index.fit(points_UD)
        return self

    def probabilities(self, sequences: Mapping[str, NDArray[np.int32]]) -> NDArray[np.float64]:
        first = self._first_packets(sequences)
        _, first_Q, which_N = np.unique(exact_keys(side_by_side(first)), return_index=True, return_inverse=True)
        nearest_QK = self._index.kneighbors(
            self._points({name: ids_NM[first_Q] for name, ids_NM in first.items()}), return_distance=False
        )
        flows_QK = self._flows_U[nearest_QK]
        taken_QK = np.clip(self._neighbours - (np.cumsum(flows_QK, axis=1) - flows_QK), 0, flows_QK)
        votes_QC = np.zeros((len(first_Q), self._flows_UC.shape[1]))
        for rank in range(nearest_QK.shape[1]):
            share_Q1 = (taken_QK[:, rank] / flows_QK[:, rank])[:, np.newaxis]
            votes_QC += share_Q1 * self._flows_UC[nearest_QK[:, rank]].toarray()
        probabilities_QC: NDArray[np.float64] = votes_QC / votes_QC.sum(axis=1, keepdims=True)
        return probabilities_QC[which_N]

    def _first_packets(self, sequences: Mapping[str, NDArray[np.int32]]) -> dict[str, NDArray[np.int32]]:
        return {name: ids_NM[:, : self._packets] for name, ids_NM in sequences.items()}

    def _spread(self, name: str, ids_NM: NDArray[np.int32], num_flows_N: NDArray[np.int64]) -> float:
        """Standard deviation over the packets without padding, each counted once per flow; 1 if all are equal."""
        present_NM = ids_NM > 0
        weight_P = np.broadcast_to(num_flows_N[:, np.newaxis], ids_NM.shape)[present_NM]
        if not len(weight_P):
            return 1.0
        value_P = self._raw.decode({name: ids_NM})[name][present_NM]
        mean = np.average(value_P, weights=weight_P)
        return float(np.sqrt(np.average((value_P - mean) ** 2, weights=weight_P))) or 1.0

    def _points(self, first: Mapping[str, NDArray[np.int32]]) -> NDArray[np.float64]:
        return side_by_side({name: value / self._scale[name] for name, value in self._raw.decode(first).items()})
