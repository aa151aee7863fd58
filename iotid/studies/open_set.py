"""What becomes of devices of kinds never learned: are they told apart from those that were, or given a wrong name?

What decides is how a score orders whole captures of kinds left out against captures of learned kinds that were held
back: the area under the ROC curve, and how many of the known are sacrificed where 95 % of the new are found. What the
census makes of both is counted beside it, for it must choose a limit before it has met anything new.

Shape suffixes: U captures of a device, L of kinds left out, K of learned kinds, T thresholds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypedDict

import numpy as np
from numpy.typing import NDArray

from iotid.model.device.decide import KNOWN, SEVERAL, UNDECIDED, UNKNOWN

DETECTION = 0.95
ORIGINS = {
    "device_model": "1 - the device model's greatest probability of a kind (ours)",
    "surprise": "share of values never seen",
    "doubt": "1 - the greatest mean probability of the ensemble (Hendrycks and Gimpel, ICLR 2017)",
}


class OpenSetAnswers(NamedTuple):
    """What models said (U,) of captures of a device. ``is_new``: no kind is as likely as a census finds one.

    ``is_own``: the capture's own kind is found, and no other.
    """

    unit: NDArray[np.int64]  # number of the capture times the number of labels, plus label
    label: NDArray[np.int64]
    left_out: NDArray[np.bool_]
    device_model: NDArray[np.float64]
    surprise: NDArray[np.float64]
    doubt: NDArray[np.float64]
    is_new: NDArray[np.bool_]
    named: NDArray[np.int64]  # the best label, whatever the status
    is_own: NDArray[np.bool_]
    status: NDArray[np.str_]
    group: NDArray[np.int64]  # of kinds left out together: which training answered


class NewScore(TypedDict):
    """How well a score tells new kinds from learned ones; over all groups, and each group's own AUROC.

    ``curve``: at thresholds from high to low, the share of known captures and of new ones at or above them.
    """

    auroc: float
    auroc_of_groups: list[float]
    false_unknown_at_95: float
    curve: dict[str, list[float]]


class LeftOut(TypedDict):
    """Of one label, when its kind was not learned: shares of its captures, and the name it is given most often."""

    label: str
    captures: int
    unknown: float
    undecided: float
    named: float
    mostly: str | None


class OpenSet(TypedDict):
    """``at_limit``: shares of captures in which no kind is as likely as ``census.min_confidence``.

    ``census``: shares of captures by what a census would say, of known ones: right (their kind is found, and no other:
    look-alikes are one kind), wrong, undecided, unknown; of those left out: wrong (any kind is), undecided, unknown.
    """

    groups: list[list[str]]
    captures: dict[str, int]
    scores: dict[str, NewScore]
    at_limit: dict[str, float]
    census: dict[str, dict[str, float]]
    per_label: list[LeftOut]


def judge(sets: OpenSetAnswers, labels: Sequence[str]) -> OpenSet:
    """``sets``: of all groups, each with captures of both sorts."""
    new_U = sets.left_out
    groups = [sets.group == group for group in np.unique(sets.group)]
    told_U = np.where(_is_found(sets), np.where(~new_U & sets.is_own, "right", "wrong"), sets.status)
    return {
        "groups": [[labels[label] for label in np.unique(sets.label[new_U & own_U]).tolist()] for own_U in groups],
        "captures": {"known": int((~new_U).sum()), "left_out": int(new_U.sum())},
        "scores": {name: _score(new_U, getattr(sets, name), groups) for name in ORIGINS},
        "at_limit": {"detection": _mean(sets.is_new[new_U]), "false_unknown": _mean(sets.is_new[~new_U])},
        "census": {
            "known": {what: _mean(told_U[~new_U] == what) for what in ("right", "wrong", UNDECIDED, UNKNOWN)},
            "left_out": {what: _mean(told_U[new_U] == what) for what in ("wrong", UNDECIDED, UNKNOWN)},
        },
        "per_label": [_left_out(sets, label, labels) for label in np.unique(sets.label[new_U]).tolist()],
    }


def false_unknown(new_U: NDArray[np.bool_], score_U: NDArray[np.float64], detection: float = DETECTION) -> float:
    """The least share of known captures at or above a threshold that this share of the new ones reach."""
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
