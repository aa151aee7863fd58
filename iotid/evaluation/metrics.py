"""Classification metrics, weighted by flows. All but calibration are computed from the confusion matrix.

Shapes: N rows, C classes, X any leading axes (resamples), B bins. A confusion matrix has true classes as rows and
predicted ones as columns.

Macro averages cover the classes that have test flows. A class without any has no recall (equation 9 divides by zero);
flows wrongly assigned to it still lower the recall of their own class. This equals scikit-learn's ``average="macro"``
with ``labels`` set to the classes present. A class that is present but never predicted has precision 0, as with
``zero_division=0``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iotid.evaluation.schema import Bin, ClassScore, Score

INTERVAL = 0.95
_BOUNDS = (100 * (1 - INTERVAL) / 2, 100 * (1 + INTERVAL) / 2)  # percentiles
RELIABILITY_BINS = 15  # Guo et al., On Calibration of Modern Neural Networks, ICML 2017


def confusion_matrix(
    label_N: NDArray[Any], predicted_N: NDArray[Any], num_flows_N: NDArray[Any], num_classes: int
) -> NDArray[np.int64]:
    """(C, C) counts of flows; float64 sums are exact up to 2**53 flows."""
    cell_N = label_N.astype(np.int64) * num_classes + predicted_N
    flows = np.bincount(cell_N, weights=num_flows_N, minlength=num_classes**2)
    return flows.reshape(num_classes, num_classes).astype(np.int64)


def class_scores(confusion_XCC: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Precision, recall and F1 of each class, (X, C) each: the paper's equations 8 to 10. NaN without test flows."""
    right_XC = np.diagonal(confusion_XCC, axis1=-2, axis2=-1).astype(np.float64)
    support_XC = confusion_XCC.sum(axis=-1)
    answered_XC = confusion_XCC.sum(axis=-2)
    present_XC = support_XC > 0
    precision_XC = np.where(present_XC, right_XC / np.maximum(answered_XC, 1), np.nan)
    recall_XC = np.where(present_XC, right_XC / np.maximum(support_XC, 1), np.nan)
    # 2PR/(P+R) = 2TP/(support+answered), which needs no case for P + R = 0
    f1_XC = np.where(present_XC, 2 * right_XC / np.maximum(support_XC + answered_XC, 1), np.nan)
    return precision_XC, recall_XC, f1_XC


def metrics(confusion_XCC: NDArray[Any]) -> dict[str, NDArray[np.float64]]:
    """Metric name -> (X,): accuracy (the paper's equation 11), the macro averages, and balanced accuracy.

    Balanced accuracy is by definition the macro recall over the classes present; both are listed because readers search
    for either name. Every matrix must have at least one flow.
    """
    right_X = np.trace(confusion_XCC, axis1=-2, axis2=-1)
    precision_XC, recall_XC, f1_XC = class_scores(confusion_XCC)
    macro_recall_X = np.nanmean(recall_XC, axis=-1)
    return {
        "accuracy": np.asarray(right_X / confusion_XCC.sum(axis=(-2, -1))),
        "macro_precision": np.nanmean(precision_XC, axis=-1),
        "macro_recall": macro_recall_X,
        "macro_f1": np.nanmean(f1_XC, axis=-1),
        "balanced_accuracy": macro_recall_X,
    }


def macro_f1(confusion_CC: NDArray[Any]) -> float:
    """Mean F1 over the classes that have flows."""
    return float(metrics(confusion_CC)["macro_f1"])


def merge(confusion_CC: NDArray[np.int64], names: Sequence[str]) -> tuple[NDArray[np.int64], list[str]]:
    """The matrix (G, G) with classes of equal name merged, and the G distinct names, sorted."""
    merged, which_C = np.unique(np.array(names), return_inverse=True)
    member_GC = (which_C == np.arange(len(merged))[:, np.newaxis]).astype(np.int64)
    return member_GC @ confusion_CC @ member_GC.T, merged.tolist()


def resample(confusion_CC: NDArray[np.int64], resamples: int, seed: int) -> NDArray[np.int64]:
    """(resamples, C, C): confusion matrices of bootstrap resamples of the flows.

    Drawing all flows with replacement and counting cells is a multinomial over the cells, so no row has to be drawn. A
    row of a thousand flows is a thousand draws.
    """
    cells = confusion_CC.ravel()
    drawn = np.random.default_rng(seed).multinomial(cells.sum(), cells / cells.sum(), size=resamples)
    return drawn.reshape(resamples, *confusion_CC.shape)


