"""The majority label of each exact sequence: the score of memorising alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from iotid.baselines.sequences import label_counts
from iotid.dataset.arrays import exact_keys, side_by_side

if TYPE_CHECKING:
    from iotid.dataset import EncodedFlows

# Weight, in flows, of the class frequencies added to every sequence: too small to outvote a training flow, enough to
# break ties towards the commoner class and to predict a new sequence.
_PRIOR_FLOWS = 1e-6


class MajoritySequence:
    """Predicts for each sequence the shares of its labels in training.

    A new sequence gets the class frequencies of training, so the majority class. The score on a test split is that of
    memorising alone. After Jerabek et al. 2025 (arXiv 2506.08655), who describe the effect; the method is ours.
    """

    origin = "memory of exact sequences (ours, after the finding of arXiv 2506.08655)"

    def fit(self, train: EncodedFlows, num_classes: int) -> Self:
        keys_N = exact_keys(side_by_side(train.sequences))
        first_U, self._flows_UC = label_counts(keys_N, train.label, train.num_flows, num_classes)
        self._keys_U = keys_N[first_U]
        frequency_C = np.bincount(train.label, weights=train.num_flows, minlength=num_classes)
        self._prior_C = frequency_C / frequency_C.sum()
        return self

    def probabilities(self, sequences: Mapping[str, NDArray[np.int32]]) -> NDArray[np.float64]:
        keys_N = exact_keys(side_by_side(sequences))
        index_N = np.minimum(np.searchsorted(self._keys_U, keys_N), len(self._keys_U) - 1)
        known_N = self._keys_U[index_N] == keys_N
        flows_NC: NDArray[np.float64] = self._flows_UC[index_N].toarray()
        flows_NC[~known_N] = 0
        flows_NC += _PRIOR_FLOWS * self._prior_C
        return flows_NC / flows_NC.sum(axis=1, keepdims=True)
