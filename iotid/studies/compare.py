"""Compares the ensemble with its baselines under several split protocols, and writes the scores as tables."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iotid import config
from iotid.schemas import SPLITS
from iotid.schemas.metadata import remedy
from iotid.storage import read_table
from iotid.studies import document
from iotid.studies.comparison_text import blocks
from iotid.studies.households import run as households
from iotid.studies.open_set import OpenSet
from iotid.studies.progress import Progress
from iotid.studies.protocols import number_of_runs, splits
from iotid.studies.split_run import CAPTURES, ETEI, FLOWS, bytes_baseline
from iotid.studies.study import ProtocolResult, ProtocolScores, Study

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from iotid.dataset import DeviceTraffic, LabelledFlows
    from iotid.labels import DeviceList
    from iotid.partitions import Partition
    from iotid.schemas.metadata import Flows, Splits
_log = logging.getLogger(__name__)


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
    runs = {each: number_of_runs(flows, each, settings.evaluation) for each in settings.evaluation.protocols}
    _log.info("%d training runs: %s", sum(runs.values()), ", ".join(f"{own} {count}" for own, count in runs.items()))
    study, progress = Study(settings, folder, traffic), Progress("training run", sum(runs.values()))
    return [study.run(flows, protocol, progress) for protocol in settings.evaluation.protocols]


def write(
    results: Sequence[ProtocolResult],
    folder: Path,
    of_households: households.HouseholdComparison | None = None,
    name: str = "",
) -> tuple[Path, str]:
    """Write the tables, the page ``comparison.html``, their numbers, the predictions and curves.

    Returns their folder, and the tables as Markdown.
    """
    import pyarrow.parquet as pq

    from iotid.studies import figures

    output = folder / "comparison"
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    all_scores, drawn = [result.scores for result in results], {}
    for protocol_scores, answers, sets in results:
        protocol = protocol_scores["protocol"]
        file = protocol.replace(":", "-")
        pq.write_table(answers, output / f"answers_{file}.parquet")
        drawn[protocol] = output / f"{file}.png"
        if protocol_scores["days"]:
            figures.drift(protocol_scores["days"], drawn[protocol])
        elif protocol_scores["across"]:
            figures.across(protocol_scores["across"]["pairs"], drawn[protocol])
        elif protocol_scores["open_set"]:
            pq.write_table(sets, output / f"sets_{file}.parquet")
            figures.roc(protocol_scores["open_set"]["scores"], drawn[protocol])
        else:
            figures.systems(protocol_scores["systems"], drawn[protocol])
    found = blocks(all_scores, of_households, drawn)
    text = document.markdown(found)
    (output / "comparison.json").write_text(json.dumps(all_scores, indent=1) + "\n")
    (output / "comparison.md").write_text(text)
    (output / "households.json").write_text(json.dumps(of_households, indent=1) + "\n")
    subtitle = (
        "The ensemble and its baselines on the same flows, under every split protocol. In brackets: 95 % intervals."
    )
    (output / "comparison.html").write_text(
        document.page(f"Comparison {name}".strip(), subtitle, found), encoding="utf-8"
    )
    return output, text


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
    For the open set: ``protocol.open_set.score.metric``, and the same for ``at_limit`` and the census. Under
    ``across``: ``protocol.system.of.share``, and ``protocol.census.of.known_or_new.outcome``.
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
    return numbers | of_open_sets | dict(_of_across(all_scores))


def _of_across(all_scores: Sequence[ProtocolScores]) -> Iterator[tuple[str, float]]:
    for protocol, scored in ((own["protocol"], own["across"]) for own in all_scores):
        if not scored:
            continue
        for system, found in scored["systems"].items():
            for of, scores in found.items():
                numbers = {f"{protocol}.{system}.{of}.{name}": value for name, value in scores.items()}
                yield from ((name, value) for name, value in numbers.items() if isinstance(value, float))
        for of, states in scored["census"].items():
            for state, outcomes in states.items():
                yield from ((f"{protocol}.census.{of}.{state}.{name}", share) for name, share in outcomes.items())


def _numbers(scored: OpenSet) -> Iterator[tuple[str, float]]:
    for name, score in scored["scores"].items():
        yield f"{name}.auroc", score["auroc"]
        yield f"{name}.false_unknown_at_95", score["false_unknown_at_95"]
    for part, shares in (("at_limit", scored["at_limit"]), *scored["census"].items()):
        yield from ((f"{part}.{name}", share) for name, share in shares.items())
