"""The classifiers of the device model's two levels: on token counts, and on features (stacking: Wolpert, Neural
Networks 1992).

Shape suffixes: H households, B sets of flows, N examples, T tokens, C classes, K kinds, F features, G terms of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from iotid.model.arrays import Spec
from iotid.model.device.regression import logistic_regressions

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

    from iotid.model.device.token_features import SetTokens

_NEVER = -20.0  # logit of a kind without training sets
_MIN_SETS = 2  # a token in fewer training sets is ignored


class TokenClassifier:
    """A logistic regression for each kind on the tokens of a set, and for each class of a kind with several."""

    def __init__(self, kind_C: NDArray[np.int64], kinds: int) -> None:
        self._kind_C, self.kinds = kind_C, kinds

    def fit(
        self,
        counts_HT: csr_matrix,
        present_HK: NDArray[np.bool_],
        class_HK: NDArray[np.int64],
        sets_T: NDArray[np.int64],
    ) -> Self:
        """``class_HK``: class of each present kind, -1 unless there is exactly one; ``sets_T``: training sets with each
        token."""
        T, C = len(sets_T), len(self._kind_C)
        used = np.flatnonzero(sets_T >= min(_MIN_SETS, int(sets_T.max(initial=0))))
        self.most_T = np.asarray(counts_HT.max(axis=0).todense()).ravel() if T else np.zeros(0)
        class_HC = class_HK[:, self._kind_C] if C else np.zeros((len(class_HK), 0), np.int64)
        is_class_HC = class_HC == np.arange(C)
        learned_C = is_class_HC.any(axis=0)
        has_others_C = np.bincount(self._kind_C[learned_C], minlength=self.kinds)[self._kind_C] > 1
        chosen = np.flatnonzero(learned_C & has_others_C & (self._kind_C >= 0))
        weight, bias = logistic_regressions(
            counts_HT[:, used],
            np.hstack([present_HK, is_class_HC[:, chosen]]),
            np.hstack([np.ones_like(present_HK), class_HC[:, chosen] >= 0]),
        )
        known_K = present_HK.any(axis=0)
        self.weight_TK, self.class_weight_TC = np.zeros((T, self.kinds), np.float32), np.zeros((T, C), np.float32)
        self.weight_TK[used] = np.where(known_K, weight[:, : self.kinds], 0)
        self.bias_K = np.where(known_K, bias[: self.kinds], _NEVER)
        self.class_weight_TC[np.ix_(used, chosen)] = weight[:, self.kinds :]
        of_unlearned_C = ~np.isin(self._kind_C, self._kind_C[learned_C])  # such kinds' classes are equally likely
        self.class_bias_C = np.where(learned_C | of_unlearned_C, 0.0, -np.inf)
        self.class_bias_C[chosen] = bias[self.kinds :]
        return self

    def logits(self, tokens: SetTokens) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(B, K) of kinds, and (B, C) of classes, relative to the others of their kind."""
        counts = tokens.counts.copy()
        # a count above the greatest in training adds nothing
        counts.data = np.minimum(counts.data, self.most_T[counts.indices])
        return counts @ self.weight_TK + self.bias_K, counts @ self.class_weight_TC + self.class_bias_C

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        names = ("most_T", "weight_TK", "bias_K", "class_weight_TC", "class_bias_C")
        return {name: getattr(self, name) for name in names}

    @staticmethod
    def specs(kinds: int, classes: int) -> dict[str, Spec]:
        """Specifications of ``to_arrays``; S, P and Q: numbers of sequence, packet and pair tokens
        (`token_features`)."""
        return {
            "most_T": Spec("F64", ("S+P+Q",), 0),
            "weight_TK": Spec("F32", ("S+P+Q", kinds)),
            "bias_K": Spec("F64", (kinds,)),
            "class_weight_TC": Spec("F32", ("S+P+Q", classes)),
            "class_bias_C": Spec("F64", (classes,), or_never=True),
        }

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, NDArray[np.generic]], kind_C: NDArray[np.int64], kinds: int
    ) -> TokenClassifier:
        classifier = cls(kind_C, kinds)
        for name, array in arrays.items():
            setattr(classifier, name, array)
        return classifier


class MetaClassifier:
    """Logistic regression on standardised features, with ``squares`` also on their products."""

    def __init__(self, squares: bool) -> None:
        self._squares = squares

    def fit(self, features_NF: NDArray[np.float64], is_so_N: NDArray[np.bool_], *, even: bool = False) -> Self:
        """``even``: with a prior of one half instead of the share of positive examples."""
        from sklearn.linear_model import LogisticRegression

        terms_NG = self._terms(features_NF)
        self._mean, self._spread = terms_NG.mean(axis=0), np.maximum(terms_NG.std(axis=0), 1e-6)
        self._weight, self._bias = np.zeros(terms_NG.shape[1]), 0.0
        if is_so_N.any() and not is_so_N.all():
            model = LogisticRegression(C=0.1 if self._squares else 1.0, max_iter=2000)
            model.fit((terms_NG - self._mean) / self._spread, is_so_N)
            prior = np.log(is_so_N.mean() / (1 - is_so_N.mean())) if even else 0.0
            self._weight, self._bias = model.coef_[0], float(model.intercept_[0] - prior)
        return self

    def log_odds(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """(…) log-odds, of features (…, F)."""
        return np.asarray((self._terms(features) - self._mean) / self._spread @ self._weight + self._bias)

    def _terms(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        if not self._squares:
            return features
        one, other = np.triu_indices(features.shape[-1])
        return np.concatenate([features, features[..., one] * features[..., other]], axis=-1)

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        return {"middle": self._mean, "spread": self._spread, "weight": self._weight, "bias": np.array([self._bias])}

    @staticmethod
    def specs(features: int, squares: bool) -> dict[str, Spec]:
        """Specifications of ``to_arrays``, for a classifier of this number of features."""
        terms = features + squares * features * (features + 1) // 2
        return {
            "middle": Spec("F64", (terms,)),
            "spread": Spec("F64", (terms,), 1e-6),
            "weight": Spec("F64", (terms,)),
            "bias": Spec("F64", (1,)),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]], squares: bool) -> Self:
        classifier = cls(squares)
        classifier._mean, classifier._spread, classifier._weight = (
            arrays[name].astype(np.float64) for name in ("middle", "spread", "weight")
        )
        classifier._bias = float(arrays["bias"].astype(np.float64)[0])
        return classifier
