"""The learned vote: sets whose flows are shared are told apart by what they hold together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from iotid.model.calibration import calibration
from iotid.model.vote import LearnedVote

_SEQUENCES = {"packet_length": np.array([[2, 3], [2, 2], [4, 0], [5, 3]], np.int32)}
_SUMMARIES = np.array([[1, 0], [0, 1], [0, 0], [0, 0]], np.float32)


def _sets(*flows: list[int]) -> csr_matrix:
    return csr_matrix(np.array(flows))


def test_probabilities__name_sets_that_share_most_flows() -> None:
    train = _sets([9, 3, 1, 0], [8, 5, 2, 0], [7, 2, 0, 1], [9, 9, 0, 2])
    vote = LearnedVote(1).fit(_SEQUENCES, _SUMMARIES, train, np.array([0, 0, 2, 2]), 3)
    answers_BC = vote.probabilities(_SEQUENCES, _SUMMARIES, _sets([6, 4, 3, 0], [9, 1, 0, 1]))
    assert answers_BC.argmax(axis=1).tolist() == [0, 2]
    np.testing.assert_allclose(answers_BC.sum(axis=1), 1)
    assert not answers_BC[:, 1].any()  # training had no set of this class


def test_probabilities__of_flows_never_seen_hear_the_network() -> None:
    """Rows 4 and 5 are new to the bags; only their summaries say what they are like."""
    train = _sets([1, 0, 1, 0], [2, 0, 0, 1], [0, 1, 1, 0], [0, 2, 0, 1])
    vote = LearnedVote(1).fit(_SEQUENCES, _SUMMARIES, train, np.array([0, 0, 1, 1]), 2)
    sequences = {"packet_length": np.vstack([_SEQUENCES["packet_length"], [[8, 9], [9, 8]]]).astype(np.int32)}
    summaries = np.vstack([_SUMMARIES, [[1, 0], [0, 1]]]).astype(np.float32)
    like_0, like_1 = vote.probabilities(sequences, summaries, _sets([0, 0, 0, 0, 1, 0], [0, 0, 0, 0, 0, 1]))
    assert like_0[0] > like_1[0] + 0.02


@pytest.mark.parametrize("labels", [[0, 0, 2, 2], [0, 1, 2, 2], [1, 1, 1, 1]])
def test_to_arrays__the_same_vote_comes_back(labels: list[int]) -> None:
    train = _sets([9, 3, 1, 0], [8, 5, 2, 0], [7, 2, 0, 1], [9, 9, 0, 2])
    vote = LearnedVote(1).fit(_SEQUENCES, _SUMMARIES, train, np.array(labels), 3)
    again = LearnedVote.from_arrays(vote.to_arrays())
    expected_BC = vote.probabilities(_SEQUENCES, _SUMMARIES, train)
    np.testing.assert_allclose(again.probabilities(_SEQUENCES, _SUMMARIES, train), expected_BC)
    assert set(expected_BC.argmax(axis=1).tolist()) <= set(labels)
    np.testing.assert_allclose(expected_BC.sum(axis=1), 1)


def test_mean__weighs_repeats_by_their_logarithm() -> None:
    from iotid.model.vote import mean_of_flows

    (mean,) = mean_of_flows(_SUMMARIES, _sets([4, 1, 0, 0]))
    weight = 1 + np.log(4)
    assert mean.tolist() == pytest.approx([weight / (weight + 1), 1 / (weight + 1)])


def test_thin__keeps_a_share_of_the_flows_and_says_whose() -> None:
    from iotid.model.vote import thin

    flows_BN = _sets([4000, 0, 2000, 0], [1, 0, 0, 0], [0, 0, 0, 0])
    kept_BN, rows = thin(flows_BN, 0.25, np.random.default_rng(1))
    assert rows.tolist() in ([0], [0, 1])
    np.testing.assert_allclose(kept_BN.toarray()[0], [1000, 0, 500, 0], rtol=0.15)
    assert flows_BN.toarray()[0].tolist() == [4000, 0, 2000, 0]


def _weak_evidence(sets: int, seed: int) -> tuple[dict[str, np.ndarray], np.ndarray, csr_matrix, np.ndarray]:
    """Sets of one flow of 40 packets, each of which leans to one of two classes by 11 to 9."""
    chance = np.random.default_rng(seed)
    label = np.arange(sets) % 2
    leans = chance.random((sets, 40)) < np.where(label == 1, 0.55, 0.45)[:, np.newaxis]
    ids = (2 + 2 * np.arange(40) + leans).astype(np.int32)
    return {"packet_length": ids}, np.zeros((sets, 1), np.float32), csr_matrix(np.eye(sets)), label


def test_probabilities__are_as_high_as_the_answers_are_often_right(monkeypatch: pytest.MonkeyPatch) -> None:
    sequences, summaries, sets, label = _weak_evidence(200, 1)
    asked, of_asked, sets_asked, truth = _weak_evidence(1000, 2)

    def gap() -> float:
        learned = LearnedVote(1).fit(sequences, summaries, sets, label, 2)
        answers_BC = learned.probabilities(asked, of_asked, sets_asked)
        return float(answers_BC.max(axis=1).mean() - (answers_BC.argmax(axis=1) == truth).mean())

    assert abs(gap()) < 0.1
    monkeypatch.setattr("iotid.model.vote.calibration", lambda *told: (1.0, None))
    assert gap() > 0.15


def test_fit__what_is_said_of_a_set_comes_of_others_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels drawn at random can be learned by heart; whoever judged by that would find nothing to doubt."""
    chance = np.random.default_rng(3)
    sequences = {"packet_length": chance.integers(2, 40, (60, 20)).astype(np.int32)}
    factors: list[float] = []

    def kept(*told: Any) -> tuple[float, Any]:
        found = calibration(*told)
        factors.append(found[0])
        return found

    monkeypatch.setattr("iotid.model.vote.calibration", kept)
    summaries, label = np.zeros((60, 1), np.float32), chance.integers(0, 2, 60)
    LearnedVote(1).fit(sequences, summaries, csr_matrix(np.eye(60)), label, 2)
    assert factors[0] < 0.2
