"""Several protocols as one table, to read and to load."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from iotid import config
from iotid.dataset import DeviceList, LabelledFlows
from iotid.evaluation.protocols import Outcome, Study, SystemScores
from iotid.evaluation.schema import Score

if TYPE_CHECKING:
    from iotid.storage import Partition

_HEAD = (
    "system",
    "macro F1 of flows",
    "accuracy",
    "of the ceiling",
    "merged macro F1",
    "calibration error",
    "captures named right",
    "merged",
)


def made_by(settings: config.Settings, nights: Sequence[Partition], devices: DeviceList) -> str:
    """Names all that a comparison depends on, but for the protocols asked for."""
    made_of = {"devices": devices.hash, "nights": [[night.keys, night.metadata] for night in nights]}
    sections = (settings.model, settings.training, settings.dataset, settings.evaluation, settings.flow)
    return config.settings_hash(*sections, extra=made_of)


def compare(flows: LabelledFlows, settings: config.Settings, folder: Path) -> list[Outcome]:
    """One outcome for each of ``evaluation.protocols``; raises what ``Study.run`` raises."""
    import torch

    torch.set_num_threads(settings.training.ranks * settings.training.threads)  # one rank has them all
    study = Study(settings, folder)
    return [study.run(flows, protocol) for protocol in settings.evaluation.protocols]


def write(outcomes: Sequence[Outcome], folder: Path) -> Path:
    """Write the table and the numbers behind it into a folder below ``folder``, which is returned."""
    shown = folder / "comparison"
    shown.mkdir(parents=True, exist_ok=True)
    (shown / "comparison.json").write_text(json.dumps(outcomes, indent=1) + "\n")
    (shown / "comparison.md").write_text(text(outcomes))
    return shown


def text(outcomes: Sequence[Outcome]) -> str:
    """The table as Markdown."""
    return "\n".join(_lines(outcomes)) + "\n"


def flat(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """``protocol.system.unit.metric`` -> value, for tracking."""
    units = ("flows", "flows_coarse", "captures", "captures_coarse")
    return {
        f"{outcome['protocol'].replace(':', '-')}.{system}.{unit}.{metric}": score["value"]
        for outcome in outcomes
        for system, scores in outcome["systems"].items()
        for unit in units
        for metric, score in (scores[unit] or {}).items()  # type: ignore[literal-required]
        if score["value"] is not None
    }


def _lines(outcomes: Sequence[Outcome]) -> Iterator[str]:
    for outcome in outcomes:
        sizes = ", ".join(f"{part} {flows:,}" for part, flows in outcome["flows"].items())
        yield f"## {outcome['protocol']}"
        yield ""
        yield (
            f"{len(outcome['labels'])} labels ({len(outcome['coarse_labels'])} merged), flows: {sizes}; "
            f"{outcome['captures']:,} captures of a device. Of the test flows {_percent(outcome['seen'])} have a "
            f"twin in training, {_percent(outcome['leakage'])} one with their label; the best that equal sequences "
            f"allow is {_percent(outcome['ceiling'])}, the commonest label alone {_percent(outcome['floor'])}."
        )
        yield ""
        yield f"| {' | '.join(_HEAD)} |"
        yield "|---" * len(_HEAD) + "|"
        for system, scores in outcome["systems"].items():
            yield f"| {system} | {' | '.join(_cells(scores))} |"
        yield ""


def _cells(scores: SystemScores) -> Iterator[str]:
    if scores["flows"] and scores["flows_coarse"]:
        yield _interval(scores["flows"]["macro_f1"])
        yield _interval(scores["flows"]["accuracy"])
        yield _percent(scores["ceiling_share"])
        yield _interval(scores["flows_coarse"]["macro_f1"])
        yield _percent(scores["expected_calibration_error"])
    else:
        yield from [""] * 5
    yield _interval(scores["captures"]["accuracy"])
    yield _interval(scores["captures_coarse"]["accuracy"])


def _interval(score: Score) -> str:
    value = _percent(score["value"])
    if score["low"] is None or score["high"] is None:
        return value
    return f"{value} ({100 * score['low']:.1f} to {100 * score['high']:.1f})"


def _percent(share: float | None) -> str:
    return "none" if share is None else f"{100 * share:.1f} %"
