"""AuDI (Marchal et al., JSAC 2019): the periods of what a device sends by protocol; with labels, or types without.

Shape suffixes: P packets, W time windows, F protocols of a window, K periods, T seconds of a window, D features, U
captures of a device, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from iotid.baselines.device_flows import elbow, mean_vote, most_frequent, shares

if TYPE_CHECKING:
    from iotid.baselines.device_flows import DeviceFlows

_WINDOW_S, _NEIGHBOURS = 1800, 5  # as published
_LAGS_S = (5, 30, 60, 120, 601)  # limits of the paper's four classes of periods
_MEANS, _DEVIATIONS = (0.2, 0.7, 1, 2, np.inf), (0, 0.02, 0.1, np.inf)  # limits of its classes of r and rn
_AMPLITUDE = 0.1  # of the largest one, at least
_MIN_EVENTS = 3
_LEAST_DISTANCE = 1e-9  # DBSCAN's must be above 0, where most fingerprints are equal, too


class Periods(NamedTuple):
    """Periods of a protocol in a window: length in seconds (K,), r and rn in three parts of the window (K, 3)."""

    length: NDArray[np.int64]
    r: NDArray[np.float64]
    rn: NDArray[np.float64]


class Series(NamedTuple):
    """When a device sent packets of a protocol in a window: distinct seconds of the window, the IP protocol, and how
    often its own port changed, by packet."""

    seconds: NDArray[np.int64]
    protocol: int
    port_changes: float


class Audi:
    """The 5 nearest neighbours of a half hour's fingerprint of 33 features.

    As published: a binary series of seconds for each protocol, candidate periods by discrete Fourier transform,
    confirmed by autocorrelation; features in four groups (periodic flows, accuracy, duration and stability of periods).

    The list of features is known, their definitions are partly a reconstruction. A protocol is an IP protocol and the
    server's port. A candidate is a local maximum of the spectrum with a tenth of the largest amplitude, a period a
    local maximum of the autocorrelation R within the candidate's resolution. r = T R(T) / (d - T) for a series of d
    seconds, 1 for an event in each period; rn adds R(T - 1) and R(T + 1); r is 0.2 or more. Three parts of two thirds
    of the window tell whether a period is inferred again. Guessed: these parts, features scaled to 0 to 1, and the
    vote: the mean of a capture's windows. A window without a period has no fingerprint; a capture without any has
    the classes' shares in training. `types` is the paper's other use, without labels.

    Packets after the first ``flow.max_packets`` of their flow are not seen, so the periods of long connections are not.
    """

    origin = (
        "AuDI, 5-NN on 33 features of periods in half hours (Marchal et al., JSAC 2019; reconstruction: definitions of "
        "features, scaling and vote guessed; sees each flow's first packets)"
    )

    def __init__(self, seed: int = 0) -> None:
        """``seed``: not used, nothing is drawn at random."""

    def fit(self, captures: DeviceFlows, label_U: NDArray[np.int64], num_classes: int) -> Self:
        from sklearn.neighbors import KNeighborsClassifier
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import MinMaxScaler

        features_WD, unit_W = fingerprints(captures)
        if not len(unit_W):  # a scikit-learn model needs samples, even if none will be like them
            features_WD, unit_W = np.zeros((len(label_U), 33)), np.arange(len(label_U))
        neighbours = KNeighborsClassifier(min(_NEIGHBOURS, len(unit_W)))
        self._model: Any = make_pipeline(MinMaxScaler(), neighbours).fit(features_WD, label_U[unit_W])
        self._prior_C = shares(label_U, num_classes)
        return self

    def probabilities(self, captures: DeviceFlows) -> NDArray[np.float64]:
        features_WD, unit_W = fingerprints(captures)
        return mean_vote(self._model, features_WD, unit_W, captures.units, self._prior_C)


def types(captures: DeviceFlows) -> NDArray[np.int64]:
    """(U,) a type for each capture, found without labels; -1 without a fingerprint, as it has no periodic flow.

    As published: unlabelled fingerprints are clustered, each cluster is a type, and the 5 nearest neighbours say which
    type a fingerprint has.

    Reconstructed: the clusters are those of DBSCAN on features scaled to 0 to 1; a core has 5 fingerprints, itself
    among them, within the distance that is the elbow of all distances to the fifth (Ester et al., KDD 1996, read it
    from a plot). A fingerprint in no cluster has the type of its nearest neighbours that are; without a cluster all are
    of one type. A capture has the type of most of its windows, the first of equals.
    """
    features_WD, unit_W = fingerprints(captures)
    return most_frequent(_clusters(features_WD), unit_W, captures.units)


def _clusters(features_WD: NDArray[np.float64]) -> NDArray[np.int64]:
    from sklearn.cluster import DBSCAN
    from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors
    from sklearn.preprocessing import MinMaxScaler

    if len(features_WD) < _NEIGHBOURS:
        return np.zeros(len(features_WD), np.int64)
    points_WD = MinMaxScaler().fit_transform(features_WD)
    fifth_W = np.sort(NearestNeighbors(n_neighbors=_NEIGHBOURS).fit(points_WD).kneighbors(points_WD)[0][:, -1])
    within = max(float(fifth_W[elbow(fifth_W)]), _LEAST_DISTANCE)
    cluster_W = np.asarray(DBSCAN(eps=within, min_samples=_NEIGHBOURS).fit_predict(points_WD), np.int64)
    is_alone_W = cluster_W < 0
    if is_alone_W.all():
        return np.zeros(len(points_WD), np.int64)
    if is_alone_W.any():  # each cluster has five fingerprints or more
        nearest = KNeighborsClassifier(_NEIGHBOURS).fit(points_WD[~is_alone_W], cluster_W[~is_alone_W])
        cluster_W[is_alone_W] = nearest.predict(points_WD[is_alone_W])
    return cluster_W


def fingerprints(captures: DeviceFlows) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """(features (W, 33), the capture of each window (W,)) of windows with a periodic flow, from a capture's first
    packet on; the last window of a capture may be shorter."""
    found = [(unit, features(series, duration)) for unit, duration, series in _windows(captures)]
    features_WD = np.array([features_D for _, features_D in found]).reshape(-1, 33)
    unit_W, is_periodic_W = np.array([unit for unit, _ in found], np.int64), features_WD[:, 0] > 0
    return features_WD[is_periodic_W], unit_W[is_periodic_W]


def features(series: Sequence[Series], duration: int) -> NDArray[np.float64]:
    """(33,) the paper's f1 to f33 of a window of ``duration`` seconds."""
    inferred = [(each, infer_periods(each.seconds, duration)) for each in series]
    inferred = [(each, periods) for each, periods in inferred if len(periods.length)]
    if not inferred:
        return np.zeros(33)
    number_F = np.array([len(periods.length) for _, periods in inferred])
    changes_F = np.array([each.port_changes for each, _ in inferred])
    length_K, r_K3, rn_K3 = (np.concatenate(parts) for parts in zip(*(periods for _, periods in inferred), strict=True))
    again_K = (r_K3 >= _MEANS[0]).mean(axis=1)
    flows = [
        len(inferred),
        len({each.protocol for each, _ in inferred}),
        number_F.mean(),
        number_F.std(),
        (number_F == 1).sum(),
        (number_F > 1).sum(),
        (changes_F == 0).sum(),
        changes_F.mean(),
        changes_F.std(),
    ]
    accuracy = [(again_K == 1).sum(), again_K.mean(), again_K.std()]
    mean_K, mean_n_K = r_K3.mean(axis=1), rn_K3.mean(axis=1)
    return np.concatenate(
        [
            flows,
            accuracy,
            _counts(length_K, _LAGS_S),
            _counts(mean_K, _MEANS),
            _counts(r_K3.std(axis=1), _DEVIATIONS),
            _counts(mean_n_K, _MEANS),
            _counts(rn_K3.std(axis=1), _DEVIATIONS),
            _counts(mean_n_K - mean_K, _DEVIATIONS),
        ]
    )


