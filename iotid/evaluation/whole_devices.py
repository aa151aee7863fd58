"""Scores the device model on device nights: the test flows of one device on one capture date, answered together.

It decides as a census with the same settings would. Under a split protocol that divides captures, these are a part of
each night, whose other flows are in training; under `by_capture` they are whole captures.

Shape suffixes: U device nights, B sets of flows, D distinct flows, K kinds of the model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from iotid.evaluation.align import translate
from iotid.evaluation.schema import KindDevices, Outcomes, WholeDevices
from iotid.labels.devices import UNLISTED, device_kind
from iotid.model.device import decide, kinds_of, share_of_households
from iotid.model.device.decide import UNDECIDED

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

    from iotid import config
    from iotid.dataset import Encoding, FlowSets
    from iotid.model import Predictor

RIGHT, WRONG, NOT_DECIDED, IS_UNKNOWN = OUTCOMES = ("right", "wrong", "undecided", "unknown")


def score_whole_devices(
    sets: FlowSets, encoding: Encoding, predictor: Predictor, name: str, settings: config.Census
) -> WholeDevices | None:
    """Scores of model ``name`` on ``sets`` (of test flows, with ids of ``encoding``); None without a device model.

    A night is right if exactly its own kind is found, wrong if another is, and else undecided or unknown. Of a kind
    that the model has not learned, `unknown` is the right answer; it is counted as unknown all the same.

    Raises:
        DataError: the model reads other characteristics than ``encoding`` has.
    """
    devices = predictor.learned.devices
    own_labels = [device_kind(label, encoding.devices.get(label, {})) for label in encoding.labels]
    flows_UD, label_U = _recordings(sets)
    is_listed_U = np.array([encoding.labels[label] != UNLISTED for label in label_U.tolist()], np.bool_)
    flows_UD, label_U = flows_UD[is_listed_U], label_U[is_listed_U]
    if devices is None or not len(label_U):
        return None
    kinds, _ = kinds_of(predictor.encoding.labels, predictor.encoding.devices)
    answer = devices.answer(translate(sets.sequences, encoding, predictor.encoding, name), flows_UD)
    counted_U = answer.known_tokens.max(axis=1, initial=0) >= settings.min_evidence
    share = share_of_households(np.sort(answer.log_odds[counted_U]), settings.behind)
    num_flows_U = np.asarray(flows_UD.sum(axis=1)).ravel().astype(np.int64)
    decision = decide(answer, share, num_flows_U, settings)
    kind_U = np.array([own_labels[label] for label in label_U.tolist()], object)
    is_own_UK = kind_U[:, np.newaxis] == np.array(kinds, object)
    is_named_U = decision.found.any(axis=1)
    is_right_U = is_named_U & (decision.found == is_own_UK).all(axis=1)
    outcome_U = np.select(
        [is_right_U, is_named_U, decision.status == UNDECIDED], [RIGHT, WRONG, NOT_DECIDED], IS_UNKNOWN
    )
    false_UK = decision.found & ~is_own_UK
    of_kinds = [_of_kind(kind, kind_U == kind, outcome_U, false_UK, kinds) for kind in sorted(set(kind_U))]
    return WholeDevices(**_counts(outcome_U), kinds=of_kinds)


def _recordings(sets: FlowSets) -> tuple[csr_matrix, NDArray[np.int64]]:
    """(U, D) flows and (U,) label of each device night: the sets of one label and recording together."""
    from scipy.sparse import csr_matrix

    pairs, recording_B = np.unique(np.stack([sets.label, sets.recording]), axis=1, return_inverse=True)
    size = len(recording_B.ravel())
    recording_UB = csr_matrix((np.ones(size), (recording_B.ravel(), np.arange(size))), shape=(pairs.shape[1], size))
    return (recording_UB @ sets.flows).tocsr(), pairs[0]


def _counts(outcome_U: NDArray[np.str_]) -> Outcomes:
    right, wrong, undecided, unknown = (int((outcome_U == outcome).sum()) for outcome in OUTCOMES)
    return {"recordings": len(outcome_U), "right": right, "wrong": wrong, "undecided": undecided, "unknown": unknown}


def _of_kind(
    kind: str, own_U: NDArray[np.bool_], outcome_U: NDArray[np.str_], false_UK: NDArray[np.bool_], kinds: list[str]
) -> KindDevices:
    times_K = false_UK[own_U].sum(axis=0)
    mistaken = kinds[int(times_K.argmax())] if times_K.any() else None
    return KindDevices(**_counts(outcome_U[own_U]), kind=kind, learned=kind in kinds, mistaken_for=mistaken)
