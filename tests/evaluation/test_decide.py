"""The promotion policy, case by case."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest

from iotid.config import Promotion
from iotid.evaluation import decide

_POLICY = Promotion(min_macro_f1=0.5, macro_f1_margin=0.0, max_recall_drop=0.1, min_support=20)


def _system(
    macro_f1: Any, recalls: dict[str, float | None], support: int = 100, dataset: str = "abc"
) -> dict[str, Any]:
    return {
        "name": "any",
        "dataset": {"name": "aalto", "hash": dataset},
        "knows": list(recalls),
        "metrics": {"macro_f1": {"value": macro_f1, "low": None, "high": None}},
        "per_class": [{"label": label, "recall": recall, "support": support} for label, recall in recalls.items()],
    }


_CHAMPION = _system(0.8, {"cam": 0.8, "plug": 0.8})


def _policy(**changes: Any) -> Promotion:
    return Promotion.model_validate({**_POLICY.model_dump(), **changes})


def test_decide__better_candidate_is_promoted_and_every_rule_says_why() -> None:
    decision = decide(_system(0.9, {"cam": 0.9, "plug": 0.9}), _CHAMPION, _POLICY)
    assert decision.promote
    assert [reason.split(":")[0] for reason in decision.reasons] == ["Passed"] * 5
    for rule, reason in zip(("floor", "dataset", "exceeds", "knows", "recall"), decision.reasons, strict=True):
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
            _system(0.9, {"cam": 1.0, "plug": 0.9}), _policy(min_macro_f1=0.95), "below the floor", id="floor"
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
def test_decide__without_a_champion_the_floor_alone_decides(macro_f1: float | None, promote: bool) -> None:
    decision = decide(_system(macro_f1, {"cam": 0.1}), None, _POLICY)
    assert decision.promote is promote
    assert "no champion" in decision.reasons[1]


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
    decision = decide(_system(0.9, {"cam": 0.0}, dataset="xyz"), _CHAMPION, _POLICY)
    assert len(decision.reasons) == 2
