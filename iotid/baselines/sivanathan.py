"""Sivanathan et al. (IEEE TMC 2018): bags of words and statistics of flows in an hour, in two stages.

Shape suffixes: N flows, I hours of captures, V words, D features, U captures of a device, C classes.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from iotid.baselines.device_flows import mean_vote, shares
from iotid.baselines.payload import cipher_suites, dns_query
from iotid.baselines.ports import TCP, is_application

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

    from iotid.baselines.device_flows import DeviceFlows

_HOUR_US = 3_600_000_000
_NONE = -1.0  # an interval of which there is none in an hour


class Words(NamedTuple):
    """Words of hours of captures: the hour and the word of each occurrence."""

    hour: NDArray[np.int64]
    word: NDArray[Any]


class Sivanathan:
    """Stage 0: multinomial naive Bayes for each bag of words; stage 1: a random forest on its answers and 6 statistics.

    As published: bags of remote ports, of domain names and of cipher suites; each answers with a class and a
    confidence; flow volume, duration and rate, sleep time, intervals of DNS and of NTP. Names and cipher suites are
    read from ``first_bytes``; without it these two bags are left out (see ``origin``).

    Reconstructed: an hour begins with a capture's first flow, and a flow belongs to the hour of its first packet;
    volume, duration, rate and intervals are means; sleep is the mean time without a flow between flows; a cipher word
    is the whole list of a ClientHello; remote ports are those of flows that the device opened; both stages learn from
    the same hours; 100 trees; the vote of a capture's hours is the mean of their probabilities.
    """

    def __init__(self, seed: int, *, trees: int = 100) -> None:
        self._seed, self._trees = seed, trees
        self.origin = _origin(True)

    def fit(self, captures: DeviceFlows, label_U: NDArray[np.int64], num_classes: int) -> Self:
        from sklearn.ensemble import RandomForestClassifier

        self.origin = _origin(captures.keep_packets > 0)
        hour_N, unit_I = hours(captures)
        self._prior_C = shares(label_U, num_classes)
        self._bags = [_Bag(words, label_U[unit_I]) for words in bags(captures, hour_N)]
        features_ID = self._features(captures, hour_N, len(unit_I))
        self._forest: Any = RandomForestClassifier(self._trees, random_state=self._seed, n_jobs=-1)
        self._forest.fit(features_ID, label_U[unit_I])
        # the order in which threads add the trees' votes would change the last digits
        self._forest.set_params(n_jobs=1)
        return self

    def probabilities(self, captures: DeviceFlows) -> NDArray[np.float64]:
        hour_N, unit_I = hours(captures)
        features_ID = self._features(captures, hour_N, len(unit_I))
        return mean_vote(self._forest, features_ID, unit_I, captures.units, self._prior_C)

    def _features(self, captures: DeviceFlows, hour_N: NDArray[np.int64], hours: int) -> NDArray[np.float64]:
        found = zip(self._bags, bags(captures, hour_N), strict=True)
        answers = [bag.answers(words, hours, len(self._prior_C)) for bag, words in found]
        return np.concatenate([*answers, statistics(captures, hour_N)], axis=1)


class _Bag:
    """Naive Bayes on the words of one kind that are in training."""

    def __init__(self, words: Words, label_I: NDArray[np.int64]) -> None:
        from sklearn.naive_bayes import MultinomialNB

        self._known = np.unique(words.word)
        self._model: Any = None
        if len(self._known):
            has_words_I = np.bincount(words.hour, minlength=len(label_I)) > 0
            counts_IV = self._counts(words, len(label_I))
            self._model = MultinomialNB().fit(counts_IV[has_words_I], label_I[has_words_I])

    def answers(self, words: Words, hours: int, num_classes: int) -> NDArray[np.float64]:
        """(I, C) the confidence of the likeliest class in its column, 0 in others; all 0 without a known word."""
        found_IC = np.zeros((hours, num_classes))
        if self._model is not None:
            counts_IV = self._counts(words, hours)
            hour = np.flatnonzero(counts_IV.getnnz(axis=1))
            if len(hour):
                likely = self._model.predict_proba(counts_IV[hour])
                found_IC[hour, self._model.classes_[likely.argmax(axis=1)]] = likely.max(axis=1)
        return found_IC

    def _counts(self, words: Words, hours: int) -> csr_matrix:
        from scipy.sparse import coo_matrix

        index = np.minimum(np.searchsorted(self._known, words.word), len(self._known) - 1)
        is_known = self._known[index] == words.word
        entries = np.ones(int(is_known.sum())), (words.hour[is_known], index[is_known])
        return coo_matrix(entries, shape=(hours, len(self._known))).tocsr()


def hours(captures: DeviceFlows) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(the hour of each flow (N,), 0 to I - 1 in order; the capture of each hour (I,)); none without flows."""
    first_N = captures.column("first_seen")
    starts_U = np.searchsorted(captures.unit, np.arange(captures.units))
    since_N = (first_N - first_N[starts_U][captures.unit]) // _HOUR_US
    is_new_N = np.ones(len(since_N), np.bool_)
    is_new_N[1:] = (captures.unit[1:] != captures.unit[:-1]) | (since_N[1:] != since_N[:-1])
    return np.cumsum(is_new_N) - 1, captures.unit[is_new_N]


