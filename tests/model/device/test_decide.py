"""Decisions on addresses, and the share of households."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import expit

from iotid import config
from iotid.model.device import STATUSES, Answer, Decision, decide, share_of_households

_KINDS = 3


@pytest.fixture(scope="module")
def census() -> config.Census:
    return config.load_settings().census.model_copy(update={"min_flows": 2, "min_confidence": 0.6})


def _answer(
    host: list[list[float]],
    household: list[list[float]] | None = None,
    *,
    log_odds: float = 0.0,
    unknown: float = 0.0,
    known_tokens: int = 3,
    unexplained: float = 0.0,
) -> Answer:
    addresses = len(host)
    return Answer(
        host=np.array(host, np.float64),
        household=np.array(host if household is None else household, np.float64),
        log_odds=np.full(addresses, log_odds),
        class_share=np.ones((addresses, _KINDS)),
        unexplained=np.full(addresses, unexplained),
        unknown=np.full(addresses, unknown),
        flows=np.zeros((addresses, _KINDS + 1), np.int64),
        distinct=np.full(addresses, 10),
        min_devices=np.ones((addresses, _KINDS), np.int64),
        begins=np.zeros((addresses, _KINDS), np.int64),
        ends=np.zeros((addresses, _KINDS), np.int64),
        known_tokens=np.full((addresses, _KINDS), known_tokens),
        similarity=np.zeros((addresses, _KINDS)),
    )


def _enough(answer: Answer) -> NDArray[np.int64]:
    return np.full(len(answer.log_odds), 10)


@pytest.mark.parametrize(
    ("probability", "unknown", "status", "found"),
    [
        ([0.9, 0.1, 0.0], 0.0, "known", [0]),
        ([0.6, 0.0, 0.59], 0.0, "known", [0]),
        ([0.7, 0.2, 0.8], 0.0, "several", [0, 2]),
        ([0.9, 0.1, 0.0], 0.5, "known", [0]),
        ([0.9, 0.1, 0.0], 0.51, "several_with_unknown", [0]),
        ([0.7, 0.2, 0.8], 0.9, "several_with_unknown", [0, 2]),
        ([0.59, 0.1, 0.0], 0.0, "undecided", []),
        ([0.0, 0.3, 0.0], 0.9, "undecided", []),
        ([0.0, 0.29, 0.1], 0.0, "unknown", []),
        ([0.0, 0.0, 0.0], 1.0, "unknown", []),
    ],
)
def test_decide__every_status(
    probability: list[float], unknown: float, status: str, found: list[int], census: config.Census
) -> None:
    answer = _answer([[0.0] * 3], [probability], unknown=unknown)
    decision = decide(answer, 1.0, _enough(answer), census)
    assert decision.status.tolist() == [status]
    assert np.flatnonzero(decision.found[0]).tolist() == found
    assert decision.household.tolist() == [1]
    assert status in STATUSES


def test_decide__a_host_has_nothing_unknown_beside_its_kind(census: config.Census) -> None:
    answer = _answer([[0.9, 0.8, 0.0]], unknown=1.0)
    assert decide(answer, 0.0, _enough(answer), census).status.tolist() == ["several"]
    assert decide(answer, 0.49, _enough(answer), census).status.tolist() == ["several"]
    assert decide(answer, 0.5, _enough(answer), census).status.tolist() == ["several_with_unknown"]


def test_decide__few_flows_are_always_undecided(census: config.Census) -> None:
    answer = _answer([[0.99, 0.9, 0.0], [0.0, 0.0, 0.0], [0.99, 0.0, 0.0]], unknown=1.0)
    decision = decide(answer, 1.0, np.array([1, 1, 2]), census)
    assert decision.status.tolist() == ["undecided", "undecided", "several_with_unknown"]
    assert decision.found.any(axis=1).tolist() == [False, False, True]


@pytest.mark.parametrize(("share", "log_odds"), [(0.0, 5.0), (1.0, -5.0), (0.5, 0.0), (0.2, 1.0)])
def test_decide__mixes_the_probabilities_as_host_and_as_household(
    share: float, log_odds: float, census: config.Census
) -> None:
    host, household = [0.8, 0.1, 0.0], [0.5, 0.7, 0.2]
    answer = _answer([host], [household], log_odds=log_odds)
    decision = decide(answer, share, _enough(answer), census)
    weight = share if share in (0, 1) else expit(log_odds + np.log(share / (1 - share)))
    assert decision.household == pytest.approx([weight], abs=1e-6)
    mixed = weight * np.array(household) + (1 - weight) * np.array(host)
    np.testing.assert_allclose(decision.probability, [mixed], atol=2e-6)


def test_decide__does_not_depend_on_the_last_bits(census: config.Census) -> None:
    """Every number lies at a limit, and is moved by as much as the order of a sum moves it."""
    rows = [[0.6, 0.6, 0.0], [0.6, 0.0, 0.3], [0.3, 0.1, 0.1], [0.0, 0.3, 0.0], [0.9, 0.0, 0.0], [0.3, 0.6, 0.0]]

    def decided(by: float) -> Decision:
        answer = _answer((np.array(rows) + by).tolist(), log_odds=by, unknown=0.5 + by)
        return decide(answer, 0.5 + by, _enough(answer), census)

    exact = decided(0)
    assert set(exact.status.tolist()) == {"known", "several", "undecided"}
    for by in (1e-12, -1e-12, 3e-16, -3e-16):
        moved = decided(by)
        assert moved.status.tolist() == exact.status.tolist()
        assert np.abs(moved.probability - exact.probability).max() == 0
        assert moved.household.tolist() == exact.household.tolist()


@pytest.mark.parametrize(
    ("known_tokens", "status", "probability"),
    [(0, "unknown", 0.0), (2, "undecided", 0.9), (3, "known", 0.9), (9, "known", 0.9)],
)
def test_decide__a_kind_needs_several_tokens_of_flows_like_its_own(
    known_tokens: int, status: str, probability: float, census: config.Census
) -> None:
    assert census.min_evidence == 3
    decision = decide(_answer([[0.9, 0.0, 0.0]], known_tokens=known_tokens), 0.5, np.array([100]), census)
    assert (decision.status.tolist(), decision.probability.max()) == ([status], probability)
    assert decision.found.tolist() == [[status == "known", False, False]]
    lenient = census.model_copy(update={"min_evidence": 1})
    assert decide(_answer([[0.9, 0.0, 0.0]], known_tokens=1), 0.5, np.array([100]), lenient).found[0, 0]


@pytest.mark.parametrize(
    ("unexplained", "share", "status", "probability"),
    [
        (0.5, 0.0, "known", 0.97),
        (0.51, 0.0, "undecided", 0.49),
        (0.85, 0.0, "unknown", 0.15),
        (0.85, 1.0, "known", 0.97),  # the rest may be of others
    ],
)
def test_decide__a_mostly_unexplained_host_is_another_device(
    unexplained: float, share: float, status: str, probability: float, census: config.Census
) -> None:
    answer = _answer([[0.97, 0.1, 0.0]], unexplained=unexplained)
    decision = decide(answer, share, _enough(answer), census)
    assert decision.status.tolist() == [status]
    assert decision.probability[0].tolist() == [probability, 0.1, 0.0]
    assert decision.found[0].tolist() == [status == "known", False, False]


def test_decide__without_a_kind_found_unexplained_changes_nothing(census: config.Census) -> None:
    answer = _answer([[0.4, 0.1, 0.0]], unexplained=1.0)
    assert decide(answer, 0.0, _enough(answer), census).status.tolist() == ["undecided"]


def test_decide__of_no_kinds_and_of_no_addresses(census: config.Census) -> None:
    no_kind, nothing, counts = np.zeros((2, 0)), np.zeros(2), np.zeros((2, 1), np.int64)
    without = Answer(
        no_kind,
        no_kind,
        nothing,
        no_kind,
        nothing,
        nothing,
        counts,
        counts[:, 0] + 1,
        *[no_kind.astype(np.int64)] * 4,
        similarity=no_kind,
    )
    assert decide(without, 0.5, np.array([5, 1]), census).status.tolist() == ["unknown", "undecided"]
    without_evidence = _answer([[0.0] * 3])
    names = [name for name in Answer.__dataclass_fields__ if name != "unlike_kind"]
    empty = Answer(*(getattr(without_evidence, name)[:0] for name in names))
    assert decide(empty, 0.5, np.zeros(0, np.int64), census).status.tolist() == []


def _log_odds(share: float, number: int, distance: float) -> NDArray[np.float64]:
    """Log odds of evidence that is normal around ± distance / 2, as those of a well calibrated answer are."""
    random = np.random.default_rng(1)
    is_household = random.random(number) < share
    known_tokens = random.normal(np.where(is_household, distance / 2, -distance / 2), 1)
    return distance * known_tokens


@pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("distance", [2.0, 5.0])
def test_share_of_households__is_estimated_from_calibrated_evidence(share: float, distance: float) -> None:
    assert share_of_households(_log_odds(share, 4000, distance), "auto") == pytest.approx(share, abs=0.04)


def test_share_of_households__has_the_greatest_likelihood() -> None:
    log_odds = _log_odds(0.3, 500, 2)
    shares = np.linspace(0.01, 0.99, 981)
    # of one synthetic address of either sort, and of all others by how much likelier their evidence is in a household
    likelihood = [
        np.log(share * np.exp(log_odds) + 1 - share).sum() + np.log(share) + np.log1p(-share) for share in shares
    ]
    assert share_of_households(log_odds, "auto") == pytest.approx(shares[int(np.argmax(likelihood))], abs=0.002)


@pytest.mark.parametrize(("behind", "share"), [("hosts", 0.0), ("households", 1.0)])
def test_share_of_households__follows_the_setting(behind: str, share: float) -> None:
    assert share_of_households(np.array([-9.0, 9.0]), behind) == share


def test_share_of_households__of_few_addresses_is_never_certain() -> None:
    assert share_of_households(np.zeros(0), "auto") == 0.5
    assert share_of_households(np.array([50.0]), "auto") == pytest.approx(2 / 3)
    assert 0 < share_of_households(np.full(1000, -50.0), "auto") < 0.01
