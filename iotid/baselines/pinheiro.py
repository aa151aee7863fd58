"""Pinheiro et al. 2019 (Computer Communications 144:8-17): statistics of the packets that a device sends in a second.

Shape suffixes: R rows of counts, S windows, P distinct windows, D features, C classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from iotid.baselines.windows import Samples, time_windows

if TYPE_CHECKING:
    from iotid.dataset import DeviceTraffic

MEMBERS = {"knn": "3-NN", "tree": "decision tree", "forest": "random forest", "svm": "SVM"}
"""The four classifiers of the paper that vote together, and their names in reports."""

_SOURCE = "Pinheiro et al. 2019, features and k after published code"


def samples(traffic: DeviceTraffic) -> Samples:
    """One sample for each second in which a device sent packets: mean, standard deviation and sum of frame lengths.

    Bytes on the wire. The deviation has the divisor n - 1; for a single packet it is 0, as in the code of the authors
    of TMA'21 (DADABox, ``one_second_window``). Windows are tumbling and aligned to the second.
    """
    counts = traffic.table.filter(traffic.table["sent"])
    windows = time_windows(counts, 1)
    length_R = counts["frame_length"].to_numpy().astype(np.float64)
    packets_R = counts["packets"].to_numpy()
    packets_S, bytes_S = windows.sum(packets_R), windows.sum(packets_R * length_R)
    mean_S = bytes_S / packets_S
    squares_S = windows.sum(packets_R * (length_R - mean_S[windows.sample]) ** 2)
    deviation_S = np.sqrt(squares_S / np.maximum(packets_S - 1, 1))
    return windows.samples._replace(features=np.stack([mean_S, deviation_S, bytes_S], axis=1))


class Pinheiro:
    """One of the paper's classifiers: k-NN (k = 3), decision tree, random forest or SVM (RBF), on unscaled features.

    k and the lack of scaling are known from code that others published (DADABox, NDSS'25's ``Pinh19``); all else is
    scikit-learn's current default, while the paper used that of 2019 (perhaps 10 trees; another gamma of the SVM).
    Fitting an SVM takes quadratic time, so it is fitted to ``svm_windows`` windows at most, drawn at random; a label
    without a drawn window is never predicted. The SVM predicts one label, the others shares.
    """

    def __init__(self, name: str, seed: int, *, svm_windows: int = 10_000) -> None:
        """``name``: one of MEMBERS."""
        self.origin = f"{MEMBERS[name]} on one-second windows ({_SOURCE}; reconstruction)"
        self._name, self._seed, self._svm_windows = name, seed, svm_windows

    def fit(self, features_SD: NDArray[np.float64], label_S: NDArray[np.int64], num_classes: int) -> Self:
        self._num_classes = num_classes
        if self._name == "svm" and len(label_S) > self._svm_windows:
            drawn = np.random.default_rng(self._seed).choice(len(label_S), self._svm_windows, replace=False)
            features_SD, label_S = features_SD[drawn], label_S[drawn]
        self._model = _estimator(self._name, self._seed, label_S).fit(features_SD, label_S)
        if self._name == "forest":
            # the order in which threads add the trees' votes would change the last digits
            self._model.set_params(n_jobs=1)
        return self

    def probabilities(self, features_SD: NDArray[np.float64]) -> NDArray[np.float64]:
        # few windows are distinct, so each distinct one is predicted once
        point_PD, which_S = np.unique(features_SD, axis=0, return_inverse=True)
        found_PC = np.zeros((len(point_PD), self._num_classes))
        if len(point_PD) and hasattr(self._model, "predict_proba"):
            found_PC[:, self._model.classes_] = self._model.predict_proba(point_PD)
        elif len(point_PD):
            found_PC[np.arange(len(point_PD)), self._model.predict(point_PD)] = 1
        return found_PC[which_S]


class PinheiroVote:
    """The hard majority vote of the four with equal weights; the first of tied labels wins.

    The hard vote and equal weights are assumed: they are the defaults of scikit-learn's ``VotingClassifier``, which the
    paper's code imports.
    """

    origin = f"majority vote of four on one-second windows ({_SOURCE}; reconstruction, hard vote guessed)"

    def __init__(self, seed: int, *, svm_windows: int = 10_000) -> None:
        self._members = [Pinheiro(name, seed, svm_windows=svm_windows) for name in MEMBERS]

    def fit(self, features_SD: NDArray[np.float64], label_S: NDArray[np.int64], num_classes: int) -> Self:
        for member in self._members:
            member.fit(features_SD, label_S, num_classes)
        self._num_classes = num_classes
        return self

    def probabilities(self, features_SD: NDArray[np.float64]) -> NDArray[np.float64]:
        votes_SC = np.zeros((len(features_SD), self._num_classes))
        for member in self._members:
            votes_SC[np.arange(len(votes_SC)), member.probabilities(features_SD).argmax(axis=1)] += 1
        return votes_SC / len(self._members)


def _estimator(name: str, seed: int, label_S: NDArray[np.int64]) -> Any:
    """scikit-learn's classifier, not yet fitted."""
    from sklearn.dummy import DummyClassifier
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.svm import SVC
    from sklearn.tree import DecisionTreeClassifier

    estimators = {
        "knn": KNeighborsClassifier(n_neighbors=min(3, len(label_S))),
        "tree": DecisionTreeClassifier(random_state=seed),
        "forest": RandomForestClassifier(random_state=seed, n_jobs=-1),
        "svm": SVC() if len(np.unique(label_S)) > 1 else DummyClassifier(),  # an SVM cannot be fitted to one label
    }
    return estimators[name]