def infer_periods(seconds: NDArray[np.int64], duration: int) -> Periods:
    """Periods of 5 to 600 seconds that occur at least twice in the window; ``seconds``: distinct, with a packet."""
    longest = min(_LAGS_S[-1] - 1, duration // 2)
    if len(seconds) < _MIN_EVENTS or longest < _LAGS_S[0]:
        return Periods(np.zeros(0, np.int64), np.zeros((0, 3)), np.zeros((0, 3)))
    series_T = np.bincount(seconds, minlength=duration).astype(np.float64)
    power = np.abs(np.fft.rfft(series_T, 2 * duration)) ** 2  # padded, so that the end does not meet the start
    overlap_T = np.fft.irfft(power)[: longest + 2].round()  # the numbers of pairs are whole
    lags = np.arange(_LAGS_S[0], longest + 1)
    r = overlap_T[lags] * lags / (duration - lags)
    is_peak = (overlap_T[lags] >= overlap_T[lags - 1]) & (overlap_T[lags] > overlap_T[lags + 1]) & (r >= _MEANS[0])
    peaks = lags[is_peak]
    spectrum = np.abs(np.fft.rfft(series_T - series_T.mean()))
    inner = spectrum[1:-1]
    is_candidate = (inner >= spectrum[:-2]) & (inner >= spectrum[2:]) & (inner >= _AMPLITUDE * spectrum.max())
    frequencies = np.flatnonzero(is_candidate) + 1
    if not len(peaks) or not len(frequencies):
        return infer_periods(seconds[:0], duration)
    after = np.searchsorted(peaks, duration / frequencies)
    beside = np.stack([peaks[np.maximum(after - 1, 0)], peaks[np.minimum(after, len(peaks) - 1)]])
    gaps = np.abs(beside - duration / frequencies)
    nearest, gap = np.where(gaps[0] <= gaps[1], *beside), gaps.min(axis=0)
    resolution = np.maximum(duration / frequencies - duration / (frequencies + 1), 1)
    length_K = np.unique(nearest[gap <= resolution])
    parts = [series_T[start : start + duration * 2 // 3] for start in (0, duration // 6, duration // 3)]
    r_K33 = np.array([[_pairs(part, length) for part in parts] for length in length_K.tolist()]).reshape(-1, 3, 3)
    return Periods(length_K, r_K33[:, :, 1], r_K33.sum(axis=2))


def _pairs(series_T: NDArray[np.float64], length: int) -> list[float]:
    """T R(lag) / (d - lag) for the lags around T = ``length``."""
    return [
        float(length * (series_T[:-lag] @ series_T[lag:]) / max(len(series_T) - lag, 1))
        for lag in (length - 1, length, length + 1)
    ]


def _counts(value_K: NDArray[Any], limits: Sequence[float]) -> NDArray[np.int64]:
    """How many values are in each class [limit, next limit)."""
    return np.bincount(np.searchsorted(limits, value_K, side="right"), minlength=len(limits) + 1)[1 : len(limits)]


def _windows(captures: DeviceFlows) -> Iterator[tuple[int, int, list[Series]]]:
    """(capture, seconds, series of each protocol) of each window with packets that the device sent."""
    packets = captures.packets([])
    unit_P, time_P = captures.unit[packets["flow"]], packets["time_us"]
    starts_U = np.searchsorted(unit_P, np.arange(captures.units))
    second_P = (time_P - time_P[np.minimum(starts_U, len(time_P) - 1)][unit_P]) // 1_000_000
    last_U = np.append(second_P, 0)[np.append(starts_U[1:], len(unit_P)) - 1]
    sent_P = packets["sent"] == 1
    flow_P, unit_P, second_P = (values[sent_P] for values in (packets["flow"], unit_P, second_P))
    window_P, port_P = second_P // _WINDOW_S, captures.local_port[flow_P]
    protocol_P = captures.column("protocol")[flow_P].astype(np.int64)
    key_P = protocol_P << 16 | captures.column("server_port")[flow_P]
    order = np.lexsort((second_P, key_P, window_P, unit_P))  # stable: ports stay in order of time
    unit_P, window_P, key_P, second_P, port_P = (v[order] for v in (unit_P, window_P, key_P, second_P, port_P))
    is_new_window_P, is_new_P = np.ones((2, len(unit_P)), np.bool_)
    is_new_window_P[1:] = (unit_P[1:] != unit_P[:-1]) | (window_P[1:] != window_P[:-1])
    is_new_P[1:] = is_new_window_P[1:] | (key_P[1:] != key_P[:-1])
    series: list[Series] = []
    bounds = np.append(np.flatnonzero(is_new_P), len(unit_P)).tolist()
    for start, stop in pairwise(bounds):
        begin = int(window_P[start]) * _WINDOW_S
        changes = np.count_nonzero(np.diff(port_P[start:stop])) / max(stop - start - 1, 1)
        series.append(Series(np.unique(second_P[start:stop]) - begin, int(key_P[start]) >> 16, changes))
        if stop == len(unit_P) or is_new_window_P[stop]:
            yield int(unit_P[start]), min(_WINDOW_S, int(last_U[unit_P[start]]) + 1 - begin), series
            series = []
