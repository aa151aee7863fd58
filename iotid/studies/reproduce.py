"""Repeats the paper's experiment on one of its datasets: flows for every reading of the paper, a dataset, a model and
its scores. Results of the same captures and settings that already exist are reused.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import iotid
from iotid import config, schemas, spark_session
from iotid.capture import first_day
from iotid.capture.splits.discovery import find_captures
from iotid.capture.splits.write import write_splits
from iotid.config import settings_hash, with_values
from iotid.dataset import count_flows, dataset_hash, write_dataset
from iotid.errors import LabelError
from iotid.evaluation import Report, evaluate_challenger
from iotid.flows import partition_files, write_flows
from iotid.labels import DeviceList
from iotid.labels.names import check_names
from iotid.partitions import Partition, PartitionKey, Store
from iotid.schemas.metadata import Datasets, Flows
from iotid.spark.session import runs_here
from iotid.studies import paper, paper_comparison
from iotid.studies.paper import PaperNumbers, Scores
from iotid.studies.paper_comparison import Assembly, ReadingCounts, ScoreComparison
from iotid.tracking import Registry
from iotid.training import fingerprint, train

_log = logging.getLogger(__name__)


def reproduce(
    settings: config.Settings, dataset: str, captures: str, counts_only: bool, show: Callable[[str], None]
) -> Partition:
    """Compare the number of flows, and unless ``counts_only`` the scores, with the paper; write to ``reproductions``.

    ``show`` is called with the counts, then with each table of scores, as Markdown.

    Raises:
        LabelError: no device of the paper's list has a flow in ``captures``.
    """
    store, printed = Store(settings.storage.root), paper.read(dataset)
    listed = replace(paper.device_list(dataset), inside=settings.census.inside)
    devices = printed.counts.select(listed)
    flows = _assemble(store, settings, dataset, captures)
    compared = _compare(printed, devices, flows, settings.dataset)
    nearest = paper_comparison.nearest(compared)
    texts = [paper_comparison.counts_text(printed, compared)]
    show(texts[0])
    outcomes: list[ScoreComparison] = []
    for scores in () if counts_only else printed.scores:
        name = f"{dataset}-{scores.label}"
        experiment = _Experiment(store, name, flows[nearest.assembly], devices, _read_as(settings, nearest, scores))
        outcomes.append(experiment.outcome(scores))
        texts.append(paper_comparison.scores_text(printed, outcomes[-1]))
        show(texts[-1])
    key = PartitionKey.of_dataset(dataset)
    with store.write("reproductions", key) as staged:
        staged.write_text("reproduction.md", "\n".join(texts))
        staged.write_json("reproduction.json", paper_comparison.to_json(printed, compared, outcomes))
        staged.metadata = {"captures": captures, "nearest": nearest.reading, "counts_only": counts_only}
    return store.open("reproductions", key)


def _assembled_as(settings: config.Settings, assembly: Assembly) -> config.Settings:
    idle_s, active_s = (paper_comparison.IDLE_S, paper_comparison.ACTIVE_S) if assembly.timeouts else (None, None)
    timeouts = {"idle_timeout_s": idle_s, "active_timeout_s": active_s}
    return settings.model_copy(update={"flow": with_values(settings.flow, **timeouts, join_files=assembly.join_files)})


def _read_as(settings: config.Settings, reading: ReadingCounts, scores: Scores) -> config.Settings:
    protocols = paper_comparison.PROTOCOLS[reading.protocols]
    own = with_values(settings.dataset, protocols=protocols, label=scores.label)
    return _assembled_as(settings, reading.assembly).model_copy(update={"dataset": own})


def _assemble(store: Store, settings: config.Settings, dataset: str, captures: str) -> dict[Assembly, Partition[Flows]]:
    """The flows of all captures as of one date, for every assembly.

    Each assembly is a separate site, so that no partition continues flows of another.
    """
    capture = settings.capture
    day, found = first_day(captures, capture), find_captures([captures], capture.unreadable).captures
    inputs = {
        "captures": captures,
        "files": len(found),
        "bytes": sum(split.file_bytes for split in found),
    }
    flows = {}
    for assembly in paper_comparison.ASSEMBLIES:
        key, own = PartitionKey.of_date(f"{dataset}-{assembly.name}", day), _assembled_as(settings, assembly)
        if _is_of(store, key, inputs, own):
            _log.info("%s: reused", store.uri("flows", key))
        else:
            _log.info("%s: assembling", store.uri("flows", key))
            spark = None if runs_here(own.spark) else spark_session(own.spark, "iotid reproduce")
            write_splits(spark, store, captures, key.site, day, capture)
            write_flows(spark_session(own.spark, "iotid reproduce"), store, key.site, day, capture, own.flow)
        flows[assembly] = store.open("flows", key)
    return flows


def _is_of(store: Store, key: PartitionKey, inputs: Mapping[str, object], settings: config.Settings) -> bool:
    """Whether the flows are of these captures, with unchanged number and size, and of these settings."""
    if not store.exists("flows", key):
        return False
    metadata = store.open("flows", key).metadata
    splits = metadata["inputs"].get("splits", {})
    found = {**splits, **splits.get("inputs", {})}
    return bool(
        all(found.get(name) == value for name, value in inputs.items())
        and metadata["settings_hash"] == settings_hash(settings.capture, settings.flow)
        and (metadata["schema_version"], metadata["code_version"]) == (schemas.FLOWS.version, iotid.__version__)
    )


def _compare(
    printed: PaperNumbers, devices: DeviceList, flows: Mapping[Assembly, Partition[Flows]], settings: config.Dataset
) -> list[ReadingCounts]:
    """The number of flows of every reading compared with the paper.

    Raises:
        LabelError: no device of the list has a flow.
    """
    protocols = sorted({number for numbers in paper_comparison.PROTOCOLS.values() for number in numbers})
    by_name = with_values(settings, label="name", unlisted="drop", protocols=protocols)
    counted = {
        assembly: count_flows(partition_files([partition]), devices, by_name) for assembly, partition in flows.items()
    }
    if not any(counted.values()):
        raise LabelError(
            f"{devices.source}: matches none of the flows of --captures; give a folder with {printed.captures}"
        )
    return paper_comparison.compare(printed.counts, devices.labels("name"), counted)


@dataclass(frozen=True)
class _Experiment:
    """A dataset, the training on it and the report, all under one name."""

    store: Store
    name: str
    flows: Partition[Flows]
    devices: DeviceList
    settings: config.Settings

    def outcome(self, scores: Scores) -> ScoreComparison:
        """The report, after running the missing steps."""
        if not self._is_written():
            self._write_dataset()
        if not self._is_scored():
            self._score()
        page = self.store.open("reports", PartitionKey.of_dataset(self.name))
        return ScoreComparison(scores, self.store.read_json(page, "report.json", Report), f"{page.uri}/report.html")

    @cached_property
    def _key(self) -> PartitionKey:
        return PartitionKey.named(self.name)

    def _is_written(self) -> bool:
        wanted = dataset_hash([self.flows], self.devices, self.settings.dataset, self.settings.flow)
        return self.store.exists("datasets", self._key) and self._dataset.metadata["hash"] == wanted

    def _write_dataset(self) -> None:
        _log.info("dataset %s: writing", self.name)
        settings = self.settings
        check_names(self.devices, settings.dataset, settings.promotion, settings.watchlist)
        spark = spark_session(settings.spark, "iotid reproduce")
        write_dataset(spark, self.store, [self.flows], self.devices, settings.dataset, settings.flow, self.name)

    def _is_scored(self) -> bool:
        """Whether there is a report on this dataset, with a model of these settings and all baselines."""
        key = PartitionKey.of_dataset(self.name)
        if not self.store.exists("reports", key):
            return False
        page = self.store.open("reports", key)
        own = fingerprint(self.settings.model, self.settings.training, self._dataset.metadata["hash"])
        systems = self.store.read_json(page, "report.json", Report)["systems"]
        return page.metadata.get("made_by") == own and set(self.settings.evaluation.baselines) <= set(systems)

    def _score(self) -> None:
        settings = self.settings
        train(spark_session(settings.spark, "iotid reproduce"), self.store, self._dataset, settings)
        registry = Registry(settings.tracking, settings.storage.root)
        evaluate_challenger(self.store, registry, self.name, settings.evaluation, settings.census)

    @property
    def _dataset(self) -> Partition[Datasets]:
        return self.store.open("datasets", self._key)
