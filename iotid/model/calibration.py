"""Computes a temperature and class biases that calibrate probabilities, from logits and labels of the validation split.

Training weights rows and classes so that rare ones are learned, and a model is overconfident on its training split. A
temperature (Guo et al., ICML 2017) with a bias for each class, which corrects the shift of the class weights
(bias-corrected temperature scaling: Alexandari et al., ICML 2020), fixes both.

Shape suffixes: N rows, C classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch


def calibration(
    logits_NC: NDArray[np.floating], label_N: NDArray[np.int64], flows_N: NDArray[np.int64], kind: str
) -> tuple[float, NDArray[np.float64]]:
    """The factor, and the bias (C,) of each class, for which ``factor * logits + bias`` fits the labels best.

    Maximum a posteriori over all flows, with standard normal priors of the factor's logarithm and of each bias, so that
    a class that is rare in validation keeps its training odds. ``kind``: ``classes``, ``temperature`` (all biases are
    0), or ``none`` (also the factor is 1). A class with a logit of -inf is never predicted.
    """
    from scipy.optimize import minimize
    from scipy.special import log_softmax, softmax

    if kind == "none":
        return 1.0, np.zeros(logits_NC.shape[1])
    biases = kind == "classes"
    logits_NC = logits_NC.astype(np.float64)
    flows_N1 = flows_N[:, np.newaxis].astype(np.float64)
    right = np.arange(len(label_N)), label_N
    finite_NC = np.where(np.isneginf(logits_NC), 0, logits_NC)

    def loss(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        factor, bias_C = np.exp(parameters[0]), parameters[1:] * biases
        shifted_NC = factor * logits_NC + bias_C
        likelihood = float(flows_N @ log_softmax(shifted_NC, axis=1)[right])
        slope_NC = softmax(shifted_NC, axis=1)
        slope_NC[right] -= 1
        slope_NC *= flows_N1
        slope = np.append(factor * (slope_NC * finite_NC).sum(), slope_NC.sum(axis=0) * biases)
        return float(parameters @ parameters) / 2 - likelihood, slope + parameters

    found = minimize(loss, np.zeros(1 + logits_NC.shape[1]), jac=True, method="L-BFGS-B").x
    return float(np.exp(found[0])), found[1:] * biases


def apply_calibration(
    weights: dict[str, torch.Tensor], factor: float, bias_C: NDArray[np.float64]
) -> dict[str, torch.Tensor]:
    """A copy of the ensemble's weights with the calibration in its last layer: logits become ``factor * logits +
    bias``."""
    import torch

    own_C = weights["classifier.bias"]
    return {
        **weights,
        "classifier.weight": weights["classifier.weight"] * factor,
        "classifier.bias": own_C * factor + torch.from_numpy(bias_C).to(own_C),
    }
