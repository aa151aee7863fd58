"""Metrics and tables of predicted and true kinds at addresses.

Calibration is the expected calibration error over kinds with a probability of 0.3 or more; for the flow vote, of
the mean probability over flows, which is not the probability of a kind. The count error is the mean of |predicted -
true number of devices| / true number, over the kinds that are present and found.

Shape suffixes: B addresses, K kinds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from iotid.evaluation.metrics import expected_calibration_error, reliability
from iotid.pages import percent
from iotid.studies.document import Table

_MIN_PROBABILITY = 0.3  # of kinds that calibration counts

Scores = dict[str, float | None]
"""Metric -> share; None with nothing to count."""


class Predictions(NamedTuple):
    """(B, K) probabilities, and kinds found; (B,) whether an unknown device is reported, and whether it is undecided;
    ``min_devices`` (B, K): least number of devices of each kind, if any; None if the method counts none."""

    probability: NDArray[np.float64]
    found: NDArray[np.bool_]
    unknown: NDArray[np.bool_]
    undecided: NDArray[np.bool_]
    min_devices: NDArray[np.int64] | None = None


def f1(there_BK: NDArray[np.bool_], found_BK: NDArray[np.bool_]) -> float | None:
    both, found, there = _counts(there_BK, found_BK)
    return 2 * both / (found + there) if found + there else None


def score_merges(there_BK: NDArray[np.int64], unknown_B: NDArray[np.bool_], predictions: Predictions) -> Scores:
    """``there_BK``: devices of each kind at each address; ``unknown_B``: whether a device there is not in training."""
    is_there_BK = there_BK > 0
    both, found, there = _counts(is_there_BK, predictions.found)
    return {
        "exact": _share((is_there_BK == predictions.found).all(axis=1)),
        "precision": both / found if found else None,
        "recall": both / there if there else None,
        "f1": f1(is_there_BK, predictions.found),
        "false_unknown": _share(predictions.unknown[~unknown_B]),
        "missed_unknown": _share(~predictions.unknown[unknown_B]),
        "calibration": calibration_error(predictions.probability, is_there_BK),
        "count_error": count_error(there_BK, predictions),
    }


def score_single_sets(kind_B: NDArray[np.int64], predictions: Predictions) -> Scores:
    """Scores of sets of one kind each; -1: a kind that is not in training."""
    own_BK = np.arange(predictions.found.shape[1]) == kind_B[:, np.newaxis]
    is_right_B = (kind_B >= 0) & (predictions.found == own_BK).all(axis=1)
    is_named_B = predictions.found.any(axis=1)
    return {
        "right": _share(is_right_B),
        "wrong": _share(is_named_B & ~is_right_B),
        "undecided": _share(~is_named_B & predictions.undecided),
        "unknown": _share(~is_named_B & ~predictions.undecided),
    }


def calibration_error(probability: NDArray[np.float64], is_so: NDArray[np.bool_]) -> float | None:
    counted = probability >= _MIN_PROBABILITY
    if not counted.any():
        return None
    ones = np.ones(int(counted.sum()))
    return expected_calibration_error(reliability(probability[counted], is_so[counted], ones))


def count_error(there_BK: NDArray[np.int64], predictions: Predictions) -> float | None:
    counted = predictions.found & (there_BK > 0)
    if predictions.min_devices is None or not counted.any():
        return None
    there = there_BK[counted]
    return float((np.abs(predictions.min_devices[counted] - there) / there).mean())


def table(title: str, rows: Mapping[str, Mapping[str, Any]], count: str) -> Iterator[str]:
    """A line for each row and method, in per cent. ``count``: key of the number of merges or sets in a row."""
    methods = [name for row in rows.values() for name in row if name != count]
    columns = list(next(iter(rows.values()))[methods[0]])
    width = max(len(row) for row in [title, *rows]) + 2
    wide = max(map(len, methods)) + 2
    yield f"{title:{width}}{count:>7}  {'':{wide}}" + "".join(f"{name.replace('_', ' '):>16}" for name in columns)
    for row, of_row in rows.items():
        for number, method in enumerate(name for name in of_row if name != count):
            head = f"{row:{width}}{of_row[count]:>7}" if not number else f"{'':{width + 7}}"
            yield f"{head}  {method:{wide}}" + "".join(f"{value:>16}" for value in _per_cent(of_row[method]))


def block(title: str, rows: Mapping[str, Mapping[str, Any]], count: str) -> Table:
    """The same as a table of a document."""
    columns = [name for name in next(iter(rows.values())) if name != count]
    scored = [metric.replace("_", " ") for metric in next(iter(rows.values()))[columns[0]]]
    lines = [
        [row, f"{of_row[count]:,}", method, *map(percent, of_row[method].values())]
        for row, of_row in rows.items()
        for method in (name for name in of_row if name != count)
    ]
    return Table(f"households, {title}", [title, count, "method", *scored], lines)


def rounded(value: Any) -> Any:
    """A copy with every float in nested dicts rounded to four decimals."""
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    return round(value, 4) if isinstance(value, float) else value


def _per_cent(scores: Scores) -> Sequence[str]:
    return ["-" if value is None else f"{100 * value:.1f}" for value in scores.values()]


def _counts(there_BK: NDArray[np.bool_], found_BK: NDArray[np.bool_]) -> tuple[int, int, int]:
    """Numbers of kinds that are present and found, found, and present."""
    return int((there_BK & found_BK).sum()), int(found_BK.sum()), int(there_BK.sum())


def _share(is_so: NDArray[np.bool_]) -> float | None:
    return float(is_so.mean()) if len(is_so) else None
