"""Calibration: what it finds where the truth is known, and that the last layer computes it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax

from iotid.model.calibration import apply_calibration, calibration


def _drawn(logits_NC: NDArray[np.float64], factor: float, bias_C: NDArray[np.float64]) -> NDArray[np.int64]:
    """Labels drawn from what the calibrated logits say."""
    rng = np.random.default_rng(3)
    chances_NC = softmax(factor * logits_NC + bias_C, axis=1).cumsum(axis=1)
    drawn: NDArray[np.int64] = (rng.random(len(logits_NC))[:, np.newaxis] > chances_NC).sum(axis=1)
    return drawn


def test_calibration__finds_the_factor_and_the_biases_of_the_labels() -> None:
    logits_NC = np.random.default_rng(1).normal(0, 3, (40_000, 4))
    bias_C = np.array([1.0, -0.5, 0.0, -0.5])
    label_N = _drawn(logits_NC, 0.4, bias_C)
    factor, found_C = calibration(logits_NC, label_N, np.ones(len(label_N), np.int64), "classes")
    assert factor == pytest.approx(0.4, abs=0.02)
    assert found_C - found_C.mean() == pytest.approx(bias_C - bias_C.mean(), abs=0.05)


def test_calibration__of_the_temperature_alone_leaves_the_biases_and_the_answers() -> None:
    logits_NC = np.random.default_rng(1).normal(0, 3, (5_000, 4))
    label_N = _drawn(logits_NC, 2.0, np.zeros(4))
    factor, bias_C = calibration(logits_NC, label_N, np.ones(len(label_N), np.int64), "temperature")
    assert factor == pytest.approx(2.0, rel=0.1)
    assert not bias_C.any()


def test_calibration__ignores_classes_that_are_never_the_answer() -> None:
    logits_NC = np.random.default_rng(1).normal(0, 3, (500, 3))
    label_N = 2 * _drawn(logits_NC[:, [0, 2]], 0.5, np.zeros(2))
    flows_N = np.ones(500, np.int64)
    expected = calibration(logits_NC[:, [0, 2]], label_N // 2, flows_N, "temperature")[0]
    logits_NC[:, 1] = -np.inf
    assert calibration(logits_NC, label_N, flows_N, "temperature")[0] == pytest.approx(expected, rel=1e-4)
    none = np.zeros(0, np.int64)
    assert calibration(np.zeros((0, 3)), none, none, "temperature")[0] == pytest.approx(1)


def test_calibration__of_none_changes_nothing() -> None:
    logits_NC = np.random.default_rng(1).normal(0, 3, (50, 4))
    factor, bias_C = calibration(logits_NC, np.zeros(50, np.int64), np.ones(50, np.int64), "none")
    assert (factor, bias_C.tolist()) == (1.0, [0.0] * 4)


def test_calibration__counts_a_row_as_its_flows() -> None:
    logits_NC = np.random.default_rng(1).normal(0, 2, (300, 3))
    label_N = _drawn(logits_NC, 0.7, np.array([0.5, 0.0, -0.5]))
    flows_N = np.random.default_rng(2).integers(1, 6, 300)
    of_rows = calibration(logits_NC, label_N, flows_N, "classes")
    of_copies = calibration(
        logits_NC.repeat(flows_N, axis=0), label_N.repeat(flows_N), np.ones(flows_N.sum(), np.int64), "classes"
    )
    assert of_rows[0] == pytest.approx(of_copies[0], rel=1e-3)
    assert of_rows[1] == pytest.approx(of_copies[1], abs=1e-3)


def test_calibration__a_class_without_flows_keeps_its_odds() -> None:
    logits_NC = np.random.default_rng(1).normal(0, 1, (200, 3))
    label_N = np.zeros(200, np.int64)  # validation shows one class only
    factor, bias_C = calibration(logits_NC, label_N, np.ones(200, np.int64), "classes")
    assert np.isfinite([factor, *bias_C]).all()
    assert np.abs(bias_C).max() < 5  # the prior holds it: the likelihood alone would go to infinity


def test_calibration__is_the_maximum_of_the_posterior() -> None:
    logits_NC = np.random.default_rng(5).normal(0, 2, (80, 3))
    label_N, flows_N = np.random.default_rng(6).integers(0, 3, 80), np.random.default_rng(7).integers(1, 4, 80)

    def posterior(log_factor: float, bias_C: NDArray[np.float64]) -> float:
        told_NC = log_softmax(np.exp(log_factor) * logits_NC + bias_C, axis=1)
        return float(told_NC[np.arange(80), label_N] @ flows_N - (log_factor**2 + bias_C @ bias_C) / 2)

    factor, bias_C = calibration(logits_NC, label_N, flows_N, "classes")
    best = posterior(np.log(factor), bias_C)
    for step in np.random.default_rng(8).normal(0, 0.05, (50, 4)):
        assert posterior(np.log(factor) + step[0], bias_C + step[1:]) <= best + 1e-6


def test_into_last_layer__gives_the_calibrated_logits() -> None:
    layer = torch.nn.Linear(5, 3)
    weights = {
        "classifier.weight": layer.weight.detach(),
        "classifier.bias": layer.bias.detach(),
        "other": torch.ones(2),
    }
    bias_C = np.array([0.5, -1.0, 0.0])
    changed = apply_calibration(weights, 0.6, bias_C)
    x = torch.randn(7, 5)
    expected = 0.6 * layer(x) + torch.from_numpy(bias_C)
    found = x @ changed["classifier.weight"].T + changed["classifier.bias"]
    assert torch.allclose(found, expected.float(), atol=1e-6)
    assert changed["other"] is weights["other"]
    assert torch.equal(weights["classifier.weight"], layer.weight)
