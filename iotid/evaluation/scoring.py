"""Scores trained models and their rivals on one test part."""

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
from iotid.evaluation.ablation import hide
from iotid.evaluation.align import Model, check_probabilities, over_labels, translate
from iotid.evaluation.schema import REPORT_VERSION, Dataset, Hidden, Reads, Report, Seconds, SplitSize, System
from iotid.labels.devices import merged_name

if TYPE_CHECKING:
    from iotid.dataset import EncodedFlows, Encoding
    from iotid.partitions import Partition, Store

_MODEL_ORIGIN = "adaptive ensemble of bi-LSTMs (the paper's)"


def evaluate(
    dataset: Partition,
    models: Mapping[str, Model],
    settings: config.Evaluation,
    nights: Sequence[Partition] = (),
) -> tuple[Report, pa.Table]:
    """The report of ``models`` (name -> trained model) and of ``settings.baselines``, each fitted on the training part.

    Beside it the answers behind it: a row for each row of the test part, in its order, with ``label``, ``flows`` (that
    the row stands for), and of each system ``NAME`` (its answer) and ``NAME.confidence``.

    A model of another dataset is scored through its own vocabularies; the classes that only it knows are labels of the
    report without test flows, so that answering one is wrong. ``nights``: flows that the model which serves has to read
    (``census_flows``).

    Raises:
        SettingError: a baseline is unknown or has the name of a model.
        DataError: the test part is empty, or a system's answers are no probabilities.
        PartitionError: the dataset is not whole.
    """
    from iotid.dataset import read_encoding, read_split

    told = dataset.metadata
    identity: Dataset = {
        "name": dataset.key["name"],
        "hash": told["hash"],
        "protocol": told["protocol"],
        "parts": {part: SplitSize(rows=told["rows"][part], flows=told["flows"][part]) for part in told["rows"]},
    }
    train, test = (read_split(dataset.uri, part) for part in ("train", "test"))
    return score(identity, read_encoding(dataset.uri), train, test, models, settings, nights)


def census_flows(store: Store) -> list[Partition]:
    """The latest night of ``flows`` of each site that a census was taken of: as it is assembled, the next will be."""
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
    nights: Sequence[Partition] = (),
) -> tuple[Report, pa.Table]:
    """``evaluate`` on parts that are in memory."""
    contestants = _rivals(encoding, train, test, settings)
    both = sorted(set(contestants) & set(models))
    if both:
        raise SettingError(f"evaluation.baselines: {both[0]!r} is also the name of a model; rename the model")
    if not test.num_flows.sum():
        raise DataError(f"dataset {identity['name']}: the test part is empty; write it with a larger test share")
    contestants = {**_trained(encoding, test, models, settings, nights), **contestants}
    labels = list(encoding.labels)
    labels += sorted({label for each in contestants.values() for label in each.knows} - set(labels))
    told: dict[str, Mapping[str, str]] = {}
    for known in (*(model.encoding for model in models.values()), encoding):
        told |= known.devices
    merged = [merged_name(label, told.get(label, {})) for label in labels]
    ceiling = leakage.ceiling(test)
    names = np.array(labels, dtype=object)
    answers: dict[str, Any] = {"label": names[test.label], "flows": test.num_flows}
    systems: dict[str, System] = {}
    predicted: dict[str, NDArray[np.int64]] = {}
    for name, each in contestants.items():
        systems[name], answers_NL = _judge(name, each, test, labels, merged, ceiling, settings)
        predicted[name] = answers_NL.argmax(axis=1)
        answers |= {name: names[predicted[name]], f"{name}.confidence": answers_NL.max(axis=1)}
    for ours, theirs in permutations(models, 2):
        systems[ours]["lead"][theirs] = metrics.lead(
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
        "floor": leakage.floor(test),
        "leakage": leakage.leakage(train, test),
        "seen": leakage.seen(train, test),
        "ceiling": ceiling,
        "systems": systems,
    }
    return report, pa.table(answers)


