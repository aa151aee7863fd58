"""Whether a candidate replaces the champion: a pure function of two reports and a written policy.

Every rule passes or refuses, and says so in a sentence with its numbers; all must pass. A value that is not a number
refuses, and so does a tie. Reports on different data are not compared, and a report of another version is not read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from iotid import config, schemas
from iotid.evaluation.metrics import INTERVAL
from iotid.evaluation.schema import REPORT_VERSION

# Scores are sums of quotients of counts: a smaller difference is rounding.
_TOLERANCE = 1e-9

_Verdict = tuple[bool, str]


@dataclass(frozen=True)
class Decision:
    """``reasons``: for each rule, in the policy's order, a sentence that begins with ``Passed:`` or ``Refused:``."""

    promote: bool
    reasons: tuple[str, ...]


def decide(candidate: Mapping[str, Any], champion: Mapping[str, Any] | None, policy: config.Promotion) -> Decision:
    """Compare two ``schema.SystemReport`` (see ``schema.system_report``).

    Without a champion only the rules on the candidate alone apply.
    """
    verdicts = _check_versions(candidate, champion) or list(_apply_rules(candidate, champion, policy))
    return Decision(
        all(passed for passed, _ in verdicts),
        tuple(("Passed: " if passed else "Refused: ") + sentence for passed, sentence in verdicts),
    )


def _check_versions(candidate: Mapping[str, Any], champion: Mapping[str, Any] | None) -> list[_Verdict]:
    """The refusal, if a report has another version."""
    others = sorted({side["version"] for side in (candidate, champion) if side} - {REPORT_VERSION})
    if not others:
        return []
    found = f"the report is of version {others[0]}, this iotid reads {REPORT_VERSION}"
    return [(False, f"{found}: nothing can be compared; run iotid evaluate again.")]


def _apply_rules(
    candidate: Mapping[str, Any], champion: Mapping[str, Any] | None, policy: config.Promotion
) -> Iterator[_Verdict]:
    yield _macro_f1_minimum(candidate, policy)
    yield from _recall_minimums(candidate, policy)
    yield from _calibration(candidate, policy)
    yield from _flows_read(candidate, champion)
    if champion is None:
        yield True, "there is no champion to compare with."
        return
    same = _same_dataset(candidate, champion)
    yield same
    if same[0]:
        yield _macro_f1_margin(candidate, champion, policy)
        yield from _missing_classes(candidate, champion)
        yield from _recall_drops(candidate, champion, policy)
        yield from _calibration_rise(candidate, champion, policy)


def _macro_f1_minimum(candidate: Mapping[str, Any], policy: config.Promotion) -> _Verdict:
    macro_f1 = _macro_f1(candidate)
    if math.isnan(macro_f1):
        return False, "the candidate's macro F1 is not a number; train again and evaluate it."
    reached = macro_f1 >= policy.min_macro_f1 - _TOLERANCE
    verb = "reaches" if reached else "is below"
    return reached, f"macro F1 {macro_f1:.4f} {verb} the minimum of {policy.min_macro_f1:.4f} (promotion.min_macro_f1)."


def _recall_minimums(candidate: Mapping[str, Any], policy: config.Promotion) -> Iterator[_Verdict]:
    rows = {row["label"]: row for row in candidate["per_class"]}
    for label, least in policy.min_recall.items():
        minimum = f"minimum of {least:.4f} (promotion.min_recall)"
        if label not in candidate["knows"]:
            yield False, f"the candidate does not know {label}, which has a {minimum}; train on it, or fix the name."
            continue
        support, recall = rows[label]["support"], _number(rows[label]["recall"])
        if support < policy.min_support:
            reason = f"{support} test flows are fewer than {policy.min_support} (promotion.min_support)"
            yield True, f"the recall of {label} is not compared with its {minimum}: {reason}."
        elif math.isnan(recall):
            yield False, f"the recall of {label} is not a number; train again and evaluate it."
        else:
            reached = recall >= least - _TOLERANCE
            yield reached, f"the recall of {label}, {recall:.4f}, {'reaches' if reached else 'is below'} its {minimum}."


def _calibration(candidate: Mapping[str, Any], policy: config.Promotion) -> Iterator[_Verdict]:
    most = policy.max_calibration_error
    if most is not None:
        error = _number(candidate["expected_calibration_error"])
        limit = f"{most:.4f} (promotion.max_calibration_error)"
        if math.isnan(error):
            yield False, f"an expected calibration error that is not a number is not at most {limit}."
        else:
            within = error <= most + _TOLERANCE
            yield within, f"the expected calibration error, {error:.4f}, is {'at most' if within else 'above'} {limit}."


def _flows_read(candidate: Mapping[str, Any], champion: Mapping[str, Any] | None) -> Iterator[_Verdict]:
    """Whether a census can use the candidate: it must read the sites' flows, and all protocols of the champion."""
    reads = candidate["reads"]
    if reads is None:
        yield False, "the candidate is not a trained model: a census cannot load it."
        return
    refused = list(_unreadable_flows(reads, (champion or {}).get("reads")))
    for sentence in refused:
        yield False, sentence
    if not refused:
        protocols = ", ".join(map(str, reads["protocols"]))
        yield (
            True,
            (
                f"the candidate reads flows of schema version {reads['flows_version']} as they are assembled: "
                f"{', '.join(reads['characteristics'])} of {reads['max_packets']} packets, lengths from the "
                f"{reads['length']} header on, protocols {protocols}."
            ),
        )


