"""Inputs of baselines: flows of each label by key, and the raw values of vocabulary ids.

Shapes: N rows, U distinct rows, K characteristics, M packets of a row, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from iotid.dataset import Encoding


def label_counts(
    keys_N: NDArray[np.void], label_N: NDArray[np.int64], num_flows_N: NDArray[np.int64], num_classes: int
) -> tuple[NDArray[np.intp], Any]:
    """(U,) first row of each distinct key, sorted by key, and (U, C) sparse number of flows of each label.

    Sparse, because nearly every sequence has only one label.
    """
    from scipy.sparse import coo_matrix

    _, first_U, which_N = np.unique(keys_N, return_index=True, return_inverse=True)
    counts_UC = coo_matrix((num_flows_N.astype(np.float64), (which_N, label_N)), shape=(len(first_U), num_classes))
    return first_U, counts_UC.tocsr()


class RawValues:
    """Decodes vocabulary ids to raw values, which unlike ids have distances.

    Padding becomes 0, as in the papers' zero-padded vectors. The value of an out-of-vocabulary id is unknown; it
    becomes the median of the vocabulary.
    """

    def __init__(self, encoding: Encoding) -> None:
        self._tables: dict[str, NDArray[np.float64]] = {}
        for name, vocabulary in encoding.vocabularies.items():
            values = np.asarray(vocabulary.values, dtype=np.float64)
            median = float(np.median(values)) if len(values) else 0.0
            self._tables[name] = np.concatenate([[0.0, median], values])

    def decode(self, sequences: Mapping[str, NDArray[np.int32]]) -> dict[str, NDArray[np.float64]]:
        """Name -> (N, M) raw values, in the unit of the characteristic."""
        return {name: self._tables[name][ids_NM] for name, ids_NM in sequences.items()}
