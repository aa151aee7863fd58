"""The fields of a report: plain JSON, so that it is stored beside a model's version and read by any program.

A number that is not defined is null, never NaN: the recall of a class without test flows, the interval when no resample
is drawn. Shares and scores are between 0 and 1; flows are counted with each row's ``num_flows``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict, cast

from iotid.errors import DataError

REPORT_VERSION = 3


class SplitSize(TypedDict):
    """One of train, validation, test: stored rows, and the flows that they stand for."""

    rows: int
    flows: int


class Dataset(TypedDict):
    """The data that was scored. ``hash`` names the frozen settings and inputs that made it."""

    name: str
    hash: str
    protocol: str
    parts: dict[str, SplitSize]


class Score(TypedDict):
    """A metric with its 95 % bootstrap interval, null when no resample was drawn."""

    value: float | None
    low: float | None
    high: float | None


class ClassScore(TypedDict):
    """One class of the test part; null where the class has no test flows. ``support`` is in flows."""

    label: str
    precision: float | None
    recall: float | None
    f1: float | None
    support: int


class Bin(TypedDict):
    """Answers whose confidence is in (low, high]: their mean confidence, the share that is right, and the flows."""

    low: float
    high: float
    confidence: float | None
    accuracy: float | None
    flows: int


class Hidden(TypedDict):
    """Scores with one characteristic hidden (`ablation`); ``f1`` in the order of the report's labels."""

    macro_f1: float | None
    f1: list[float | None]


class Reads(TypedDict):
    """Which flows a trained model reads, as its ``dataset.Encoding`` says, and of which version of schemas.FLOWS.

    ``unfit_nights``: partitions of flows that the next census is taken from and it cannot read, each with the reason.
    """

    flows_version: int
    length: str
    max_packets: int
    characteristics: list[str]
    protocols: list[int]
    unfit_nights: list[str]


class Seconds(TypedDict):
    """Wall time; ``fit`` is null for a model that came trained."""

    fit: float | None
    score: float


class System(TypedDict):
    """One trained model or baseline. ``knows`` are the labels that it can answer.

    ``confusion`` counts flows; true classes are rows.
    ``coarse``: the metrics with labels of one vendor and type merged.

    ``hidden``: for each characteristic, what a trained model scores without it. ``lead``: by how much its macro F1 is
    above each other trained model's, with the interval of the paired bootstrap. For a baseline both are empty and
    ``reads`` is null.
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


class Report(TypedDict):
    """All systems on one test part. ``labels`` orders every table and matrix; those that the dataset lacks come last.

    ``merged``: the name of each when labels of one vendor and type are merged.
    ``floor`` is the majority baseline, the share of the commonest class.
    ``leakage`` is the share of test flows whose sequences and label are in training, ``seen`` the same without the
    label, ``ceiling`` the best accuracy that these sequences allow.
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
    """One system with the report's version and the identity of its data: what ``decide`` compares."""

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
