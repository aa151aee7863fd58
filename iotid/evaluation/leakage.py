"""How to read a score on this split: how much of the test part is in training, and how much can be distinguished.

Both follow Jerabek et al. 2025 (arXiv 2506.08655): most public datasets consist largely of equal sequences, so a random
split measures memorization, and equal sequences under several labels bound what anything can reach. Counted in flows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from iotid.baselines.sequences import label_counts
from iotid.dataset.arrays import exact_keys, side_by_side

if TYPE_CHECKING:
    from iotid.dataset import EncodedFlows


def leakage(train: EncodedFlows, test: EncodedFlows) -> float:
    """Share of test flows whose exact sequences occur in training under the same label."""
    return _share_in_training(train, test, with_label=True)


def seen_in_training(train: EncodedFlows, test: EncodedFlows) -> float:
    """Share of test flows whose exact sequences occur in training under any label."""
    return _share_in_training(train, test, with_label=False)


def ceiling(test: EncodedFlows) -> float:
    """Best accuracy on this test part of any classifier that gives equal sequences the same answer.

    Each distinct sequence gets the label that most of its test flows have. That uses the test labels, so it bounds
    every classifier from above; one that learns from training alone may be unable to reach it.
    """
    keys_N = exact_keys(side_by_side(test.sequences))
    num_classes = int(test.label.max()) + 1
    _, flows_UC = label_counts(keys_N, test.label, test.num_flows, num_classes)
    return float(flows_UC.max(axis=1).sum() / test.num_flows.sum())


def majority_baseline(test: EncodedFlows) -> float:
    """Accuracy of always answering the commonest class of the test part."""
    return float(np.bincount(test.label, weights=test.num_flows).max() / test.num_flows.sum())


def _share_in_training(train: EncodedFlows, test: EncodedFlows, *, with_label: bool) -> float:
    def keys(rows: EncodedFlows) -> np.ndarray:
        matrix = side_by_side(rows.sequences)
        return exact_keys(np.column_stack([matrix, rows.label.astype(matrix.dtype)]) if with_label else matrix)

    known_N = np.isin(keys(test), keys(train))
    return float(test.num_flows[known_N].sum() / test.num_flows.sum())
