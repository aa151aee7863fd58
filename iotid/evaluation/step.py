"""The step `evaluate`: scores challenger, champion and baselines, writes the report and logs it to MLflow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from iotid import config
from iotid.dataset import read_encoding, read_test_sets
from iotid.errors import SchemaError
from iotid.evaluation.report import (
    device_metrics,
    device_quality,
    flatten_metrics,
    quality,
    read_history,
    verdicts,
    write_report,
)
from iotid.evaluation.schema import Report
from iotid.evaluation.scoring import census_flows, evaluate
from iotid.evaluation.whole_devices import score_whole_devices
from iotid.model import Predictor
from iotid.partitions import Partition, PartitionKey, Store
from iotid.schemas.metadata import Datasets, Reports
from iotid.tracking import notes
from iotid.tracking.runs import Run
from iotid.tracking.versions import CHALLENGER, CHAMPION, ModelVersion, Registry


@dataclass(frozen=True)
class Evaluation:
    """The partition of ``reports``, and sentences on models left out and on each trained model's scores."""

    report: Partition[Reports]
    sentences: tuple[str, ...]


def evaluate_challenger(
    store: Store, registry: Registry, dataset: str, settings: config.Evaluation, census: config.Census
) -> Evaluation:
    """Score the challenger, the champion if it is another version, and the baselines on the dataset's test split.

    Writes the partition of ``reports``: report.json, every answer, figures, a page. Logs the same to the challenger's
    run, and sets the version's tag ``quality``. Device nights are decided as a census with the settings ``census``
    would. A champion of another schema version is reported and left out.

    Raises:
        NoModelError: there is no challenger.
        AbsentError: the dataset is absent.
    """
    source = store.open("datasets", PartitionKey.named(dataset))
    challenger, champion = registry.version_of(CHALLENGER), registry.find_version(CHAMPION)
    versions = {CHALLENGER: challenger.number}
    if champion and champion.number != challenger.number:
        versions[CHAMPION] = champion.number
    key, run = PartitionKey.of_dataset(dataset), Run.of(registry, challenger.run_id)
    with TemporaryDirectory() as work, store.write("reports", key) as staged:
        models, left_out = _load(registry, versions, work)
        report, answers = evaluate(source, models, settings, census_flows(store))
        _add_whole_devices(report, source, models, census)
        page = write_report(report, f"{work}/report", answers=answers, history=_history(registry, challenger, work))
        run.log_artifacts(page.parent, "report")
        run.log_metrics(flatten_metrics(report) | device_metrics(report))
        run.log_dataset(dataset, source, context="evaluation")
        if source.metadata["hash"] == challenger.tags.get("dataset_hash"):  # a run has one value of each parameter
            run.log_params({"leakage": round(report["leakage"], 4), "ceiling": round(report["ceiling"], 4)})
        reached = f"{quality(report['systems'][CHALLENGER])} on the test part of dataset {dataset}"
        registry.set_tag(challenger.number, "quality", reached)
        if of_devices := device_quality(
            report["systems"][CHALLENGER].get("whole_devices"), report["dataset"]["protocol"]
        ):
            registry.set_tag(challenger.number, "device_quality", of_devices)
        staged.add_folder(page.parent)
        sentences = [sentence for sentence, _ in verdicts(report)]
        sentences += [f"{CHALLENGER}: {of_devices}."] if of_devices else []
        note = notes.of_evaluation(dataset, report["leakage"], report["ceiling"], sentences)
        run.add_note("Evaluation", note)
        registry.add_note(challenger.number, "Evaluation", note)
        staged.metadata = {"versions": versions, "left_out": left_out, "summary": sentences}
        staged.metadata["dataset_hash"] = source.metadata["hash"]
        staged.metadata["made_by"] = challenger.tags.get("made_by")
    return Evaluation(store.open("reports", key), (*left_out.values(), *sentences))


def _load(registry: Registry, versions: dict[str, int], work: str) -> tuple[dict[str, Predictor], dict[str, str]]:
    """The models by alias, and the reason if the champion is left out."""
    models, left_out = {}, {}
    for alias, number in versions.items():
        try:
            models[alias] = Predictor.load(registry.bundle(number, f"{work}/{alias}"))
        except SchemaError as fault:
            if alias != CHAMPION:
                raise
            # no census could load it either, so its replacement need not be better
            left_out[alias] = f"the champion, version {number}, cannot be loaded and is left out: {fault}"
    return models, left_out


def _add_whole_devices(
    report: Report, source: Partition[Datasets], models: Mapping[str, Predictor], census: config.Census
) -> None:
    """Score the models' device models on the dataset's test sets; earlier datasets have none."""
    sets, encoding = read_test_sets(source.uri), read_encoding(source.uri)
    for name, model in models.items():
        scored = score_whole_devices(sets, encoding, model, name, census) if sets else None
        report["systems"][name]["whole_devices"] = scored


def _history(registry: Registry, challenger: ModelVersion, work: str) -> list[dict[str, float | None]]:
    return read_history(Path(registry.artifact(challenger, "training/history.json", work)))
