"""Scores trained models and baselines on one test split."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import permutations
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from iotid import baselines, config, schemas
from iotid.errors import DataError, SettingError
from iotid.evaluation import leakage, metrics
from iotid.evaluation.ablation import permute_characteristic
from iotid.evaluation.align import Model, align_columns, check_probabilities, translate
from iotid.evaluation.schema import REPORT_VERSION, Dataset, Hidden, Reads, Report, Seconds, SplitSize, System
from iotid.labels.devices import device_kind

if TYPE_CHECKING:
    from iotid.dataset import EncodedFlows, Encoding
    from iotid.partitions import Partition, Store
    from iotid.schemas.metadata import Datasets, Flows

_MODEL_ORIGIN = "adaptive ensemble of bi-LSTMs (after the paper, with the settings of this run)"


def evaluate(
    dataset: Partition[Datasets],
    models: Mapping[str, Model],
    settings: config.Evaluation,
    flows: Sequence[Partition[Flows]] = (),
) -> tuple[Report, pa.Table]:
    """The report on ``models`` (name -> trained model) and ``settings.baselines``, fitted on the training split.

    Also returns every answer: for each row of the test split, in order, ``label``, ``flows`` (that the row represents),
    and for each system ``NAME`` (its answer) and ``NAME.confidence``.

    A model of another dataset is scored with its own vocabularies; classes that only it knows are labels of the report
    without test flows, so answering one is wrong. ``flows``: partitions that a serving model must be able to read
    (``census_flows``).

    Raises:
        SettingError: a baseline is unknown or has the name of a model.
        DataError: the test split is empty, or a system's answers are not probabilities.
        PartitionError: the dataset is incomplete.
    """
    from iotid.dataset import read_encoding, read_split

    metadata = dataset.metadata
    identity: Dataset = {
        "name": dataset.key["name"],
        "hash": metadata["hash"],
        "protocol": metadata["protocol"],
        "parts": {part: SplitSize(rows=rows, flows=metadata["flows"][part]) for part, rows in metadata["rows"].items()},
    }
    train, test = (read_split(dataset.uri, part) for part in ("train", "test"))
    return score(identity, read_encoding(dataset.uri), train, test, models, settings, flows)


def census_flows(store: Store) -> list[Partition[Flows]]:
    """The latest partition of ``flows`` of each site with a census; the next one will have the same settings."""
    sites = {key.site for key in store.partitions("census")}
    latest = {key.site: key for key in store.partitions("flows") if key.site in sites}  # sorted by date
    return [store.open("flows", key) for key in latest.values()]


def score(
    identity: Dataset,
    encoding: Encoding,
    train: EncodedFlows,
    test: EncodedFlows,
    models: Mapping[str, Model],
    settings: config.Evaluation,
    flows: Sequence[Partition[Flows]] = (),
) -> tuple[Report, pa.Table]:
    """``evaluate`` on dataset splits in memory."""
    classifiers = _baselines(encoding, train, test, settings)
    duplicates = sorted(set(classifiers) & set(models))
    if duplicates:
        raise SettingError(f"evaluation.baselines: {duplicates[0]!r} is also the name of a model; rename the model")
    if not test.num_flows.sum():
        raise DataError(f"dataset {identity['name']}: the test split is empty; write it with a larger test share")
    classifiers = {**_trained(encoding, test, models, settings, flows), **classifiers}
    labels = list(encoding.labels)
    labels += sorted({label for classifier in classifiers.values() for label in classifier.knows} - set(labels))
    devices: dict[str, Mapping[str, str]] = {}
    for known in (*(model.encoding for model in models.values()), encoding):
        devices |= known.devices
    merged = [device_kind(label, devices.get(label, {})) for label in labels]
    ceiling = leakage.ceiling(test)
    label_names = np.array(labels, dtype=object)
    answers: dict[str, Any] = {"label": label_names[test.label], "flows": test.num_flows}
    systems: dict[str, System] = {}
    predicted: dict[str, NDArray[np.int64]] = {}
    for name, classifier in classifiers.items():
        systems[name], answers_NL = _score(name, classifier, test, labels, merged, ceiling, settings)
        predicted[name] = answers_NL.argmax(axis=1)
        answers |= {name: label_names[predicted[name]], f"{name}.confidence": answers_NL.max(axis=1)}
    for ours, theirs in permutations(models, 2):
        systems[ours]["lead"][theirs] = metrics.paired_difference(
            test.label,
            predicted[ours],
            predicted[theirs],
            test.num_flows,
            len(labels),
            settings.bootstrap,
            settings.seed,
        )
    report: Report = {
        "version": REPORT_VERSION,
        "dataset": identity,
        "labels": labels,
        "merged": merged,
        "floor": leakage.majority_baseline(test),
        "leakage": leakage.leakage(train, test),
        "seen": leakage.seen_in_training(train, test),
        "ceiling": ceiling,
        "systems": systems,
    }
    return report, pa.table(answers)


@dataclass(frozen=True)
class _Classifier:
    """A trained model or a baseline, bound to the test split.

    ``answer`` returns (N, len(knows)) probabilities for the N rows, after ``fit``, if any, was called. A trained model
    also has ``reads``, and in ``hidden`` a variant of ``answer`` with each characteristic permuted.
    """

    kind: str
    origin: str
    knows: Sequence[str]
    answer: Callable[[], NDArray[Any]]
    fit: Callable[[], Any] | None = None
    reads: Reads | None = None
    hidden: Mapping[str, Callable[[], NDArray[Any]]] = field(default_factory=dict)


def _trained(
    encoding: Encoding,
    test: EncodedFlows,
    models: Mapping[str, Model],
    settings: config.Evaluation,
    flows: Sequence[Partition[Flows]],
) -> dict[str, _Classifier]:
    def classifier(name: str, model: Model) -> _Classifier:
        sequences = translate(test.sequences, encoding, model.encoding, name)

        def permuted(characteristic: str) -> NDArray[Any]:
            return model.probabilities(permute_characteristic(sequences, characteristic, test.num_flows, settings.seed))

        return _Classifier(
            "model",
            _MODEL_ORIGIN,
            model.encoding.labels,
            answer=lambda: model.probabilities(sequences),
            reads=_reads(model.encoding, flows),
            hidden={characteristic: partial(permuted, characteristic) for characteristic in sequences},
        )

    return {name: classifier(name, model) for name, model in models.items()}


def _reads(encoding: Encoding, flows: Sequence[Partition[Flows]]) -> Reads:
    misfits = {partition.uri: encoding.misfit(partition.metadata["settings"]["flow"]) for partition in flows}
    return {
        "flows_version": schemas.FLOWS.version,  # models of another version are not loaded
        "length": encoding.length,
        "max_packets": encoding.max_packets,
        "characteristics": list(encoding.vocabularies),
        "protocols": list(encoding.protocols),
        "unfit_nights": [f"{uri} {misfit}" for uri, misfit in misfits.items() if misfit],
    }


def _baselines(
    encoding: Encoding, train: EncodedFlows, test: EncodedFlows, settings: config.Evaluation
) -> dict[str, _Classifier]:
    def classifier(name: str) -> _Classifier:
        baseline = baselines.create(name, encoding, settings.seed)
        return _Classifier(
            "baseline",
            baseline.origin,
            encoding.labels,
            answer=lambda: baseline.probabilities(test.sequences),
            fit=lambda: baseline.fit(train, len(encoding.labels)),
        )

    return {name: classifier(name) for name in settings.baselines}


def _score(
    name: str,
    classifier: _Classifier,
    test: EncodedFlows,
    labels: Sequence[str],
    merged: Sequence[str],
    ceiling: float,
    settings: config.Evaluation,
) -> tuple[System, NDArray[Any]]:
    """The scores of the classifier, and its probabilities (N, labels)."""
    started = time.perf_counter()
    if classifier.fit:
        classifier.fit()
    fitted = time.perf_counter()
    own_NC = classifier.answer()
    seconds = Seconds(fit=fitted - started if classifier.fit else None, score=time.perf_counter() - fitted)
    check_probabilities(own_NC, len(test.label), len(classifier.knows), name)
    answers_NL = align_columns(own_NC, classifier.knows, labels)
    predicted_N = answers_NL.argmax(axis=1)
    confusion_LL = metrics.confusion_matrix(test.label, predicted_N, test.num_flows, len(labels))
    hidden: dict[str, Hidden] = {}
    for characteristic, answer in classifier.hidden.items():
        without_N = align_columns(answer(), classifier.knows, labels).argmax(axis=1)
        without_LL = metrics.confusion_matrix(test.label, without_N, test.num_flows, len(labels))
        hidden[characteristic] = {
            "macro_f1": metrics.scores(without_LL, 0, settings.seed)["macro_f1"]["value"],
            "f1": [row["f1"] for row in metrics.per_class(without_LL, labels)],
        }
    bins = metrics.reliability(answers_NL.max(axis=1), predicted_N == test.label, test.num_flows)
    scores = metrics.scores(confusion_LL, settings.bootstrap, settings.seed)
    system: System = {
        "kind": classifier.kind,
        "origin": classifier.origin,
        "knows": list(classifier.knows),
        "metrics": scores,
        "coarse": metrics.scores(metrics.merge(confusion_LL, merged)[0], settings.bootstrap, settings.seed),
        "ceiling_share": (scores["accuracy"]["value"] or 0.0) / ceiling,
        "expected_calibration_error": metrics.expected_calibration_error(bins),
        "reliability": bins,
        "per_class": metrics.per_class(confusion_LL, labels),
        "confusion": confusion_LL.tolist(),
        "hidden": hidden,
        "lead": {},
        "reads": classifier.reads,
        "seconds": seconds,
    }
    return system, answers_NL
