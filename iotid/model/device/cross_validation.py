"""Trains token classifiers, and scores held-out households with them by cross-validation.

The meta-classifiers learn from these scores how reliable a token classifier is on sets that it did not learn from. So
the sets are split into folds, and each fold leaves out some kinds entirely: to its token classifier they are unknown
devices.

Shape suffixes: B sets of flows, H households, A training sets, T tokens, C classes, K kinds, F features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from iotid.model.device.stacking import TokenClassifier
from iotid.model.device.synthetic_households import Household, SamplingPool, flows_of_households
from iotid.model.device.token_features import SetTokens, TokenFeatures, Vocabulary

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

    from iotid.dataset import FlowSets

MAX_HOUSEHOLDS = 4000  # synthetic ones that a token classifier learns from
_SIZES = range(1, 13)  # kinds in a household
_HELD_OUT_SIZES = (1, 1, 2, 2, 3, 4, 5, 6, 8, 10)
_UNKNOWNS, _HELD_OUT_UNKNOWNS = (0, 0, 0, 1, 2), (0, 0, 0, 1, 2, 3, 5)  # in a household
_PER_KIND, _MIN_HOUSEHOLDS = 200, 400
_FOLDS = 4


class FoldScores(NamedTuple):
    """The scores of H held-out households by one fold's token classifier. The first ``singles`` have one device
    each."""

    token_features: TokenFeatures
    tokens: SetTokens
    features: NDArray[np.float64]  # (H, K, F)
    class_logits: NDArray[np.float64]  # (H, C)
    known: NDArray[np.int64]  # kinds in the fold's training sets
    singles: int
    present: NDArray[np.bool_]  # (H, K) kinds in the household
    classes: NDArray[np.int64]  # (H, K) class of each kind, see `_classes`
    alone: NDArray[np.bool_]  # (H,) one member
    has_unknown: NDArray[np.bool_]  # (H,) an unknown device is among the members


@dataclass(frozen=True)
class CrossValidation:
    """Trains and scores token classifiers. ``set_tokens`` (A, T): tokens of each training set; ``kind_of_class`` (C,);
    ``kinds``: their number."""

    sets: FlowSets
    vocabulary: Vocabulary
    set_tokens: csr_matrix
    kind_of_class: NDArray[np.int64]
    kinds: int

    def train(
        self, pool: SamplingPool, max_households: int, random: np.random.Generator
    ) -> tuple[TokenClassifier, TokenFeatures]:
        """Fit to synthetic households of the pool's usable sets."""
        number = int(np.clip(_PER_KIND * len(pool.kinds()), _MIN_HOUSEHOLDS, max_households))
        drawn = pool.draw(number, _SIZES, _UNKNOWNS, random) + pool.singles()
        flows_HD, present_HK = flows_of_households(self.sets.flows, drawn, self.kinds, random)
        tokens = self.vocabulary.tokenize(self.sets.sequences, flows_HD)
        sets_T = self.set_tokens[pool.usable].getnnz(axis=0)
        class_HK = _classes(self.sets.label, drawn, self.kinds)
        classifier = TokenClassifier(self.kind_of_class, self.kinds).fit(tokens.counts, present_HK, class_HK, sets_T)
        token_features = TokenFeatures(
            self.set_tokens[pool.usable], self.sets.label[pool.usable], self.kind_of_class, self.kinds
        )
        return classifier, token_features

    def score_folds(self, pool: SamplingPool, random: np.random.Generator) -> list[FoldScores]:
        """The scores of each fold's held-out households."""
        return [self._score(learned, held_out, random) for learned, held_out in self._folds(pool, random)]

    def _score(self, learned: SamplingPool, held_out: SamplingPool, random: np.random.Generator) -> FoldScores:
        """Train on one pool, score households of the other."""
        classifier, token_features = self.train(learned, MAX_HOUSEHOLDS // 2, random)
        singles = held_out.singles()
        drawn = singles + held_out.draw(_PER_KIND * 4, _HELD_OUT_SIZES, _HELD_OUT_UNKNOWNS, random)
        flows_HD, present_HK = flows_of_households(self.sets.flows, drawn, self.kinds, random)
        tokens = self.vocabulary.tokenize(self.sets.sequences, flows_HD)
        logits_HK, class_logits_HC = classifier.logits(tokens)
        return FoldScores(
            token_features=token_features,
            tokens=tokens,
            features=token_features.features(tokens, logits_HK),
            class_logits=class_logits_HC,
            known=learned.kinds(),
            singles=len(singles),
            present=present_HK,
            classes=_classes(self.sets.label, drawn, self.kinds),
            alone=np.array([len(household.members) == 1 for household in drawn]),
            has_unknown=np.array([-1 in household.kinds for household in drawn]),
        )

    def _folds(self, pool: SamplingPool, random: np.random.Generator) -> Iterator[tuple[SamplingPool, SamplingPool]]:
        """Training sets and held-out sets of each fold; kinds left out are unknown devices among the held-out.

        If a kind has at least as many recordings as there are folds, no recording is in both.
        """
        fold_B = np.full(len(pool.kind), -1)
        for kind in (*pool.kinds().tolist(), -1):
            own = pool.sets_of(kind)
            recordings, which = np.unique(pool.recording[own], return_inverse=True)
            number = which if len(recordings) >= _FOLDS else np.arange(len(own))
            fold_B[own] = random.permutation(number.max(initial=-1) + 1)[number] % _FOLDS
        fold_K = np.arange(self.kinds) % _FOLDS  # the fold that leaves out each kind
        random.shuffle(fold_K)
        for fold in range(_FOLDS):
            left_out_B = (
                (pool.kind >= 0) & (np.append(fold_K, -1)[pool.kind] == fold) if self.kinds > 2 else pool.kind < -1
            )
            is_learned_B = (fold_B != fold) & ~left_out_B
            learned = SamplingPool(pool.kind, pool.recording, is_learned_B)
            if not len(learned.kinds()):
                continue
            is_unknown_B = left_out_B | ~np.isin(pool.kind, learned.kinds())
            held_out = SamplingPool(np.where(is_unknown_B, -1, pool.kind), pool.recording, ~is_learned_B)
            if len(held_out.kinds()):
                yield learned, held_out


def _classes(label_B: NDArray[np.int64], households: Sequence[Household], kinds: int) -> NDArray[np.int64]:
    """(H, K) the class of each kind in each household; -1 if the kind is absent or of several classes."""
    class_HK = np.full((len(households), kinds), -1)
    for household, class_K in zip(households, class_HK, strict=True):
        for member, kind in zip(household.members, household.kinds, strict=True):
            if kind >= 0:
                label = label_B[member[0]]
                class_K[kind] = label if class_K[kind] in (-1, label) else -2
    return np.maximum(class_HK, -1)