def bags(captures: DeviceFlows, hour_N: NDArray[np.int64]) -> list[Words]:
    """Remote ports; with ``first_bytes`` also the names of DNS queries and the cipher suites that the device offers."""
    opened = captures.is_client
    ports = Words(hour_N[opened], captures.column("server_port")[opened].astype(np.int64))
    if not captures.keep_packets:
        return [ports]
    packets = captures.packets(["payload_length"], captures.keep_packets)
    protocol_N, is_dns_N = captures.column("protocol"), _is_of(captures, "dns")
    says_P = opened[packets["flow"]] & (packets["sent"] == 1) & (packets["payload_length"] > 0)
    asks = np.flatnonzero(says_P & is_dns_N[packets["flow"]])
    tcp = np.flatnonzero(says_P & (protocol_N == TCP)[packets["flow"]])
    hello = tcp[np.unique(packets["flow"][tcp], return_index=True)[1]]  # a ClientHello begins its flow's payload
    found = [ports]
    for index, read in ((asks, dns_query), (hello, cipher_suites)):
        flow = packets["flow"][index]
        words = [read(packet) for packet in captures.bytes_of(flow, packets["number"][index])]
        is_word = np.array([word is not None for word in words], np.bool_)
        found.append(Words(hour_N[flow][is_word], np.array([word for word in words if word is not None], np.str_)))
    return found


def statistics(captures: DeviceFlows, hour_N: NDArray[np.int64]) -> NDArray[np.float64]:
    """(I, 6) means in an hour: a flow's bytes, seconds and bytes per second; sleep, DNS and NTP interval in seconds."""
    first_N, last_N = captures.column("first_seen"), captures.column("last_seen")
    volume_N = captures.column("client_bytes") + captures.column("server_bytes")
    duration_N = (last_N - first_N) / 1e6
    is_dns_N, is_ntp_N = (_is_of(captures, name) for name in ("dns", "ntp"))
    means = [_means(hour_N, value_N) for value_N in (volume_N, duration_N, volume_N / np.maximum(duration_N, 1))]
    bounds = np.append(np.flatnonzero(np.diff(hour_N, prepend=-1)), len(hour_N)).tolist()
    rest = [
        (
            _sleep(first_N[own], last_N[own]),
            _interval(first_N[own][is_dns_N[own]]),
            _interval(first_N[own][is_ntp_N[own]]),
        )
        for own in (slice(start, stop) for start, stop in pairwise(bounds))
    ]
    return np.column_stack([*means, np.array(rest).reshape(-1, 3)])


def _is_of(captures: DeviceFlows, application: str) -> NDArray[np.bool_]:
    return is_application(application, captures.column("protocol"), captures.column("server_port"))


def _means(hour_N: NDArray[np.int64], value_N: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray(np.bincount(hour_N, weights=value_N) / np.bincount(hour_N))


def _sleep(first: NDArray[np.int64], last: NDArray[np.int64]) -> float:
    """Mean time in seconds from the end of all earlier flows to the next one; 0 if flows always overlap."""
    gaps = first[1:] - np.maximum.accumulate(last)[:-1]
    return float(gaps[gaps > 0].mean()) / 1e6 if (gaps > 0).any() else 0.0


def _interval(first: NDArray[np.int64]) -> float:
    """Mean time in seconds between flows."""
    return float(first[-1] - first[0]) / (len(first) - 1) / 1e6 if len(first) > 1 else _NONE


def _origin(has_bytes: bool) -> str:
    bags = (
        "ports, DNS names and cipher suites"
        if has_bytes
        else "ports, without DNS names and cipher suites (no bytes kept)"
    )
    return f"two stages, bags of {bags} (Sivanathan et al., TMC 2018; reconstruction: definitions and vote guessed)"
