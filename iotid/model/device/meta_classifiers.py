"""Meta-classifiers: how reliable the token classifier is, learned from its scores of held-out households.

Four logistic regressions: whether a kind is present, if the address is one host and if it is a household; whether the
address is a household; and whether it has an unknown device.

Shape suffixes: B sets of flows, H households, N examples, C classes, K kinds, F features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray

from iotid.model.arrays import Spec
from iotid.model.calibration import calibration
from iotid.model.device.cross_validation import FoldScores
from iotid.model.device.stacking import MetaClassifier
from iotid.model.device.token_features import FEATURES, SetTokens, TokenFeatures

# whether each also uses products of features
CLASSIFIERS = {"of_host": True, "of_household": False, "is_household": True, "has_unknown": True}
_OF_KINDS = ("of_host", "of_household")  # use FEATURES, the others features of whole sets
_SET_FEATURES = 12
_FOUND = 0.5  # a kind with at least this probability explains its tokens of training
_FALSE_UNKNOWN = 0.05  # accepted share of households without an unknown device that are reported to have one


class MetaClassifiers:
    """The four meta-classifiers, the calibration of classes, and the threshold for unknown devices."""

    def __init__(self, kind_C: NDArray[np.int64], kinds: int) -> None:
        self._kind_C, self._kinds = kind_C, kinds

    def fit(self, held_out: Sequence[FoldScores]) -> Self:
        features = [fold.features[:, fold.known].reshape(-1, len(FEATURES)) for fold in held_out]
        is_present = [fold.present[:, fold.known].ravel() for fold in held_out]
        is_alone = [np.repeat(fold.alone, len(fold.known)) for fold in held_out]
        if any(present_N.any() for present_N in is_present) and not all(present_N.all() for present_N in is_present):
            all_features = np.concatenate(features)
            present_N, alone_N = np.concatenate(is_present), np.concatenate(is_alone)
        else:  # nothing is held out, or a single kind alone: the token classifier is used as it is
            all_features = np.outer([1.0, -1.0], np.arange(len(FEATURES)) == FEATURES.index("logit"))
            present_N, alone_N = np.array([True, False]), np.array([True, True])
        self.of_host = MetaClassifier(squares=True).fit(all_features[alone_N], present_N[alone_N])
        self.of_household = MetaClassifier(squares=False).fit(all_features, present_N)
        self._usually_left_K4 = self._usually_left(held_out)
        rows, found_H = np.zeros((2, _SET_FEATURES)), np.ones(2, np.bool_)
        several_H, unknown_H = np.array([True, False]), np.array([True, False])
        if held_out:
            rows, found_H = (np.concatenate(part) for part in zip(*map(self._features_of, held_out), strict=True))
            found_H |= not found_H.any()
            several_H = np.concatenate([~fold.alone for fold in held_out])
            unknown_H = np.concatenate([fold.has_unknown for fold in held_out])
        self.is_household = MetaClassifier(squares=True).fit(rows, several_H, even=True)
        # only sets with a kind found: without one everything is unknown, and such sets would raise the threshold
        self.has_unknown = MetaClassifier(squares=True).fit(rows[found_H], unknown_H[found_H])
        of_known_H = self.has_unknown.log_odds(rows[found_H & ~unknown_H])
        self._unknown_limit = float(np.quantile(of_known_H, 1 - _FALSE_UNKNOWN)) if len(of_known_H) else 0.0
        self._class_factor = self._fit_class_factor(held_out)
        return self

    def probabilities(self, features: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(B, K) of features (B, K, F), if the address is a host and if it is a household."""
        host_BK, household_BK = (sigmoid(meta.log_odds(features)) for meta in (self.of_host, self.of_household))
        return host_BK, household_BK

    def probability_of_unknown(self, set_features: NDArray[np.float64]) -> NDArray[np.float64]:
        """(B,) of `set_features`; above 0.5 for 1 of 20 households without an unknown device."""
        return sigmoid(self.has_unknown.log_odds(set_features) - self._unknown_limit)

    def set_features(
        self,
        tokens: SetTokens,
        token_features: TokenFeatures,
        host_BK: NDArray[np.float64],
        household_BK: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        """(B, 12) features of whole sets; the first is the share of flows that no kind found explains."""
        found_BK = household_BK >= _FOUND
        left_B4 = token_features.unexplained(tokens, found_BK)
        descending_BK = np.sort(household_BK, axis=1)[:, ::-1]
        return np.column_stack(
            [
                left_B4[:, 1] / np.maximum(left_B4[:, 3], 1),
                np.log1p(np.maximum(left_B4, 0)),
                np.log1p(found_BK @ self._usually_left_K4),
                host_BK.max(axis=1),
                descending_BK[:, 1] if self._kinds > 1 else np.zeros(len(tokens)),
                household_BK.sum(axis=1),
            ]
        )

    def share_unexplained(
        self,
        tokens: SetTokens,
        token_features: TokenFeatures,
        host_BK: NDArray[np.float64],
        household_BK: NDArray[np.float64],
        by_household_B: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        """(B,) share of the distinct flows that none of the kinds found explains, as host or as household;
        ``by_household_B``: the same for kinds found as household."""
        found_BK = np.maximum(host_BK, household_BK) >= _FOUND
        more = np.flatnonzero((found_BK & (household_BK < _FOUND)).any(axis=1))
        share_B, left_M4 = by_household_B.copy(), token_features.unexplained(tokens[more], found_BK[more])
        share_B[more] = left_M4[:, 1] / np.maximum(left_M4[:, 3], 1)
        return share_B

    def class_share(self, logits_BC: NDArray[np.float64]) -> NDArray[np.float64]:
        """(B, C) probability of each class, given its kind."""
        from scipy.special import softmax

        logits_BC = logits_BC * self._class_factor
        share_BC = np.zeros(logits_BC.shape)
        for kind in range(self._kinds):
            own = np.flatnonzero(self._kind_C == kind)
            share_BC[:, own] = softmax(logits_BC[:, own], axis=1)
        return share_BC

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """All that was learned, by name."""
        return {
            "usually_left": self._usually_left_K4,
            "factors": np.array([self._class_factor, self._unknown_limit]),
            **{
                f"{name}.{part}": array
                for name in CLASSIFIERS
                for part, array in getattr(self, name).to_arrays().items()
            },
        }

    @staticmethod
    def specs(kinds: int) -> dict[str, Spec]:
        """Specifications of ``to_arrays``, for a model of this number of kinds."""
        return {
            "usually_left": Spec("F64", (kinds, 4), 0),
            "factors": Spec("F64", (2,)),
            **{
                f"{name}.{part}": spec
                for name, squares in CLASSIFIERS.items()
                for part, spec in MetaClassifier.specs(
                    len(FEATURES) if name in _OF_KINDS else _SET_FEATURES, squares
                ).items()
            },
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]], kind_C: NDArray[np.int64], kinds: int) -> Self:
        """The inverse of ``to_arrays``; raises a KeyError if an array is missing."""
        model = cls(kind_C, kinds)
        for name, squares in CLASSIFIERS.items():
            own = {key.partition(".")[2]: array for key, array in arrays.items() if key.startswith(f"{name}.")}
            setattr(model, name, MetaClassifier.from_arrays(own, squares))
        model._class_factor, model._unknown_limit = arrays["factors"].astype(np.float64).tolist()
        model._usually_left_K4 = arrays["usually_left"].astype(np.float64)
        return model

    def _features_of(self, fold: FoldScores) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """(H, 12) `set_features` of the households, and (H,) whether any kind is found in each."""
        host_HK, household_HK = self.probabilities(fold.features)
        set_features = self.set_features(fold.tokens, fold.token_features, host_HK, household_HK)
        return set_features, (household_HK >= _FOUND).any(axis=1)

    def _usually_left(self, held_out: Sequence[FoldScores]) -> NDArray[np.float64]:
        """(K, 4) the mean of `TokenFeatures.unexplained` over a kind's held-out sets, if only that kind is found."""
        present, left = [np.zeros((0, self._kinds), np.bool_)], [np.zeros((0, 4))]
        for fold in held_out:
            present.append(fold.present[: fold.singles])
            left.append(fold.token_features.unexplained(fold.tokens[: fold.singles], fold.present[: fold.singles]))
        present_NK, left_N4 = np.concatenate(present), np.concatenate(left)
        number_K = present_NK.sum(axis=0)[:, np.newaxis]
        of_all_4 = left_N4[present_NK.any(axis=1)].mean(axis=0) if present_NK.any() else np.zeros(4)
        return np.asarray((present_NK.T @ left_N4 + of_all_4) / (number_K + 1))

    def _fit_class_factor(self, held_out: Sequence[FoldScores]) -> float:
        """The inverse temperature that maximises the likelihood of the classes of held-out sets."""
        logits, labels = [], []
        for fold in held_out:
            household, kind = np.nonzero(fold.classes >= 0)
            label = fold.classes[household, kind]
            own = np.where(self._kind_C == kind[:, np.newaxis], fold.class_logits[household], -np.inf)
            counted = (np.isfinite(own).sum(axis=1) > 1) & np.isfinite(own[np.arange(len(own)), label])
            logits.append(own[counted])
            labels.append(label[counted])
        label_N = np.concatenate([np.zeros(0, np.int64), *labels])
        if not len(label_N):
            return 1.0
        return calibration(np.concatenate(logits), label_N, np.ones(len(label_N), np.int64), "temperature")[0]


def sigmoid(log_odds: NDArray[np.float64]) -> NDArray[np.float64]:
    from scipy.special import expit

    return np.asarray(expit(log_odds))