def paired_difference(
    label_N: NDArray[Any],
    ours_N: NDArray[Any],
    theirs_N: NDArray[Any],
    num_flows_N: NDArray[Any],
    num_classes: int,
    resamples: int,
    seed: int,
) -> Score:
    """Macro F1 of one system minus another's on the same rows, with the percentile interval of the paired bootstrap.

    Both are scored on the same resamples of flows, so flows that are hard for both cancel out: the interval of the
    difference is narrower than the two scores' intervals suggest (Koehn, EMNLP 2004). Flows are drawn as in
    ``resample``, from the K non-empty cells of (true class, our answer, their answer).
    """
    cell_N = np.ravel_multi_index((label_N, ours_N, theirs_N), (num_classes,) * 3)
    cell_K, row_N = np.unique(cell_N, return_inverse=True)
    flows_K = np.bincount(row_N, weights=num_flows_N).astype(np.int64)
    label_K, ours_K, theirs_K = np.unravel_index(cell_K, (num_classes,) * 3)

    def difference(drawn_K: NDArray[np.int64]) -> float:
        ours, theirs = (
            metrics(confusion_matrix(label_K, answer_K, drawn_K, num_classes))["macro_f1"]
            for answer_K in (ours_K, theirs_K)
        )
        return float(ours - theirs)

    if not resamples:
        return Score(value=difference(flows_K), low=None, high=None)
    drawn_RK = np.random.default_rng(seed).multinomial(flows_K.sum(), flows_K / flows_K.sum(), size=resamples)
    low, high = np.percentile([difference(drawn_K) for drawn_K in drawn_RK], _BOUNDS)
    return Score(value=difference(flows_K), low=float(low), high=float(high))


def scores(confusion_CC: NDArray[np.int64], resamples: int, seed: int) -> dict[str, Score]:
    """Each metric with its percentile bootstrap interval (Efron 1979); no interval if ``resamples`` is 0.

    A class of one or two flows is absent from many resamples, so with rare classes the intervals of macro averages are
    wide, and need not be symmetric around the value.
    """
    values = metrics(confusion_CC)
    if not resamples:
        return {name: Score(value=float(value), low=None, high=None) for name, value in values.items()}
    drawn = metrics(resample(confusion_CC, resamples, seed))
    bounds = {name: np.percentile(value_X, _BOUNDS) for name, value_X in drawn.items()}
    return {
        name: Score(value=float(value), low=float(bounds[name][0]), high=float(bounds[name][1]))
        for name, value in values.items()
    }


def per_class(confusion_CC: NDArray[np.int64], labels: Sequence[str]) -> list[ClassScore]:
    """The scores of each class, in the order of ``labels``."""
    rows = zip(labels, *class_scores(confusion_CC), confusion_CC.sum(axis=1), strict=True)
    return [
        ClassScore(
            label=label, precision=_number(precision), recall=_number(recall), f1=_number(f1), support=int(support)
        )
        for label, precision, recall, f1, support in rows
    ]


def reliability(confidence_N: NDArray[Any], right_N: NDArray[Any], num_flows_N: NDArray[Any]) -> list[Bin]:
    """Answers in bins of equal width by confidence: (low, high], the first includes 0."""
    edges = np.linspace(0, 1, RELIABILITY_BINS + 1)
    bin_N = np.clip(np.searchsorted(edges, confidence_N, side="left") - 1, 0, RELIABILITY_BINS - 1)

    def flows_of(weight_N: NDArray[Any]) -> NDArray[np.float64]:
        return np.bincount(bin_N, weights=weight_N * num_flows_N, minlength=RELIABILITY_BINS).astype(np.float64)

    flows_B = flows_of(np.ones(len(bin_N)))
    with np.errstate(invalid="ignore"):
        confidence_B, accuracy_B = flows_of(confidence_N) / flows_B, flows_of(right_N) / flows_B
    return [
        Bin(
            low=float(edges[index]),
            high=float(edges[index + 1]),
            confidence=_number(confidence_B[index]),
            accuracy=_number(accuracy_B[index]),
            flows=int(flows_B[index]),
        )
        for index in range(RELIABILITY_BINS)
    ]


def expected_calibration_error(bins: Sequence[Bin]) -> float:
    """Mean absolute difference of confidence and accuracy over bins, weighted by flows (Naeini et al., AAAI 2015)."""
    total = sum(item["flows"] for item in bins)
    gaps = (
        item["flows"] * abs(item["confidence"] - item["accuracy"])
        for item in bins
        if item["confidence"] is not None and item["accuracy"] is not None
    )
    return sum(gaps) / total


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
