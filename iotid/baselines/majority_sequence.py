"""The majority label of each exact sequence: what memorising reaches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from iotid.baselines.sequences import label_counts
from iotid.dataset.arrays import exact_keys, side_by_side

if TYPE_CHECKING:
    from iotid.dataset import EncodedFlows

# Weight, in flows, of the class frequencies that every sequence starts with: too small to outvote a flow seen, enough
# to break ties towards the commoner class and to predict a sequence that was never seen.
_PRIOR_FLOWS = 1e-6


class MajoritySequence:
    """Finds each sequence among those of training, and predicts the shares of the labels that it had there.

    A sequence never seen gets the class frequencies of training, so the majority class. Its score on a test split is
    what memorising alone reaches. After Jerabek et al. 2025 (arXiv 2506.08655), who name the effect; the table is ours.
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
        seen_N = self._keys_U[index_N] == keys_N
        flows_NC: NDArray[np.float64] = self._flows_UC[index_N].toarray()
        flows_NC[~seen_N] = 0
        flows_NC += _PRIOR_FLOWS * self._prior_C
        return flows_NC / flows_NC.sum(axis=1, keepdims=True)
