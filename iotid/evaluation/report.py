"""Writes a report as a folder: report.json, report.html, figures as PNG, and every answer in predictions.parquet."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple
from urllib.parse import quote

import numpy as np
import pyarrow.parquet as pq

from iotid.errors import DataError
from iotid.evaluation import figures, metrics
from iotid.evaluation.pages import environment, image
from iotid.evaluation.schema import REPORT_PAGE, Report, Score, System, WholeDevices
from iotid.inputs import read_file
from iotid.pages import percent
from iotid.storage import check_json

if TYPE_CHECKING:
    import pyarrow as pa

_METRIC_TITLES = (
    ("accuracy", ("Accuracy",)),
    ("macro_precision", ("Macro", "precision")),
    ("macro_recall", ("Macro recall,", "balanced accuracy")),  # the same by definition
    ("macro_f1", ("Macro", "F1")),
)


def write_report(
    report: Report,
    folder: str | Path,
    *,
    answers: pa.Table | None = None,
    history: Sequence[Mapping[str, Any]] | None = None,
) -> Path:
    """Write the folder and return the path of report.html, which needs no other file and no network.

    ``answers``: from ``evaluate``. ``history``: training history of the first model, one dict per epoch (see
    ``figures.learning_curves``).
    """
    folder = Path(folder)
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(report, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    if answers is not None:
        pq.write_table(answers, folder / "predictions.parquet")
    curves = None
    if history:
        curves = folder / "figures" / "learning_curves.png"
        figures.learning_curves(history, curves)
    page = folder / REPORT_PAGE
    drawn = {name: _draw(name, system, report, folder / "figures") for name, system in report["systems"].items()}
    page.write_text(_render(report, drawn, image(curves) if curves else None), encoding="utf-8")
    return page


def read_history(path: Path) -> list[dict[str, float | None]]:
    """Read the metrics of each epoch from training's history file; raises a DataError."""
    try:
        content = read_file(path)
    except OSError as fault:
        raise DataError(f"{path.name}: cannot be read ({fault.strerror}); train again") from None
    history: list[dict[str, float | None]] = check_json(
        content, list[dict[str, float | None]], path.name, "train again"
    )
    return history


def flatten_metrics(report: Report) -> dict[str, float]:
    """``test.system.metric`` -> value, ``test.leakage`` and ``test.ceiling``, for tracking.

    Without the dataset's name, so that runs on several datasets share columns.
    """
    return {"test.leakage": report["leakage"], "test.ceiling": report["ceiling"]} | {
        f"test.{system}.{metric}{merged}": score["value"]
        for system, result in report["systems"].items()
        for merged, scores in (("", result["metrics"]), ("_merged", result["coarse"]))
        for metric, score in scores.items()
        if score["value"] is not None
    }


def device_metrics(report: Report) -> dict[str, float]:
    """``test.system.whole_devices.outcome`` -> share of the device nights, for tracking."""
    return {
        f"test.{name}.whole_devices.{outcome}": share
        for name, system in report["systems"].items()
        for outcome, share in _shares(system.get("whole_devices")).items()
    }


Standing = Literal["above", "below", "unclear", "alone"]


class Verdict(NamedTuple):
    """A sentence on a trained model, and where its macro F1 is, compared with the best baseline's.

    ``unclear``: their 95 % intervals overlap; ``alone``: no baseline was scored.
    """

    sentence: str
    standing: Standing


def verdicts(report: Report) -> list[Verdict]:
    """For each trained model, how it compares with the best baseline."""
    systems = report["systems"]
    baselines = [name for name, system in systems.items() if system["kind"] == "baseline"]
    best = max(baselines, key=lambda name: _macro_f1(systems[name])["value"] or 0.0, default=None)
    return [
        _verdict(name, system, best, systems[best] if best else None)
        for name, system in systems.items()
        if system["kind"] == "model"
    ]


def device_quality(whole_devices: WholeDevices | None, protocol: str) -> str | None:
    """One phrase on the device nights of the test split, which ``protocol`` made; None without any."""
    if not whole_devices or not (number := whole_devices["recordings"]):
        return None
    right, wrong = whole_devices["right"], whole_devices["wrong"]
    shared = "" if protocol == "by_capture" else ", whose other flows it was trained on,"
    return (
        f"of {number:,} device night{'s' * (number != 1)} of the test split{shared} it named {right:,} rightly and "
        f"{wrong:,} wrongly"
    )


