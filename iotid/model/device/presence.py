"""The device model: from a set of flows to the kinds behind it, how sure that is, and what remains unexplained.

Two levels (`stacking`). The token classifier, a logistic regression for each kind, is learned on made-up households of
every size. It knows nothing but what it was shown, so a meta-classifier decides how far to trust it: by how much of
what the kind usually shows is there, what only this kind explains, and what no kind explains. It is one logistic
regression for all kinds, learned on households of held-back sets, where some kinds were left out of the token
classifier: they are to it what unlearned devices are later. There are two of them, for an address of one host and for
one of a household; a third one says how likely an address is to be either, a fourth one whether something unknown is
there.

Shape suffixes: D distinct flows, B sets of flows, H households, T tokens, C classes, K kinds, F features.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from iotid.model.arrays import Spec
from iotid.model.calibration import calibration
from iotid.model.device.evidence import FEATURES, Evidence, Shown, Vocabulary, only_one, sums_of_flows
from iotid.model.device.households import Household, Pool, unite
from iotid.model.device.stacking import MetaClassifier, TokenClassifier

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

    from iotid.dataset import FlowSets

_FOUND = 0.5  # a kind of at least this probability explains what it showed
_SIZES = range(1, 13)  # kinds in a made-up household that the token classifier learns from
_HELD_BACK_SIZES = (1, 1, 2, 2, 3, 4, 5, 6, 8, 10)
_BESIDE, _HELD_BACK_BESIDE = (0, 0, 0, 1, 2), (0, 0, 0, 1, 2, 3, 5)  # unknown devices in it
_PER_KIND, _MOST, _LEAST = 200, 4000, 400  # made-up households
_FOLDS = 4
_OF_SET = 12  # features of a whole set
_FALSE_UNKNOWN = 0.05  # share of households without an unknown device that may be said to hold one


@dataclass(frozen=True)
class Answer:
    """Of B sets, under both views: ``host`` and ``household`` (B, K) probabilities that a kind is there.

    ``log_odds`` (B,): of being a household, where as many addresses are one as are not; ``class_share`` (B, C):
    probability of each class, given its kind; ``unexplained`` (B,): share of the distinct flows that no kind found
    explains; ``unknown`` (B,): probability that something else is there; ``flows`` (B, K + 1): distinct flows that are
    like those of one kind alone, last those that are like several kinds'; ``distinct`` (B,): all; ``units`` (B, K):
    devices of each kind, if any, at least: 2 where more sessions were open at once than one device held in training;
    ``begins`` and ``ends`` (B, K): µs since 1970 of the first and last packet of flows that are like those of the kind
    alone, 0 and -1 where there are none, or no times were given; ``evidence`` (B, K): tokens that training showed,
    summed over the distinct flows that are like those of each kind, be they like others' too.
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
    begins: NDArray[np.int64]
    ends: NDArray[np.int64]
    evidence: NDArray[np.int64]


