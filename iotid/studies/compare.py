"""Compares the ensemble with its baselines under several split protocols, and writes the scores as tables."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iotid import config
from iotid.evaluation.schema import Score
from iotid.schemas import SPLITS
from iotid.schemas.metadata import remedy
from iotid.storage import read_table
from iotid.studies import open_set
from iotid.studies.households import run as households
from iotid.studies.households import scores as household_scores
from iotid.studies.open_set import OpenSet
from iotid.studies.protocols import splits
from iotid.studies.split_run import CAPTURES, ETEI, FLOWS, WINDOWS, bytes_baseline
from iotid.studies.study import ProtocolResult, ProtocolScores, Study, SystemScores

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from iotid.dataset import DeviceTraffic, LabelledFlows
    from iotid.labels import DeviceList
    from iotid.partitions import Partition
    from iotid.schemas.metadata import Flows, Splits

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


_OF_SETS = ("known", "left_out")


def fingerprint(settings: config.Settings, partitions: Sequence[Partition[Flows]], devices: DeviceList) -> str:
    """Hash of everything that a comparison depends on, except the split protocols."""
    parts: dict[str, Any] = {"devices": devices.hash}
    parts["nights"] = [[partition.key, partition.metadata] for partition in partitions]
    parts["census"] = settings.census.model_dump(include={"min_flows", "min_evidence", "min_confidence"})
    sections = (settings.model, settings.training, settings.dataset, settings.evaluation, settings.flow)
    return config.settings_hash(*sections, extra=parts)


def read_device_traffic(
    spark: SparkSession, splits: Sequence[Partition[Splits]], flows: LabelledFlows, capture: config.Capture
) -> DeviceTraffic:
    """Packet counts of the devices in the captures of these partitions (SPLITS); reads the captures again.

    A capture of several sites counts once, at the first site by name.

    Raises:
        InputError: a capture is missing.
    """
    from iotid.dataset import read_device_traffic

    return read_device_traffic(
        spark, _captures_by_site(splits), flows.devices, flows.settings.label, flows.labels, capture
    )


def _captures_by_site(splits: Sequence[Partition[Splits]]) -> dict[str, list[str]]:
    import pyarrow as pa

    columns = pa.schema([SPLITS.arrow_schema().field("path")])
    site_of: dict[str, str] = {}
    for partition in sorted(splits, key=lambda partition: partition.key["site"], reverse=True):
        planned = read_table(partition.uri, columns, remedy("splits"))["path"].unique().to_pylist()
        site_of |= dict.fromkeys(planned, partition.key["site"])
    paths: dict[str, list[str]] = {}
    for path, site in sorted(site_of.items()):
        paths.setdefault(site, []).append(path)
    return paths


def compare(
    flows: LabelledFlows, settings: config.Settings, folder: Path, traffic: DeviceTraffic | None = None
) -> list[ProtocolResult]:
    """One result for each of ``evaluation.protocols``. Raises what ``Study.run`` raises, where possible before
    training."""
    import torch

    for protocol in settings.evaluation.protocols:
        next(splits(flows, protocol, settings.evaluation))
    if ETEI in settings.evaluation.packet_baselines:
        bytes_baseline(flows, settings.evaluation)
    torch.set_num_threads(settings.training.ranks * settings.training.threads)  # this process is the only rank
    study = Study(settings, folder, traffic)
    return [study.run(flows, protocol) for protocol in settings.evaluation.protocols]


def write(
    results: Sequence[ProtocolResult], folder: Path, of_households: households.HouseholdComparison | None = None
) -> Path:
    """Write the tables, their numbers, the predictions and curves; return their folder."""
    import pyarrow.parquet as pq

    from iotid.studies import figures

    output = folder / "comparison"
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    all_scores = [result.scores for result in results]
    (output / "comparison.json").write_text(json.dumps(all_scores, indent=1) + "\n")
    (output / "comparison.md").write_text(text(all_scores, of_households))
    (output / "households.json").write_text(json.dumps(of_households, indent=1) + "\n")
    for protocol_scores, answers, sets in results:
        name = protocol_scores["protocol"].replace(":", "-")
        pq.write_table(answers, output / f"answers_{name}.parquet")
        if protocol_scores["days"]:
            figures.drift(protocol_scores["days"], output / f"{name}.png")
        if protocol_scores["open_set"]:
            pq.write_table(sets, output / f"sets_{name}.parquet")
            figures.roc(protocol_scores["open_set"]["scores"], output / f"{name}.png")
    return output


def text(all_scores: Sequence[ProtocolScores], of_households: households.HouseholdComparison | None = None) -> str:
    """The tables as Markdown."""
    lines = [*_lines(all_scores), *(_lines_of_households(of_households) if of_households else ())]
    return "\n".join(lines) + "\n"


def flat_households(of_households: households.HouseholdComparison) -> dict[str, float]:
    """``households.method.metric`` -> value over all merges, for tracking."""
    scores = of_households["merges"].get(households.ALL, {"merges": 0})
    return {
        f"households.{method.replace(' ', '_')}.{metric}": value
        for method, own in scores.items()
        if method != "merges"
        for metric, value in own.items()
        if value is not None
    }


def flat(all_scores: Sequence[ProtocolScores]) -> dict[str, float]:
    """``protocol.system.of.metric`` -> value, for tracking; ``of`` is flows, windows or captures, or one with _merged.

    ``protocol.leakage`` and ``protocol.ceiling`` are of flows.
    For the open set: ``protocol.open_set.score.metric``, and the same for ``at_limit`` and the census.
    """
    numbers = {
        f"{protocol_scores['protocol'].replace(':', '-')}.{system}.{of}{kind}.{metric}": score["value"]
        for protocol_scores in all_scores
        for system, system_scores in protocol_scores["systems"].items()
        for kind, scores in (("", system_scores["scores"]), ("_merged", system_scores["merged"]))
        for of, metrics in scores.items()
        for metric, score in metrics.items()
        if score["value"] is not None
    }
    numbers |= {
        f"{protocol_scores['protocol'].replace(':', '-')}.{system}.{of}.expected_calibration_error": error
        for protocol_scores in all_scores
        for system, system_scores in protocol_scores["systems"].items()
        for of, error in (
            (FLOWS, system_scores["expected_calibration_error"]),
            (CAPTURES, system_scores["captures_calibration_error"]),
        )
        if error is not None
    }
    numbers |= {
        f"{protocol_scores['protocol'].replace(':', '-')}.{name}": value
        for protocol_scores in all_scores
        for name, value in (("leakage", protocol_scores["leakage"]), ("ceiling", protocol_scores["ceiling"]))
    }
    of_sets = ((protocol_scores["protocol"], protocol_scores["open_set"]) for protocol_scores in all_scores)
    of_open_sets = {
        f"{protocol}.open_set.{name}": value
        for protocol, scored in of_sets
        if scored
        for name, value in _numbers(scored)
    }
    return numbers | of_open_sets


def _numbers(scored: OpenSet) -> Iterator[tuple[str, float]]:
    for name, score in scored["scores"].items():
        yield f"{name}.auroc", score["auroc"]
        yield f"{name}.false_unknown_at_95", score["false_unknown_at_95"]
    for part, shares in (("at_limit", scored["at_limit"]), *scored["census"].items()):
        yield from ((f"{part}.{name}", share) for name, share in shares.items())


def _lines(all_scores: Sequence[ProtocolScores]) -> Iterator[str]:
    for own in all_scores:
        sizes = ", ".join(f"{part} {flows:,}" for part, flows in own["flows"].items())
        yield f"## {own['protocol']}"
        yield ""
        yield (
            f"{len(own['labels'])} labels ({len(own['coarse_labels'])} merged), flows: {sizes}; "
            f"{own['captures']:,} captures of a device. Of the test flows {_percent(own['seen'])} have a duplicate in "
            f"training, {_percent(own['leakage'])} one with their label; the best accuracy with equal "
            f"predictions for equal sequences (the ceiling) is {_percent(own['ceiling'])}, that of the majority label "
            f"{_percent(own['floor'])}. With equal predictions for equal captures, at most "
            f"{_percent(own['captures_ceiling'])} of the captures can be predicted correctly."
        )
        yield ""
        yield f"| {' | '.join(_HEAD)} |"
        yield "|---" * len(_HEAD) + "|"
        for system, system_scores in own["systems"].items():
            yield f"| {system} | {' | '.join(_cells(system_scores))} |"
        yield ""
        if own["days"]:
            yield f"| day | flows |{'|'.join(f' {system} ' for system in own['days'][0]['macro_f1'])}|"
            yield "|---" * (2 + len(own["days"][0]["macro_f1"])) + "|"
            for day in own["days"]:
                reached = " | ".join(_percent(value) for value in day["macro_f1"].values())
                yield f"| {day['day']} | {day['flows']:,} | {reached} |"
            yield ""
        if own["open_set"]:
            yield from _lines_of_sets(own["open_set"])
            yield ""
    origins = {
        system: system_scores["origin"]
        for protocol_scores in all_scores
        for system, system_scores in own["systems"].items()
    }
    yield from (f"* {system}: {origin}" for system, origin in origins.items())


def _lines_of_households(comparison: households.HouseholdComparison) -> Iterator[str]:
    yield ""
    yield "## Households"
    yield ""
    yield (
        f"Captures of {len(comparison['kinds'])} kinds, held out in {comparison['folds']} folds, merged as if behind "
        "one address. Exact: all kinds present are found and no other; false and missed unknown: of merges without and "
        "with a device not in training; calibration: expected calibration error of kinds; count error: of the least "
        "number of devices of a kind. In per cent."
    )
    for title, rows, count in (
        ("merged", comparison["merges"], "merges"),
        ("alone", comparison["alone"], "sets"),
    ):
        if rows:
            yield ""
            yield from household_scores.markdown(title, rows, count)
    yield ""
    yield from (f"* {method}: {origin}" for method, origin in comparison["origins"].items())


def _lines_of_sets(scored: OpenSet) -> Iterator[str]:
    captures, limit = scored["captures"], scored["at_limit"]
    known, left_out = ({name: _percent(share) for name, share in scored["census"][of].items()} for of in _OF_SETS)
    yield (
        f"New kinds: {captures['left_out']:,} captures of kinds left out, in {len(scored['groups'])} groups, against "
        f"{captures['known']:,} of learned kinds. No kind reaches census.min_confidence in "
        f"{_percent(limit['detection'])} of the new and {_percent(limit['false_unknown'])} of the learned. "
        f"A census would call of the new {left_out['unknown']} unknown, {left_out['undecided']} undecided, and find a "
        f"kind in {left_out['wrong']}; of the learned it finds their own kind, and no other, in {known['right']}, "
        f"another in {known['wrong']}, {known['undecided']} are undecided, {known['unknown']} unknown."
    )
    yield ""
    yield "| score | AUROC | AUROC by group | false unknowns at 95 % detection | definition |"
    yield "|---|---|---|---|---|"
    for name, score in scored["scores"].items():
        groups = ", ".join(f"{area:.3f}" for area in score["auroc_of_groups"])
        lost = _percent(score["false_unknown_at_95"])
        yield f"| {name} | {score['auroc']:.3f} | {groups} | {lost} | {open_set.ORIGINS[name]} |"
    yield ""
    yield "| label left out | captures | unknown | undecided | named | most often as |"
    yield "|---|---|---|---|---|---|"
    for row in scored["per_label"]:
        shares = " | ".join(_percent(share) for share in (row["unknown"], row["undecided"], row["named"]))
        yield f"| {row['label']} | {row['captures']:,} | {shares} | {row['mostly'] or ''} |"


def _cells(system_scores: SystemScores) -> Iterator[str]:
    scores, merged = system_scores["scores"], system_scores["merged"]
    if FLOWS in scores:
        yield _interval(scores[FLOWS]["macro_f1"])
        yield _interval(scores[FLOWS]["accuracy"])
        yield _percent(system_scores["ceiling_share"])
        yield _interval(merged[FLOWS]["macro_f1"])
        yield _percent(system_scores["expected_calibration_error"])
    else:
        yield from [""] * 5
    yield (
        f"{_interval(scores[WINDOWS]['macro_f1'])} of {system_scores['items'][WINDOWS]:,}" if WINDOWS in scores else ""
    )
    yield _interval(scores[CAPTURES]["accuracy"]) if CAPTURES in scores else ""
    yield _interval(merged[CAPTURES]["accuracy"]) if CAPTURES in merged else ""
    yield _percent(system_scores["captures_calibration_error"]) if CAPTURES in scores else ""


def _interval(score: Score) -> str:
    value = _percent(score["value"])
    if score["low"] is None or score["high"] is None:
        return value
    return f"{value} ({100 * score['low']:.1f} to {100 * score['high']:.1f})"


def _percent(share: float | None) -> str:
    return "none" if share is None else f"{100 * share:.1f} %"
