"""How unlike all training sets a set of flows is: what tells a device of a kind never learned from those that were.

A network is sure of what it never saw, too; what does not lie is whether the device's packets, and the pairs in which
they follow each other, were ever seen together in training.

Shape suffixes: N rows, B sets, A training sets, S of them or parts of them, C classes, K kinds, T things (packets and
pairs) of training, Q things of the sets asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from iotid.dataset.bags import Bags
from iotid.model.vote import thin

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

LIMIT = 0.5  # the novelty above which a set is new
_KINDS = ("packets", "pairs")
_THINNED = (
    0.3  # share of a training set's flows that is kept in a further copy, to learn what little evidence looks like
)
_LEAST_LIMIT = 0.25  # few and equal training sets, too, leave room for another day
_SLICE = 1024  # sets compared with all of training at once


class Novelty:
    """How unlike, measured by what training sets of the most like class are to each other.

    Unlikeness is the mean of two shares: 1 - the cosine to the most like training set, and what of the set training
    never showed. Things are weighed by inverse document frequency, log((1 + A) / (1 + sets that hold it)), so that what
    every device does counts for little, and in the cosine by 1 + log of their number (tf-idf: Salton and Buckley 1988).
    Both are 0 for a training set and 1 for a set that shares nothing.

    Some devices never do the same twice, others nothing else. So each class has a limit, and the novelty of a set is
    its unlikeness on a scale of 0 to 1 on which the limit of the class of the most like training set is at LIMIT.

    What a set looks like, ``looks`` (B, C + 1), is the cosine to the most like training set of each class, and last
    what training never showed.
    """

    def __init__(self) -> None:
        self._bags = Bags(*_KINDS)

    def fit(
        self,
        sequences: Mapping[str, NDArray[np.int32]],
        flows_AN: csr_matrix,
        label_A: NDArray[np.int64],
        classes: int,
        *,
        known_share: float = 0.95,
        seed: int = 0,
    ) -> Self:
        """``flows_AN``: how many flows of each training set are equal to each row.

        A class's limit is what ``known_share`` of its training sets, whole and thinned out, are expected to stay below
        where they are compared with all others; 0.25 at least. A label's only set has no others to be like, and says
        nothing; without any other, no set is new.
        """
        self._train_AT = self._bags.learn(sequences).matrix(sequences, flows_AN).astype(np.float32)
        self._weigh()
        kept_BN, kept = thin(flows_AN, _THINNED, np.random.default_rng(seed))
        self._label_A = label_A
        self._limit_C = np.ones(classes)
        own_S = np.append(np.arange(len(label_A)), kept)
        looks = [self._looks(sequences, flows_AN, own_S[: len(label_A)]), self._looks(sequences, kept_BN, kept)]
        self._limit_C = _limits(_unlikeness(np.concatenate(looks)), own_S, label_A, classes, known_share)
        return self

    def looks(self, sequences: Mapping[str, NDArray[np.int32]], flows_BN: csr_matrix) -> NDArray[np.float64]:
        """(B, C + 1) of sets of flows."""
        return self._looks(sequences, flows_BN, None)

    def scores(self, looks: NDArray[np.float64]) -> NDArray[np.float64]:
        """(B,) from 0, like a training set, to 1, like nothing in training; new above LIMIT."""
        return _scaled(_unlikeness(looks), self._limit_C[looks[:, :-1].argmax(axis=1)])

    def scores_together(
        self, looks: NDArray[np.float64], found_BK: NDArray[np.bool_], kind_C: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """``scores`` (B,) of sets that devices of several kinds showed together, at least one of them for each set.

        The cosine is that to the best sum of a training set of each kind, as if those had nothing in common; the limit
        is the mean of theirs.
        """
        cosine_BK, limit_BK = (np.zeros(found_BK.shape) for _ in range(2))
        for kind in range(found_BK.shape[1]):
            own = np.flatnonzero(kind_C == kind)
            best = own[looks[:, own].argmax(axis=1)]
            cosine_BK[:, kind], limit_BK[:, kind] = looks[np.arange(len(looks)), best], self._limit_C[best]
        cosine_B = np.sqrt((found_BK * cosine_BK**2).sum(axis=1))
        together = np.column_stack([cosine_B, looks[:, -1]])
        return _scaled(_unlikeness(together), (found_BK * limit_BK).sum(axis=1) / found_BK.sum(axis=1))

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """All that it has learned, by name."""
        train = self._train_AT
        told = {"data": train.data, "indices": train.indices, "indptr": train.indptr}
        told |= {"shape": np.array(train.shape), "labels": self._label_A, "limits": self._limit_C}
        return {**told, **{f"bags.{kind}": known for kind, known in self._bags.to_arrays().items()}}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> Novelty:
        """What ``to_arrays`` told of; KeyError: a part of it is missing."""
        from scipy.sparse import csr_matrix

        novelty = cls()
        parts = (arrays[name] for name in ("data", "indices", "indptr"))
        novelty._train_AT = csr_matrix(tuple(parts), shape=tuple(arrays["shape"].astype(int).tolist()))
        novelty._bags = Bags.from_arrays({kind: arrays[f"bags.{kind}"].astype(np.uint8) for kind in _KINDS})
        novelty._label_A, novelty._limit_C = arrays["labels"].astype(np.int64), arrays["limits"].astype(np.float64)
        novelty._weigh()
        return novelty

    def _weigh(self) -> None:
        from scipy.sparse import diags

        sets = self._train_AT.shape[0]
        self._held_T = self._train_AT.getnnz(axis=0)  # training sets that hold each thing
        weighed_AT = self._train_AT @ diags(_idf(self._held_T, sets))
        self._unit_AT = diags(1 / np.maximum(_norms(weighed_AT), 1e-9)) @ weighed_AT

    def _looks(
        self, sequences: Mapping[str, NDArray[np.int32]], flows_BN: csr_matrix, own_B: NDArray[np.intp] | None
    ) -> NDArray[np.float64]:
        """``own_B``: the training set that each set is, or is a part of; it is then compared with all others."""
        from scipy.sparse import csr_matrix

        asked = Bags(*_KINDS).learn(sequences)
        place_Q = asked.places(self._bags.known)
        there = np.flatnonzero(place_Q >= 0)
        sets = self._train_AT.shape[0]
        ones, shape = np.ones(len(there)), (len(place_Q), self._train_AT.shape[1])
        of_training_QT = csr_matrix((ones, (there, place_Q[there])), shape=shape)
        held_Q = np.zeros(len(place_Q), np.int64)
        held_Q[there] = self._held_T[place_Q[there]]
        looks = np.zeros((flows_BN.shape[0], len(self._limit_C) + 1))
        for start in range(0, len(looks), _SLICE):
            rows = slice(start, start + _SLICE)
            bags_BQ = asked.matrix(sequences, flows_BN[rows])
            # of a training set itself each thing is in one set less than all of training says
            weight_BQ = bags_BQ.copy()
            weight_BQ.data = _idf(held_Q[bags_BQ.indices] - (own_B is not None), sets)
            unseen_BQ = weight_BQ.copy()
            unseen_BQ.data = weight_BQ.data * (held_Q[bags_BQ.indices] - (own_B is not None) <= 0)
            all_B = np.maximum(np.asarray(weight_BQ.sum(axis=1)).ravel(), 1e-9)
            looks[rows, -1] = np.asarray(unseen_BQ.sum(axis=1)).ravel() / all_B
            weighed_BQ = bags_BQ.multiply(weight_BQ).tocsr()
            cosine_BA = (weighed_BQ @ of_training_QT @ self._unit_AT.T).toarray()
            cosine_BA /= np.maximum(_norms(weighed_BQ), 1e-9)[:, np.newaxis]
            if own_B is not None:
                cosine_BA[np.arange(len(cosine_BA)), own_B[rows]] = 0
            for label in np.unique(self._label_A):
                looks[rows, label] = np.clip(cosine_BA[:, self._label_A == label].max(axis=1), 0, 1)
        return looks


def _unlikeness(looks: NDArray[np.float64]) -> NDArray[np.float64]:
    """(B,) the mean of the two shares."""
    return (1 - np.minimum(looks[:, :-1].max(axis=1), 1) + looks[:, -1]) / 2


def _scaled(unlike_B: NDArray[np.float64], limit_B: NDArray[np.float64]) -> NDArray[np.float64]:
    """From 0 to 1, with the limit at LIMIT."""
    above_B = (unlike_B - limit_B) / np.maximum(1 - limit_B, 1e-9)
    return np.where(unlike_B <= limit_B, LIMIT * unlike_B / limit_B, LIMIT + (1 - LIMIT) * above_B)


def _limits(
    unlike_S: NDArray[np.float64], own_S: NDArray[np.intp], label_A: NDArray[np.int64], C: int, known_share: float
) -> NDArray[np.float64]:
    """(C,) of each class what this share of its sets is expected to stay below; ``own_S``: the set that each is of.

    Classes differ, and of most there are few sets, so a class's own mean counts the more, the more sets it rests on:
    random effects by one-way analysis of variance, with the best linear predictor of a further set of the class and
    its error (Searle, Casella and McCulloch, Variance Components, 1992). How many of these errors sets may lie above
    what is expected is what they do when each is predicted from the others.
    """
    sets_C = np.bincount(label_A, minlength=C)
    counted_S = sets_C[label_A[own_S]] > 1
    unlike_S, own_S = unlike_S[counted_S], own_S[counted_S]
    label_S = label_A[own_S]
    n_C, sum_C = np.bincount(label_S, minlength=C), np.bincount(label_S, unlike_S, C)
    some_C = n_C > 0
    if not some_C.any():
        return np.ones(C)
    mean_C = sum_C / np.maximum(n_C, 1)
    within = float(((unlike_S - mean_C[label_S]) ** 2).sum() / (len(unlike_S) - some_C.sum()))
    middle, spread = float(mean_C[some_C].mean()), float(mean_C[some_C].var(ddof=1)) if some_C.sum() > 1 else 0.0
    between = max(spread - within * float((1 / n_C[some_C]).mean()), 0.0)

    def expected(n: NDArray[Any], total: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """A further set's unlikeness, and the standard error of that, after n of the class with this sum."""
        trust = n * between / np.maximum(n * between + within, 1e-12)
        return middle + trust * (total / np.maximum(n, 1) - middle), np.sqrt(within + (1 - trust) * between)

    n_A, sum_A = np.bincount(own_S, minlength=len(label_A)), np.bincount(own_S, unlike_S, len(label_A))
    guess_S, error_S = expected(n_C[label_S] - n_A[own_S], sum_C[label_S] - sum_A[own_S])
    reach = float(np.quantile((unlike_S - guess_S) / np.maximum(error_S, 1e-9), known_share))
    guess_C, error_C = expected(n_C, sum_C)
    return np.clip(guess_C + reach * error_C, _LEAST_LIMIT, 1.0)


def _idf(held: NDArray[np.int64], sets: int) -> NDArray[np.float64]:
    return np.log((1 + sets) / (1 + np.maximum(held, 0)))


def _norms(matrix: csr_matrix) -> NDArray[np.float64]:
    return np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel())
