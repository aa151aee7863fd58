"""Scores the ensemble and its baselines under a split protocol, with a training run for every split.

Shape suffixes: N flows, U captures of a device, C labels, G coarse labels.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypedDict

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from iotid import config
from iotid.dataset import LabelledFlows
from iotid.dataset.arrays import exact_keys, side_by_side
from iotid.dataset.split_protocols import DATASET_SPLITS
from iotid.evaluation import metrics
from iotid.evaluation.schema import ClassScore, Score
from iotid.labels.devices import UNLISTED
from iotid.studies import across, open_set, protocols
from iotid.studies.across import Across
from iotid.studies.open_set import OpenSet, OpenSetAnswers
from iotid.studies.progress import Progress
from iotid.studies.split_run import CAPTURES, DEVICES, ENSEMBLE, FLOWS, Answers, SplitRun

if TYPE_CHECKING:
    from iotid.dataset import DeviceTraffic

log = logging.getLogger(__name__)
_TEXT = ("system", "of", "site", "device", "label", "kind", "answer", "outcome", "capture_file")


class SystemScores(TypedDict):
    """Scores of one system: ``scores[of]`` for those of flows, windows and captures that it predicts.

    ``ceiling_share``: only of a system that reads one flow at a time, because the ceiling bounds no other.
    ``merged``: the same with labels of one vendor and type as one. Fields of flows, or of captures, are null or empty
    for a system without such predictions.
    """

    origin: str
    scores: dict[str, dict[str, Score]]
    merged: dict[str, dict[str, Score]]
    items: dict[str, int]
    ceiling_share: float | None
    expected_calibration_error: float | None
    captures_calibration_error: float | None
    per_class: list[ClassScore]


class Day(TypedDict):
    """The test flows of one day, and each system's macro F1 and accuracy on them."""

    day: str
    flows: int
    macro_f1: dict[str, float]
    accuracy: dict[str, float]


# of test flows: share of the majority label; share whose sequences are in training; share whose sequences are there
# with the same label; best accuracy with equal predictions for equal sequences
_FlowShares = TypedDict(  # noqa: UP013 - names of stored fields
    "_FlowShares", {"floor": float, "seen": float, "leakage": float, "ceiling": float}
)


class ProtocolScores(_FlowShares):
    """Scores under one protocol.

    ``flows``: of each split; with several runs, the test flows of all, and the means of the others.
    ``captures_ceiling``: best accuracy for captures with equal predictions for equal captures. ``days``: of the
    protocol ``drift``; ``open_set``: of ``devices_out``, and ``across``: of that protocol. The scores of systems under
    these two are of the learned kinds; under ``across`` without unlisted devices, which may be of any kind.
    """

    protocol: str
    flows: dict[str, int]
    captures: int
    labels: list[str]
    coarse_labels: list[str]
    captures_ceiling: float
    systems: dict[str, SystemScores]
    days: list[Day]
    open_set: OpenSet | None
    across: Across | None


class ProtocolResult(NamedTuple):
    """The scores, and all predictions: columns system, of, site, device, label, kind, answer, confidence, label_rank,
    kind_rank, outcome, day, capture_file; null where they do not apply (`split_run.Answers`).

    ``sets``: of ``devices_out``, the predictions for every capture of a kind that was learned or left out.
    """

    scores: ProtocolScores
    answers: pa.Table
    sets: pa.Table | None = None


