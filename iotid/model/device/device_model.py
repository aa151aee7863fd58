"""The device model: the kinds at each address, their probabilities, and the share of flows that no kind explains.

Two levels (`stacking`). The token classifier, a logistic regression for each kind, learns from synthetic households of
every size. It cannot recognise unseen devices, so meta-classifiers (`meta_classifiers`) learn how reliable it is, from
the share of a kind's usual tokens that is present, what only this kind explains, and what no kind explains. They learn
from households of held-out sets (`cross_validation`); some kinds are left out of the token classifier, so that they
resemble unseen devices.

Shape suffixes: D distinct flows, B sets of flows, A training sets, T tokens, E entries of a sparse matrix, C classes,
K kinds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from iotid.errors import DataError
from iotid.model.arrays import Spec
from iotid.model.device.answers import Answer, FlowTimes
from iotid.model.device.cross_validation import MAX_HOUSEHOLDS, CrossValidation
from iotid.model.device.meta_classifiers import CLASSIFIERS, MetaClassifiers
from iotid.model.device.similarity import KindSimilarity
from iotid.model.device.stacking import TokenClassifier
from iotid.model.device.synthetic_households import SamplingPool
from iotid.model.device.token_features import TokenFeatures, Vocabulary, only_one, sums_of_flows
from iotid.model.device.unlike_kind import UnlikeKind

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

    from iotid.dataset import FlowSets


class DeviceModel:
    """Predicts the kinds at an address from all of its flows.

    ``unlike_kind``: held-out scores of training; None: of a bundle that has none.
    """

    unlike_kind: UnlikeKind | None = None

    def __init__(self, kind_C: NDArray[np.int64]) -> None:
        """``kind_C``: the kind of each class (`kinds_of`)."""
        self.kind_C, self.kinds = kind_C, int(kind_C.max(initial=-1)) + 1

    def fit(self, sets: FlowSets, *, seed: int = 0) -> Self:
        """Fit to training sets. Sets with label -1, or whose class has no kind, count as unknown devices."""
        random = np.random.default_rng(seed)
        self._vocabulary = Vocabulary.of(sets.sequences)
        kind_B = np.append(self.kind_C, -1)[sets.label]
        pool = SamplingPool(kind_B, sets.recording, np.ones(len(sets), np.bool_))
        tokens = self._vocabulary.tokenize(sets.sequences, sets.flows)
        self.unlike_kind = UnlikeKind.of(tokens, kind_B, sets.recording, self.kinds)
        self._tokens_AT = tokens.counts.sorted_indices()
        self._class_A = sets.label
        self._max_concurrent_T = self._sessions(sets)
        validation = CrossValidation(sets, self._vocabulary, self._tokens_AT, self.kind_C, self.kinds)
        self._meta = MetaClassifiers(self.kind_C, self.kinds).fit(validation.score_folds(pool, random))
        self._token_classifier, self._token_features = validation.train(pool, MAX_HOUSEHOLDS, random)
        self._characteristics = tuple(sets.sequences)
        vars(self).pop("_similarity", None)  # of an earlier fit
        return self

    def answer(
        self,
        sequences: Mapping[str, NDArray[np.int32]],
        flows_BD: csr_matrix,
        concurrent_BD: csr_matrix | None = None,
        times: FlowTimes | None = None,
        *,
        unlike_kind: bool = False,
    ) -> Answer:
        """Predict for B sets of flows.

        Args:
            sequences: characteristic -> (D, M) ids of the distinct flows.
            flows_BD: how many flows of each set are equal to each distinct flow.
            concurrent_BD: how many of them were open at the same time, as in `FlowSets`.
            times: begin and end of the flows.
            unlike_kind: whether the answer has the p-values of this name.

        Raises:
            DataError: p-values are asked for, and the model has no `held_out_scores`.
        """
        p_values = self.held_out_scores().p_values if unlike_kind else None
        tokens = self._vocabulary.tokenize(sequences, flows_BD)
        logits_BK, class_logits_BC = self._token_classifier.logits(tokens)
        host_BK, household_BK = self._meta.probabilities(self._token_features.features(tokens, logits_BK))
        set_features = self._meta.set_features(tokens, self._token_features, host_BK, household_BK)
        explained_DK = self._token_features.explained_by(tokens)
        alone_DK, tokens_D = only_one(explained_DK), np.diff(tokens.in_flow.indptr)
        begins_BK, ends_BK = (times or FlowTimes.none()).spans(flows_BD.shape[0], alone_DK[:, :-1])
        return Answer(
            host=host_BK,
            household=household_BK,
            log_odds=self._meta.is_household.log_odds(set_features),
            class_share=self._meta.class_share(class_logits_BC),
            unexplained=self._meta.share_unexplained(
                tokens, self._token_features, host_BK, household_BK, set_features[:, 0]
            ),
            unknown=self._meta.probability_of_unknown(set_features),
            flows=sums_of_flows(tokens, alone_DK),
            distinct=flows_BD.getnnz(axis=1).astype(np.int64),
            min_devices=self._min_devices(sequences, flows_BD.shape[0], concurrent_BD),
            begins=begins_BK,
            ends=ends_BK,
            known_tokens=sums_of_flows(tokens, explained_DK * tokens_D[:, np.newaxis]),
            similarity=self._similarity.similarity(tokens, sequences, flows_BD),
            unlike_kind=p_values(tokens, self._token_features.of_kind_KT) if p_values else None,
        )

    def held_out_scores(self) -> UnlikeKind:
        """``unlike_kind``, or a DataError if the model has none."""
        if self.unlike_kind is None:
            raise DataError(
                "census.unlike_kind: must be false with this model, which an earlier version trained, without held-out "
                "scores of its kinds, got true; train again, or set census.unlike_kind=false"
            )
        return self.unlike_kind

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """All that was learned, by name, but for ``unlike_kind``."""
        return {
            "sets.indices": self._tokens_AT.indices,
            "sets.indptr": self._tokens_AT.indptr,
            "sets.class": self._class_A,
            "most_at_once": self._max_concurrent_T,
            **{f"tokens.{name}": array for name, array in self._vocabulary.to_arrays().items()},
            **{f"first.{name}": array for name, array in self._token_classifier.to_arrays().items()},
            **self._meta.to_arrays(),
        }

    @staticmethod
    def specs(kind_C: NDArray[np.int64], characteristics: int, max_packets: int) -> dict[str, Spec]:
        """Specifications of the arrays of ``to_arrays``, for a model with these kinds and ``max_packets`` of each
        flow."""
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
            **MetaClassifiers.specs(kinds),
        }

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, NDArray[np.generic]], kind_C: NDArray[np.int64], characteristics: Sequence[str]
    ) -> DeviceModel:
        """The inverse of ``to_arrays``, for arrays that match ``specs`` with so many ``characteristics``.

        Raises:
            KeyError: an array is missing.
            ValueError: the arrays are inconsistent.
        """
        from scipy.sparse import csr_matrix

        parts: dict[str, dict[str, NDArray[np.generic]]] = {name: {} for name in ("tokens", "first", "sets")}
        for name, array in arrays.items():
            part, _, rest = name.partition(".")
            if rest and part not in CLASSIFIERS:
                parts[part][rest] = array
        model = cls(kind_C)
        tokens = {name: array.astype(np.uint8) for name, array in parts["tokens"].items()}
        model._vocabulary = Vocabulary.from_arrays(tokens)
        model._token_classifier = TokenClassifier.from_arrays(parts["first"], kind_C, model.kinds)
        model._meta = MetaClassifiers.from_arrays(arrays, kind_C, model.kinds)
        model._max_concurrent_T = arrays["most_at_once"].astype(np.int64)
        indices, indptr = (parts["sets"][name].astype(np.int64) for name in ("indices", "indptr"))
        model._class_A = parts["sets"]["class"].astype(np.int64)
        shape = (len(model._class_A), int(model._vocabulary.starts[-1]))
        _check_rows(indices, indptr, shape[1])
        model._tokens_AT = csr_matrix((np.ones(len(indices)), indices, indptr), shape=shape)
        model._token_features = TokenFeatures(model._tokens_AT, model._class_A, kind_C, model.kinds)
        model._characteristics = tuple(characteristics)
        return model

    @cached_property
    def _similarity(self) -> KindSimilarity:
        """Made on first use, as predictions of flows alone do not need it."""
        return KindSimilarity(self._vocabulary, self._characteristics, self._tokens_AT, self._class_A, self.kind_C)

    def _sessions(self, sets: FlowSets) -> NDArray[np.int64]:
        """(S,) the most concurrent sessions of each whole sequence that one device had in training."""
        most = np.ones(int(self._vocabulary.starts[1]), np.int64)
        entries, token_D = sets.concurrent.tocoo(), self._vocabulary.sequence_tokens(sets.sequences)
        token = token_D[entries.col]
        np.maximum.at(most, token[token >= 0], entries.data[token >= 0])
        return most

    def _min_devices(
        self, sequences: Mapping[str, NDArray[np.int32]], number: int, concurrent_BD: csr_matrix | None
    ) -> NDArray[np.int64]:
        min_devices_BK = np.ones((number, self.kinds), np.int64)
        if concurrent_BD is None:
            return min_devices_BK
        entries, token_D = concurrent_BD.tocoo(), self._vocabulary.sequence_tokens(sequences)
        known = token_D[entries.col] >= 0
        row_E, token_E, concurrent_E = entries.row[known], token_D[entries.col[known]], entries.data[known]
        tokens_KE = self._token_features.of_kind_KT[:, token_E]
        more = (concurrent_E > self._max_concurrent_T[token_E]) & (tokens_KE.sum(axis=0) == 1)
        min_devices_BK[row_E[more], tokens_KE[:, more].argmax(axis=0)] = 2
        return min_devices_BK


def _check_rows(indices: NDArray[np.int64], indptr: NDArray[np.int64], columns: int) -> None:
    """Raise a ValueError unless these are sorted rows of a sparse matrix."""
    if indptr[0] != 0 or indptr[-1] != len(indices) or (np.diff(indptr) < 0).any():
        raise ValueError(
            f"array devices.sets.indptr: must be non-decreasing from 0 to {len(indices)}, the length of "
            "devices.sets.indices"
        )
    continues = np.ones(max(len(indices) - 1, 0), np.bool_)  # the next index is in the same row
    continues[indptr[(indptr > 0) & (indptr < len(indices))] - 1] = False
    if (indices >= columns).any() or (np.diff(indices)[continues] <= 0).any():
        raise ValueError(
            f"array devices.sets.indices: must be strictly increasing in each set and below {columns}, the number "
            "of devices.tokens"
        )
