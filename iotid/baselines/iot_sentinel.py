"""IoT SENTINEL (Miettinen et al., ICDCS 2017): the first distinct packets that a device sends.

Shape suffixes: P packets, U captures of a device, R packets of a capture, F features of a packet, D features of a
capture, C classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from iotid.baselines.ports import APPLICATIONS, ICMP, ICMPV6, TCP, UDP, is_application, port_class
from iotid.dataset.arrays import distinct_rows

if TYPE_CHECKING:
    from iotid.baselines.device_flows import DeviceFlows

_PACKETS, _REFERENCES, _NEGATIVES = 12, 5, 10  # as published
_LONGEST = 200  # packets of a capture that are compared by edit distance: it takes quadratic time


class IotSentinel:
    """A random forest for each class; if several accept a capture, the smallest edit distance decides.

    As published: a class's forest learns from its captures and ten times as many others, on the first 12 distinct
    packets; each accepting class is compared by 5 of its captures, drawn at random, in Damerau-Levenshtein distance of
    packet sequences without consecutive duplicates, divided by the longer one's length.

    Of the 23 features of a packet, flows of IP packets show 16. Always equal, so left out: ARP, LLC, IP and EAPoL, the
    IP options padding and router alert, and BOOTP, which has DHCP's ports. ICMP is seen if ``dataset.protocols`` has
    it. Packets after the first ``flow.max_packets`` of their flow are not seen. Application protocols are known by the
    ports of either end, and size is ``packet_length``.

    Reconstructed: 100 trees, scikit-learn's defaults otherwise; a transposition is of neighbours that are not edited
    again (optimal string alignment); at most 200 packets are compared, where the paper ends the setup phase by the
    rate of packets. Where no forest accepts, the paper reports an unknown type; here the forests' scores decide.
    """

    origin = (
        "IoT SENTINEL (Miettinen et al., ICDCS 2017; reconstruction: 16 of 23 features of a packet, as flows show no "
        "ARP, LLC, EAPoL and IP options)"
    )

    def __init__(self, seed: int, *, trees: int = 100) -> None:
        self._seed, self._trees = seed, trees

    def fit(self, captures: DeviceFlows, label_U: NDArray[np.int64], num_classes: int) -> Self:
        from sklearn.ensemble import RandomForestClassifier

        vectors = sent_vectors(captures)
        points_UD = np.stack([fingerprint(vectors_RF) for vectors_RF in vectors])
        random = np.random.default_rng(self._seed)
        self._num_classes = num_classes
        self._forests: dict[int, Any] = {}
        self._references: dict[int, list[NDArray[np.int32]]] = {}
        for label in np.unique(label_U).tolist():
            own, others = np.flatnonzero(label_U == label), np.flatnonzero(label_U != label)
            drawn = random.choice(others, min(len(others), _NEGATIVES * len(own)), replace=False)
            rows = np.concatenate([own, drawn])
            forest = RandomForestClassifier(self._trees, random_state=self._seed)
            self._forests[label] = forest.fit(points_UD[rows], label_U[rows] == label)
            chosen = random.choice(own, min(len(own), _REFERENCES), replace=False)
            self._references[label] = [vectors[unit] for unit in chosen]
        return self

    def probabilities(self, captures: DeviceFlows) -> NDArray[np.float64]:
        vectors = sent_vectors(captures)
        points_UD = np.stack([fingerprint(vectors_RF) for vectors_RF in vectors])
        found_UC = np.zeros((len(vectors), self._num_classes))
        for label, forest in self._forests.items():
            found_UC[:, label] = forest.predict_proba(points_UD)[:, -1]
        known = [vectors_RF for references in self._references.values() for vectors_RF in references]
        numbers = iter(_number_vectors([vectors_RF[:_LONGEST] for vectors_RF in [*known, *vectors]]))
        references = {label: [next(numbers) for _ in of_label] for label, of_label in self._references.items()}
        for own, scores_C in zip(numbers, found_UC, strict=True):
            accepted = np.flatnonzero(scores_C > 0.5)
            if len(accepted):
                likely = accepted.tolist() if len(accepted) > 1 else ()
                distances = [np.mean([_relative_distance(own, each) for each in references[label]]) for label in likely]
                scores_C[:] = np.arange(len(scores_C)) == accepted[np.argmin(distances) if distances else 0]
            elif not scores_C.any():
                scores_C[list(self._forests)] = 1
        return np.asarray(found_UC / found_UC.sum(axis=1, keepdims=True))


def sent_vectors(captures: DeviceFlows) -> list[NDArray[np.int32]]:
    """(R, F) features of the packets that the device sends in each capture, in order, without consecutive duplicates.

    F: ICMP, ICMPv6, TCP, UDP, seven application protocols, length, whether there is payload, number of the destination
    address in order of contact, classes of source and destination port.
    """
    packets = captures.packets(["packet_length", "payload_length"])
    sent_P = packets["sent"] == 1
    flow_P, length_P, payload_P = (packets[name][sent_P] for name in ("flow", "packet_length", "payload_length"))
    unit_P, protocol_P = captures.unit[flow_P], captures.column("protocol")[flow_P].astype(np.int64)
    source_P, target_P = captures.local_port[flow_P], captures.remote_port[flow_P]
    columns = [
        *(protocol_P == each for each in (ICMP, ICMPV6, TCP, UDP)),
        *(is_application(name, protocol_P, source_P, target_P) for name in APPLICATIONS),
        length_P,
        payload_P > 0,
        _order_of_contact(unit_P, captures.remote[flow_P]),
        port_class(protocol_P, source_P),
        port_class(protocol_P, target_P),
    ]
    vectors_PF = np.stack(columns, axis=1).astype(np.int32)
    is_new_P = np.ones(len(unit_P), np.bool_)
    is_new_P[1:] = (unit_P[1:] != unit_P[:-1]) | (vectors_PF[1:] != vectors_PF[:-1]).any(axis=1)
    starts_U = np.searchsorted(unit_P[is_new_P], np.arange(1, captures.units))
    return np.split(vectors_PF[is_new_P], starts_U)


def fingerprint(vectors_RF: NDArray[np.int32]) -> NDArray[np.int32]:
    """(12 F,) the first 12 distinct packets, zero-padded."""
    if not len(vectors_RF):
        return np.zeros(_PACKETS * vectors_RF.shape[1], np.int32)
    first = np.sort(np.unique(distinct_rows(vectors_RF)[1], return_index=True)[1])[:_PACKETS]
    return np.pad(vectors_RF[first], ((0, _PACKETS - len(first)), (0, 0))).ravel()


def edit_distance(first: NDArray[np.int64], second: NDArray[np.int64]) -> int:
    """Damerau-Levenshtein distance (optimal string alignment) of two sequences, by rows of the usual table."""
    steps = np.arange(len(second) + 1)
    earlier, row = steps, steps
    for done, value in enumerate(first, 1):
        following = np.append(done, np.minimum(row[1:] + 1, row[:-1] + (second != value)))
        if done > 1:
            is_swapped = (second[1:] == first[done - 2]) & (second[:-1] == value)
            following[2:] = np.where(is_swapped, np.minimum(following[2:], earlier[:-2] + 1), following[2:])
        # insertions: the least of a cell to the left plus the columns between
        earlier, row = row, np.minimum.accumulate(following - steps) + steps
    return int(row[-1])


def _relative_distance(first: NDArray[np.int64], second: NDArray[np.int64]) -> float:
    """From 0 (equal) to 1."""
    return edit_distance(first, second) / max(len(first), len(second), 1)


def _number_vectors(vectors: list[NDArray[np.int32]]) -> list[NDArray[np.int64]]:
    """Each capture's packets as numbers, equal where the vectors are."""
    ends = np.cumsum([len(vectors_RF) for vectors_RF in vectors])
    joined = np.concatenate(vectors)
    numbers = distinct_rows(joined)[1] if len(joined) else np.zeros(0, np.int64)
    return np.split(numbers, ends[:-1])


def _order_of_contact(unit_P: NDArray[np.int64], remote_P: NDArray[np.int64]) -> NDArray[np.int64]:
    """(P,) 1 for packets to a capture's first destination, 2 for those to its second, …; packets in order of time."""
    width = int(remote_P.max(initial=0)) + 1
    _, first_D, pair_P = np.unique(unit_P * width + remote_P, return_index=True, return_inverse=True)
    order_D = np.argsort(np.argsort(first_D))  # of first contact, over all captures
    least_U = np.full(int(unit_P.max(initial=-1)) + 1, len(first_D))
    np.minimum.at(least_U, unit_P, order_D[pair_P])
    return np.asarray(order_D[pair_P] - least_U[unit_P] + 1)
