"""Fits several logistic regressions on the same sparse rows at the same time.

Shape suffixes: H rows, T columns, G groups of equal columns, R regressions.
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
    column, scaled by the root of their number, which halves the number of columns for tokens. All regressions share
    each product with the rows, which in float32 takes a third of the time of fitting them one after the other.
    """
    from scipy.optimize import minimize
    from scipy.special import expit

    group_T, first_G = _equal_columns(rows_HT)
    scale_G = np.sqrt(np.bincount(group_T, minlength=len(first_G))).astype(np.float32)
    rows_HG = rows_HT[:, first_G].astype(np.float32).multiply(scale_G).tocsr()
    H, G = rows_HG.shape
    R = is_so_HR.shape[1]
    rows = rows_HG.toarray() if H * G <= _DENSE_CELLS else rows_HG
    sign_HR, target_HR = np.where(is_so_HR, np.float32(-1), np.float32(1)), is_so_HR.astype(np.float32)
    weight_HR = counted_HR.astype(np.float32)

    def loss(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        weight = parameters.reshape(G + 1, R)
        logits_HR = rows @ weight[:-1].astype(np.float32) + weight[-1].astype(np.float32)
        losses_HR = np.logaddexp(np.float32(0), sign_HR * logits_HR) * weight_HR
        slope_HR = (expit(logits_HR) - target_HR) * weight_HR
        slope = np.vstack([rows.T @ slope_HR, slope_HR.sum(axis=0)]).astype(np.float64) + weight
        return float(losses_HR.sum(dtype=np.float64)) + float((weight**2).sum()) / 2, slope.ravel()

    options = {"maxiter": _STEPS, "maxcor": 20, "ftol": _TOLERANCE}
    found = minimize(loss, np.zeros((G + 1) * R), jac=True, method="L-BFGS-B", options=options).x.reshape(G + 1, R)
    return (found[:-1] / scale_G[:, np.newaxis])[group_T].astype(np.float32), found[-1]


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
