"""The folder of a trained model, and predictions on tables of flows."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from iotid import config, schemas
from iotid.dataset import EncodedFlows, Encoding, Vocabulary
from iotid.errors import DataError, SchemaError
from iotid.model import AdaptiveEnsemble, Predictor, bundle, save_bundle
from iotid.model.bundle import Learned
from iotid.model.network.sequence_counts import SequenceCounts

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


_MANY = Encoding(
    max_packets=12,
    vocabularies={"packet_length": Vocabulary(tuple(range(100))), "tcp_window": Vocabulary(tuple(range(40)))},
    labels=("a", "b", "c", "d", "e"),
    devices={},
    protocols=(6, 17),
    length="ip",
)
_SHAPES = [
    {},
    {"fusion": "sequence"},
    {"readout": "last"},
    {"padding": "zeros", "layers": 2},
    {"hidden_size": 32, "embedding_size": 3},
    {"hidden_size": 4},
]


def _network(**changes: object) -> AdaptiveEnsemble:
    plain = {"embedding_size": 6, "hidden_size": 20, "layers": 1, "sequence_counts": True}
    settings = config.with_values(config.load_settings().model, **{**plain, **changes})
    torch.manual_seed(4)
    network = AdaptiveEnsemble(settings, bundle.vocabulary_sizes(_MANY), len(_MANY.labels))
    with torch.no_grad():
        for weight in network.parameters():
            weight.mul_(3)  # so that answers differ
    return network


def _encoded(rows: int, seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    there = np.arange(12) < random.integers(1, 13, (rows, 1))
    sizes = bundle.vocabulary_sizes(_MANY).items()
    return {name: (random.integers(1, size, (rows, 12)) * there).astype(np.int32) for name, size in sizes}


def _take(sequences: dict[str, np.ndarray], rows: np.ndarray) -> dict[str, np.ndarray]:
    return {name: ids_NM[rows] for name, ids_NM in sequences.items()}


def _with_answers(network: AdaptiveEnsemble, train: dict[str, np.ndarray], **given: int) -> Predictor:
    label = np.arange(len(train["packet_length"])) % 5
    rows = EncodedFlows(train, label, 1 + label)
    answers = Predictor(network, _MANY).answers_to_keep(rows, 1 << 20)
    return Predictor(network, _MANY, Learned(SequenceCounts.of(rows), None, answers), **given)


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("shape", _SHAPES, ids=str)
def test_probabilities__have_the_same_bits_whatever_else_is_asked(shape: dict[str, object], threads: None) -> None:
    predictor, sequences = Predictor(_network(**shape), _MANY, recent_bytes=0), _encoded(90)
    order = np.random.default_rng(1).permutation(90)
    torch.set_num_threads(1)
    expected = predictor.probabilities(sequences)
    assert len(np.unique(expected, axis=0)) > 45
    for number in (1, 2):
        torch.set_num_threads(number)
        shuffled = np.empty_like(expected)
        shuffled[order] = predictor.probabilities(_take(sequences, order))
        np.testing.assert_array_equal(shuffled, expected)
        for size in (1, 7, 40):
            parts = [predictor.probabilities(_take(sequences, rows)) for rows in np.split(order, range(size, 90, size))]
            np.testing.assert_array_equal(np.concatenate(parts), expected[order])


def test_probabilities__kept_answers_have_the_bits_of_new_ones() -> None:
    network, train, later = _network(), _encoded(60), _encoded(80, seed=7)
    both = {name: np.concatenate([train[name], later[name]]) for name in train}
    predictor = _with_answers(network, train)
    plain = Predictor(network, _MANY, Learned(predictor.learned.sequence_counts), recent_bytes=0)
    expected = plain.probabilities(both)
    order = np.random.default_rng(2).permutation(140)
    for rows in (order[:50], order, np.arange(140), order[90:91]):
        np.testing.assert_array_equal(predictor.probabilities(_take(both, rows)), expected[rows])
    np.testing.assert_array_equal(predictor.probabilities(both, anew=True), expected)


def _asked(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of sequences that the network is asked for from now on."""
    asked, original = [], predictor._computed

    def computed(sequences: dict[str, np.ndarray]) -> np.ndarray:
        asked.append(len(sequences["packet_length"]))
        return original(sequences)

    monkeypatch.setattr(predictor, "_computed", computed)
    return asked


def test_probabilities__ask_the_network_once_for_each_new_sequence(monkeypatch: pytest.MonkeyPatch) -> None:
    train, later = _encoded(60), _encoded(80, seed=7)
    predictor = _with_answers(_network(), train)
    asked = _asked(predictor, monkeypatch)
    predictor.probabilities(train)
    assert asked == []
    predictor.probabilities({name: np.concatenate([train[name], later[name][:30], later[name][:30]]) for name in train})
    predictor.probabilities(later)
    predictor.probabilities(later)
    assert asked == [30, 50]
    predictor.probabilities(later, anew=True)
    assert asked == [30, 50, 80]


def test_probabilities__without_recent_answers_ask_again(monkeypatch: pytest.MonkeyPatch) -> None:
    train, later = _encoded(60), _encoded(80, seed=7)
    predictor = _with_answers(_network(), train, recent_bytes=0)
    asked = _asked(predictor, monkeypatch)
    for _ in range(2):
        predictor.probabilities(train)
        predictor.probabilities(later)
    assert asked == [80, 80]


def test_probabilities__threads_share_a_predictor() -> None:
    network, sequences = _network(), _encoded(100)
    predictor = _with_answers(network, _take(sequences, np.arange(40)), recent_bytes=30 * 220)
    expected = predictor.probabilities(sequences, anew=True)

    def ask(seed: int) -> bool:
        rows = np.random.default_rng(seed).permutation(100)[:20]
        return np.array_equal(predictor.probabilities(_take(sequences, rows)), expected[rows])

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(ask, range(40)))


def test_bundle__keeps_answers_and_is_read_without_them(tmp_path: Path) -> None:
    network, train = _network(), _encoded(60)
    predictor = _with_answers(network, train)
    counts = predictor.learned.sequence_counts
    state, settings = network.state_dict(), network.settings
    save_bundle(tmp_path / "with", state, settings, _MANY, predictor.learned)
    save_bundle(tmp_path / "without", state, settings, _MANY, Learned(counts))
    assert Predictor.load(tmp_path / "without").learned.answers is None
    loaded = Predictor.load(tmp_path / "with")
    assert loaded.learned.answers is not None
    sizes = [(tmp_path / name / bundle.WEIGHTS).stat().st_size for name in ("with", "without")]
    assert 60 * (16 + 4 * 5) <= sizes[0] - sizes[1] < 60 * (16 + 4 * 5) + 300  # and their entries in the header
    np.testing.assert_array_equal(
        loaded.probabilities(train), Predictor.load(tmp_path / "without").probabilities(train)
    )


def test_predictor__a_copy_answers_the_same() -> None:
    predictor, sequences = _with_answers(_network(), _encoded(20)), _encoded(30)
    expected = predictor.probabilities(sequences)
    np.testing.assert_array_equal(copy.deepcopy(predictor).probabilities(sequences), expected)
