"""The device model: from a set of flows to the kinds behind it, how sure that is, and what remains unexplained.

Two steps. A logistic regression for each kind, on the tokens of the set, is learned on made-up households of every
size. It knows nothing but what it was shown, so its answers are judged once more: how much of what the kind usually
shows is there, what only this kind explains, and what nobody explains. This second step is one logistic regression for
all kinds. It is learned on households of held-back sets, where some kinds were left out of the first step: they are to
it what unlearned devices are later. There are two of them, for an address of one host and for one of a household; how
likely an address is to be either, a third one says.

Shape suffixes: D distinct flows, B sets of flows, H households, T tokens, C classes, K kinds, F features.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from iotid.model.calibration import calibration
from iotid.model.device.evidence import FEATURES, Evidence, Shown, Vocabulary
from iotid.model.device.households import Household, Pool, unite
from iotid.model.device.regression import logistic_regressions

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

    from iotid.dataset import Sets

FOUND = 0.5  # a kind of at least this probability explains what it showed
_SIZES = range(1, 13)  # kinds in a made-up household that the first step learns from
_HELD_BACK_SIZES = (1, 1, 2, 2, 3, 4, 5, 6, 8, 10)
_BESIDE, _HELD_BACK_BESIDE = (0, 0, 0, 1, 2), (0, 0, 0, 1, 2, 3, 5)  # strangers in it
_PER_KIND, _MOST, _LEAST = 200, 4000, 400  # made-up households
_FOLDS = 4
_NEVER = -20.0  # logit of a kind that was never shown
_LEAST_SHOWN = 2  # sets that show a token, for it to count in the first step
_FALSE_UNKNOWN = 0.04  # share of households without a stranger that may be said to hold one


@dataclass(frozen=True)
class Answer:
    """Of B sets, under both views: ``host`` and ``household`` (B, K) probabilities that a kind is there.

    ``log_odds`` (B,): of being a household, where as many addresses are one as are not; ``class_share`` (B, C):
    probability of each class, given its kind; ``unexplained`` (B,): share of the distinct flows that no kind found
    explains; ``unknown`` (B,): probability that something else is there; ``flows`` (B, K + 1): distinct flows that are
    like those of one kind alone, last those that are like several kinds'; ``distinct`` (B,): all; ``units`` (B, K):
    devices of each kind, if any, at least: 2 where more sessions were open at once than one device held in training.
    """

    host: NDArray[np.float64]
    household: NDArray[np.float64]
    log_odds: NDArray[np.float64]
    class_share: NDArray[np.float64]
    unexplained: NDArray[np.float64]
    unknown: NDArray[np.float64]
    flows: NDArray[np.int64]
    distinct: NDArray[np.int64]
    units: NDArray[np.int64]


class Judge:
    """Logistic regression on features, and where ``squares`` on their products; standardised."""

    def __init__(self, squares: bool) -> None:
        self._squares = squares

    def fit(self, features_NF: NDArray[np.float64], is_so_N: NDArray[np.bool_], *, even: bool = False) -> Self:
        """``even``: answer as if as many were so as are not."""
        from sklearn.linear_model import LogisticRegression

        terms_NG = self._terms(features_NF)
        self._middle, self._spread = terms_NG.mean(axis=0), np.maximum(terms_NG.std(axis=0), 1e-6)
        self._weight, self._bias = np.zeros(terms_NG.shape[1]), 0.0
        if is_so_N.any() and not is_so_N.all():
            model = LogisticRegression(C=0.1 if self._squares else 1.0, max_iter=2000)
            model.fit((terms_NG - self._middle) / self._spread, is_so_N)
            prior = np.log(is_so_N.mean() / (1 - is_so_N.mean())) if even else 0.0
            self._weight, self._bias = model.coef_[0], float(model.intercept_[0] - prior)
        return self

    def log_odds(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """(…) of features (…, F)."""
        return np.asarray((self._terms(features) - self._middle) / self._spread @ self._weight + self._bias)

    def _terms(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        if not self._squares:
            return features
        one, other = np.triu_indices(features.shape[-1])
        return np.concatenate([features, features[..., one] * features[..., other]], axis=-1)

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        return {"middle": self._middle, "spread": self._spread, "weight": self._weight, "bias": np.array([self._bias])}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]], squares: bool) -> Self:
        judge = cls(squares)
        judge._middle, judge._spread, judge._weight = (
            arrays[name].astype(np.float64) for name in ("middle", "spread", "weight")
        )
        judge._bias = float(arrays["bias"].astype(np.float64)[0])
        return judge


class FirstStep:
    """A regression for each kind on the tokens of a set, and for each class of a kind that has several."""

    def __init__(self, kind_C: NDArray[np.int64], kinds: int) -> None:
        self._kind_C, self.kinds = kind_C, kinds

    def fit(
        self,
        counts_HT: csr_matrix,
        there_HK: NDArray[np.bool_],
        class_HK: NDArray[np.int64],
        shown_T: NDArray[np.int64],
    ) -> Self:
        """``class_HK``: of each kind there the class, -1 where it is not one; ``shown_T``: sets that show a token."""
        T, C = len(shown_T), len(self._kind_C)
        kept = np.flatnonzero(shown_T >= min(_LEAST_SHOWN, int(shown_T.max(initial=0))))
        self.most_T = np.asarray(counts_HT.max(axis=0).todense()).ravel() if T else np.zeros(0)
        class_HC = class_HK[:, self._kind_C] if C else np.zeros((len(class_HK), 0), np.int64)
        is_class_HC = class_HC == np.arange(C)
        learned_C = is_class_HC.any(axis=0)
        has_others_C = np.bincount(self._kind_C[learned_C], minlength=self.kinds)[self._kind_C] > 1
        chosen = np.flatnonzero(learned_C & has_others_C & (self._kind_C >= 0))
        weight, bias = logistic_regressions(
            counts_HT[:, kept],
            np.hstack([there_HK, is_class_HC[:, chosen]]),
            np.hstack([np.ones_like(there_HK), class_HC[:, chosen] >= 0]),
        )
        known_K = there_HK.any(axis=0)
        self.weight_TK, self.class_weight_TC = np.zeros((T, self.kinds), np.float32), np.zeros((T, C), np.float32)
        self.weight_TK[kept] = np.where(known_K, weight[:, : self.kinds], 0)
        self.bias_K = np.where(known_K, bias[: self.kinds], _NEVER)
        self.class_weight_TC[np.ix_(kept, chosen)] = weight[:, self.kinds :]
        of_unlearned_C = ~np.isin(self._kind_C, self._kind_C[learned_C])  # no class of the kind was shown: all are even
        self.class_bias_C = np.where(learned_C | of_unlearned_C, 0.0, -np.inf)
        self.class_bias_C[chosen] = bias[self.kinds :]
        return self

    def logits(self, shown: Shown) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(B, K) of kinds, and (B, C) of classes among those of their kind."""
        counts = shown.counts.copy()
        # what no made-up household ever showed so often is no stronger a sign than the most that one did
        counts.data = np.minimum(counts.data, self.most_T[counts.indices])
        return counts @ self.weight_TK + self.bias_K, counts @ self.class_weight_TC + self.class_bias_C

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        names = ("most_T", "weight_TK", "bias_K", "class_weight_TC", "class_bias_C")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]], kind_C: NDArray[np.int64], kinds: int) -> FirstStep:
        step = cls(kind_C, kinds)
        for name, array in arrays.items():
            setattr(step, name, array)
        return step


