"""Measures how well new kinds (left out of training) are detected, from predictions for captures.

A score is evaluated by how it ranks captures of new kinds against held-out captures of learned kinds: the area under
the ROC curve, and the share of known captures reported as unknown at 95 % detection. Beside it are counts of what a
census would report with its threshold, which is independent of the new kinds.

Shape suffixes: U captures of a device, L of kinds left out, K of learned kinds, T thresholds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypedDict

import numpy as np
from numpy.typing import NDArray

from iotid.model.device.decide import KNOWN, SEVERAL, UNDECIDED, UNKNOWN

DETECTION = 0.95
# name in files and metrics -> definition; add yours here, and its field below
ORIGINS = {
    "device_model": "1 - the device model's greatest probability of a kind (ours)",
    "surprise": "out-of-vocabulary rate: share of values that are not in training",
    "doubt": "1 - the greatest mean probability of the ensemble (Hendrycks and Gimpel, ICLR 2017)",
}
STORED_NAMES = {"out_of_vocabulary_rate": "surprise", "network_uncertainty": "doubt"}  # field -> column and score


class OpenSetAnswers(NamedTuple):
    """Predictions (U,) for captures of a device. ``is_new``: no kind reaches ``census.min_confidence``.

    ``is_own``: exactly the capture's own kind is found.
    """

    unit: NDArray[np.int64]  # number of the capture times the number of labels, plus label
    label: NDArray[np.int64]
    left_out: NDArray[np.bool_]
    device_model: NDArray[np.float64]
    out_of_vocabulary_rate: NDArray[np.float64]
    network_uncertainty: NDArray[np.float64]
    is_new: NDArray[np.bool_]
    named: NDArray[np.int64]  # the best label, regardless of the status
    is_own: NDArray[np.bool_]
    status: NDArray[np.str_]
    group: NDArray[np.int64]  # training run; each leaves out a group of kinds


class NewScore(TypedDict):
    """How well a score separates new kinds from learned ones: AUROC over all groups and of each group.

    ``curve``: at descending thresholds, the share of known captures and of new ones at or above them.
    """

    auroc: float
    auroc_of_groups: list[float]
    false_unknown_at_95: float
    curve: dict[str, list[float]]


class LeftOut(TypedDict):
    """One label whose kind was left out: shares of its captures, and the label that is predicted most often."""

    label: str
    captures: int
    unknown: float
    undecided: float
    named: float
    mostly: str | None


class OpenSet(TypedDict):
    """``at_limit``: shares of captures in which no kind is as likely as ``census.min_confidence``.

    ``census``: shares of captures by what a census would report. Known ones: right (exactly their kind is found),
    wrong, undecided, unknown; those left out: wrong (any kind is found), undecided, unknown.
    """

    groups: list[list[str]]
    captures: dict[str, int]
    scores: dict[str, NewScore]
    at_limit: dict[str, float]
    census: dict[str, dict[str, float]]
    per_label: list[LeftOut]


def evaluate(sets: OpenSetAnswers, labels: Sequence[str]) -> OpenSet:
    """``sets``: of all groups, each with known captures and captures of left-out kinds."""
    new_U = sets.left_out
    scores_U = {STORED_NAMES.get(field, field): column for field, column in sets._asdict().items()}
    groups = [sets.group == group for group in np.unique(sets.group)]
    outcome_U = np.where(_is_found(sets), np.where(~new_U & sets.is_own, "right", "wrong"), sets.status)
    return {
        "groups": [[labels[label] for label in np.unique(sets.label[new_U & own_U]).tolist()] for own_U in groups],
        "captures": {"known": int((~new_U).sum()), "left_out": int(new_U.sum())},
        "scores": {name: _score(new_U, scores_U[name], groups) for name in ORIGINS},
        "at_limit": {"detection": _mean(sets.is_new[new_U]), "false_unknown": _mean(sets.is_new[~new_U])},
        "census": {
            "known": {what: _mean(outcome_U[~new_U] == what) for what in ("right", "wrong", UNDECIDED, UNKNOWN)},
            "left_out": {what: _mean(outcome_U[new_U] == what) for what in ("wrong", UNDECIDED, UNKNOWN)},
        },
        "per_label": [_left_out(sets, label, labels) for label in np.unique(sets.label[new_U]).tolist()],
    }


def false_unknown(new_U: NDArray[np.bool_], score_U: NDArray[np.float64], detection: float = DETECTION) -> float:
    """The least share of known captures at or above a threshold that detects this share of the new ones."""
    from sklearn.metrics import roc_curve

    false_T, found_T, _ = roc_curve(new_U, score_U, drop_intermediate=False)
    return float(false_T[np.argmax(found_T >= detection)])


def _score(new_U: NDArray[np.bool_], score_U: NDArray[np.float64], groups: Sequence[NDArray[np.bool_]]) -> NewScore:
    from sklearn.metrics import roc_auc_score, roc_curve

    false_T, found_T, _ = roc_curve(new_U, score_U)
    return {
        "auroc": float(roc_auc_score(new_U, score_U)),
        "auroc_of_groups": [float(roc_auc_score(new_U[own_U], score_U[own_U])) for own_U in groups],
        "false_unknown_at_95": false_unknown(new_U, score_U),
        "curve": {"false_unknown": false_T.tolist(), "detection": found_T.tolist()},
    }


def _left_out(sets: OpenSetAnswers, label: int, labels: Sequence[str]) -> LeftOut:
    own_U = sets.left_out & (sets.label == label)
    status_L, found_L, names_L = sets.status[own_U], _is_found(sets)[own_U], sets.named[own_U & _is_found(sets)]
    return {
        "label": labels[label],
        "captures": int(own_U.sum()),
        "unknown": _mean(status_L == UNKNOWN),
        "undecided": _mean(status_L == UNDECIDED),
        "named": _mean(found_L),
        "mostly": labels[int(np.bincount(names_L).argmax())] if len(names_L) else None,
    }


def _is_found(sets: OpenSetAnswers) -> NDArray[np.bool_]:
    return np.isin(sets.status, (KNOWN, SEVERAL))


def _mean(is_so: NDArray[np.bool_]) -> float:
    return float(is_so.mean())