@dataclass(frozen=True)
class _Contestant:
    """``answer`` gives (N, len(knows)) probabilities of the test part's N rows, once ``fit``, if any, was called.

    Of a trained model, ``reads`` says which flows it reads, and ``hidden`` answers as ``answer`` does for each
    characteristic, with that one hidden.
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
    nights: Sequence[Partition],
) -> dict[str, _Contestant]:
    def contestant(name: str, model: Model) -> _Contestant:
        sequences = translate(test.sequences, encoding, model.encoding, name)

        def without(characteristic: str) -> NDArray[Any]:
            return model.probabilities(hide(sequences, characteristic, test.num_flows, settings.seed))

        return _Contestant(
            "model",
            _MODEL_ORIGIN,
            model.encoding.labels,
            answer=lambda: model.probabilities(sequences),
            reads=_reads(model.encoding, nights),
            hidden={characteristic: partial(without, characteristic) for characteristic in sequences},
        )

    return {name: contestant(name, model) for name, model in models.items()}


def _reads(encoding: Encoding, nights: Sequence[Partition]) -> Reads:
    misfits = {night.uri: encoding.misfit(night.metadata["settings"]["flow"]) for night in nights}
    return {
        "flows_version": schemas.FLOWS.version,  # a model of another version is not loaded
        "length": encoding.length,
        "max_packets": encoding.max_packets,
        "characteristics": list(encoding.vocabularies),
        "protocols": list(encoding.protocols),
        "unfit_nights": [f"{night} {misfit}" for night, misfit in misfits.items() if misfit],
    }


def _rivals(
    encoding: Encoding, train: EncodedFlows, test: EncodedFlows, settings: config.Evaluation
) -> dict[str, _Contestant]:
    def contestant(name: str) -> _Contestant:
        rival = baselines.create(name, encoding, settings.seed)
        return _Contestant(
            "baseline",
            rival.origin,
            encoding.labels,
            answer=lambda: rival.probabilities(test.sequences),
            fit=lambda: rival.fit(train, len(encoding.labels)),
        )

    return {name: contestant(name) for name in settings.baselines}


def _judge(
    name: str,
    contestant: _Contestant,
    test: EncodedFlows,
    labels: Sequence[str],
    merged: Sequence[str],
    ceiling: float,
    settings: config.Evaluation,
) -> tuple[System, NDArray[Any]]:
    """What the contestant reached, and its answers (N, labels)."""
    started = time.perf_counter()
    if contestant.fit:
        contestant.fit()
    fitted = time.perf_counter()
    own_NC = contestant.answer()
    seconds = Seconds(fit=fitted - started if contestant.fit else None, score=time.perf_counter() - fitted)
    check_probabilities(own_NC, len(test.label), len(contestant.knows), name)
    answers_NL = over_labels(own_NC, contestant.knows, labels)
    predicted_N = answers_NL.argmax(axis=1)
    confusion_LL = metrics.confusion_matrix(test.label, predicted_N, test.num_flows, len(labels))
    hidden: dict[str, Hidden] = {}
    for characteristic, answer in contestant.hidden.items():
        without_N = over_labels(answer(), contestant.knows, labels).argmax(axis=1)
        without_LL = metrics.confusion_matrix(test.label, without_N, test.num_flows, len(labels))
        hidden[characteristic] = {
            "macro_f1": metrics.scores(without_LL, 0, settings.seed)["macro_f1"]["value"],
            "f1": [row["f1"] for row in metrics.per_class(without_LL, labels)],
        }
    bins = metrics.reliability(answers_NL.max(axis=1), predicted_N == test.label, test.num_flows)
    scores = metrics.scores(confusion_LL, settings.bootstrap, settings.seed)
    system: System = {
        "kind": contestant.kind,
        "origin": contestant.origin,
        "knows": list(contestant.knows),
        "metrics": scores,
        "coarse": metrics.scores(metrics.merge(confusion_LL, merged)[0], settings.bootstrap, settings.seed),
        "ceiling_share": (scores["accuracy"]["value"] or 0.0) / ceiling,
        "expected_calibration_error": metrics.expected_calibration_error(bins),
        "reliability": bins,
        "per_class": metrics.per_class(confusion_LL, labels),
        "confusion": confusion_LL.tolist(),
        "hidden": hidden,
        "lead": {},
        "reads": contestant.reads,
        "seconds": seconds,
    }
    return system, answers_NL