class Seen(NamedTuple):
    """N pairs of a set and a distinct flow of it: when the first of these flows began and the last one ended, µs."""

    set: NDArray[np.int64]
    flow: NDArray[np.int64]
    first_us: NDArray[np.int64]
    last_us: NDArray[np.int64]

    @classmethod
    def none(cls) -> Seen:
        return cls(*[np.zeros(0, np.int64)] * 4)

    def spans(self, sets: int, of_kind_DK: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(B, K) each: begin and end of the flows of each kind, of which a flow has one at most; 0 and -1 of none."""
        limits = np.iinfo(np.int64)
        begins_BK = np.full((sets, of_kind_DK.shape[1]), limits.max)
        ends_BK = np.full_like(begins_BK, limits.min)
        pair, kind = np.nonzero(of_kind_DK[self.flow])
        np.minimum.at(begins_BK, (self.set[pair], kind), self.first_us[pair])
        np.maximum.at(ends_BK, (self.set[pair], kind), self.last_us[pair])
        is_none_BK = ends_BK < begins_BK
        return np.where(is_none_BK, 0, begins_BK), np.where(is_none_BK, -1, ends_BK)


class _Asked(NamedTuple):
    """H households of held-back sets, the first ``singles`` of which are of one device, and what was said of them."""

    evidence: Evidence
    shown: Shown
    features: NDArray[np.float64]  # (H, K, F)
    class_logits: NDArray[np.float64]  # (H, C)
    known: NDArray[np.int64]  # kinds that were learned
    singles: int
    there: NDArray[np.bool_]  # (H, K)
    classes: NDArray[np.int64]  # (H, K), of `_classes`
    alone: NDArray[np.bool_]  # (H,) one member
    has_unknown: NDArray[np.bool_]  # (H,) an unknown device is among the members


class DeviceModel:
    """What is behind an address, by the flows of all that is there."""

    def __init__(self, kind_C: NDArray[np.int64]) -> None:
        """``kind_C``: the kind of each class, of `kinds_of`."""
        self.kind_C, self.kinds = kind_C, int(kind_C.max(initial=-1)) + 1

    def fit(self, sets: FlowSets, *, seed: int = 0) -> Self:
        """Sets of no class (-1), and of one without kind, are unknown devices."""
        random = np.random.default_rng(seed)
        vocabulary = self._vocabulary = Vocabulary.of(sets.sequences)
        kind_B = np.append(self.kind_C, -1)[sets.label]
        pool = Pool(kind_B, sets.recording, np.ones(len(sets), np.bool_))
        self._shown_AT = vocabulary.read(sets.sequences, sets.flows).counts.sorted_indices()
        self._class_A = sets.label
        self._most_at_once = self._sessions(sets)
        self._learn_meta(sets, pool, random)
        self._first, self._evidence = self._learn(sets, pool, _MOST, random)
        return self

    def answer(
        self,
        sequences: Mapping[str, NDArray[np.int32]],
        flows_BD: csr_matrix,
        at_once_BD: csr_matrix | None = None,
        seen: Seen | None = None,
    ) -> Answer:
        """Of sets of flows; ``flows_BD``: how many flows of each set are equal to each row of ``sequences``.

        ``at_once_BD``: of sessions how many were open at the same time, as `FlowSets` has it; ``seen``: when.
        """
        shown = self._vocabulary.read(sequences, flows_BD)
        logits_BK, class_logits_BC = self._first.logits(shown)
        features = self._evidence.features(shown, logits_BK)
        host_BK, household_BK = self._probabilities(features)
        of_set = self._of_set(shown, self._evidence, features, host_BK, household_BK)
        explained_DK = self._evidence.explained_by(shown)
        alone_DK, tokens_D = only_one(explained_DK), np.diff(shown.tokens.indptr)
        begins_BK, ends_BK = (seen or Seen.none()).spans(flows_BD.shape[0], alone_DK[:, :-1])
        return Answer(
            host=host_BK,
            household=household_BK,
            log_odds=self._is_household.log_odds(of_set),
            class_share=self._class_share(class_logits_BC * self._class_factor),
            unexplained=self._share_unexplained(shown, host_BK, household_BK, of_set[:, 0]),
            unknown=_sigmoid(self._has_unknown.log_odds(of_set) - self._unknown_limit),
            flows=sums_of_flows(shown, alone_DK),
            distinct=flows_BD.getnnz(axis=1).astype(np.int64),
            units=self._units(sequences, flows_BD.shape[0], at_once_BD),
            begins=begins_BK,
            ends=ends_BK,
            evidence=sums_of_flows(shown, explained_DK * tokens_D[:, np.newaxis]),
        )

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """All that was learned, by name."""
        parts: dict[str, Mapping[str, NDArray[np.generic]]] = {
            "tokens": self._vocabulary.to_arrays(),
            "first": self._first.to_arrays(),
            **{name: getattr(self, f"_{name}").to_arrays() for name in _META},
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

    @staticmethod
    def specs(kind_C: NDArray[np.int64], characteristics: int, max_packets: int) -> dict[str, Spec]:
        """What ``to_arrays`` gives of a model of these kinds, that learned from so many packets of each flow."""
        kinds, classes, packet = int(kind_C.max(initial=-1)) + 1, len(kind_C), 4 * characteristics
        return {
            "tokens.sequences": Spec("U8", ("S", packet * max_packets)),
            "tokens.packets": Spec("U8", ("P", packet)),
            "tokens.pairs": Spec("U8", ("Q", 2 * packet)),
            **{f"first.{name}": spec for name, spec in TokenClassifier.specs(kinds, classes).items()},
            "sets.class": Spec("I64", ("A",), -1, classes - 1),
            "sets.indptr": Spec("I32 I64", ("A+1",), 0),
            "sets.indices": Spec("I32 I64", ("N",), 0),
            "most_at_once": Spec("I64", ("S",), 1, 2.0**62),
            "usually_left": Spec("F64", (kinds, 4), 0),
            "factors": Spec("F64", (2,)),
            **{
                f"{meta}.{name}": spec
                for meta, squares in _META.items()
                for name, spec in MetaClassifier.specs(len(FEATURES) if meta in _OF_KINDS else _OF_SET, squares).items()
            },
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]], kind_C: NDArray[np.int64]) -> DeviceModel:
        """The model of ``to_arrays``, of arrays that fit ``specs``.

        Raises:
            KeyError: a part of it is missing.
            ValueError: parts do not fit each other.
        """
        from scipy.sparse import csr_matrix

        parts: dict[str, dict[str, NDArray[np.generic]]] = {name: {} for name in ("tokens", "first", "sets", *_META)}
        for name, array in arrays.items():
            part, _, rest = name.partition(".")
            if rest:
                parts[part][rest] = array
        model = cls(kind_C)
        tokens = {name: array.astype(np.uint8) for name, array in parts["tokens"].items()}
        model._vocabulary = Vocabulary.from_arrays(tokens)
        model._first = TokenClassifier.from_arrays(parts["first"], kind_C, model.kinds)
        for name, squares in _META.items():
            setattr(model, f"_{name}", MetaClassifier.from_arrays(parts[name], squares))
        model._class_factor, model._unknown_limit = arrays["factors"].astype(np.float64).tolist()
        model._most_at_once = arrays["most_at_once"].astype(np.int64)
        model._usually_left_K4 = arrays["usually_left"].astype(np.float64)
        indices, indptr = (parts["sets"][name].astype(np.int64) for name in ("indices", "indptr"))
        model._class_A = parts["sets"]["class"].astype(np.int64)
        shape = (len(model._class_A), int(model._vocabulary.starts[-1]))
        _check_rows(indices, indptr, shape[1])
        model._shown_AT = csr_matrix((np.ones(len(indices)), indices, indptr), shape=shape)
        model._evidence = Evidence(model._shown_AT, model._class_A, kind_C, model.kinds)
        return model

    def _sessions(self, sets: FlowSets) -> NDArray[np.int64]:
        """Of each whole sequence how many sessions one device of a kind held at once in training, at most."""
        most = np.ones(int(self._vocabulary.starts[1]), np.int64)
        entries, token_D = sets.concurrent.tocoo(), self._vocabulary.sequence_tokens(sets.sequences)
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

    def _learn(
        self, sets: FlowSets, pool: Pool, most: int, random: np.random.Generator
    ) -> tuple[TokenClassifier, Evidence]:
        """From the usable sets of the pool."""
        number = int(np.clip(_PER_KIND * len(pool.kinds()), _LEAST, most))
        drawn = pool.draw(number, _SIZES, _BESIDE, random) + pool.singles()
        flows_HD, there_HK = unite(sets.flows, drawn, self.kinds, random)
        shown = self._vocabulary.read(sets.sequences, flows_HD)
        usable = pool.usable
        shown_T = self._shown_AT[usable].getnnz(axis=0)
        class_HK = _classes(sets.label, drawn, self.kinds)
        first = TokenClassifier(self.kind_C, self.kinds).fit(shown.counts, there_HK, class_HK, shown_T)
        return first, Evidence(self._shown_AT[usable], self._class_A[usable], self.kind_C, self.kinds)

    def _learn_meta(self, sets: FlowSets, pool: Pool, random: np.random.Generator) -> None:
        """From sets that were held back in turn, where in turn some kinds were left out, too."""
        asked = [self._ask(sets, *fold, random) for fold in self._folds(pool, random)]
        features = [each.features[:, each.known].reshape(-1, len(FEATURES)) for each in asked]
        is_there = [each.there[:, each.known].ravel() for each in asked]
        is_alone = [np.repeat(each.alone, len(each.known)) for each in asked]
        if any(each.any() for each in is_there):
            all_features = np.concatenate(features)
            there_N, alone_N = np.concatenate(is_there), np.concatenate(is_alone)
        else:  # nothing can be held back: what tokens say is believed
            all_features = np.outer([1.0, -1.0], np.arange(len(FEATURES)) == FEATURES.index("logit"))
            there_N, alone_N = np.array([True, False]), np.array([True, True])
        self._of_host = MetaClassifier(squares=True).fit(all_features[alone_N], there_N[alone_N])
        self._of_household = MetaClassifier(squares=False).fit(all_features, there_N)
        self._usually_left_K4 = self._usually_left(asked)
        rows, found_H = np.zeros((2, _OF_SET)), np.ones(2, np.bool_)
        several_H, unknown_H = np.array([True, False]), np.array([True, False])
        if asked:
            rows, found_H = (np.concatenate(part) for part in zip(*map(self._of_set_asked, asked), strict=True))
            found_H |= not found_H.any()
            several_H = np.concatenate([~each.alone for each in asked])
            unknown_H = np.concatenate([each.has_unknown for each in asked])
        self._is_household = MetaClassifier(squares=True).fit(rows, several_H, even=True)
        # where no kind is found all is unknown, and nobody asks what is beside: such sets would raise the limit
        self._has_unknown = MetaClassifier(squares=True).fit(rows[found_H], unknown_H[found_H])
        of_known_H = self._has_unknown.log_odds(rows[found_H & ~unknown_H])
        self._unknown_limit = float(np.quantile(of_known_H, 1 - _FALSE_UNKNOWN)) if len(of_known_H) else 0.0
        self._class_factor = self._fit_class_factor(asked)

    def _ask(self, sets: FlowSets, learned: Pool, held_back: Pool, random: np.random.Generator) -> _Asked:
        """What is learned from one pool says of households of the other."""
        classifier, evidence = self._learn(sets, learned, _MOST // 2, random)
        singles = held_back.singles()
        drawn = singles + held_back.draw(_PER_KIND * 4, _HELD_BACK_SIZES, _HELD_BACK_BESIDE, random)
        flows_HD, there_HK = unite(sets.flows, drawn, self.kinds, random)
        shown = self._vocabulary.read(sets.sequences, flows_HD)
        logits_HK, class_logits_HC = classifier.logits(shown)
        return _Asked(
            evidence=evidence,
            shown=shown,
            features=evidence.features(shown, logits_HK),
            class_logits=class_logits_HC,
            known=learned.kinds(),
            singles=len(singles),
            there=there_HK,
            classes=_classes(sets.label, drawn, self.kinds),
            alone=np.array([len(household.members) == 1 for household in drawn]),
            has_unknown=np.array([-1 in household.kinds for household in drawn]),
        )

    def _share_unexplained(
        self,
        shown: Shown,
        host_BK: NDArray[np.float64],
        household_BK: NDArray[np.float64],
        by_household_B: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        """(B,) of the distinct flows, by the kinds found under either view; ``by_household_B``: under the one."""
        found_BK = np.maximum(host_BK, household_BK) >= _FOUND
        more = np.flatnonzero((found_BK & (household_BK < _FOUND)).any(axis=1))
        share_B, left_M4 = by_household_B.copy(), self._evidence.unexplained(shown[more], found_BK[more])
        share_B[more] = left_M4[:, 1] / np.maximum(left_M4[:, 3], 1)
        return share_B

    def _probabilities(self, features: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(B, K) of features (B, K, F), as of a host and as of a household."""
        host_BK, household_BK = (_sigmoid(meta.log_odds(features)) for meta in (self._of_host, self._of_household))
        return host_BK, household_BK

    def _of_set_asked(self, asked: _Asked) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """(H, _OF_SET) features of the households, and (H,) whether any kind is found in it."""
        host_HK, household_HK = self._probabilities(asked.features)
        of_set = self._of_set(asked.shown, asked.evidence, asked.features, host_HK, household_HK)
        return of_set, (household_HK >= _FOUND).any(axis=1)

    def _folds(self, pool: Pool, random: np.random.Generator) -> Iterator[tuple[Pool, Pool]]:
        """What is learned from, and what is asked: held-back sets of learned kinds; as unknown devices, all left out.

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
            is_unknown_B = left_out_B | ~np.isin(pool.kind, learned.kinds())
            asked = Pool(np.where(is_unknown_B, -1, pool.kind), pool.recording, ~is_learned_B)
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
        """(B, _OF_SET) features of whole sets; the first is the share of flows that no kind found explains."""
        found_BK = household_BK >= _FOUND
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

    def _usually_left(self, asked: Sequence[_Asked]) -> NDArray[np.float64]:
        """(K, 4) the mean of what is unexplained of a kind's held-back sets when it is found."""
        there, left = [np.zeros((0, self.kinds), np.bool_)], [np.zeros((0, 4))]
        for each in asked:
            there.append(each.there[: each.singles])
            left.append(each.evidence.unexplained(each.shown[: each.singles], each.there[: each.singles]))
        there_NK, left_N4 = np.concatenate(there), np.concatenate(left)
        number_K = there_NK.sum(axis=0)[:, np.newaxis]
        of_all_4 = left_N4[there_NK.any(axis=1)].mean(axis=0) if there_NK.any() else np.zeros(4)
        return np.asarray((there_NK.T @ left_N4 + of_all_4) / (number_K + 1))

    def _fit_class_factor(self, asked: Sequence[_Asked]) -> float:
        """The inverse temperature at which the classes of held-back sets are likeliest."""
        logits, labels = [], []
        for each in asked:
            household, kind = np.nonzero(each.classes >= 0)
            label = each.classes[household, kind]
            own = np.where(self.kind_C == kind[:, np.newaxis], each.class_logits[household], -np.inf)
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
_META = {"of_host": True, "of_household": False, "is_household": True, "has_unknown": True}
_OF_KINDS = ("of_host", "of_household")  # read FEATURES, the others features of sets


def _check_rows(indices: NDArray[np.int64], indptr: NDArray[np.int64], columns: int) -> None:
    """Raise a ValueError where these are no sorted rows of a sparse matrix."""
    if indptr[0] != 0 or indptr[-1] != len(indices) or (np.diff(indptr) < 0).any():
        raise ValueError(
            f"array devices.sets.indptr: must not fall, from 0 to {len(indices)}, as devices.sets.indices has"
        )
    goes_on = np.ones(max(len(indices) - 1, 0), np.bool_)
    goes_on[indptr[(indptr > 0) & (indptr < len(indices))] - 1] = False
    if (indices >= columns).any() or (np.diff(indices)[goes_on] <= 0).any():
        raise ValueError(f"array devices.sets.indices: must rise in each set, below {columns}, as devices.tokens has")


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
