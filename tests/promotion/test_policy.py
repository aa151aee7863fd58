"""The promotion policy, case by case."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iotid import schemas
from iotid.config import Promotion, load_settings
from iotid.errors import SettingError
from iotid.evaluation.schema import REPORT_VERSION
from iotid.promotion import decide

_POLICY = Promotion(
    min_macro_f1=0.5,
    macro_f1_margin=0.0,
    margin_judged_by="difference",
    min_recall={},
    max_recall_drop=0.1,
    min_support=20,
    max_calibration_error=None,
    max_calibration_rise=0.05,
)
_READS = {
    "flows_version": schemas.FLOWS.version,
    "length": "ip",
    "max_packets": 32,
    "characteristics": ["packet_length", "tcp_window"],
    "protocols": [6, 17],
    "unfit_nights": [],
}


def _system(
    macro_f1: Any, recalls: dict[str, float | None], support: int = 100, dataset: str = "abc", **further: Any
) -> dict[str, Any]:
    return {
        "version": REPORT_VERSION,
        "name": "any",
        "dataset": {"name": "aalto", "hash": dataset},
        "knows": list(recalls),
        "metrics": {"macro_f1": {"value": macro_f1, "low": None, "high": None}},
        "per_class": [{"label": label, "recall": recall, "support": support} for label, recall in recalls.items()],
        "expected_calibration_error": 0.1,
        "lead": {},
        "reads": _READS,
        **further,
    }


def _better(**further: Any) -> dict[str, Any]:
    """A candidate that passes all rules, with these changes."""
    return _system(0.9, {"cam": 0.9, "plug": 0.9}, **further)


def _paired(low: float | None, high: float | None) -> dict[str, Any]:
    return {"any": {"value": 0.1, "low": low, "high": high}}


_CHAMPION = _system(0.8, {"cam": 0.8, "plug": 0.8})


def _policy(**changes: Any) -> Promotion:
    return Promotion.model_validate({**_POLICY.model_dump(), **changes})


def _refusals(candidate: dict[str, Any], champion: dict[str, Any] | None, policy: Promotion) -> list[str]:
    """The reasons of a decision, which refuses exactly if one of them does."""
    decision = decide(candidate, champion, policy)
    refused = [reason for reason in decision.reasons if reason.startswith("Refused: ")]
    assert decision.promote is not bool(refused)
    assert all(reason.startswith(("Refused: ", "Passed: ")) and reason.endswith(".") for reason in decision.reasons)
    return refused


def test_decide__better_candidate_is_promoted_and_every_rule_says_why() -> None:
    decision = decide(_system(0.9, {"cam": 0.9, "plug": 0.9}), _CHAMPION, _POLICY)
    assert decision.promote
    assert [reason.split(":")[0] for reason in decision.reasons] == ["Passed"] * 7
    rules = ("minimum", "schema version", "dataset", "exceeds", "knows", "recall", "calibration")
    for rule, reason in zip(rules, decision.reasons, strict=True):
        assert rule in reason
        assert reason.endswith(".")
    assert "0.9000" in decision.reasons[0]


@pytest.mark.parametrize(
    ("candidate", "policy", "word"),
    [
        pytest.param(_system(0.8, {"cam": 0.8, "plug": 0.8}), _POLICY, "does not exceed", id="tie"),
        pytest.param(_system(0.7, {"cam": 0.8, "plug": 0.8}), _POLICY, "does not exceed", id="worse"),
        pytest.param(
            _system(0.81, {"cam": 0.9, "plug": 0.9}), _policy(macro_f1_margin=0.01), "0.0100", id="exactly the margin"
        ),
        pytest.param(_system(0.9, {"cam": 1.0, "plug": 0.69}), _POLICY, "recall of plug", id="recall falls"),
        pytest.param(_system(0.9, {"cam": 1.0}), _POLICY, "does not know plug", id="fewer classes"),
        pytest.param(_system(0.9, {"cam": 1.0, "plug": 0.9}, dataset="xyz"), _POLICY, "xyz", id="another dataset"),
        pytest.param(_system(math.nan, {"cam": 1.0, "plug": 0.9}), _POLICY, "not a number", id="NaN"),
        pytest.param(_system(None, {"cam": 1.0, "plug": 0.9}), _POLICY, "not a number", id="null"),
        pytest.param(_system(math.inf, {"cam": 1.0, "plug": 0.9}), _POLICY, "not a number", id="infinite"),
        pytest.param(_system(0.9, {"cam": 1.0, "plug": None}), _POLICY, "recall of plug", id="recall is null"),
        pytest.param(
            _system(0.9, {"cam": 1.0, "plug": 0.9}), _policy(min_macro_f1=0.95), "below the minimum", id="minimum"
        ),
    ],
)
def test_decide__refuses_and_names_the_rule(candidate: dict[str, Any], policy: Promotion, word: str) -> None:
    decision = decide(candidate, _CHAMPION, policy)
    assert not decision.promote
    assert any(reason.startswith("Refused: ") and word in reason for reason in decision.reasons)


@pytest.mark.parametrize(
    ("candidate", "policy"),
    [
        pytest.param(_system(0.82, {"cam": 0.8, "plug": 0.7}), _POLICY, id="recall falls by exactly what is allowed"),
        pytest.param(_system(0.82, {"cam": 0.9, "plug": 0.1}), _policy(min_support=101), id="too little support"),
        pytest.param(_system(0.82, {"cam": 0.8, "plug": 0.8, "kettle": 0.0}), _POLICY, id="one more class"),
        pytest.param(_system(0.811, {"cam": 0.8, "plug": 0.8}), _policy(macro_f1_margin=0.01), id="above the margin"),
    ],
)
def test_decide__promotes(candidate: dict[str, Any], policy: Promotion) -> None:
    decision = decide(candidate, _CHAMPION, policy)
    assert decision.promote, decision.reasons


@pytest.mark.parametrize(
    ("macro_f1", "promote"), [(0.5, True), (0.51, True), (0.49, False), (math.nan, False), (None, False)]
)
def test_decide__without_a_champion_the_minimum_alone_decides(macro_f1: float | None, promote: bool) -> None:
    decision = decide(_system(macro_f1, {"cam": 0.1}), None, _POLICY)
    assert decision.promote is promote
    assert "no champion" in decision.reasons[-1]


def test_decide__class_without_test_flows_may_be_lost_but_is_named() -> None:
    champion = copy.deepcopy(_CHAMPION)
    champion["knows"].append("retired")
    champion["per_class"].append({"label": "retired", "recall": None, "support": 0})
    decision = decide(_system(0.9, {"cam": 0.9, "plug": 0.9}), champion, _POLICY)
    assert decision.promote
    assert any("retired" in reason for reason in decision.reasons)


def test_decide__broken_champion_is_not_replaced_unseen() -> None:
    decision = decide(_system(0.9, {"cam": 0.9, "plug": 0.9}), _system(math.nan, {"cam": 0.9}), _POLICY)
    assert not decision.promote
    assert any("evaluate the champion again" in reason for reason in decision.reasons)


def test_decide__another_dataset_is_the_only_comparison_made() -> None:
    reasons = " ".join(decide(_system(0.9, {"cam": 0.0}, dataset="xyz"), _CHAMPION, _POLICY).reasons)
    assert "nothing more can be compared" in reasons
    assert not any(word in reasons for word in ("exceed", "know", "recall", "calibration"))


@pytest.mark.parametrize("side", ["candidate", "champion"])
def test_decide__report_of_another_version_is_not_read(side: str) -> None:
    old = {"version": REPORT_VERSION - 1}  # whatever else such a report has may mean something else
    sides = {"candidate": _better(), "champion": _CHAMPION, side: old}
    (refused,) = _refusals(sides["candidate"], sides["champion"], _POLICY)
    assert f"version {REPORT_VERSION - 1}, this iotid reads {REPORT_VERSION}" in refused
    assert "run iotid evaluate again" in refused


@pytest.mark.parametrize(
    ("low", "high", "policy", "word"),
    [
        pytest.param(0.02, 0.2, _POLICY, None, id="all above"),
        pytest.param(-0.02, 0.2, _POLICY, None, id="around zero, the difference decides"),
        pytest.param(None, None, _POLICY, None, id="no interval, the difference decides"),
        pytest.param(-0.2, -0.01, _POLICY, "not by chance", id="wholly below zero"),
        pytest.param(-0.2, 0.0, _POLICY, None, id="reaches zero"),
        pytest.param(0.02, 0.2, _policy(margin_judged_by="lower_bound"), None, id="lower bound above"),
        pytest.param(0.0, 0.2, _policy(margin_judged_by="lower_bound"), "lower bound does not", id="lower bound ties"),
        pytest.param(-0.02, 0.2, _policy(margin_judged_by="lower_bound"), "lower bound does not", id="below"),
        pytest.param(
            0.02,
            0.2,
            _policy(margin_judged_by="lower_bound", macro_f1_margin=0.03),
            "0.0300",
            id="lower bound within the margin",
        ),
        pytest.param(
            None, None, _policy(margin_judged_by="lower_bound"), "evaluation.bootstrap", id="no interval to judge by"
        ),
        pytest.param(math.nan, 0.2, _policy(margin_judged_by="lower_bound"), "no interval", id="NaN interval"),
    ],
)
def test_decide__interval_of_the_difference(
    low: float | None, high: float | None, policy: Promotion, word: str | None
) -> None:
    refused = _refusals(_better(lead=_paired(low, high)), _CHAMPION, policy)
    assert len(refused) == (word is not None)
    assert word is None or word in refused[0]


def test_decide__margin_below_zero_accepts_slightly_worse_but_not_beyond_chance() -> None:
    policy = _policy(macro_f1_margin=-0.05)
    recalls = {"cam": 0.8, "plug": 0.75}
    assert not _refusals(_system(0.78, recalls, lead=_paired(-0.06, 0.02)), _CHAMPION, policy)
    (refused,) = _refusals(_system(0.78, recalls, lead=_paired(-0.04, -0.01)), _CHAMPION, policy)
    assert "not by chance" in refused
    (refused,) = _refusals(_system(0.75, recalls, lead=_paired(-0.06, 0.02)), _CHAMPION, policy)
    assert "it does not exceed -0.0500" in refused


def test_decide__interval_over_another_system_is_not_the_champions() -> None:
    over_other = {"other": {"value": -0.1, "low": -0.2, "high": -0.1}}
    assert not _refusals(_better(lead=over_other), _CHAMPION, _POLICY)


@pytest.mark.parametrize(
    ("recall", "support", "minimum", "word"),
    [
        (0.9, 100, {"plug": 0.9}, None),
        (0.9, 100, {"plug": 0.91}, "recall of plug, 0.9000, is below its minimum of 0.9100"),
        (0.1, 19, {"plug": 0.9}, None),
        (0.1, 20, {"plug": 0.9}, "is below its minimum"),
        (None, 100, {"plug": 0.0}, "recall of plug is not a number"),
        (0.9, 100, {"plgu": 0.5}, "does not know plgu"),
    ],
)
@pytest.mark.parametrize("champion", [None, _CHAMPION], ids=["first", "second"])
def test_decide__minimums_of_recall_hold_with_and_without_a_champion(
    champion: dict[str, Any] | None, recall: float | None, support: int, minimum: dict[str, float], word: str | None
) -> None:
    candidate = _better()
    candidate["per_class"][1] = {"label": "plug", "recall": recall, "support": support}
    refused = _refusals(candidate, champion, _policy(min_recall=minimum, max_recall_drop=1.0))
    assert any(word in reason for reason in refused) if word else not refused


def test_decide__minimum_recall_of_a_class_with_few_test_flows_is_not_applied() -> None:
    reasons = decide(_better(support=3), None, _policy(min_recall={"plug": 0.99})).reasons
    assert any(
        "plug is not compared with" in reason and "3 test flows are fewer than 20" in reason for reason in reasons
    )


@pytest.mark.parametrize(
    ("before", "after", "policy", "word"),
    [
        (0.1, 0.15, _POLICY, None),
        (0.1, 0.16, _POLICY, "max_calibration_rise"),
        (0.1, 0.9, _policy(max_calibration_rise=None), None),
        (0.9, 0.3, _policy(max_calibration_error=0.3), None),
        (0.9, 0.31, _policy(max_calibration_error=0.3), "max_calibration_error"),
        (0.1, math.nan, _POLICY, "not a number"),
        (None, 0.1, _POLICY, "not a number"),
        (0.1, math.nan, _policy(max_calibration_error=0.3, max_calibration_rise=None), "not a number"),
    ],
)
def test_decide__calibration(before: float | None, after: float | None, policy: Promotion, word: str | None) -> None:
    champion = {**_CHAMPION, "expected_calibration_error": before}
    refused = _refusals(_better(expected_calibration_error=after), champion, policy)
    assert len(refused) == (word is not None)
    assert word is None or word in refused[0]


@pytest.mark.parametrize(
    ("reads", "word"),
    [
        ({**_READS, "protocols": [6]}, "does not read flows of protocol 17"),
        ({**_READS, "protocols": [1, 6, 17]}, None),
        ({**_READS, "characteristics": ["direction"]}, None),
        ({**_READS, "flows_version": schemas.FLOWS.version - 1}, "train again"),
        ({**_READS, "unfit_nights": ["lab/n has flow.length=frame, the model learned ip"]}, "lab/n has flow.length"),
        (None, "not a trained model"),
    ],
)
def test_decide__candidate_must_read_the_flows_that_the_census_is_taken_of(reads: Any, word: str | None) -> None:
    refused = _refusals(_better(reads=reads), _CHAMPION, _POLICY)
    assert len(refused) == (word is not None)
    assert word is None or word in refused[0]


def test_decide__champion_that_is_a_baseline_reads_nothing_that_could_be_lost() -> None:
    assert not _refusals(_better(), {**_CHAMPION, "reads": None}, _POLICY)


_SCORES = st.one_of(st.none(), st.just(math.nan), st.floats(0, 1))


@given(ours=_SCORES, theirs=_SCORES, recall=_SCORES, low=_SCORES, error=_SCORES)
def test_decide__nothing_but_numbers_that_are_better_is_promoted(
    ours: Any, theirs: Any, recall: Any, low: Any, error: Any
) -> None:
    candidate = _system(ours, {"cam": recall, "plug": 0.8}, lead=_paired(low, 1.0), expected_calibration_error=error)
    champion = _system(theirs, {"cam": 0.8, "plug": 0.8})
    promote = not _refusals(candidate, champion, _policy(margin_judged_by="lower_bound"))
    numbers = [ours, theirs, recall, low, error]
    if any(value is None or math.isnan(value) for value in numbers):
        assert not promote
    elif promote:
        assert ours >= 0.5 - 1e-6
        assert low > 0
        assert recall >= 0.7 - 1e-6
        assert error <= 0.15 + 1e-6
    assert not decide(candidate, candidate, _POLICY).promote, "a tie never promotes"


def test_policy__is_checked_when_it_is_read() -> None:
    policy = load_settings(overrides=["promotion.min_recall={lab-cam: 0.8}"]).promotion
    assert policy.min_recall == {"lab-cam": 0.8}
    with pytest.raises(SettingError, match=r"promotion\.min_recall\.lab-cam"):
        load_settings(overrides=["promotion.min_recall={lab-cam: 80}"])
    with pytest.raises(SettingError, match=r"promotion\.margin_judged_by"):
        load_settings(overrides=["promotion.margin_judged_by=luck"])
