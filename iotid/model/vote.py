"""A learned vote: a set of flows in, one answer out, because a census names devices and not flows.

Single flows of look-alikes are often equal, and what tells two devices apart is which flows they show together. Adding
up what a model says of each flow cannot see that; here what is learned is the answer for the whole set.

Shape suffixes: N rows, B sets of flows, F features of a flow's summary, V features of a set, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from iotid.dataset.bags import Bags
from iotid.model.calibration import calibration

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

_STRENGTH = 30.0  # inverse of the penalty
_THINNED = (0.5, 0.25, 0.1)  # shares of a training set's flows that are kept in further copies of it
_FOLDS = 5  # of training sets, to see how right the vote is of sets that it did not learn from
_KINDS = ("sequences", "packets")


class LearnedVote:
    """Multinomial logistic regression on three views of a set of flows.

    What the network makes of its flows (the mean of their summaries, a sequence that n flows share weighing 1 + log n);
    which of the sequences that training showed are in it; and which of training's packets. Training sets are shown
    whole and thinned out at random, so that the answer for a device that showed three flows is learned, too.

    A regression with more things than sets is far surer of new sets than it is right. So each fifth of the training
    sets, with its copies, is answered by what was learned from the others, and the temperature at which these answers
    are likeliest (Guo et al., ICML 2017) is folded into the weights.
    """

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        self._bags = Bags(*_KINDS)

    def fit(
        self,
        sequences: Mapping[str, NDArray[np.int32]],
        summaries_NF: NDArray[np.float32],
        flows_BN: csr_matrix,
        label_B: NDArray[np.int64],
        classes: int,
    ) -> Self:
        """``flows_BN``: how many flows of each set are equal to each row; ``summaries_NF``: of `Predictor.read`."""
        from scipy.sparse import vstack

        self._bags.learn(sequences)
        random = np.random.default_rng(self._seed)
        thinned = [thin(flows_BN, share, random) for share in _THINNED]
        set_B = np.concatenate([np.arange(len(label_B)), *(rows for _, rows in thinned)])  # of which each is a copy
        flows_BN = vstack([flows_BN, *(kept for kept, _ in thinned)]).tocsr()
        mean_BF = mean_of_flows(summaries_NF, flows_BN)
        self._middle_F, self._spread_F = mean_BF.mean(axis=0), np.maximum(mean_BF.std(axis=0), 1e-6)
        views_BV = self._views(sequences, summaries_NF, flows_BN)
        fold_B, label_B = _folds(label_B)[set_B], label_B[set_B]
        weight_VC, bias_C = self._regress(views_BV, label_B, classes)
        factor = self._out_of_fold_factor(views_BV, label_B, fold_B, classes)
        self._weight_VC, self._bias_C = factor * weight_VC, factor * bias_C
        return self

    def probabilities(
        self, sequences: Mapping[str, NDArray[np.int32]], summaries_NF: NDArray[np.float32], flows_BN: csr_matrix
    ) -> NDArray[np.float64]:
        """(B, C) of sets, given as in ``fit``; 0 for classes of which ``fit`` had none."""
        return self.decide(self.of_bags(sequences, flows_BN), mean_of_flows(self.of_flows(summaries_NF), flows_BN))

    def of_flows(self, summaries_NF: NDArray[np.float32]) -> NDArray[np.float64]:
        """(N, C) what each flow's summary says; of a set counts their mean, n equal flows weighing 1 + log n."""
        read = len(self._middle_F)
        return np.asarray((summaries_NF - self._middle_F) / self._spread_F @ self._weight_VC[-read:])

    def of_bags(self, sequences: Mapping[str, NDArray[np.int32]], flows_BN: csr_matrix) -> NDArray[np.float64]:
        """(B, C) what the things in each set say."""
        read = len(self._middle_F)
        return np.asarray(self._bags.matrix(sequences, flows_BN) @ self._weight_VC[:-read])

    def decide(self, of_bags_BC: NDArray[np.float64], of_flows_BC: NDArray[np.float64]) -> NDArray[np.float64]:
        """(B, C) probabilities of sets from what their things and their flows say."""
        from scipy.special import softmax

        return np.asarray(softmax(of_bags_BC + of_flows_BC + self._bias_C, axis=1))

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """All that it has learned, by name."""
        told = {"middle": self._middle_F, "spread": self._spread_F, "weight": self._weight_VC, "bias": self._bias_C}
        return {**told, **{f"bags.{kind}": known for kind, known in self._bags.to_arrays().items()}}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> LearnedVote:
        """The vote that ``to_arrays`` told of; KeyError: a part of it is missing."""
        vote = cls()
        vote._middle_F, vote._spread_F, vote._weight_VC, vote._bias_C = (
            arrays[name].astype(np.float64) for name in ("middle", "spread", "weight", "bias")
        )
        vote._bags = Bags.from_arrays({kind: arrays[f"bags.{kind}"].astype(np.uint8) for kind in _KINDS})
        return vote

    def _regress(
        self, views_BV: csr_matrix, label_B: NDArray[np.int64], classes: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Weights (V, C) and biases (C,); a class of which there is no set is never the answer."""
        from sklearn.linear_model import LogisticRegression

        known = np.unique(label_B)
        weight_VC, bias_C = np.zeros((views_BV.shape[1], classes)), np.full(classes, -np.inf)
        bias_C[known] = 0
        if len(known) > 1:
            model = LogisticRegression(C=_STRENGTH, max_iter=400, tol=1e-3, random_state=self._seed)
            model.fit(views_BV, label_B)
            own = known if len(known) > 2 else known[1:]  # of two classes scikit-learn tells the odds of the second
            weight_VC[:, own], bias_C[own] = model.coef_.T, model.intercept_
        return weight_VC, bias_C

    def _out_of_fold_factor(
        self, views_BV: csr_matrix, label_B: NDArray[np.int64], fold_B: NDArray[np.int64], classes: int
    ) -> float:
        logits, labels = [np.zeros((0, classes))], [label_B[:0]]
        for fold in range(_FOLDS):
            learned_B = fold_B != fold
            judged_B = ~learned_B & np.isin(label_B, label_B[learned_B])  # a label's only set can teach no doubt
            if judged_B.any():
                weight_VC, bias_C = self._regress(views_BV[learned_B], label_B[learned_B], classes)
                logits.append(views_BV[judged_B] @ weight_VC + bias_C)
                labels.append(label_B[judged_B])
        label_B = np.concatenate(labels)
        return calibration(np.concatenate(logits), label_B, np.ones(len(label_B), np.int64), "temperature")[0]

    def _views(
        self, sequences: Mapping[str, NDArray[np.int32]], summaries_NF: NDArray[np.float32], flows_BN: csr_matrix
    ) -> csr_matrix:
        from scipy.sparse import csr_matrix, hstack

        read_BF = (mean_of_flows(summaries_NF, flows_BN) - self._middle_F) / self._spread_F
        return hstack([self._bags.matrix(sequences, flows_BN), csr_matrix(read_BF)]).tocsr()


def thin(flows_BN: csr_matrix, share: float, random: np.random.Generator) -> tuple[csr_matrix, NDArray[np.intp]]:
    """Each flow kept with this chance; the sets of which any is left, and their rows among the sets given."""
    kept_BN = flows_BN.copy()
    kept_BN.data = random.binomial(flows_BN.data.astype(np.int64), share)
    kept_BN.eliminate_zeros()
    rows = np.flatnonzero(kept_BN.getnnz(axis=1))
    return kept_BN[rows], rows


def mean_of_flows(values_NF: NDArray[np.floating], flows_BN: csr_matrix) -> NDArray[np.float64]:
    """(B, F) of sets of flows, in which n equal ones weigh 1 + log n."""
    weight_BN = flows_BN.astype(np.float64)
    weight_BN.data = 1 + np.log(weight_BN.data)
    mean_BF: NDArray[np.float64] = (weight_BN @ values_NF) / np.asarray(weight_BN.sum(axis=1))
    return mean_BF


def _folds(label_B: NDArray[np.int64]) -> NDArray[np.int64]:
    """The fold of each set: those of each label are dealt out in turn."""
    order = np.argsort(label_B, kind="stable")
    place_B = np.arange(len(label_B)) - np.searchsorted(label_B[order], label_B[order])
    fold_B = np.empty(len(label_B), np.int64)
    fold_B[order] = (place_B + label_B[order]) % _FOLDS
    return fold_B
