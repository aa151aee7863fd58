"""DEFT (Thangavelu et al., IEEE Internet of Things Journal 2019): a forest on quarter hours of a device, and clusters
of those that it does not know.

Shape suffixes: N flows, S sessions, D features, U captures of a device, C classes, A application protocols.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from iotid.arrow import one_chunk
from iotid.baselines.device_flows import DeviceFlows, elbow, mean_vote, most_frequent, number_values, shares
from iotid.baselines.ports import APPLICATIONS, TCP, UDP

SESSION_US = 900_000_000
"""Length of a device session: 15 minutes, as published."""

# application protocols by transport and server port, IANA's service names; others than those of APPLICATIONS
_FURTHER = {
    "dns": ((TCP, 53),),
    "http": ((TCP, 8080),),
    "https": ((TCP, 8443),),
    "quic": ((UDP, 443),),
    "mqtt": ((TCP, 1883), (TCP, 8883)),
    "stun": ((UDP, 3478),),
}
_APPLICATIONS = {
    name: (*APPLICATIONS.get(name, ()), *_FURTHER.get(name, ()))
    for name in ("dns", "dhcp", "http", "https", "quic", "ntp", "ssdp", "mdns", "mqtt", "stun")
}
_COUNTS = ("client_packets", "server_packets", "client_bytes", "server_bytes")
_TREES, _LEAST_SHARE, _MOST_CLUSTERS = 100, 0.5, 40


class Sessions(NamedTuple):
    """The sessions that have flows: capture (S,) of each, sorted, and features (S, D)."""

    unit: NDArray[np.int64]
    features: NDArray[np.float64]


class Deft:
    """Random forest on sessions; a capture's answer is the mean of its sessions'. `groups` also finds new groups.

    As published: device sessions of 15 minutes; counts of application protocols and statistics of TCP and UDP flows;
    known devices by a random forest at the gateway, which rejects sessions that it is not sure of; their features,
    reduced by linear discriminant analysis, are clustered by k-means with the elbow method at the controller.

    Reconstructed: the list of features (here from FLOWS: applications by server port, without the content of DNS, HTTP
    or TLS messages), a session's begin (with the capture's first flow; a flow is in the session that it begins in), the
    number of trees, the least share of votes (0.5), the definition of the elbow (the greatest distance from the line
    between the ends) and the most clusters. Gateway and controller are one process.
    """

    origin = (
        "DEFT, random forest on quarter hours (Thangavelu et al., IoT-J 2019; features and parameters: reconstruction)"
    )

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def fit(self, captures: DeviceFlows, label_U: NDArray[np.int64], num_classes: int) -> Self:
        from sklearn.ensemble import RandomForestClassifier

        sessions = device_sessions(captures)
        label_S = label_U[sessions.unit]
        self._prior_C = shares(label_U, num_classes)
        self._forest: Any = RandomForestClassifier(_TREES, random_state=self._seed, n_jobs=1)
        self._forest.fit(sessions.features, label_S)
        self._learned = sessions.features, label_S
        return self

    def probabilities(self, captures: DeviceFlows) -> NDArray[np.float64]:
        return self._shares(device_sessions(captures), captures.units)

    def groups(self, captures: DeviceFlows) -> NDArray[np.int64]:
        """(U,) the class of each capture that the forest knows; C and more: the cluster of another.

        A capture is in the cluster of most of its sessions; the first of equals.
        """
        sessions = device_sessions(captures)
        share_UC = self._shares(sessions, captures.units)
        group_U, is_new_U = share_UC.argmax(axis=1), share_UC.max(axis=1) < _LEAST_SHARE
        is_new_S = is_new_U[sessions.unit]
        if is_new_S.any():
            new_SD = sessions.features[is_new_S]
            cluster_S = _clusters(_discriminants(*self._learned, new_SD), self._seed)
            cluster_U = np.maximum(most_frequent(cluster_S, sessions.unit[is_new_S], captures.units), 0)
            group_U = np.where(is_new_U, len(self._prior_C) + cluster_U, group_U)
        return group_U

    def _shares(self, sessions: Sessions, units: int) -> NDArray[np.float64]:
        return mean_vote(self._forest, sessions.features, sessions.unit, units, self._prior_C)


def device_sessions(captures: DeviceFlows) -> Sessions:
    """Logarithms of sums, means and deviations over the flows of each session.

    For each application, and for all other flows of TCP, of UDP and of other protocols: number of flows, packets and
    bytes in both directions. For TCP and for UDP: mean and standard deviation of duration, of packets, of bytes and of
    bytes of a packet. For all: distinct server addresses and ports, and the share of flows that the device opened.
    """
    first_N, last_N = captures.column("first_seen"), captures.column("last_seen")
    begin_U = np.full(captures.units, np.iinfo(np.int64).max)
    np.minimum.at(begin_U, captures.unit, first_N)
    number_N = (first_N - begin_U[captures.unit]) // SESSION_US
    keys_S2, session_N = np.unique(np.stack([captures.unit, number_N], axis=1), axis=0, return_inverse=True)
    session_N, S = session_N.ravel(), len(keys_S2)
    protocol_N, port_N = captures.column("protocol"), captures.column("server_port")
    counts = {name: captures.column(name).astype(np.float64) for name in _COUNTS}
    application_N, A = _applications(protocol_N, port_N)

    def total(value_N: NDArray[Any], of_N: NDArray[np.int64], width: int) -> NDArray[np.float64]:
        return np.bincount(session_N * width + of_N, value_N, S * width).reshape(S, width)

    columns: list[NDArray[Any]] = [
        total(value_N, application_N, A) for value_N in (np.ones(len(session_N)), *counts.values())
    ]
    transport_N = np.where(protocol_N == TCP, 0, np.where(protocol_N == UDP, 1, 2))
    flows_ST = np.maximum(total(np.ones(len(session_N)), transport_N, 3), 1)
    packets_N = counts["client_packets"] + counts["server_packets"]
    bytes_N = counts["client_bytes"] + counts["server_bytes"]
    for value_N in (np.maximum(last_N - first_N, 0) / 1000, packets_N, bytes_N, bytes_N / np.maximum(packets_N, 1)):
        mean_ST = total(value_N, transport_N, 3) / flows_ST
        square_ST = total((value_N - mean_ST[session_N, transport_N]) ** 2, transport_N, 3) / flows_ST
        columns += [mean_ST[:, :2], np.sqrt(square_ST)[:, :2]]
    address_N = number_values(one_chunk(captures.flows["server_ip"]))
    for value_N in (address_N, protocol_N.astype(np.int64) << 16 | port_N):
        distinct = np.unique(np.stack([session_N, value_N], axis=1), axis=0)[:, 0]
        columns.append(np.bincount(distinct, minlength=S)[:, np.newaxis])
    opened_S = np.bincount(session_N, captures.is_client, S) / np.bincount(session_N, minlength=S)
    return Sessions(keys_S2[:, 0], np.log1p(np.concatenate([*columns, opened_S[:, np.newaxis]], axis=1)))


def _applications(protocol_N: NDArray[Any], port_N: NDArray[Any]) -> tuple[NDArray[np.int64], int]:
    """((N,) application of each flow, their number); the last three are other TCP, other UDP and other protocols."""
    other = len(_APPLICATIONS)
    found_N = np.where(protocol_N == TCP, other, np.where(protocol_N == UDP, other + 1, other + 2))
    for number, ports in enumerate(_APPLICATIONS.values()):
        for protocol, port in ports:
            found_N[(protocol_N == protocol) & (port_N == port)] = number
    return found_N, other + 3


def _discriminants(
    features_SD: NDArray[np.float64], label_S: NDArray[np.int64], new_SD: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(S, classes - 1) linear discriminants of ``new_SD``; of a single class, or of sessions equal in each class, none:
    ``new_SD`` itself."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    classes = np.unique(label_S)
    if len(classes) < 2 or not any(np.ptp(features_SD[label_S == each], axis=0).any() for each in classes):
        return new_SD
    axes = LinearDiscriminantAnalysis(solver="eigen", shrinkage=0.1).fit(features_SD, label_S)
    return np.asarray(axes.transform(new_SD))


def _clusters(points_SD: NDArray[np.float64], seed: int) -> NDArray[np.int64]:
    """(S,) k-means clusters; k is where the sum of squares bends most."""
    from sklearn.cluster import KMeans

    most = min(_MOST_CLUSTERS, len(np.unique(points_SD, axis=0)))
    fitted = [KMeans(k, n_init=3, random_state=seed).fit(points_SD) for k in range(1, most + 1)]
    inertia_K = np.array([each.inertia_ for each in fitted])
    return np.asarray(fitted[elbow(inertia_K)].labels_, np.int64)
