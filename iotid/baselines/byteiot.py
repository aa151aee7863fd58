"""ByteIoT (Duan et al., IEEE TNSM 2021): nearest neighbour of half hours, by distribution of packet lengths and
directions.

Shape suffixes: R rows of counts, S bins, B bins of a block, T training bins, D (frame length, direction) pairs,
C classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from iotid.baselines.windows import Samples, time_windows

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

    from iotid.dataset import DeviceTraffic

BIN_S = 1800
"""Seconds of a bin (the authors' ``t // 1800``)."""

_BLOCK = 1 << 22  # distances in memory at a time: 32 MiB
_DIGITS = 12  # decimals of the sums in a distance, so that equal distances do not differ by rounding


def samples(traffic: DeviceTraffic) -> Samples:
    """One sample for each half hour of a device: the shares of its packets by frame length and direction, sparse.

    The columns are the pairs in all of ``traffic``. A pair that is not in training adds the same to the squared
    distance to every training sample, so it does not change which is nearest.
    """
    from scipy.sparse import coo_matrix

    counts = traffic.table
    bins = time_windows(counts, BIN_S)
    packets_R = counts["packets"].to_numpy().astype(np.float64)
    share_R = packets_R / bins.sum(packets_R)[bins.sample]
    sent_R = counts["sent"].to_numpy()
    pairs, column_R = np.unique(counts["frame_length"].to_numpy() * 2 + sent_R, return_inverse=True)
    shape = (len(bins.samples.start_s), len(pairs))
    return bins.samples._replace(features=coo_matrix((share_R, (bins.sample, column_R)), shape=shape).tocsr())


class ByteIot:
    """The nearest neighbour (k = 1) by Hellinger distance, after the authors' published code.

    Among equally distant neighbours the first in training order wins. Nothing essential is guessed; unlike the
    original, only frames of IP packets count, see `read_device_traffic`.
    """

    origin = "ByteIoT, nearest half hour by packet lengths (Duan et al., TNSM 2021, after the authors' code)"

    def fit(self, features_SD: csr_matrix, label_S: NDArray[np.int64], num_classes: int) -> Self:
        self._known_TD, self._label_T, self._num_classes = features_SD, label_S, num_classes
        return self

    def probabilities(self, features_SD: csr_matrix) -> NDArray[np.float64]:
        found_SC = np.zeros((features_SD.shape[0], self._num_classes))
        size = max(1, _BLOCK // len(self._label_T))
        for start in range(0, len(found_SC), size):
            nearest_B = distances(features_SD[start : start + size], self._known_TD).argmin(axis=1)
            found_SC[start + np.arange(len(nearest_B)), self._label_T[nearest_B]] = 1
        return found_SC


def distances(p_SD: csr_matrix, q_TD: csr_matrix) -> NDArray[Any]:
    """(S, T) Hellinger distances between distributions, from 0 (equal) to 1 (nothing in common).

    sqrt(sum((sqrt p - sqrt q)^2) / 2), which is sqrt(1 - sum(sqrt(p q))).
    """
    common_ST = (p_SD.sqrt() @ q_TD.sqrt().T).toarray()
    return np.sqrt(np.maximum(1 - common_ST, 0).round(_DIGITS))