def _unreadable_flows(reads: Mapping[str, Any], champion_reads: Mapping[str, Any] | None) -> Iterator[str]:
    if reads["flows_version"] != schemas.FLOWS.version:
        yield (
            f"the candidate reads flows of schema version {reads['flows_version']}, this iotid makes version "
            f"{schemas.FLOWS.version}; train again."
        )
    for reason in reads["unfit_nights"]:
        yield f"the candidate cannot read the flows that the census is taken from: {reason}."
    lost = sorted(set(champion_reads["protocols"] if champion_reads else ()) - set(reads["protocols"]))
    if lost:
        numbers = ", ".join(map(str, lost))
        yield (
            f"the candidate does not read flows of protocol {numbers}, which the champion does: devices that are known "
            f"by them would be lost; train with them in dataset.protocols."
        )


def _same_dataset(candidate: Mapping[str, Any], champion: Mapping[str, Any]) -> _Verdict:
    ours, theirs = candidate["dataset"], champion["dataset"]
    if ours["hash"] == theirs["hash"]:
        return True, f"both were scored on dataset {ours['name']} ({ours['hash']})."
    return False, (
        f"the candidate was scored on dataset {ours['name']} ({ours['hash']}), the champion on {theirs['name']} "
        f"({theirs['hash']}): nothing more can be compared; evaluate both on one dataset."
    )


def _macro_f1_margin(candidate: Mapping[str, Any], champion: Mapping[str, Any], policy: config.Promotion) -> _Verdict:
    """The difference, or its lower bound, must exceed the margin; a candidate worse beyond chance is refused."""
    ours, theirs = _macro_f1(candidate), _macro_f1(champion)
    if math.isnan(theirs):
        return False, "the champion's macro F1 is not a number; evaluate the champion again."
    if math.isnan(ours):
        return False, f"a macro F1 that is not a number does not exceed the champion's {theirs:.4f}."
    paired = candidate["lead"].get(champion["name"], {})
    low, high = _number(paired.get("low")), _number(paired.get("high"))
    has_interval = not math.isnan(low + high)
    interval = f"{INTERVAL:.0%} interval {low:+.4f} to {high:+.4f}" if has_interval else "no interval was drawn"
    scores = f"macro F1 {ours:.4f} to the champion's {theirs:.4f}"
    difference = f"{scores} is a difference of {ours - theirs:+.4f} ({interval})"
    by_bound = policy.margin_judged_by == "lower_bound"
    if by_bound and not has_interval:
        return False, f"{difference}: promotion.margin_judged_by needs it; set evaluation.bootstrap, evaluate again."
    if has_interval and high < -_TOLERANCE:
        return False, f"{difference}: the candidate is worse, and not by chance."
    exceeds = (low if by_bound else ours - theirs) > policy.macro_f1_margin + _TOLERANCE
    judged = "its lower bound" if by_bound else "it"
    verb = "exceeds" if exceeds else "does not exceed"
    return exceeds, f"{difference}: {judged} {verb} {policy.macro_f1_margin:.4f} (promotion.macro_f1_margin)."


def _missing_classes(candidate: Mapping[str, Any], champion: Mapping[str, Any]) -> Iterator[_Verdict]:
    support = {row["label"]: row["support"] for row in champion["per_class"]}
    missing = sorted(set(champion["knows"]) - set(candidate["knows"]))
    if not missing:
        yield True, f"the candidate knows all {len(champion['knows'])} classes that the champion knows."
    for label in missing:
        if support.get(label, 0):
            yield False, f"the candidate does not know {label}, which the champion does and the test split has."
        else:
            yield True, f"the candidate does not know {label}, which the champion does; the test split has none of it."


def _recall_drops(
    candidate: Mapping[str, Any], champion: Mapping[str, Any], policy: config.Promotion
) -> Iterator[_Verdict]:
    ours = {row["label"]: _number(row["recall"]) for row in candidate["per_class"]}
    judged = [row for row in champion["per_class"] if row["support"] >= policy.min_support]
    limit = f"{policy.max_recall_drop:.4f} (promotion.max_recall_drop)"
    refused = 0
    for row in judged:
        before, after = _number(row["recall"]), ours.get(row["label"], math.nan)
        if before - after <= policy.max_recall_drop + _TOLERANCE:
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


def _calibration_rise(
    candidate: Mapping[str, Any], champion: Mapping[str, Any], policy: config.Promotion
) -> Iterator[_Verdict]:
    most = policy.max_calibration_rise
    if most is not None:
        before, after = (_number(side["expected_calibration_error"]) for side in (champion, candidate))
        limit = f"{most:.4f} (promotion.max_calibration_rise)"
        if math.isnan(after - before):
            yield False, "the expected calibration error is not a number in one of the two reports."
        else:
            within = after - before <= most + _TOLERANCE
            change = f"the expected calibration error goes from {before:.4f} to {after:.4f}"
            yield within, f"{change}, {'not up by more' if within else 'up by more'} than {limit}."


def _macro_f1(system: Mapping[str, Any]) -> float:
    return _number(system["metrics"]["macro_f1"]["value"])


def _number(value: Any) -> float:
    """The value, or NaN if it is null or not a finite number, so that every rule has one case to refuse."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else math.nan
