"""Regressions learned together, against scikit-learn's one after the other.

Shape suffixes: H rows, T columns, R regressions.
"""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, hstack
from sklearn.linear_model import LogisticRegression

from iotid.model.device import regression
from iotid.model.device.regression import logistic_regressions


def _case(seed: int, rows: int = 150, columns: int = 40) -> tuple[csr_matrix, NDArray[np.bool_]]:
    """Sparse rows as those of sets of flows, and three questions whose answer hangs on a few columns, with noise."""
    random = np.random.default_rng(seed)
    rows_HT = random.random((rows, columns)) * (random.random((rows, columns)) < 0.3) * 3
    lean_HR = rows_HT @ random.normal(0, 1, (columns, 3)) + random.normal(0, 1, (rows, 3)) + [-2, 0, 2]
    return csr_matrix(rows_HT), lean_HR > 0


def _by_scikit_learn(
    rows_HT: csr_matrix, is_so_HR: NDArray[np.bool_], counted_HR: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """liblinear's penalty holds for the intercept, too."""
    models = [
        LogisticRegression(C=1, solver="liblinear", tol=1e-8, max_iter=10_000).fit(rows_HT[counted], is_so[counted])
        for is_so, counted in zip(is_so_HR.T, counted_HR.T, strict=True)
    ]
    return np.stack([model.coef_[0] for model in models], axis=1), np.array([model.intercept_[0] for model in models])


def _all_counted(is_so_HR: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return np.ones_like(is_so_HR)


@pytest.mark.parametrize("dense_cells", [1 << 28, 0])
def test_regressions__equal_one_solver_after_the_other(dense_cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regression, "_DENSE_CELLS", dense_cells)
    rows_HT, is_so_HR = _case(1)
    weight_TR, bias_R = logistic_regressions(rows_HT, is_so_HR, _all_counted(is_so_HR))
    expected_TR, expected_R = _by_scikit_learn(rows_HT, is_so_HR, _all_counted(is_so_HR))
    assert np.abs(expected_TR).max() > 1
    np.testing.assert_allclose(weight_TR, expected_TR, atol=0.03)
    np.testing.assert_allclose(bias_R, expected_R, atol=0.03)
    np.testing.assert_allclose(rows_HT @ weight_TR + bias_R, rows_HT @ expected_TR + expected_R, atol=0.1)


def test_regressions__equal_columns_get_equal_weights_and_the_same_answer() -> None:
    rows_HT, is_so_HR = _case(2, columns=12)
    repeated = hstack([rows_HT, rows_HT[:, [3]], rows_HT[:, [3, 5]]]).tocsr()  # 3 stands there thrice, 5 twice
    weight_TR, bias_R = logistic_regressions(repeated, is_so_HR, _all_counted(is_so_HR))
    assert weight_TR[3].tolist() == weight_TR[12].tolist() == weight_TR[13].tolist()
    assert weight_TR[5].tolist() == weight_TR[14].tolist()
    expected_TR, expected_R = _by_scikit_learn(repeated, is_so_HR, _all_counted(is_so_HR))
    np.testing.assert_allclose(weight_TR, expected_TR, atol=0.03)
    np.testing.assert_allclose(bias_R, expected_R, atol=0.03)


def test_regressions__rows_that_do_not_count_do_not_matter() -> None:
    rows_HT, is_so_HR = _case(3)
    counted_HR = np.random.default_rng(1).random(is_so_HR.shape) < 0.7
    weight_TR, bias_R = logistic_regressions(rows_HT, is_so_HR, counted_HR)
    expected_TR, expected_R = _by_scikit_learn(rows_HT, is_so_HR, counted_HR)
    np.testing.assert_allclose(weight_TR, expected_TR, atol=0.03)
    np.testing.assert_allclose(bias_R, expected_R, atol=0.03)
    otherwise_TR, otherwise_R = logistic_regressions(rows_HT, is_so_HR ^ ~counted_HR, counted_HR)
    assert (otherwise_TR.tolist(), otherwise_R.tolist()) == (weight_TR.tolist(), bias_R.tolist())


def test_regressions__a_question_without_counted_rows_learns_nothing() -> None:
    rows_HT, is_so_HR = _case(4)
    counted_HR = _all_counted(is_so_HR)
    counted_HR[:, 1] = False
    weight_TR, bias_R = logistic_regressions(rows_HT, is_so_HR, counted_HR)
    assert not weight_TR[:, 1].any()
    assert bias_R[1] == 0
    assert weight_TR[:, 0].any()


def test_regressions__of_no_columns_are_biases() -> None:
    is_so_HR = np.arange(100)[:, np.newaxis] < [80, 50]
    weight_TR, bias_R = logistic_regressions(csr_matrix((100, 0)), is_so_HR, _all_counted(is_so_HR))
    assert weight_TR.shape == (0, 2)
    assert bias_R == pytest.approx([1.30, 0], abs=0.02)  # log(80/20), less what the penalty takes