class DeviceModel:
    """What is behind an address, by the flows of all that is there."""

    def __init__(self, kind_C: NDArray[np.int64]) -> None:
        """``kind_C``: the kind of each class, of `kinds_of`."""
        self.kind_C, self.kinds = kind_C, int(kind_C.max(initial=-1)) + 1

    def fit(self, sets: Sets, *, seed: int = 0) -> Self:
        """Sets of no class (-1), and of one without kind, are strangers."""
        random = np.random.default_rng(seed)
        vocabulary = self._vocabulary = Vocabulary.of(sets.sequences)
        kind_B = np.append(self.kind_C, -1)[sets.label]
        pool = Pool(kind_B, sets.recording, np.ones(len(sets), np.bool_))
        self._shown_AT = vocabulary.read(sets.sequences, sets.flows).counts.sorted_indices()
        self._class_A = sets.label
        self._most_at_once = self._sessions(sets)
        self._learn_judges(sets, pool, random)
        self._first, self._evidence = self._learn(sets, pool, _MOST, random)
        return self

    def answer(
        self,
        sequences: Mapping[str, NDArray[np.int32]],
        flows_BD: csr_matrix,
        at_once_BD: csr_matrix | None = None,
    ) -> Answer:
        """Of sets of flows; ``flows_BD``: how many flows of each set are equal to each row of ``sequences``.

        ``at_once_BD``: of sessions how many were open at the same time, as `Sets` has it.
        """
        shown = self._vocabulary.read(sequences, flows_BD)
        logits_BK, class_logits_BC = self._first.logits(shown)
        features = self._evidence.features(shown, logits_BK)
        host_BK, household_BK = (_sigmoid(judge.log_odds(features)) for judge in (self._of_host, self._of_household))
        of_set = self._of_set(shown, self._evidence, features, host_BK, household_BK)
        return Answer(
            host=host_BK,
            household=household_BK,
            log_odds=self._is_household.log_odds(of_set),
            class_share=self._class_share(class_logits_BC * self._class_factor),
            unexplained=of_set[:, 0],
            unknown=_sigmoid(self._has_unknown.log_odds(of_set) - self._unknown_limit),
            flows=self._evidence.flows_of(shown),
            distinct=flows_BD.getnnz(axis=1).astype(np.int64),
            units=self._units(sequences, flows_BD.shape[0], at_once_BD),
        )

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """All that was learned, by name."""
        parts: dict[str, Mapping[str, NDArray[np.generic]]] = {
            "tokens": self._vocabulary.to_arrays(),
            "first": self._first.to_arrays(),
            **{name: getattr(self, f"_{name}").to_arrays() for name in _JUDGES},
        }
        shown = self._shown_AT
        return {
            "sets.indices": shown.indices,
            "sets.indptr": shown.indptr,
            "sets.class": self._class_A,
            "most_at_once": self._most_at_once,
            "usually_left": self._usually_left_K4,
            "factors": np.array([self._class_factor, self._unknown_limit]),
            **{f"{part}.{name}": array for part, arrays in parts.items() for name, array in arrays.items()},
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]], kind_C: NDArray[np.int64]) -> DeviceModel:
        """The model of ``to_arrays``; KeyError: a part of it is missing."""
        from scipy.sparse import csr_matrix

        parts: dict[str, dict[str, NDArray[np.generic]]] = {name: {} for name in ("tokens", "first", "sets", *_JUDGES)}
        for name, array in arrays.items():
            part, _, rest = name.partition(".")
            if rest:
                parts[part][rest] = array
        model = cls(kind_C)
        tokens = {name: array.astype(np.uint8) for name, array in parts["tokens"].items()}
        model._vocabulary = Vocabulary.from_arrays(tokens)
        model._first = FirstStep.from_arrays(parts["first"], kind_C, model.kinds)
        for name, squares in _JUDGES.items():
            setattr(model, f"_{name}", Judge.from_arrays(parts[name], squares))
        model._class_factor, model._unknown_limit = arrays["factors"].astype(np.float64).tolist()
        model._most_at_once = arrays["most_at_once"].astype(np.int64)
        model._usually_left_K4 = arrays["usually_left"].astype(np.float64)
        indices, indptr = (parts["sets"][name].astype(np.int64) for name in ("indices", "indptr"))
        model._class_A = parts["sets"]["class"].astype(np.int64)
        shape = (len(model._class_A), int(model._vocabulary.starts[-1]))
        model._shown_AT = csr_matrix((np.ones(len(indices)), indices, indptr), shape=shape)
        model._evidence = Evidence(model._shown_AT, model._class_A, kind_C, model.kinds)
        return model

    def _sessions(self, sets: Sets) -> NDArray[np.int64]:
        """Of each whole sequence how many sessions one device of a kind held at once in training, at most."""
        most = np.ones(int(self._vocabulary.starts[1]), np.int64)
        entries, token_D = sets.at_once.tocoo(), self._vocabulary.sequence_tokens(sets.sequences)
        token = token_D[entries.col]
        np.maximum.at(most, token[token >= 0], entries.data[token >= 0])
        return most

    def _units(
        self, sequences: Mapping[str, NDArray[np.int32]], number: int, at_once_BD: csr_matrix | None
    ) -> NDArray[np.int64]:
        units_BK = np.ones((number, self.kinds), np.int64)
        if at_once_BD is None:
            return units_BK
        entries, token_D = at_once_BD.tocoo(), self._vocabulary.sequence_tokens(sequences)
        known = token_D[entries.col] >= 0
        row, token, held = entries.row[known], token_D[entries.col[known]], entries.data[known]
        showed_KE = self._evidence.showed_KT[:, token]
        more = (held > self._most_at_once[token]) & (showed_KE.sum(axis=0) == 1)
        units_BK[row[more], showed_KE[:, more].argmax(axis=0)] = 2
        return units_BK

    def _learn(self, sets: Sets, pool: Pool, most: int, random: np.random.Generator) -> tuple[FirstStep, Evidence]:
        """From the usable sets of the pool."""
        number = int(np.clip(_PER_KIND * len(pool.kinds()), _LEAST, most))
        drawn = pool.draw(number, _SIZES, _BESIDE, random) + pool.singles()
        flows_HD, there_HK = unite(sets.flows, drawn, self.kinds, random)
        shown = self._vocabulary.read(sets.sequences, flows_HD)
        usable = pool.usable
        shown_T = self._shown_AT[usable].getnnz(axis=0)
        class_HK = _classes(sets.label, drawn, self.kinds)
        first = FirstStep(self.kind_C, self.kinds).fit(shown.counts, there_HK, class_HK, shown_T)
        return first, Evidence(self._shown_AT[usable], self._class_A[usable], self.kind_C, self.kinds)

    def _learn_judges(self, sets: Sets, pool: Pool, random: np.random.Generator) -> None:
        """From sets that were held back in turn, where in turn some kinds were left out, too."""
        features, there, alone, of_class = [], [], [], []
        later, singles = [], []
        for learned, asked in self._folds(pool, random):
            first, evidence = self._learn(sets, learned, _MOST // 2, random)
            known = learned.kinds()
            drawn = asked.singles() + asked.draw(_PER_KIND * 4, _HELD_BACK_SIZES, _HELD_BACK_BESIDE, random)
            flows_HD, there_HK = unite(sets.flows, drawn, self.kinds, random)
            shown = self._vocabulary.read(sets.sequences, flows_HD)
            logits_HK, class_logits_HC = first.logits(shown)
            found = evidence.features(shown, logits_HK)
            features.append(found[:, known].reshape(-1, len(FEATURES)))
            there.append(there_HK[:, known].ravel())
            alone.append(np.repeat([len(household.members) == 1 for household in drawn], len(known)))
            of_class.append((class_logits_HC, _classes(sets.label, drawn, self.kinds)))
            single = np.arange(len(asked.singles()))
            left_N4 = evidence.unexplained(shown[single], there_HK[single])
            singles.append((there_HK[single], left_N4))
            later.append(
                (
                    shown,
                    evidence,
                    found,
                    [len(each.members) > 1 for each in drawn],
                    [-1 in each.kinds for each in drawn],
                )
            )
        all_features = np.concatenate([np.zeros((0, len(FEATURES))), *features])
        is_there, is_alone = (
            np.concatenate([np.zeros(0, np.bool_), *each]).astype(np.bool_) for each in (there, alone)
        )
        if not is_there.any():  # nothing can be held back: the first step has the word
            all_features = np.diag([1.0] * len(FEATURES))[[0, 0]] * [[1.0], [-1.0]]
            is_there, is_alone = np.array([True, False]), np.array([True, True])
        self._of_host = Judge(squares=True).fit(all_features[is_alone], is_there[is_alone])
        self._of_household = Judge(squares=False).fit(all_features, is_there)
        self._usually_left_K4 = self._usually_left(singles)
        of_set: list[NDArray[np.float64]] = []
        is_several: list[bool] = []
        is_strange: list[bool] = []
        for shown, evidence, found, several, beside in later:
            answers = (_sigmoid(judge.log_odds(found)) for judge in (self._of_host, self._of_household))
            of_set.append(self._of_set(shown, evidence, found, *answers))
            is_several += several
            is_strange += beside
        rows = np.concatenate(of_set) if of_set else np.zeros((2, 12))
        several_H, strange_H = (np.array(each or [True, False]) for each in (is_several, is_strange))
        self._is_household = Judge(squares=True).fit(rows, several_H, even=True)
        self._has_unknown = Judge(squares=True).fit(rows, strange_H)
        odds_H = self._has_unknown.log_odds(rows)
        self._unknown_limit = float(np.quantile(odds_H[~strange_H], 1 - _FALSE_UNKNOWN)) if (~strange_H).any() else 0.0
        self._class_factor = self._fit_class_factor(of_class)

    def _folds(self, pool: Pool, random: np.random.Generator) -> Iterator[tuple[Pool, Pool]]:
        """What is learned from, and what is asked: held-back sets of kinds learned, and as strangers all left out.

        A recording is never in both, where a kind has as many recordings as folds.
        """
        fold_B = np.full(len(pool.kind), -1)
        for kind in (*pool.kinds().tolist(), -1):
            own = pool.sets_of(kind)
            recordings, which = np.unique(pool.recording[own], return_inverse=True)
            number = which if len(recordings) >= _FOLDS else np.arange(len(own))
            fold_B[own] = random.permutation(number.max(initial=-1) + 1)[number] % _FOLDS
        turn_K = np.arange(self.kinds) % _FOLDS
        random.shuffle(turn_K)
        for fold in range(_FOLDS):
            left_out_B = (
                (pool.kind >= 0) & (np.append(turn_K, -1)[pool.kind] == fold) if self.kinds > 2 else pool.kind < -1
            )
            is_learned_B = (fold_B != fold) & ~left_out_B
            learned = Pool(pool.kind, pool.recording, is_learned_B)
            if not len(learned.kinds()):
                continue
            is_stranger_B = left_out_B | ~np.isin(pool.kind, learned.kinds())
            asked = Pool(np.where(is_stranger_B, -1, pool.kind), pool.recording, ~is_learned_B)
            if len(asked.kinds()):
                yield learned, asked

    def _of_set(
        self,
        shown: Shown,
        evidence: Evidence,
        features: NDArray[np.float64],
        host_BK: NDArray[np.float64],
        household_BK: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        """(B, 12) features of whole sets; the first is the share of flows that no kind found explains."""
        found_BK = household_BK >= FOUND
        left_B4 = evidence.unexplained(shown, found_BK)
        most_BK = np.sort(household_BK, axis=1)[:, ::-1]
        return np.column_stack(
            [
                left_B4[:, 1] / np.maximum(left_B4[:, 3], 1),
                np.log1p(np.maximum(left_B4, 0)),
                np.log1p(found_BK @ self._usually_left_K4),
                host_BK.max(axis=1),
                most_BK[:, 1] if self.kinds > 1 else np.zeros(len(shown)),
                household_BK.sum(axis=1),
            ]
        )

    def _usually_left(self, singles: Sequence[tuple[NDArray[np.bool_], NDArray[np.float64]]]) -> NDArray[np.float64]:
        """(K, 4) the mean of what is unexplained of a kind's held-back sets when it is found."""
        there_NK = np.concatenate([np.zeros((0, self.kinds), np.bool_), *(there for there, _ in singles)])
        left_N4 = np.concatenate([np.zeros((0, 4)), *(left for _, left in singles)])
        number_K = there_NK.sum(axis=0)[:, np.newaxis]
        of_all_4 = left_N4[there_NK.any(axis=1)].mean(axis=0) if there_NK.any() else np.zeros(4)
        return np.asarray((there_NK.T @ left_N4 + of_all_4) / (number_K + 1))

    def _fit_class_factor(self, held_back: Sequence[tuple[NDArray[np.float64], NDArray[np.int64]]]) -> float:
        """The inverse temperature at which the classes of held-back sets are likeliest."""
        logits, labels = [], []
        for logits_HC, class_HK in held_back:
            household, kind = np.nonzero(class_HK >= 0)
            label = class_HK[household, kind]
            own = np.where(self.kind_C == kind[:, np.newaxis], logits_HC[household], -np.inf)
            counted = (np.isfinite(own).sum(axis=1) > 1) & np.isfinite(own[np.arange(len(own)), label])
            logits.append(own[counted])
            labels.append(label[counted])
        label_N = np.concatenate([np.zeros(0, np.int64), *labels])
        if not len(label_N):
            return 1.0
        return calibration(np.concatenate(logits), label_N, np.ones(len(label_N), np.int64), "temperature")[0]

    def _class_share(self, logits_BC: NDArray[np.float64]) -> NDArray[np.float64]:
        from scipy.special import softmax

        share_BC = np.zeros(logits_BC.shape)
        for kind in range(self.kinds):
            own = np.flatnonzero(self.kind_C == kind)
            share_BC[:, own] = softmax(logits_BC[:, own], axis=1)
        return share_BC


# of each whether it reads products of features
_JUDGES = {"of_host": True, "of_household": False, "is_household": True, "has_unknown": True}


def _classes(label_B: NDArray[np.int64], households: Sequence[Household], kinds: int) -> NDArray[np.int64]:
    """(H, K) the class of each kind in each household; -1 where there is none, or several."""
    class_HK = np.full((len(households), kinds), -1)
    for household, class_K in zip(households, class_HK, strict=True):
        for member, kind in zip(household.members, household.kinds, strict=True):
            if kind >= 0:
                label = label_B[member[0]]
                class_K[kind] = label if class_K[kind] in (-1, label) else -2
    return np.maximum(class_HK, -1)


def _sigmoid(log_odds: NDArray[np.float64]) -> NDArray[np.float64]:
    from scipy.special import expit

    return np.asarray(expit(log_odds))
