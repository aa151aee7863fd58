"""PingPong (Trimananda et al., NDSS 2020): pairs of packet lengths that recur in a device's TCP connections.

Shape suffixes: N flows, P packets, E pairs, V distinct pairs, U captures of a device, S signature pairs, C classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from iotid.baselines.ports import TCP
from iotid.dataset.arrays import first_values

if TYPE_CHECKING:
    import pyarrow as pa

    from iotid.baselines.device_flows import DeviceFlows

_EPS = 10  # bytes, as published
_TOLERANCE = 0.1  # a pair recurs if at least n - 0.1 n captures have it: the paper's bound, for events
_ALL = np.iinfo(np.int32).max
_NO_EVIDENCE = 1.0  # added to a kind's weights, so that few pairs, or pairs of many kinds, prove little


class PacketPairs(NamedTuple):
    """Pairs of consecutive packets in opposite directions, (E,) each.

    ``flow``: index of the pair's flow; ``by_client``: whether the client sends the first packet; ``first`` and
    ``second``: bytes of payload.
    """

    flow: NDArray[np.int64]
    by_client: NDArray[np.bool_]
    first: NDArray[np.int64]
    second: NDArray[np.int64]


def packet_pairs(flows: pa.Table | pa.RecordBatch) -> PacketPairs:
    """The pairs of TCP connections, as the paper forms them: packets without payload do not count, a packet is in one
    pair at most, and one that is followed by another of its own direction is in none.

    ``flows``: protocol, direction and payload_length of FLOWS; only the first packets are there.
    """
    length_P, lengths_N = first_values(flows.column("payload_length"), _ALL)
    direction_P, _ = first_values(flows.column("direction"), _ALL)
    flow_P = np.repeat(np.arange(len(lengths_N)), lengths_N)
    counts_P = (length_P > 0) & (np.asarray(flows.column("protocol")) == TCP)[flow_P]
    flow_P, length_P, by_client_P = flow_P[counts_P], length_P[counts_P], direction_P[counts_P] > 0
    answers_P = np.zeros(len(flow_P), np.bool_)  # of the same flow and other direction than the packet before
    answers_P[1:] = (flow_P[1:] == flow_P[:-1]) & (by_client_P[1:] != by_client_P[:-1])
    number_P = np.arange(len(flow_P))
    since_P = number_P - np.maximum.accumulate(np.where(answers_P, 0, number_P))
    second = np.flatnonzero(since_P % 2)
    return PacketPairs(flow_P[second], by_client_P[second - 1], length_P[second - 1], length_P[second])


class PingPong:
    """A kind's signature is the pairs that recur in its captures; the kind whose signature a capture has is the answer.

    As published: pairs of TCP packets with payload; DBSCAN of their lengths with eps 10, minimum size n - 0.1 n; a
    cluster of equal pairs matches exactly, another within eps of its core points' range; detection by matching.

    Reconstructed, because the paper detects events whose times it knows: a capture stands for an event, so n is the
    number of the kind's captures, and a pair counts once in each. Clusters with more than n + 0.1 n pairs are kept (as
    captures are whole, keep-alive messages may identify a device). Each pair is matched alone and not as a sequence. A
    pair's weight is its share of the kind's captures, divided by the sum of its shares of all kinds; the score of a
    kind is the weight of its pairs in the capture, divided by 1 + the weight of its pairs. Only the first packets of a
    flow are there, and TLS handshakes are not left out. A capture without any known pair gets the shares in training of
    kinds without signature, or of all kinds.
    """

    origin = (
        "PingPong, recurring pairs of packet lengths (Trimananda et al., NDSS 2020; a capture for each event: "
        "reconstruction)"
    )

    def fit(self, captures: DeviceFlows, label_U: NDArray[np.int64], num_classes: int) -> Self:
        units_C = np.bincount(label_U, minlength=num_classes)
        unit_V, pairs_V3 = _distinct(captures)
        found = [
            (label, box)
            for label in range(num_classes)
            for box in _signature(pairs_V3[label_U[unit_V] == label], int(units_C[label]))
        ]
        self._kind_S = np.array([label for label, _ in found], np.int64)
        self._boxes_S5 = np.array([box for _, box in found], np.int64).reshape(-1, 5)
        hits_US = self._hits(captures)
        share_CS = np.eye(num_classes)[:, label_U] @ hits_US / np.maximum(units_C, 1)[:, np.newaxis]
        own_S = share_CS[self._kind_S, np.arange(len(found))]
        weight_S = own_S / share_CS.sum(axis=0)
        weight_C = np.bincount(self._kind_S, weight_S, num_classes)
        self._score_SC = np.eye(num_classes)[self._kind_S] * weight_S[:, np.newaxis] / (_NO_EVIDENCE + weight_C)
        without_C = np.where(weight_C > 0, 0, units_C)
        self._prior_C = without_C / without_C.sum() if without_C.any() else units_C / units_C.sum()
        return self

    def probabilities(self, captures: DeviceFlows) -> NDArray[np.float64]:
        score_UC = self._hits(captures) @ self._score_SC
        whole_U1 = score_UC.sum(axis=1, keepdims=True)
        return np.where(whole_U1 > 0, score_UC / np.where(whole_U1 > 0, whole_U1, 1), self._prior_C)

    def _hits(self, captures: DeviceFlows) -> NDArray[np.float64]:
        """(U, S) 1 where the capture has a pair that the signature pair matches."""
        from scipy.sparse import coo_matrix

        unit_E, pairs_E3 = _distinct(captures)
        pairs_V3, which_E = np.unique(pairs_E3, axis=0, return_inverse=True)
        by_client_V, first_V, second_V = (column[:, np.newaxis] for column in pairs_V3.T)
        by_client_S, low_S, high_S, low2_S, high2_S = self._boxes_S5.T
        inside_VS = (by_client_V == by_client_S) & (first_V >= low_S) & (first_V <= high_S)
        inside_VS &= (second_V >= low2_S) & (second_V <= high2_S)
        shape = (captures.units, len(pairs_V3))
        has_UV = coo_matrix((np.ones(len(unit_E)), (unit_E, which_E.ravel())), shape=shape).tocsr()
        return np.asarray(has_UV @ inside_VS.astype(np.float64) > 0, np.float64)


def _distinct(captures: DeviceFlows) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(V,) capture and (V, 3) by_client, first and second of the distinct pairs of each capture."""
    pairs = packet_pairs(captures.flows)
    rows_E4 = np.stack([captures.unit[pairs.flow], pairs.by_client, pairs.first, pairs.second], axis=1)
    rows_V4 = np.unique(rows_E4.astype(np.int64), axis=0)
    return rows_V4[:, 0], rows_V4[:, 1:]


def _signature(pairs_E3: NDArray[np.int64], captures: int) -> list[tuple[Any, ...]]:
    """by_client, least and greatest first and second length of each cluster; ``pairs_E3``: of all of a kind's
    captures."""
    from sklearn.cluster import DBSCAN

    found = []
    for by_client in (0, 1):
        own = pairs_E3[pairs_E3[:, 0] == by_client, 1:]
        if not len(own):
            continue
        lengths_V2, captures_V = np.unique(own, axis=0, return_counts=True)
        clusters = DBSCAN(eps=_EPS, min_samples=max(captures - int(_TOLERANCE * captures), 1))
        cluster_V = clusters.fit(lengths_V2, sample_weight=captures_V).labels_
        core = clusters.core_sample_indices_
        for cluster in range(cluster_V.max() + 1):
            cores_2 = lengths_V2[core[cluster_V[core] == cluster]]
            margin = _EPS if (cluster_V == cluster).sum() > 1 else 0
            (low, low2), (high, high2) = cores_2.min(axis=0) - margin, cores_2.max(axis=0) + margin
            found.append((by_client, low, high, low2, high2))
    return found