@dataclass(frozen=True)
class Study:
    """The ensemble, whose training runs are in ``folder``, and the baselines of ``evaluation.baselines`` and
    ``.packet_baselines``.

    ``traffic``: of the captures of the flows, for baselines that classify windows.
    """

    settings: config.Settings
    folder: Path
    traffic: DeviceTraffic | None = None

    def run(self, flows: LabelledFlows, protocol: str, progress: Progress | None = None) -> ProtocolResult:
        """Train and test under ``protocol``; ``progress`` counts the training runs.

        Raises:
            SettingError: there is no such protocol, site or baseline.
            DataError: the training, validation or test split is empty.
        """
        tested: list[dict[str, dict[str, Answers]]] = []
        scored: list[dict[str, dict[str, Answers]]] = []
        shares: list[dict[str, float]] = []
        sizes: list[NDArray[np.int64]] = []
        open_sets: list[OpenSetAnswers] = []
        for number, part_N in enumerate(protocols.splits(flows, protocol, self.settings.evaluation), start=1):
            log.info("%s: training run %d", protocol, number)
            sizes.append(np.bincount(part_N[part_N >= 0], minlength=len(DATASET_SPLITS) + 1))
            name = f"{protocol.replace(':', '-')}-{number:02}"
            run = SplitRun(self.settings, self.folder / name, self.traffic, flows, part_N, protocol, name)
            tested.append(run.answers())
            scored.append(run.of_learned_kinds(tested[-1]) if protocol == protocols.ACROSS else tested[-1])
            shares.append(run.shares())
            if protocol == protocols.DEVICES_OUT:
                open_sets.append(run.open_sets(number))
            if progress:
                progress.done(f"{protocol} {number}")
        table, systems = _table(flows, _joined(tested)), _joined(scored)
        weights = [int(size[protocols.TEST]) for size in sizes]
        means = {name: float(np.average([each[name] for each in shares], weights=weights)) for name in shares[0]}
        *others, test, left_out = np.sum(sizes, axis=0).tolist()
        part_sizes = dict(zip(DATASET_SPLITS, [*(flows // len(sizes) for flows in others), test], strict=True))
        if not open_sets:
            protocol_scores = self._protocol_scores(flows, protocol, systems, run.origins, means, part_sizes)
            if protocol == protocols.ACROSS:
                protocol_scores["across"] = across.evaluate(table)
            return ProtocolResult(protocol_scores, table)
        sets = OpenSetAnswers(*(np.concatenate(columns) for columns in zip(*open_sets, strict=True)))
        protocol_scores = self._protocol_scores(
            flows, protocol, systems, run.origins, means, part_sizes | {"left_out": left_out}
        )
        protocol_scores["open_set"] = open_set.evaluate(sets, flows.labels)
        return ProtocolResult(protocol_scores, table, _table_of_sets(flows, sets))

    def _protocol_scores(
        self,
        flows: LabelledFlows,
        protocol: str,
        systems: Mapping[str, Mapping[str, Answers]],
        origins: Mapping[str, str],
        shares: dict[str, float],
        sizes: dict[str, int],
    ) -> ProtocolScores:
        coarse_labels, coarse_C = protocols.kinds(flows)
        tested_units = np.unique(systems[ENSEMBLE][FLOWS].unit)
        return {
            "protocol": protocol,
            "flows": sizes,
            "captures": len(tested_units),
            "labels": list(flows.labels),
            "coarse_labels": coarse_labels,
            "floor": shares["floor"],
            "seen": shares["seen"],
            "leakage": shares["leakage"],
            "ceiling": shares["ceiling"],
            "captures_ceiling": _captures_ceiling(flows, tested_units),
            "systems": {
                system: self._score(
                    origins[system],
                    answered,
                    flows.labels,
                    coarse_C,
                    shares["ceiling"] if system in (ENSEMBLE, *self.settings.evaluation.baselines) else None,
                )
                for system, answered in systems.items()
            },
            "days": _by_day(systems, len(flows.labels)) if protocol == protocols.DRIFT else [],
            "open_set": None,
            "across": None,
        }

    def _score(
        self,
        origin: str,
        answered: Mapping[str, Answers],
        labels: Sequence[str],
        coarse_C: NDArray[np.int64],
        ceiling: float | None,
    ) -> SystemScores:
        C = len(labels)
        fine = {of: _confusion(answers.label, answers.named, C) for of, answers in answered.items()}
        coarse = {
            of: _confusion(coarse_C[answers.label], coarse_C[answers.named], C) for of, answers in answered.items()
        }
        scores: SystemScores = {
            "origin": origin,
            "scores": {of: self._scores(matrix) for of, matrix in fine.items()},
            "merged": {of: self._scores(matrix) for of, matrix in coarse.items()},
            "items": {of: len(answers.label) for of, answers in answered.items()},
            "ceiling_share": None,
            "expected_calibration_error": None,
            "captures_calibration_error": None,
            "per_class": [],
        }
        if FLOWS in answered:
            if ceiling is not None:
                scores["ceiling_share"] = float(np.trace(fine[FLOWS]) / fine[FLOWS].sum()) / ceiling
            scores["expected_calibration_error"] = _calibration_error(answered[FLOWS])
            scores["per_class"] = metrics.per_class(fine[FLOWS], labels)
        if CAPTURES in answered:
            scores["captures_calibration_error"] = _calibration_error(answered[CAPTURES])
        return scores

    def _scores(self, confusion_CC: NDArray[np.int64]) -> dict[str, Score]:
        return metrics.scores(confusion_CC, self.settings.evaluation.bootstrap, self.settings.evaluation.seed)


def _joined(runs: Sequence[Mapping[str, Mapping[str, Answers]]]) -> dict[str, dict[str, Answers]]:
    """The predictions of all training runs."""
    return {
        system: {
            of: Answers(
                *(np.concatenate(columns) for columns in zip(*(each[system][of] for each in runs), strict=True))
            )
            for of in answered
        }
        for system, answered in runs[0].items()
    }


def _confusion(label: NDArray[np.int64], named: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    return metrics.confusion_matrix(label, named, np.ones(len(label), np.int64), classes)


def _calibration_error(answers: Answers) -> float:
    bins = metrics.reliability(answers.confidence, answers.named == answers.label, np.ones(len(answers.label)))
    return metrics.expected_calibration_error(bins)


def _captures_ceiling(flows: LabelledFlows, units: NDArray[np.int64]) -> float:
    """Best accuracy for these captures of a device with equal predictions for equal captures."""
    C = len(flows.labels)
    unit_N = flows.capture * C + flows.label
    part = flows.dataset(np.zeros(len(unit_N), np.int8))[1]["train"]
    _, row_of = np.unique(exact_keys(side_by_side(part.rows.sequences)), return_inverse=True)  # regardless of the label
    pairs, flows_of = np.unique(np.stack([unit_N, row_of[part.row_of_flow]]), axis=1, return_counts=True)
    starts = np.searchsorted(pairs[0], units)
    ends = np.searchsorted(pairs[0], units, side="right")
    labels_of: dict[bytes, list[int]] = {}
    for unit, start, end in zip(units.tolist(), starts.tolist(), ends.tolist(), strict=True):
        content = pairs[1, start:end].tobytes() + flows_of[start:end].tobytes()
        labels_of.setdefault(content, []).append(unit % C)
    return sum(int(np.bincount(labels).max()) for labels in labels_of.values()) / len(units)


def _by_day(systems: Mapping[str, Mapping[str, Answers]], classes: int) -> list[Day]:
    of_flows = {system: answered[FLOWS] for system, answered in systems.items() if FLOWS in answered}
    found: list[Day] = []
    for day in np.unique(of_flows[ENSEMBLE].day).tolist():
        reached = {}
        for system, answers in of_flows.items():
            then = answers.day == day
            reached[system] = metrics.metrics(_confusion(answers.label[then], answers.named[then], classes))
        found.append(
            {
                "day": str(np.datetime64(day, "D")),
                "flows": int((of_flows[ENSEMBLE].day == day).sum()),
                "macro_f1": {system: float(scores["macro_f1"]) for system, scores in reached.items()},
                "accuracy": {system: float(scores["accuracy"]) for system, scores in reached.items()},
            }
        )
    return found


def _table(flows: LabelledFlows, systems: Mapping[str, Mapping[str, Answers]]) -> pa.Table:
    """All predictions, so that the scores can be recomputed."""
    labels, (kinds, kind_C) = pa.array(flows.labels), protocols.kinds(flows)
    kind_names = pa.array([None if kind == UNLISTED else kind for kind in kinds], pa.string())
    tables = []
    for system, answered in systems.items():
        for of, answers in answered.items():
            columns = {
                "system": pa.array([system] * len(answers.label)),
                "of": pa.array([of] * len(answers.label)),
                **_origins(flows, of, answers.unit),
                "label": labels.take(pa.array(answers.label)),
                "kind": kind_names.take(pa.array(kind_C[answers.label])),
                "answer": labels.take(pa.array(answers.named)),
                "confidence": answers.confidence,
                "label_rank": pa.array(answers.label_rank, mask=answers.label_rank < 0),
                "kind_rank": pa.array(answers.kind_rank, mask=answers.kind_rank < 0),
                "outcome": pa.array(answers.outcome.astype(object), pa.string(), mask=answers.outcome == ""),
                "day": pa.array(answers.day.astype(np.int32)).cast(pa.date32()),
            }
            text = {name: pa.array(each).dictionary_encode() for name, each in columns.items() if name in _TEXT}
            tables.append(pa.table(columns | text))
    return pa.concat_tables(tables).unify_dictionaries()


def _origins(flows: LabelledFlows, of: str, unit_I: NDArray[np.int64]) -> dict[str, pa.Array]:
    """Site, device and capture file of each unit; a null device of flows and windows, and capture file of devices."""
    number_N, number_I = flows.device_at_site if of == DEVICES else flows.capture, unit_I // len(flows.labels)
    first_I = np.unique(number_N, return_index=True)[1][number_I]
    if of in (CAPTURES, DEVICES):
        units, first = np.unique(number_N * len(flows.labels) + flows.label, return_index=True)
        first_I = first[np.searchsorted(units, unit_I)]
    names = pa.array([*(device.name for device in flows.devices.entries), UNLISTED])
    flow, device_I = pa.array(first_I), flows.device[first_I] % len(names)  # -1 is the last
    paths = flows.flows["capture_file"].take(flow).combine_chunks()
    return {
        "site": flows.flows["site"].take(flow).combine_chunks(),
        "device": names.take(pa.array(device_I)) if of in (CAPTURES, DEVICES) else pa.nulls(len(flow), pa.string()),
        "capture_file": pa.nulls(len(flow), pa.string()) if of == DEVICES else paths,
    }


def _table_of_sets(flows: LabelledFlows, sets: OpenSetAnswers) -> pa.Table:
    labels = pa.array(flows.labels)
    columns = {open_set.STORED_NAMES.get(field, field): column for field, column in sets._asdict().items()}
    columns |= {name: labels.take(pa.array(getattr(sets, name))) for name in ("label", "named")}
    unit_U = columns.pop("unit")
    return pa.table(columns | {"capture_file": _paths(flows).take(pa.array(unit_U // len(flows.labels)))})


def _paths(flows: LabelledFlows) -> pa.Array:
    """The path of each capture, by its number."""
    first = np.unique(flows.capture, return_index=True)[1]
    return flows.flows["capture_file"].take(pa.array(first)).combine_chunks()
