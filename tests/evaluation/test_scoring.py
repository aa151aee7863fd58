"""The report of one small dataset, recomputed from the answers."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn import metrics as oracle_metrics

from iotid import schemas
from iotid.config import Evaluation, load_settings
from iotid.dataset import EncodedFlows, Vocabulary
from iotid.errors import DataError, SettingError
from iotid.evaluation import system_report
from iotid.evaluation.scoring import census_flows, score
from iotid.model import AdaptiveEnsemble, Predictor, save_bundle
from iotid.partitions import Partition, PartitionKey, Store
from iotid.promotion import decide


def _evaluation(baselines: str, bootstrap: int = 0) -> Evaluation:
    changes = [f"evaluation.baselines=[{baselines}]", f"evaluation.bootstrap={bootstrap}"]
    return load_settings(overrides=changes).evaluation


_ALL = _evaluation("majority_sequence, sequence_knn, random_forest", 50)
_NONE = _evaluation("")


def _score(small: Any, models: dict[str, Any], settings: Evaluation, test: EncodedFlows | None = None) -> Any:
    return score(small.identity, small.encoding, small.train, small.test if test is None else test, models, settings)[0]


def test_score__report_is_json_with_every_system_and_metric(small: Any, oracle: Any) -> None:
    report = _score(small, {"ensemble": oracle}, _ALL)
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert list(report["systems"]) == ["ensemble", *_ALL.baselines]
    assert report["dataset"] == small.identity
    assert report["labels"] == ["cam", "plug", "kettle"]
    for name, system in report["systems"].items():
        assert system["kind"] == ("model" if name == "ensemble" else "baseline")
        assert (system["seconds"]["fit"] is None) == (name == "ensemble")
        assert sum(map(sum, system["confusion"])) == small.test.num_flows.sum()
        assert system["ceiling_share"] == pytest.approx(system["metrics"]["accuracy"]["value"] / report["ceiling"])
        assert system["ceiling_share"] <= 1
        for metric in system["metrics"].values():
            assert metric["low"] <= metric["value"] <= metric["high"]


def test_score__stored_answers_give_the_confusion_matrices(small: Any, oracle: Any) -> None:
    report, answers = score(small.identity, small.encoding, small.train, small.test, {"ensemble": oracle}, _ALL)
    assert answers.num_rows == len(small.test)
    labels = report["labels"]
    for name, system in report["systems"].items():
        again = oracle_metrics.confusion_matrix(
            answers["label"].to_pylist(),
            answers[name].to_pylist(),
            labels=labels,
            sample_weight=answers["flows"].to_pylist(),
        )
        assert again.tolist() == system["confusion"]
        assert all(0 < confidence <= 1 for confidence in answers[f"{name}.confidence"].to_pylist())


def test_score__classes_of_one_vendor_and_type_are_merged(small: Any, oracle: Any) -> None:
    acme = {"vendor": "Acme", "type": "thing"}
    devices = {"cam": {"vendor": "Acme", "type": ""}, "plug": acme, "kettle": acme}
    encoding = dataclasses.replace(small.encoding, devices=devices)
    report, answers = score(small.identity, encoding, small.train, small.test, {"ensemble": oracle}, _NONE)
    assert report["merged"] == ["cam", "Acme thing", "Acme thing"]
    merged = dict(zip(report["labels"], report["merged"], strict=True))
    true, named = ([merged[label] for label in answers[column].to_pylist()] for column in ("label", "ensemble"))
    expected = oracle_metrics.f1_score(true, named, average="macro", sample_weight=answers["flows"].to_pylist())
    coarse = report["systems"]["ensemble"]["coarse"]["macro_f1"]["value"]
    assert coarse == pytest.approx(expected)
    assert coarse > report["systems"]["ensemble"]["metrics"]["macro_f1"]["value"]


def test_score__numbers_equal_scikit_learn_on_the_models_own_answers(small: Any, oracle: Any) -> None:
    system = _score(small, {"ensemble": oracle}, _NONE)["systems"]["ensemble"]
    predicted = oracle.probabilities(small.test.sequences).argmax(axis=1)
    weight = {"sample_weight": small.test.num_flows}
    expected = oracle_metrics.f1_score(small.test.label, predicted, average="macro", **weight)
    assert system["metrics"]["macro_f1"]["value"] == pytest.approx(expected)
    right = np.average(predicted == small.test.label, weights=small.test.num_flows)
    assert system["metrics"]["accuracy"] == {"value": pytest.approx(right), "low": None, "high": None}
    assert system["expected_calibration_error"] == pytest.approx(abs(0.9 - right), abs=1e-6)
    support = [int(small.test.num_flows[small.test.label == label].sum()) for label in range(3)]
    assert [row["support"] for row in system["per_class"]] == support


def test_score__model_of_another_dataset_is_scored_through_its_own_vocabulary(small: Any, oracle: Any) -> None:
    # the same knowledge under other ids; two labels in other columns, one the dataset lacks, and no `kettle`
    foreign = dataclasses.replace(
        small.encoding,
        vocabularies={"packet_length": Vocabulary((7, 8, 40, 41, 42))},
        labels=("cam", "plug", "retired"),
    )
    report = _score(small, {"challenger": oracle, "champion": dataclasses.replace(oracle, encoding=foreign)}, _NONE)
    assert report["labels"] == ["cam", "plug", "kettle", "retired"]
    ours, theirs = report["systems"]["challenger"], report["systems"]["champion"]
    assert theirs["knows"] == ["cam", "plug", "retired"]
    for row in range(3):
        assert theirs["confusion"][row] == [*ours["confusion"][row][:2], 0, ours["confusion"][row][2]]
    assert theirs["per_class"][2]["recall"] == 0
    assert theirs["per_class"][3] == {"label": "retired", "precision": None, "recall": None, "f1": None, "support": 0}


def test_score__reports_are_what_decide_compares(small: Any, oracle: Any, settings: Any) -> None:
    report = _score(small, {"challenger": oracle}, _ALL)
    ours, baseline = system_report(report, "challenger"), system_report(report, "majority_sequence")
    assert ours["dataset"]["hash"] == "0123456789ab"
    decision = decide(ours, ours, settings.promotion)
    assert not decision.promote
    assert any("does not exceed" in reason for reason in decision.reasons)
    assert len(decide(ours, baseline, settings.promotion).reasons) >= 5
    assert any("not a trained model" in reason for reason in decide(baseline, ours, settings.promotion).reasons)
    with pytest.raises(DataError, match="has no system 'nobody'"):
        system_report(report, "nobody")


def test_score__trained_models_have_paired_differences_and_what_they_read(small: Any, oracle: Any) -> None:
    baseline = dataclasses.replace(
        oracle, encoding=dataclasses.replace(small.encoding, labels=("plug", "cam", "kettle"))
    )
    nights = [
        Partition(f"/flows/{name}", {}, {"settings": {"flow": {"length": length, "max_packets": packets}}})
        for name, length, packets in (("fits", "ip", 9), ("frame", "frame", 9), ("short", "ip", 3))
    ]
    models = {"challenger": oracle, "champion": baseline}
    report, answers = score(small.identity, small.encoding, small.train, small.test, models, _ALL, nights)
    ours, theirs = (report["systems"][name] for name in models)
    assert list(ours["lead"]) == ["champion"]
    lead = ours["lead"]["champion"]
    difference = ours["metrics"]["macro_f1"]["value"] - theirs["metrics"]["macro_f1"]["value"]
    assert lead["value"] == pytest.approx(difference)
    assert 0 < lead["low"] < difference < lead["high"]
    labels, flows = answers["label"].to_pylist(), answers["flows"].to_pylist()
    again = [
        oracle_metrics.f1_score(labels, answers[name].to_pylist(), average="macro", sample_weight=flows)
        for name in models
    ]
    assert lead["value"] == pytest.approx(again[0] - again[1])
    assert theirs["lead"]["challenger"]["value"] == pytest.approx(-difference)
    assert ours["reads"] == {
        "flows_version": schemas.FLOWS.version,
        "length": "ip",
        "max_packets": 4,
        "characteristics": ["packet_length", "tcp_window"],
        "protocols": [6, 17],
        "unfit_nights": [
            "/flows/frame has flow.length=frame, the model learned ip",
            "/flows/short has flow.max_packets=3, the model reads 4",
        ],
    }
    baseline = report["systems"]["random_forest"]
    assert (baseline["lead"], baseline["reads"]) == ({}, None)


def test_census_flows__are_the_latest_of_each_site_that_a_census_was_taken_of(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    assert census_flows(store) == []
    for table, site, date in (
        ("census", "home", "2026-01-10"),
        ("flows", "home", "2026-01-10"),
        ("flows", "home", "2026-01-11"),
        ("census", "gone", "2026-01-10"),
        ("flows", "lab", "2026-01-12"),
    ):
        with store.write(table, PartitionKey.of_date(site, date)):
            pass
    assert [night.key for night in census_flows(store)] == [PartitionKey.of_date("home", "2026-01-11")]


def test_score__class_without_test_flows_is_null_and_left_out_of_the_macro(small: Any, oracle: Any) -> None:
    kept = small.test.label != 2
    test = EncodedFlows(
        {name: ids[kept] for name, ids in small.test.sequences.items()},
        small.test.label[kept],
        small.test.num_flows[kept],
    )
    system = _score(small, {"ensemble": oracle}, _ALL, test)["systems"]["ensemble"]
    assert system["per_class"][2]["recall"] is None
    recalls = [row["recall"] for row in system["per_class"][:2]]
    assert system["metrics"]["macro_recall"]["value"] == pytest.approx(np.mean(recalls))


def test_score__one_row_and_one_class_are_enough(small: Any, oracle: Any) -> None:
    test = EncodedFlows({name: ids[:1] for name, ids in small.test.sequences.items()}, np.array([0]), np.array([1]))
    report = _score(small, {"ensemble": oracle}, _ALL, test)
    assert report["ceiling"] == report["floor"] == 1
    json.dumps(report, allow_nan=False)


def test_score__broken_model_is_named(small: Any, oracle: Any) -> None:
    with pytest.raises(DataError, match="system ensemble: the probabilities of 100 of 100 rows"):
        _score(small, {"ensemble": dataclasses.replace(oracle, confidence=float("nan"))}, _NONE)


def test_score__empty_test_split_is_an_error(small: Any, oracle: Any) -> None:
    empty = EncodedFlows(
        {name: ids[:0] for name, ids in small.test.sequences.items()}, np.zeros(0, int), np.zeros(0, int)
    )
    with pytest.raises(DataError, match="dataset small: the test split is empty"):
        _score(small, {"ensemble": oracle}, _NONE, empty)


def test_score__model_with_the_name_of_a_baseline_is_refused_as_is_an_unknown_one(small: Any, oracle: Any) -> None:
    with pytest.raises(SettingError, match="'random_forest' is also the name of a model"):
        _score(small, {"random_forest": oracle}, _ALL)
    with pytest.raises(SettingError, match="'oracle' is not known"):
        _score(
            small,
            {"ensemble": oracle},
            _evaluation("oracle"),
        )


def test_score__accepts_a_stored_model(small: Any, settings: Any, tmp_path: Path) -> None:
    import torch

    torch.manual_seed(1)
    sizes = {name: vocabulary.size for name, vocabulary in small.encoding.vocabularies.items()}
    model = settings.model.model_copy(update={"sequence_counts": False})
    ensemble = AdaptiveEnsemble(model, sizes, len(small.encoding.labels))
    save_bundle(tmp_path, ensemble.state_dict(), model, small.encoding)
    predictor = Predictor.load(tmp_path)
    system = _score(small, {"ensemble": predictor}, _NONE)["systems"]["ensemble"]
    predicted = predictor.probabilities(small.test.sequences).argmax(axis=1)
    right = np.average(predicted == small.test.label, weights=small.test.num_flows)
    assert system["metrics"]["accuracy"]["value"] == pytest.approx(right)