def quality(system: System) -> str:
    """One phrase with the system's scores on the test split."""
    scores = system["metrics"]["macro_f1"]["value"], system["metrics"]["accuracy"]["value"]
    macro_f1, accuracy = map(percent, scores)
    return f"macro F1 {macro_f1}, accuracy {accuracy} ({percent(system['ceiling_share'])} of the ceiling)"


def _verdict(name: str, system: System, baseline_name: str | None, baseline: System | None) -> Verdict:
    reached = f"{name}: {quality(system)}"
    if baseline_name is None or baseline is None:
        return Verdict(f"{reached}; no baseline was scored.", "alone")
    words, standing = against(_macro_f1(system), baseline_name, _macro_f1(baseline))
    return Verdict(f"{reached}; {words}.", standing)


def against(ours: Score, baseline: str, theirs: Score) -> tuple[str, Standing]:
    """Macro F1 compared with that of the best baseline, in words; `unclear` if their 95 % intervals overlap."""
    difference = (ours["value"] or 0.0) - (theirs["value"] or 0.0)
    reference = f"the best baseline, {baseline}, which has macro F1 {percent(theirs['value'])}"
    if not difference or _overlap(ours, theirs):
        why = ": their 95 % intervals overlap" if difference else ""
        return f"no clear difference from {reference}{why}", "unclear"
    word: Standing = "above" if difference > 0 else "below"
    note = "" if ours["low"] is not None else " (no intervals: evaluation.bootstrap is 0)"
    return f"{100 * abs(difference):.1f} points {word} {reference}{note}", word


def _shares(scored: WholeDevices | None) -> dict[str, float]:
    """Shares of the device nights, by outcome; empty without any."""
    if not scored:
        return {}
    counts = {name: scored[name] for name in ("right", "wrong", "undecided", "unknown")}
    return {name: count / scored["recordings"] for name, count in counts.items()}


def _macro_f1(system: System) -> Score:
    return system["metrics"]["macro_f1"]


def _overlap(first: Score, second: Score) -> bool:
    bounds = (first["low"], first["high"], second["low"], second["high"])
    if None in bounds:
        return False
    first_low, first_high, second_low, second_high = (bound or 0.0 for bound in bounds)
    return first_low <= second_high and second_low <= first_high


def _draw(name: str, system: System, report: Report, folder: Path) -> dict[str, Any]:
    title = f"{name} on {report['dataset']['name']}"
    file_name = quote(name, safe="")
    confusion, reliability = folder / f"confusion_{file_name}.png", folder / f"reliability_{file_name}.png"
    figures.confusion_matrix(np.array(system["confusion"]), report["labels"], confusion, title)
    figures.reliability(system["reliability"], reliability, title)
    drawn = {"confusion": image(confusion), "reliability": image(reliability)}
    merged_GG, merged = metrics.merge(np.array(system["confusion"]), report["merged"])
    if len(merged) < len(report["labels"]):
        coarse = folder / f"confusion_{file_name}_merged.png"
        figures.confusion_matrix(merged_GG, merged, coarse, f"{title}, look-alikes merged")
        drawn["coarse"] = image(coarse)
    if system["hidden"]:
        ablation = folder / f"ablation_{file_name}.png"
        figures.ablation(system, ablation, title)
        drawn["ablation"] = image(ablation)
    return drawn


def _render(report: Report, drawn: Mapping[str, Any], curves: dict[str, Any] | None) -> str:
    first = next(iter(report["systems"].values()))
    of_devices = {name: system.get("whole_devices") for name, system in report["systems"].items()}
    return (
        environment("iotid.evaluation")
        .get_template("report.html.j2")
        .render(
            report=report,
            figures=drawn,
            curves=curves,
            verdicts=verdicts(report),
            metric_titles=_METRIC_TITLES,
            whole_devices={name: scored for name, scored in of_devices.items() if scored},
            present=sum(row["support"] > 0 for row in first["per_class"]),
            merged_count=len(set(report["merged"])),
            intervals=first["metrics"]["accuracy"]["low"] is not None,
        )
    )
