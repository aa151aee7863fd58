"""Leakage and ceiling: how much of the test split is in training, and the best accuracy possible. Counted in flows.

Both follow Jerabek et al. 2025 (arXiv 2506.08655): most public datasets consist largely of equal sequences, so a random
split measures memorization, and equal sequences under several labels limit the accuracy of any classifier.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from iotid.baselines.sequences import label_counts
from iotid.dataset.arrays import exact_keys, side_by_side

if TYPE_CHECKING:
    from iotid.dataset import EncodedFlows


def leakage(train: EncodedFlows, test: EncodedFlows) -> float:
    """Share of test flows whose sequences occur in training with the same label."""
    return _share_in_training(train, test, with_label=True)


def seen_in_training(train: EncodedFlows, test: EncodedFlows) -> float:
    """Share of test flows whose sequences occur in training with any label."""
    return _share_in_training(train, test, with_label=False)


def ceiling(test: EncodedFlows) -> float:
    """Highest accuracy on this test split of any classifier that gives equal sequences the same answer.

    Each distinct sequence gets the label that most of its test flows have. As this uses the test labels, it is an upper
    bound, which a classifier that learns from training may be unable to reach.
    """
    keys_N = exact_keys(side_by_side(test.sequences))
    num_classes = int(test.label.max()) + 1
    _, flows_UC = label_counts(keys_N, test.label, test.num_flows, num_classes)
    return float(flows_UC.max(axis=1).sum() / test.num_flows.sum())


def majority_baseline(test: EncodedFlows) -> float:
    """Accuracy of always answering the most common class of the test split."""
    return float(np.bincount(test.label, weights=test.num_flows).max() / test.num_flows.sum())


def _share_in_training(train: EncodedFlows, test: EncodedFlows, *, with_label: bool) -> float:
    def keys(rows: EncodedFlows) -> np.ndarray:
        matrix = side_by_side(rows.sequences)
        return exact_keys(np.column_stack([matrix, rows.label.astype(matrix.dtype)]) if with_label else matrix)

    known_N = np.isin(keys(test), keys(train))
    return float(test.num_flows[known_N].sum() / test.num_flows.sum())
