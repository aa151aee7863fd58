"""The results of `compare` in words and tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from iotid.evaluation.report import against
from iotid.evaluation.schema import Score
from iotid.pages import percent, span
from iotid.studies import open_set
from iotid.studies.across import OUTCOMES, Across, AcrossScore
from iotid.studies.document import Block, Figure, Heading, Items, Paragraph, Table
from iotid.studies.households.run import HouseholdComparison
from iotid.studies.households.scores import block as household_table
from iotid.studies.open_set import OpenSet
from iotid.studies.split_run import CAPTURES, DEVICE_MODEL, DEVICES, ENSEMBLE, FLOWS, OURS, WINDOWS
from iotid.studies.study import Day, ProtocolScores, SystemScores

_HEAD = (
    "system",
    "macro F1 of flows",
    "accuracy",
    "share of the ceiling",
    "merged macro F1",
    "calibration error",
    "macro F1 of its own windows",
    "accuracy of captures",
    "merged accuracy",
    "calibration error of captures",
)
_ACROSS = ("kind first", "in first five", "label first", "in first five")
_OF_SETS = ("known", "left_out")


def blocks(
    all_scores: Sequence[ProtocolScores],
    of_households: HouseholdComparison | None,
    figures: Mapping[str, Path],
) -> list[Block]:
    """``figures``: by protocol."""
    found = [block for own in all_scores for block in _of_protocol(own, figures[own["protocol"]])]
    origins = {system: scores["origin"] for own in all_scores for system, scores in own["systems"].items()}
    found += [Heading("Systems"), Items(list(origins.items()))] if origins else []
    return [*found, *(_of_households(of_households) if of_households else ())]


def _of_protocol(own: ProtocolScores, figure: Path) -> Iterator[Block]:
    sizes = ", ".join(f"{part} {flows:,}" for part, flows in own["flows"].items())
    yield Heading(own["protocol"])
    if own["across"]:
        yield from _of_across(own["across"], figure)
        return
    yield Paragraph(
        f"{len(own['labels'])} labels ({len(own['coarse_labels'])} merged), flows: {sizes}; {own['captures']:,} "
        f"captures of a device. Of the test flows {percent(own['seen'])} have a duplicate in training, "
        f"{percent(own['leakage'])} one with their label; the best accuracy with equal predictions for equal sequences "
        f"(the ceiling) is {percent(own['ceiling'])}, that of the majority label {percent(own['floor'])}. With equal "
        f"predictions for equal captures, at most {percent(own['captures_ceiling'])} of the captures can be predicted "
        "correctly."
    )
    if verdict := _verdict(own["systems"]):
        yield Paragraph(verdict)
    rows = [[system, *_cells(scores)] for system, scores in own["systems"].items()]
    yield Table(f"systems under {own['protocol']}", _HEAD, rows)
    if own["days"]:
        yield _of_days(own["days"])
        yield Figure(figure, "Macro F1 of every system by day; the table above has the numbers")
    elif own["open_set"]:
        yield from _of_open_set(own["open_set"])
        yield Figure(figure, "ROC curve of every score of new kinds; the table above has the areas under it")
    else:
        yield Figure(figure, "Scores of every system with their intervals; the table above has the numbers")


def _verdict(systems: Mapping[str, SystemScores]) -> str | None:
    """How the ensemble compares with the best baseline on flows; None without a baseline that answers flows."""
    macro_f1 = {
        name: scores["scores"][FLOWS]["macro_f1"] for name, scores in systems.items() if FLOWS in scores["scores"]
    }
    baselines = [name for name in macro_f1 if name not in OURS]
    if not baselines or ENSEMBLE not in macro_f1:
        return None
    best = max(baselines, key=lambda name: macro_f1[name]["value"] or 0.0)
    words, _ = against(macro_f1[ENSEMBLE], best, macro_f1[best])
    return f"Of flows, the ensemble has macro F1 {percent(macro_f1[ENSEMBLE]['value'])}: {words}."


def _of_days(days: Sequence[Day]) -> Table:
    rows = [[day["day"], f"{day['flows']:,}", *map(percent, day["macro_f1"].values())] for day in days]
    return Table("macro F1 by day", ["day", "flows", *days[0]["macro_f1"]], rows)


def _of_households(comparison: HouseholdComparison) -> Iterator[Block]:
    yield Heading("Households")
    yield Paragraph(
        f"Captures of {len(comparison['kinds'])} kinds, held out in {comparison['folds']} folds, merged as if behind "
        "one address. Exact: all kinds present are found and no other; false and missed unknown: of merges without and "
        "with a device not in training; calibration: expected calibration error of kinds; count error: of the least "
        "number of devices of a kind."
    )
    for title, rows, count in (("merged", comparison["merges"], "merges"), ("alone", comparison["alone"], "sets")):
        if rows:
            yield household_table(title, rows, count)
    yield Items(list(comparison["origins"].items()))


def _of_across(scored: Across, figure: Path) -> Iterator[Block]:
    """One table of the systems, one of the devices, one figure; the other scores of the protocol are in the JSON."""
    (captures, new_captures), (devices, new_devices) = (
        (scored["sets"][of]["known"], scored["sets"][of]["new"]) for of in (CAPTURES, DEVICES)
    )
    sites = ", ".join(f"{site} ({kinds} kinds learned)" for site, kinds in scored["candidates"].items())
    models = scored["systems"][DEVICE_MODEL][DEVICES]["models"]
    yield Paragraph(
        f"The same model in another laboratory: each of the sites {sites} was left out of training once, "
        f"and its devices were identified. Of {devices} devices ({captures:,} captures) another site "
        f"has the kind (vendor and type), of {models} of these the label; of {new_devices} devices "
        f"({new_captures:,} captures) none has the kind, so that every name for them is wrong. "
        f"{_census(scored, CAPTURES)} {_census(scored, DEVICES)}"
    )
    head = ["system", *(f"{of}: {share}" for of in (CAPTURES, DEVICES) for share in _ACROSS)]
    rows = [
        [system, *_ranked(found[CAPTURES]), *_ranked(found[DEVICES])] for system, found in scored["systems"].items()
    ]
    yield Table("systems in another laboratory", head, rows)
    head = ["site left out", "device", "kind", "captures", "kind first", "in first five", *OUTCOMES, "most often as"]
    rows = [
        [
            pair["site"],
            pair["device"],
            pair["kind"] if pair["kind_is_learned"] else f"{pair['kind']} (new)",
            f"{pair['captures']:,}",
            *(
                percent(ranked[DEVICE_MODEL]) if pair["kind_is_learned"] else ""
                for ranked in (pair["first"], pair["in_first_five"])
            ),
            *(percent(pair["census"][outcome]) for outcome in OUTCOMES),
            pair["mostly"] or "",
        ]
        for pair in sorted(scored["pairs"], key=lambda pair: not pair["kind_is_learned"])
    ]
    yield Paragraph("Shares of each device's captures, by the device model; devices of new kinds are last.")
    yield Table("devices in another laboratory", head, rows, named=3)
    yield Figure(figure, "Share of each device's captures whose kind has the first rank, by system")


def _ranked(own: AcrossScore) -> Iterator[str]:
    for share in (own["kind_first"], own["kind_in_first_five"], own["model_first"], own["model_in_first_five"]):
        yield percent(share) if share is not None else ""


def _census(scored: Across, of: str) -> str:
    known, new = (
        ", ".join(f"{percent(share)} {outcome}" for outcome, share in scored["census"][of][state].items() if share)
        for state in ("known", "new")
    )
    return f"A census would report of {of} of learned kinds {known}" + (f"; of new ones {new}." if new else ".")


def _of_open_set(scored: OpenSet) -> Iterator[Block]:
    captures, limit = scored["captures"], scored["at_limit"]
    known, left_out = ({name: percent(share) for name, share in scored["census"][of].items()} for of in _OF_SETS)
    yield Paragraph(
        f"New kinds: {captures['left_out']:,} captures of kinds left out, in {len(scored['groups'])} groups, against "
        f"{captures['known']:,} of learned kinds. No kind reaches census.min_confidence in "
        f"{percent(limit['detection'])} of the new and {percent(limit['false_unknown'])} of the learned. "
        f"A census would call of the new {left_out['unknown']} unknown, {left_out['undecided']} undecided, and find a "
        f"kind in {left_out['wrong']}; of the learned it finds their own kind, and no other, in {known['right']}, "
        f"another in {known['wrong']}, {known['undecided']} are undecided, {known['unknown']} unknown."
    )
    head = ["score", "AUROC", "AUROC by group", "false unknowns at 95 % detection", "definition"]
    rows = [
        [
            name,
            percent(score["auroc"]),
            ", ".join(map(percent, score["auroc_of_groups"])),
            percent(score["false_unknown_at_95"]),
            open_set.ORIGINS[name],
        ]
        for name, score in scored["scores"].items()
    ]
    yield Table("scores of new kinds", head, rows)
    head = ["label left out", "captures", "unknown", "undecided", "named", "most often as"]
    rows = [
        [
            row["label"],
            f"{row['captures']:,}",
            *(percent(share) for share in (row["unknown"], row["undecided"], row["named"])),
            row["mostly"] or "",
        ]
        for row in scored["per_label"]
    ]
    yield Table("labels left out", head, rows)


def _cells(scores: SystemScores) -> Iterator[str]:
    """The cells after the system's name; empty where a system does not answer that, or has no such share."""
    fine, merged = scores["scores"], scores["merged"]
    if FLOWS in fine:
        yield _interval(fine[FLOWS]["macro_f1"])
        yield _interval(fine[FLOWS]["accuracy"])
        yield percent(scores["ceiling_share"]) if scores["ceiling_share"] is not None else ""
        yield _interval(merged[FLOWS]["macro_f1"])
        yield percent(scores["expected_calibration_error"])
    else:
        yield from [""] * 5
    yield f"{_interval(fine[WINDOWS]['macro_f1'])} of {scores['items'][WINDOWS]:,}" if WINDOWS in fine else ""
    yield _interval(fine[CAPTURES]["accuracy"]) if CAPTURES in fine else ""
    yield _interval(merged[CAPTURES]["accuracy"]) if CAPTURES in merged else ""
    yield percent(scores["captures_calibration_error"]) if CAPTURES in fine else ""


def _interval(score: Score) -> str:
    interval = span(score["low"], score["high"])
    return f"{percent(score['value'])} ({interval})" if interval else percent(score["value"])
