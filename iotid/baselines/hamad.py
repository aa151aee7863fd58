"""Hamad et al. (TrustCom 2019): statistics of short sequences of packets that a device sends.

Shape suffixes: P packets, I sequences, D features, U captures of a device, C classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from iotid.baselines.device_flows import mean_vote, shares
from iotid.baselines.ports import APPLICATIONS, TCP, UDP, is_application, port_class

if TYPE_CHECKING:
    from iotid.baselines.device_flows import DeviceFlows

_SEQUENCE = 20  # packets
_FLAGS = range(6)  # bits of FIN, SYN, RST, PSH, ACK, URG


class Hamad:
    """A random forest, the best of the paper's classifiers, on 51 features of 20 consecutive packets.

    The paper derives 67 features from the headers of a sequence of packets. Rebuilt by their groups, as the list is not
    repeated here: mean, standard deviation, sum, minimum and maximum of packet length, payload, header length, TCP
    window and inter-arrival time; packets by transport and application protocol, TCP flag and port class; numbers of
    distinct addresses, ports and flows. Not read: TTL and fragmentation, which flows have with
    ``flow.header_fields`` only, and IP options, which they have not.

    Guessed: 20 packets, those that the device sends; a capture's last sequence may be shorter; 100 trees; the vote of a
    capture's sequences is the mean of their probabilities. Packets after the first ``flow.max_packets`` of their flow
    are not seen.
    """

    origin = (
        "random forest on statistics of 20 packets sent (Hamad et al., TrustCom 2019; reconstruction: 51 features for "
        "its 67, without TTL; length of sequences and vote guessed)"
    )

    def __init__(self, seed: int, *, trees: int = 100) -> None:
        self._seed, self._trees = seed, trees

    def fit(self, captures: DeviceFlows, label_U: NDArray[np.int64], num_classes: int) -> Self:
        from sklearn.ensemble import RandomForestClassifier

        features_ID, unit_I = sequence_features(captures)
        if not len(unit_I):  # no device sends, as in captures of one direction; a forest needs samples
            features_ID, unit_I = np.zeros((len(label_U), features_ID.shape[1])), np.arange(len(label_U))
        self._forest: Any = RandomForestClassifier(self._trees, random_state=self._seed, n_jobs=-1)
        self._forest.fit(features_ID, label_U[unit_I])
        # the order in which threads add the trees' votes would change the last digits
        self._forest.set_params(n_jobs=1)
        self._prior_C = shares(label_U, num_classes)
        return self

    def probabilities(self, captures: DeviceFlows) -> NDArray[np.float64]:
        features_ID, unit_I = sequence_features(captures)
        return mean_vote(self._forest, features_ID, unit_I, captures.units, self._prior_C)


def sequence_features(captures: DeviceFlows) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """(features (I, D), the capture of each sequence (I,)); lengths in bytes, times in seconds."""
    packets = captures.packets(["packet_length", "payload_length", "tcp_window", "tcp_flags"])
    packets = {name: values[packets["sent"] == 1] for name, values in packets.items()}
    flow_P, length_P, payload_P = packets["flow"], packets["packet_length"], packets["payload_length"]
    unit_P = captures.unit[flow_P]
    starts_U = np.searchsorted(unit_P, np.arange(captures.units))
    is_first_P = (np.arange(len(unit_P)) - starts_U[unit_P]) % _SEQUENCE == 0
    starts_I = np.flatnonzero(is_first_P)
    sequence_P = np.cumsum(is_first_P) - 1
    since_P = np.diff(packets["time_us"], prepend=0) / 1e6
    since_P[starts_I] = 0
    protocol_P = captures.column("protocol")[flow_P].astype(np.int64)
    source_P, target_P = captures.local_port[flow_P], captures.remote_port[flow_P]
    is_tcp_P, is_udp_P = protocol_P == TCP, protocol_P == UDP
    counted = [
        is_tcp_P,
        is_udp_P,
        ~(is_tcp_P | is_udp_P),
        *(is_application(name, protocol_P, source_P, target_P) for name in APPLICATIONS),
        *(packets["tcp_flags"] >> bit & 1 for bit in _FLAGS),
        *(port_class(protocol_P, port_P) == each for port_P in (source_P, target_P) for each in (1, 2, 3)),
    ]
    described = (length_P, payload_P, length_P - payload_P, packets["tcp_window"], since_P)
    features = [
        *(statistic for value_P in described for statistic in _statistics(value_P, starts_I, sequence_P)),
        *(np.bincount(sequence_P, weights=value_P, minlength=len(starts_I)) for value_P in counted),
        *(
            _distinct(value_P, sequence_P, len(starts_I))
            for value_P in (captures.remote[flow_P], source_P, target_P, flow_P)
        ),
    ]
    return np.stack(features, axis=1).astype(np.float64), unit_P[starts_I]


def _statistics(
    value_P: NDArray[Any], starts_I: NDArray[np.int64], sequence_P: NDArray[np.int64]
) -> list[NDArray[np.float64]]:
    """Mean, standard deviation (divisor n), sum, minimum and maximum of each sequence."""
    if not len(starts_I):
        return [np.zeros(0)] * 5
    sum_I = np.add.reduceat(value_P.astype(np.float64), starts_I)
    packets_I = np.diff(starts_I, append=len(value_P))
    mean_I = sum_I / packets_I
    deviation_I = np.sqrt(np.add.reduceat((value_P - mean_I[sequence_P]) ** 2, starts_I) / packets_I)
    return [mean_I, deviation_I, sum_I, np.minimum.reduceat(value_P, starts_I), np.maximum.reduceat(value_P, starts_I)]


def _distinct(value_P: NDArray[np.int64], sequence_P: NDArray[np.int64], sequences: int) -> NDArray[np.int64]:
    """(I,) the number of distinct values of each sequence."""
    width = int(value_P.max(initial=0)) + 1
    return np.bincount(np.unique(sequence_P * width + value_P) // width, minlength=sequences)
