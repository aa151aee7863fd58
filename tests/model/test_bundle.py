"""The folder of a trained model, and predictions on tables of flows."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from iotid import config, schemas
from iotid.dataset import Encoding, Vocabulary
from iotid.errors import DataError, SchemaError
from iotid.model import AdaptiveEnsemble, Predictor, bundle, save_bundle

_SETTINGS = config.with_values(
    config.load_settings().model, embedding_size=4, hidden_size=5, layers=1, sequence_counts=False
)
_ENCODING = Encoding(
    max_packets=4,
    vocabularies={"packet_length": Vocabulary((40, 52, 60)), "direction": Vocabulary((-1, 1))},
    labels=("camera", "plug", "hub"),
    devices={},
    protocols=(6, 17),
    length="ip",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(3)
    model = AdaptiveEnsemble(_SETTINGS, bundle.vocabulary_sizes(_ENCODING), 3)
    save_bundle(tmp_path / "bundle", model.state_dict(), _SETTINGS, _ENCODING)
    return tmp_path / "bundle"


def _flows(*lengths: list[int]) -> pa.Table:
    columns = {"packet_length": list(lengths), "direction": [[1 - 2 * (i % 2) for i in range(len(x))] for x in lengths]}
    return pa.table({name: pa.array(lists, pa.list_(pa.int32())) for name, lists in columns.items()})


def test_predict__gives_predictions_rows_in_the_order_of_the_flows(folder: Path) -> None:
    predictor = Predictor.load(folder)
    flows = _flows([40, 52], [60], [40, 52], [99, 52, 60, 40, 40, 40], [60])
    predicted = predictor.predict(flows)
    schemas.PREDICTIONS.check(predicted.schema)
    assert predicted.num_rows == 5
    for row in range(5):
        alone = predictor.predict(flows.slice(row, 1)).to_pylist()[0]
        together = predicted.slice(row, 1).to_pylist()[0]
        assert together["label"] == alone["label"]
        for name in ("probabilities", "confidence"):
            np.testing.assert_allclose(together[name], alone[name], rtol=1e-5)
    assert predicted["surprise"].to_pylist() == [0, 0, 0, 1 / 8, 0]


def test_predict__confidence_is_the_labels_probability_and_all_sum_to_1(folder: Path) -> None:
    predicted = Predictor.load(folder).predict(_flows([40], [52], [60, 60])).to_pylist()
    for row in predicted:
        assert sum(row["probabilities"]) == pytest.approx(1, abs=1e-6)
        assert row["confidence"] == max(row["probabilities"])
        assert row["probabilities"][_ENCODING.labels.index(row["label"])] == row["confidence"]


def test_predict__scores_equal_flows_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor, scored = Predictor.load(folder), []
    original = Predictor.probabilities
    monkeypatch.setattr(
        Predictor, "probabilities", lambda self, rows: scored.append(len(rows["direction"])) or original(self, rows)
    )
    predictor.predict(_flows(*([[40, 52]] * 100), [60], *([[40, 52]] * 100)))
    assert scored == [2]


def test_predict__slices_of_a_large_table_join_to_the_same_rows(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor, flows = Predictor.load(folder), _flows([40, 52], [60], [40], [52, 52, 52], [60])
    whole = predictor.predict(flows)
    monkeypatch.setattr(bundle, "_SLICE", 2)
    sliced = predictor.predict(flows)
    assert sliced["label"].to_pylist() == whole["label"].to_pylist()
    np.testing.assert_allclose(sliced["confidence"].to_numpy(), whole["confidence"].to_numpy(), rtol=1e-5)


def test_predict__no_flows_give_no_rows(folder: Path) -> None:
    predicted = Predictor.load(folder).predict(_flows())
    schemas.PREDICTIONS.check(predicted.schema)
    assert predicted.num_rows == 0


def test_predict__takes_data_frames_and_dicts(folder: Path) -> None:
    predictor, flows = Predictor.load(folder), _flows([40, 52], [60], [99])
    expected = predictor.predict(flows)
    for given in (flows.to_pandas(), flows.to_pylist(), flows.to_batches()[0]):
        assert predictor.predict(given).equals(expected)


def test_class_probabilities__has_a_column_for_each_class_and_a_row_for_each_flow(folder: Path) -> None:
    predictor, flows = Predictor.load(folder), _flows([40, 52], [60], [40, 52])
    shares = predictor.class_probabilities(flows)
    assert shares.column_names == list(predictor.labels)
    expected = predictor.predict(flows)["probabilities"].to_pylist()
    assert [list(row.values()) for row in shares.to_pylist()] == expected
    assert predictor.class_probabilities(_flows()).num_rows == 0


def test_predictor__repr_is_one_line(folder: Path) -> None:
    expected = f"Predictor({folder}; 3 labels; reads packet_length, direction of 4 packets; 3 bi-LSTMs of 1 x 5 units; "
    assert repr(Predictor.load(folder)) == f"{expected}no device model)"


def test_predict__missing_column_is_one_line_that_names_it(folder: Path) -> None:
    with pytest.raises(SchemaError, match="direction"):
        Predictor.load(folder).predict(_flows([40]).drop_columns(["direction"]))


def test_bundle__holds_two_files_and_loads_without_unpickling(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["model.json", "weights.safetensors"]

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("unpickled")

    for module, name in ((pickle, "load"), (pickle, "loads"), (pickle, "Unpickler"), (torch, "load")):
        monkeypatch.setattr(module, name, refuse)
    assert Predictor.load(folder).labels == ("camera", "plug", "hub")


def test_from_bytes__predicts_as_load_does(folder: Path) -> None:
    weights, description = (folder / bundle.WEIGHTS).read_bytes(), (folder / bundle.DESCRIPTION).read_text()
    flows = _flows([40, 52], [60, 40])
    assert Predictor.from_bytes(weights, description).predict(flows).equals(Predictor.load(folder).predict(flows))


@pytest.mark.parametrize("key", ["bundle_version", "flows_version"])
def test_load__another_version_is_one_clear_line(folder: Path, key: str) -> None:
    path = folder / bundle.DESCRIPTION
    path.write_text(json.dumps({**json.loads(path.read_text()), key: 99}))
    with pytest.raises(SchemaError, match=rf"{key} must be \d+, got 99") as caught:
        Predictor.load(folder)
    assert "\n" not in str(caught.value)


def test_load__unknown_characteristic_is_named(folder: Path) -> None:
    path = folder / bundle.DESCRIPTION
    path.write_text(path.read_text().replace('"direction"', '"colour"'))
    with pytest.raises(SchemaError, match="colour"):
        Predictor.load(folder)


def test_load__missing_or_damaged_files_are_data_errors(folder: Path) -> None:
    weights = (folder / bundle.WEIGHTS).read_bytes()
    (folder / bundle.WEIGHTS).write_bytes(weights[: len(weights) // 2])
    with pytest.raises(DataError, match=r"weights\.safetensors"):
        Predictor.load(folder)
    (folder / bundle.WEIGHTS).unlink()
    with pytest.raises(DataError, match=r"weights\.safetensors cannot be read"):
        Predictor.load(folder)
    (folder / bundle.WEIGHTS).write_bytes(weights)
    (folder / bundle.DESCRIPTION).write_text("{")
    with pytest.raises(DataError, match=r"model\.json"):
        Predictor.load(folder)


def test_write_atomically__a_failed_write_leaves_the_former_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    bundle.write_atomically(path, b"former")
    monkeypatch.setattr(bundle.os, "fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        bundle.write_atomically(path, b"new")
    assert path.read_bytes() == b"former"
