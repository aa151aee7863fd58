"""Compares the paper's printed numbers with measured ones, as tables.

The paper does not specify the time-outs, whether a 5-tuple in several captures is one flow, and which IP protocols
count. A reading is a choice of all three.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from iotid.evaluation.schema import Report
from iotid.studies.paper import Counts, Metric, PaperNumbers, Scores

IDLE_S, ACTIVE_S = 120, 1800  # the defaults of NFStream, which is the common tool of this field
PROTOCOLS = {"TCP and UDP": (6, 17), "TCP": (6,)}

_METRICS: dict[Metric, str] = {"A": "accuracy", "P": "macro_precision", "R": "macro_recall", "F1": "macro_f1"}
_SHOWN = 3


@dataclass(frozen=True)
class Assembly:
    """How flows are assembled: with or without time-outs, from all files as one capture or from each file alone."""

    timeouts: bool
    join_files: bool

    @property
    def name(self) -> str:
        return ("joined" if self.join_files else "files") + ("-timeouts" if self.timeouts else "")

    @property
    def overrides(self) -> list[str]:
        """The settings ``section.key=value`` for such flows."""
        idle, active = (IDLE_S, ACTIVE_S) if self.timeouts else ("null", "null")
        return [
            f"flow.idle_timeout_s={idle}",
            f"flow.active_timeout_s={active}",
            f"flow.join_files={str(self.join_files).lower()}",
        ]


ASSEMBLIES = tuple(Assembly(timeouts, join_files) for timeouts in (False, True) for join_files in (True, False))
"""The most literal reading of the paper first."""


@dataclass(frozen=True)
class ReadingCounts:
    """The number of flows of each device of the list under one reading, and the printed numbers."""

    assembly: Assembly
    protocols: str  # key of PROTOCOLS
    flows: dict[str, int]
    printed: Counts

    @property
    def reading(self) -> str:
        timeouts = "time-outs" if self.assembly.timeouts else "no time-outs"
        return f"{timeouts}, {'joined' if self.assembly.join_files else 'per file'}, {self.protocols}"

    @property
    def overrides(self) -> list[str]:
        return [*self.assembly.overrides, f"dataset.protocols={list(PROTOCOLS[self.protocols])}"]

    @property
    def total(self) -> int:
        return sum(self.flows.values())

    @property
    def difference(self) -> int:
        """Flows minus the printed number."""
        return self.total - self.printed.flows

    @cached_property
    def differences(self) -> dict[str, int]:
        """The same for each device whose flows the paper prints."""
        return {row.device: self.flows.get(row.device, 0) - row.flows for row in self.printed.of_devices}

    @property
    def distance(self) -> int:
        """Sum of the absolute differences of all devices; that of the total if only this is printed."""
        return sum(map(abs, self.differences.values())) if self.differences else abs(self.difference)

    def to_json(self) -> dict[str, Any]:
        columns = {"reading": self.reading, "settings": self.overrides, "total": self.total, "flows": self.flows}
        return {
            **columns,
            "difference": self.difference,
            "differences": self.differences,
            "distance": self.distance,
        }


@dataclass(frozen=True)
class ScoreComparison:
    """A report, and the printed table of scores to compare it with; ``page``: address of the report."""

    scores: Scores
    report: Report
    page: str


def compare(
    printed: Counts, devices: Sequence[str], counted: Mapping[Assembly, Mapping[tuple[str, int], int]]
) -> list[ReadingCounts]:
    """The counts for each assembly and entry of PROTOCOLS; ``counted``: (device, IP protocol number) -> flows."""
    return [
        ReadingCounts(
            assembly,
            protocols,
            {device: sum(flows.get((device, number), 0) for number in numbers) for device in devices},
            printed,
        )
        for assembly, flows in counted.items()
        for protocols, numbers in PROTOCOLS.items()
    ]


def nearest(compared: Sequence[ReadingCounts]) -> ReadingCounts:
    """The reading with the least ``distance``, the first of equal ones."""
    return min(compared, key=lambda each: each.distance)


def counts_text(printed: PaperNumbers, compared: Sequence[ReadingCounts]) -> str:
    """The table of readings, and the nearest reading by device, as Markdown."""
    return "\n".join(_counts_lines(printed, compared)) + "\n"


def scores_text(printed: PaperNumbers, outcome: ScoreComparison) -> str:
    """Printed and measured scores in one table, as Markdown."""
    return "\n".join(_scores_lines(printed, outcome)) + "\n"


def to_json(
    printed: PaperNumbers, compared: Sequence[ReadingCounts], outcomes: Sequence[ScoreComparison]
) -> dict[str, Any]:
    return {
        "printed": printed.model_dump(mode="json"),
        "timeouts_s": {"idle": IDLE_S, "active": ACTIVE_S},
        "readings": [{**each.to_json(), **asdict(each.assembly)} for each in compared],
        "nearest": nearest(compared).reading,
        "scores": [
            {
                "where": outcome.scores.where,
                "labels": outcome.report["labels"],
                "dataset": outcome.report["dataset"],
                "systems": {name: _measured(outcome.report, name) for name in outcome.report["systems"]},
            }
            for outcome in outcomes
        ],
    }


def _counts_lines(printed: PaperNumbers, compared: Sequence[ReadingCounts]) -> Iterator[str]:
    counts, best = printed.counts, nearest(compared)
    yield f"# {printed.title}: what the paper prints, and what is measured here"
    yield ""
    yield f"## Flows: {counts.where}"
    yield ""
    yield (
        f"The paper: {counts.flows:,} flows of {counts.devices} devices. It names no time-out; with time-outs a flow "
        f"ends after {IDLE_S} s without a packet, or {ACTIVE_S} s in all. Joined: a 5-tuple is one flow, however many "
        "files hold it."
    )
    yield ""
    yield "| time-outs | files | protocols | flows | difference | devices with flows | largest differences |"
    yield "|---|---|---|---|---|---|---|"
    for each in compared:
        reading = " | ".join(each.reading.split(", "))
        there = sum(flows > 0 for flows in each.flows.values())
        yield f"| {reading} | {each.total:,} | {each.difference:+,} | {there} | {_largest(each)} |"
    yield ""
    rule = "absolute differences of all devices, added up" if best.differences else "absolute difference of the totals"
    yield f"Nearest: {best.reading} ({best.distance:,}: {rule})."
    equal = [each.reading for each in compared if each.distance == best.distance and each is not best]
    if equal:
        yield f"As near: {'; '.join(equal)}. The first of the table is taken."
    yield ""
    names = {row.device: row for row in counts.of_devices}
    yield "| device | in the paper | flows printed | flows here, nearest reading | difference |"
    yield "|---|---|---|---|---|"
    for device, flows in best.flows.items():
        row = names.get(device)
        cells = f"{row.printed} | {row.flows:,} | {flows:,} | {flows - row.flows:+,}" if row else f"| | {flows:,} | "
        yield f"| {device} | {cells} |"
    yield ""
    for note in printed.notes:
        yield f"- {note}"


def _largest(each: ReadingCounts) -> str:
    if not each.differences:
        return "not printed by device"
    ordered = sorted(each.differences.items(), key=lambda item: (-abs(item[1]), item[0]))
    return ", ".join(f"{device} {flows:+,}" for device, flows in ordered[:_SHOWN] if flows) or "none"


def _scores_lines(printed: PaperNumbers, outcome: ScoreComparison) -> Iterator[str]:
    scores, report = outcome.scores, outcome.report
    parts, classes = report["dataset"]["parts"], len(report["labels"])
    sizes = ", ".join(f"{part} {own['flows']:,}" for part, own in parts.items())
    yield f"## Scores: {scores.where}"
    yield ""
    yield (
        f"The paper: {scores.classes} classes, about {printed.counts.flows / 10:,.0f} test flows (a tenth). Here: "
        f"{classes} classes, a device's {scores.label} each; flows: {sizes}. Of the test flows "
        f"{100 * report['leakage']:.1f} % have a duplicate with their label in training; the best accuracy that equal "
        f"sequences allow is {100 * report['ceiling']:.1f} %, that of the majority class "
        f"{100 * report['floor']:.1f} %."
    )
    if classes != scores.classes:
        yield ""
        yield f"These are {classes} classes, not the paper's {scores.classes}: macro scores do not compare strictly."
    yield ""
    yield f"| per cent | {' | '.join(f'{metric} paper | {metric} here' for metric in _METRICS)} |"
    yield "|---" * (1 + 2 * len(_METRICS)) + "|"
    for system in scores.systems:
        own = scores.ours.get(system)
        yield f"| {f'{system} = {own}' if own else system} | {' | '.join(_cells(outcome, system, own))} |"
    other_systems = [name for name in report["systems"] if name not in scores.ours.values()]
    for name in other_systems:
        yield f"| {name} | {' | '.join(_cells(outcome, None, name))} |"
    yield ""
    for number, remark in enumerate(scores.remarks, start=1):
        yield f"[{number}] {'Misprint: ' if remark.misprint else ''}{remark.text}"
        yield ""
    for name in (*scores.ours.values(), *other_systems):
        yield f"- {name}: {report['systems'][name]['origin']}"
    yield f"- intervals, every class and figures: {outcome.page}"


def _cells(outcome: ScoreComparison, system: str | None, own: str | None) -> Iterator[str]:
    """Printed and measured value of each metric; empty where there is none."""
    scores = outcome.scores
    measured = _measured(outcome.report, own) if own else {}
    for metric in _METRICS:
        marks = [n for n, remark in enumerate(scores.remarks, 1) if metric in remark.cells.get(system or "", ())]
        printed = f"{scores.systems[system][metric]:.2f}" if system else ""
        yield " ".join([printed, *(f"[{number}]" for number in marks)])
        value = measured.get(metric)
        yield "" if value is None else f"{value:.2f}"


def _measured(report: Report, system: str) -> dict[Metric, float | None]:
    """In per cent, under the paper's names."""
    metrics = report["systems"][system]["metrics"]
    found = {metric: metrics[name]["value"] for metric, name in _METRICS.items()}
    return {metric: None if value is None else 100 * value for metric, value in found.items()}
