"""The two levels of the device model: regressions on tokens, and the classifier that says how sure they are."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from iotid.model.device.stacking import MetaClassifier, TokenClassifier


def test_token_classifier__a_kind_that_was_never_there_is_never_likely() -> None:
    counts = csr_matrix(np.array([[1.0, 0, 1], [0, 1, 1], [1, 0, 1], [0, 1, 1]]))
    there = np.array([[True, False, False], [False, True, False]] * 2)
    step = TokenClassifier(np.arange(3), 3).fit(counts, there, np.where(there, np.arange(3), -1), np.array([2, 2, 4]))
    assert step.bias_K[2] == -20
    assert not step.weight_TK[:, 2].any()
    assert step.weight_TK[0, 0] > 0 > step.weight_TK[1, 0]


@pytest.mark.parametrize("squares", [False, True])
def test_meta_classifier__is_calibrated_and_even_where_asked(squares: bool) -> None:
    random = np.random.default_rng(1)
    features = random.normal(0, 1, (8000, 3))
    is_so = random.random(8000) < 1 / (1 + np.exp(-(2 * features[:, 0] - features[:, 1] - 2)))
    classifier, even = (MetaClassifier(squares).fit(features, is_so, even=even) for even in (False, True))
    queries = np.array([[1.0, 0, 0], [0, 1.0, 0], [1.5, -1, 0.5]])
    np.testing.assert_allclose(classifier.log_odds(queries), [0, -3, 2], atol=0.4)
    prior = np.log(is_so.mean() / (1 - is_so.mean()))
    np.testing.assert_allclose(even.log_odds(queries), classifier.log_odds(queries) - prior)
    assert classifier.log_odds(queries[:, np.newaxis]).shape == (3, 1)


def test_meta_classifier__of_one_answer_alone_learns_nothing() -> None:
    classifier = MetaClassifier(squares=True).fit(np.random.default_rng(1).normal(0, 1, (10, 3)), np.ones(10, np.bool_))
    assert classifier.log_odds(np.ones((2, 3))).tolist() == [0, 0]
