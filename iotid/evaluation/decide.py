"""Whether a candidate takes the champion's place: a pure function of two reports and a written policy.

Every rule speaks, whether it passes or refuses, in a sentence with the numbers it saw; all must pass. What is not a
number refuses, a tie refuses, and reports on different data are not compared.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from iotid import config

# Scores are sums of quotients of counts: below this, a difference is the order of adding up.
_EXACT = 1e-9

_Verdict = tuple[bool, str]


@dataclass(frozen=True)
class Decision:
    """``reasons`` holds one sentence for each rule, in the order of the policy, led by ``Passed:`` or ``Refused:``."""

    promote: bool
    reasons: tuple[str, ...]


def decide(candidate: Mapping[str, Any], champion: Mapping[str, Any] | None, policy: config.Promotion) -> Decision:
    """Judge two ``schema.SystemReport`` (see ``schema.system_report``); without a champion, the floor alone."""
    verdicts = [_floor(candidate, policy)]
    if champion is None:
        verdicts.append((True, "there is no champion to compare with."))
    else:
        same = _same_dataset(candidate, champion)
        verdicts.append(same)
        if same[0]:
            verdicts.append(_margin(candidate, champion, policy))
            verdicts.extend(_missing_classes(candidate, champion))
            verdicts.extend(_recall(candidate, champion, policy))
    return Decision(
        all(passed for passed, _ in verdicts),
        tuple(("Passed: " if passed else "Refused: ") + sentence for passed, sentence in verdicts),
    )


def _floor(candidate: Mapping[str, Any], policy: config.Promotion) -> _Verdict:
    macro_f1 = _macro_f1(candidate)
    if math.isnan(macro_f1):
        return False, "the candidate's macro F1 is not a number; mend the model and evaluate it again."
    reached = macro_f1 >= policy.min_macro_f1 - _EXACT
    verb = "reaches" if reached else "is below"
    return reached, f"macro F1 {macro_f1:.4f} {verb} the floor of {policy.min_macro_f1:.4f} (promotion.min_macro_f1)."


def _same_dataset(candidate: Mapping[str, Any], champion: Mapping[str, Any]) -> _Verdict:
    ours, theirs = candidate["dataset"], champion["dataset"]
    if ours["hash"] == theirs["hash"]:
        return True, f"both were scored on dataset {ours['name']} ({ours['hash']})."
    return False, (
        f"the candidate was scored on dataset {ours['name']} ({ours['hash']}), the champion on {theirs['name']} "
        f"({theirs['hash']}): nothing more can be compared; evaluate both on one dataset."
    )


def _margin(candidate: Mapping[str, Any], champion: Mapping[str, Any], policy: config.Promotion) -> _Verdict:
    ours, theirs = _macro_f1(candidate), _macro_f1(champion)
    if math.isnan(theirs):
        return False, "the champion's macro F1 is not a number; evaluate the champion again."
    if math.isnan(ours):
        return False, f"a macro F1 that is not a number does not exceed the champion's {theirs:.4f}."
    exceeds = ours - theirs > policy.macro_f1_margin + _EXACT
    return exceeds, (
        f"macro F1 {ours:.4f} {'exceeds' if exceeds else 'does not exceed'} the champion's {theirs:.4f} by more than "
        f"{policy.macro_f1_margin:.4f} (promotion.macro_f1_margin)."
    )


def _missing_classes(candidate: Mapping[str, Any], champion: Mapping[str, Any]) -> Iterator[_Verdict]:
    support = {row["label"]: row["support"] for row in champion["per_class"]}
    missing = sorted(set(champion["knows"]) - set(candidate["knows"]))
    if not missing:
        yield True, f"the candidate knows all {len(champion['knows'])} classes that the champion knows."
    for label in missing:
        if support.get(label, 0):
            yield False, f"the candidate does not know {label}, which the champion does and the test part holds."
        else:
            yield True, f"the candidate does not know {label}, which the champion does; the test part holds none of it."


def _recall(candidate: Mapping[str, Any], champion: Mapping[str, Any], policy: config.Promotion) -> Iterator[_Verdict]:
    ours = {row["label"]: _number(row["recall"]) for row in candidate["per_class"]}
    judged = [row for row in champion["per_class"] if row["support"] >= policy.min_support]
    limit = f"{policy.max_recall_drop:.4f} (promotion.max_recall_drop)"
    refused = 0
    for row in judged:
        before, after = _number(row["recall"]), ours.get(row["label"], math.nan)
        if before - after <= policy.max_recall_drop + _EXACT:
            continue
        refused += 1
        of_class = f"the recall of {row['label']} ({row['support']} test flows)"
        if math.isnan(before - after):
            yield False, f"{of_class} is not a number in one of the two reports."
        else:
            yield False, f"{of_class} falls from {before:.4f} to {after:.4f}, by more than {limit}."
    if not refused:
        with_support = f"{len(judged)} classes with at least {policy.min_support} test flows (promotion.min_support)"
        yield True, f"no recall falls by more than {limit} among the {with_support}."


def _macro_f1(system: Mapping[str, Any]) -> float:
    return _number(system["metrics"]["macro_f1"]["value"])


def _number(value: Any) -> float:
    """NaN for null and for what is no finite number, so that every rule has one case to refuse."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else math.nan
