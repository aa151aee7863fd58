"""Permutation importance of each characteristic (Breiman 2001, "Random Forests", section 10).

Each flow gets the characteristic's sequence of another flow with as many packets. So every network of the ensemble
still reads realistic sequences, which blanked values would not be; only the relation to the flow is lost. A flow of
unique length keeps its own.

Shape suffixes: N rows, M packets.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from iotid.dataset.characteristics import PADDING


def permute_characteristic(
    sequences: Mapping[str, NDArray[np.int32]], characteristic: str, num_flows: NDArray[np.int64], seed: int
) -> dict[str, NDArray[np.int32]]:
    """``sequences`` (N, M), with those of one characteristic drawn from all flows of each row's length.

    Rows are drawn in proportion to ``num_flows`` (N,), so that the characteristic's marginal distribution is kept.
    """
    own_NM = sequences[characteristic]
    packets_N = (own_NM != PADDING).sum(axis=1)
    random = np.random.default_rng(seed)
    drawn_N = np.arange(len(own_NM))
    for packets in np.unique(packets_N):
        rows = np.flatnonzero(packets_N == packets)
        shares = num_flows[rows] / num_flows[rows].sum()
        drawn_N[rows] = random.choice(rows, len(rows), p=shares)
    return {**sequences, characteristic: own_NM[drawn_N]}
