"""Models scored on a dataset with other vocabularies and other classes than their own."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from iotid.dataset import Encoding, Vocabulary
from iotid.errors import DataError
from iotid.evaluation.align import align_columns, check_probabilities, translate

_DATASET = Encoding(
    4, {"packet_length": Vocabulary((40, 60, 1500)), "tcp_window": Vocabulary((0, 7))}, ("cam",), {}, (6,), "ip"
)
_SEQUENCES = {
    "packet_length": np.array([[2, 3, 4, 1], [4, 0, 0, 0]], dtype=np.int32),
    "tcp_window": np.array([[2, 2, 3, 3], [3, 0, 0, 0]], dtype=np.int32),
}


def test_translate__keeps_values_and_padding() -> None:
    model = dataclasses.replace(_DATASET, vocabularies={"packet_length": Vocabulary((1, 40, 1500))})
    translated = translate(_SEQUENCES, _DATASET, model, "champion")
    assert list(translated) == ["packet_length"]
    assert translated["packet_length"].tolist() == [[3, 1, 4, 1], [4, 0, 0, 0]]
    assert translated["packet_length"].dtype == np.int32


def test_translate__to_the_same_encoding_changes_nothing() -> None:
    translated = translate(_SEQUENCES, _DATASET, _DATASET, "challenger")
    assert all((translated[name] == ids).all() for name, ids in _SEQUENCES.items())


def test_translate__model_of_fewer_packets_reads_the_first() -> None:
    translated = translate(_SEQUENCES, _DATASET, dataclasses.replace(_DATASET, max_packets=2), "champion")
    assert translated["tcp_window"].tolist() == [[2, 2], [3, 0]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_packets": 8}, "reads 8 packets of a flow, the dataset keeps 4"),
        ({"vocabularies": {"direction": Vocabulary((-1, 1))}}, "reads direction"),
        ({"length": "frame"}, "flow.length=frame"),
    ],
)
def test_translate__dataset_that_lacks_what_the_model_reads_is_refused(change: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        translate(_SEQUENCES, _DATASET, dataclasses.replace(_DATASET, **change), "champion")


def test_align_columns__orders_by_labels_and_fills_with_zeros() -> None:
    spread = align_columns(np.array([[0.75, 0.25]]), ["plug", "cam"], ["cam", "kettle", "plug"])
    assert spread.tolist() == [[0.25, 0, 0.75]]


@pytest.mark.parametrize(
    "broken",
    [
        np.array([[0.5, np.nan], [0.5, 0.5]]),
        np.array([[0.5, 0.6], [0.5, 0.5]]),
        np.array([[1.5, -0.5], [0.5, 0.5]]),
        np.array([[np.inf, 0.5], [0.5, 0.5]]),
    ],
)
def test_check_probabilities__names_the_system_and_the_number_of_broken_rows(broken: np.ndarray) -> None:
    with pytest.raises(DataError, match="system challenger: the probabilities of 1 of 2 rows"):
        check_probabilities(broken, 2, 2, "challenger")


def test_check_probabilities__refuses_another_shape_and_takes_float32() -> None:
    with pytest.raises(DataError, match=r"\(2, 2\)"):
        check_probabilities(np.ones((2, 1)), 2, 2, "challenger")
    check_probabilities(np.full((2, 3), 1 / 3, dtype=np.float32), 2, 3, "challenger")
