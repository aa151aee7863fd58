"""Fits several logistic regressions on the same sparse rows.

Shape suffixes: H rows (of `_fit`: those that count), T columns, G groups of equal columns, R regressions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

_DENSE_CELLS = 1 << 28  # with more cells the rows stay sparse, which is slower and takes less memory
_STEPS = 400
_TOLERANCE = 1e-6


def logistic_regressions(
    rows_HT: csr_matrix, is_so_HR: NDArray[np.bool_], counted_HR: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Weights (T, R) and biases (R,) that minimise the summed log loss of the counted rows plus half the squared norm.

    ``is_so_HR``: targets; ``counted_HR``: rows that count in each regression.

    Columns that are equal in all rows get equal weights under this penalty. So each group of them is fitted as one
    column, scaled by the root of their number, which halves the number of columns for tokens. Regressions differ much
    in the steps that they need, so each is fitted by itself.
    """
    group_T, first_G = _equal_columns(rows_HT)
    scale_G = np.sqrt(np.bincount(group_T, minlength=len(first_G))).astype(np.float32)
    rows_HG = rows_HT[:, first_G].astype(np.float32).multiply(scale_G).tocsr()
    rows = rows_HG.toarray() if np.prod(rows_HG.shape) <= _DENSE_CELLS else rows_HG
    found = np.zeros((len(first_G) + 1, is_so_HR.shape[1]))
    for regression, (is_so_H, counted_H) in enumerate(zip(is_so_HR.T, counted_HR.T, strict=True)):
        found[:, regression] = _fit(rows if counted_H.all() else rows[counted_H], is_so_H[counted_H])
    return (found[:-1] / scale_G[:, np.newaxis])[group_T].astype(np.float32), found[-1]


def _fit(rows_HG: csr_matrix | NDArray[np.float32], is_so_H: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(G + 1,) weights, and last the bias."""
    from scipy.optimize import minimize
    from scipy.special import expit

    sign_H, target_H = np.where(is_so_H, np.float32(-1), np.float32(1)), is_so_H.astype(np.float32)

    def loss(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        logits_H = rows_HG @ weights[:-1].astype(np.float32) + np.float32(weights[-1])
        losses_H = np.logaddexp(np.float32(0), sign_H * logits_H)
        error_H = expit(logits_H) - target_H
        slope = np.append(error_H @ rows_HG, error_H.sum()) + weights
        return float(losses_H.sum(dtype=np.float64)) + float(weights @ weights) / 2, slope

    options = {"maxiter": _STEPS, "maxcor": 20, "ftol": _TOLERANCE}
    found = minimize(loss, np.zeros(rows_HG.shape[1] + 1), jac=True, method="L-BFGS-B", options=options)
    return np.asarray(found.x)


def _equal_columns(matrix: csr_matrix) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(T,) the group of each column, and (G,) the first column of each group."""
    columns = matrix.tocsc()
    columns.sort_indices()
    group_of: dict[tuple[bytes, bytes], int] = {}
    group_T = np.zeros(columns.shape[1], np.int64)
    first: list[int] = []
    for column, (start, end) in enumerate(zip(columns.indptr[:-1], columns.indptr[1:], strict=True)):
        content = columns.indices[start:end].tobytes(), columns.data[start:end].tobytes()
        group_T[column] = group_of.setdefault(content, len(group_of))
        if len(group_of) > len(first):
            first.append(column)
    return group_T, np.array(first, np.int64)
