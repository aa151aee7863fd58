"""The fields of a report: plain JSON, stored with a model version and readable by any program.

An undefined number is null, never NaN: the recall of a class without test flows, an interval without resamples. Shares
and scores are between 0 and 1; flows are counted by each row's ``num_flows``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NotRequired, TypedDict, cast

from iotid.errors import DataError

REPORT_VERSION = 3
REPORT_PAGE = "report.html"  # of a partition of `reports`


class SplitSize(TypedDict):
    """The stored rows of a dataset split (train, validation or test), and the flows that they represent."""

    rows: int
    flows: int


class Dataset(TypedDict):
    """The dataset that was scored. ``hash`` identifies the settings and inputs that it was made with."""

    name: str
    hash: str
    protocol: str
    parts: dict[str, SplitSize]


class Score(TypedDict):
    """A metric with its 95 % bootstrap interval, null without resamples."""

    value: float | None
    low: float | None
    high: float | None


class ClassScore(TypedDict):
    """Scores of one class, null if it has no test flows. ``support`` is in flows."""

    label: str
    precision: float | None
    recall: float | None
    f1: float | None
    support: int


class Bin(TypedDict):
    """Answers with confidence in (low, high]: their mean confidence, the share that is right, and their flows."""

    low: float
    high: float
    confidence: float | None
    accuracy: float | None
    flows: int


class Hidden(TypedDict):
    """Scores with one characteristic permuted (`ablation`); ``f1`` in the order of the report's labels."""

    macro_f1: float | None
    f1: list[float | None]


class Reads(TypedDict):
    """Which flows a trained model reads, by its ``dataset.Encoding``, and the version of schemas.FLOWS.

    ``unfit_nights``: partitions of flows like the next census's that it cannot read, each with the reason.
    """

    flows_version: int
    length: str
    max_packets: int
    characteristics: list[str]
    protocols: list[int]
    unfit_nights: list[str]


class Outcomes(TypedDict):
    """Numbers of device nights: all, and by outcome (`whole_devices`)."""

    recordings: int
    right: int
    wrong: int
    undecided: int
    unknown: int


class KindDevices(Outcomes):
    """Of one kind; ``learned``: whether the model knows it; ``mistaken_for``: the kind most often found wrongly."""

    kind: str
    learned: bool
    mistaken_for: str | None


class WholeDevices(Outcomes):
    """Of all kinds together, and of each."""

    kinds: list[KindDevices]


class Seconds(TypedDict):
    """Wall time; ``fit`` is null for a trained model."""

    fit: float | None
    score: float


class System(TypedDict):
    """One trained model or baseline. ``knows``: the labels that it can answer.

    ``confusion`` counts flows; true classes are rows.
    ``coarse``: the metrics with labels of one vendor and type merged.

    ``hidden``: for each characteristic, a trained model's scores without it. ``lead``: the paired difference of its
    macro F1 and each other trained model's, with interval. For a baseline both are empty and ``reads`` is null.
    ``whole_devices``: of the device model of a trained model's bundle, null without one; earlier reports lack it.
    """

    kind: str
    origin: str
    knows: list[str]
    metrics: dict[str, Score]
    coarse: dict[str, Score]
    ceiling_share: float
    expected_calibration_error: float
    reliability: list[Bin]
    per_class: list[ClassScore]
    confusion: list[list[int]]
    hidden: dict[str, Hidden]
    lead: dict[str, Score]
    reads: Reads | None
    seconds: Seconds
    whole_devices: NotRequired[WholeDevices | None]


class Report(TypedDict):
    """All systems on one test split. ``labels``: the order of every table and matrix; labels outside the dataset last.

    ``merged``: the name of each label after labels of one vendor and type are merged.
    ``floor``: the majority baseline, the share of the most common class.
    ``leakage``: the share of test flows whose sequences and label are in training; ``seen``: the same without the
    label; ``ceiling``: the best accuracy that these sequences allow.
    """

    version: int
    dataset: Dataset
    labels: list[str]
    merged: list[str]
    floor: float
    leakage: float
    seen: float
    ceiling: float
    systems: dict[str, System]


class SystemReport(System):
    """One system with the version and dataset of its report: the input of ``decide``."""

    version: int
    name: str
    dataset: Dataset


def system_report(report: Report, name: str) -> SystemReport:
    """One system of a report.

    Raises:
        DataError: the report has no such system.
    """
    systems: Mapping[str, System] = report["systems"]
    if name not in systems:
        raise DataError(f"report of dataset {report['dataset']['name']}: has no system {name!r}; has {list(systems)}")
    identity = {"version": report["version"], "name": name, "dataset": report["dataset"]}
    return cast(SystemReport, {**identity, **systems[name]})
