"""The baselines on hand-made rows, and compared with slow reference implementations."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter, defaultdict

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from iotid import baselines
from iotid.baselines.majority_sequence import MajoritySequence
from iotid.baselines.random_forest import RandomForest
from iotid.baselines.sequence_knn import SequenceKnn
from iotid.baselines.sequences import RawValues
from iotid.dataset import EncodedFlows, Encoding, Vocabulary
from iotid.dataset.arrays import exact_keys, side_by_side
from iotid.errors import SettingError

_LENGTHS = (40, 41, 60, 1500)
_WINDOWS = (0, 100, 65535)


def _encoding(lengths: tuple[int, ...] = _LENGTHS, windows: tuple[int, ...] = _WINDOWS, packets: int = 4) -> Encoding:
    vocabularies = {"packet_length": Vocabulary(lengths), "tcp_window": Vocabulary(windows)}
    return Encoding(packets, vocabularies, ("cam", "plug", "kettle"), {}, (6, 17), "ip")


def _rows(
    lengths: list[list[int]], label: list[int], num_flows: list[int], windows: list[list[int]] | None = None
) -> EncodedFlows:
    """Rows of ids, padded to four packets."""

    def padded(ids: list[list[int]]) -> np.ndarray:
        return np.array([row + [0] * (4 - len(row)) for row in ids], dtype=np.int32)

    sequences = {"packet_length": padded(lengths), "tcp_window": padded(windows or [[2] * len(row) for row in lengths])}
    return EncodedFlows(sequences, np.array(label, dtype=np.int64), np.array(num_flows, dtype=np.int64))


def _random_rows(seed: int, rows: int, encoding: Encoding) -> EncodedFlows:
    random = np.random.default_rng(seed)
    there = np.arange(encoding.max_packets) < random.integers(1, encoding.max_packets + 1, rows)[:, np.newaxis]
    sequences = {
        name: np.where(there, random.integers(2, vocabulary.size, there.shape), 0).astype(np.int32)
        for name, vocabulary in encoding.vocabularies.items()
    }
    return EncodedFlows(sequences, random.integers(0, 3, rows), random.integers(1, 9, rows))


def test_create__unknown_name_lists_those_known() -> None:
    with pytest.raises(SettingError, match=r"evaluation\.baselines: 'knn' .*majority_sequence, sequence_knn, random"):
        baselines.create("knn", _encoding(), seed=1)


@pytest.mark.parametrize("name", baselines.names())
def test_every_baseline__gives_probabilities_of_all_classes_also_those_never_seen(name: str) -> None:
    encoding = _encoding()
    train = _rows([[2, 3], [3], [4, 4, 4, 4]], [0, 0, 2], [5, 1, 1])
    test = _random_rows(1, 50, encoding)
    baseline = baselines.create(name, encoding, seed=1).fit(train, 3)
    answers = baseline.probabilities(test.sequences)
    assert answers.shape == (50, 3)
    assert answers.sum(axis=1) == pytest.approx(1)
    assert (answers >= 0).all()
    assert (answers.argmax(axis=1) != 1).all(), "class 1 is not in training"
    assert baseline.origin


@pytest.mark.parametrize("name", baselines.names())
def test_every_baseline__same_seed_same_results_in_any_order_of_characteristics(name: str) -> None:
    encoding = _encoding(tuple(range(40, 90)), tuple(range(0, 5000, 100)))
    train, test = _random_rows(1, 200, encoding), _random_rows(2, 100, encoding)
    first = baselines.create(name, encoding, seed=1).fit(train, 3).probabilities(test.sequences)
    turned = dict(reversed(test.sequences.items()))
    second = baselines.create(name, encoding, seed=1).fit(train, 3).probabilities(turned)
    assert second == pytest.approx(first)


def test_import__baselines_load_no_heavy_library() -> None:
    code = (
        "import sys, iotid.baselines; print([m for m in ('sklearn', 'scipy', 'torch', 'pyarrow') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_raw_values__padding_is_zero_and_an_unknown_value_the_median() -> None:
    decoded = RawValues(_encoding()).decode({"packet_length": np.array([[0, 1, 2, 5]], dtype=np.int32)})
    assert decoded["packet_length"].tolist() == [[0, 50.5, 40, 1500]]


def test_exact_keys__are_equal_only_where_all_places_are() -> None:
    keys = exact_keys(np.array([[1, 0], [0, 1], [1, 0], [1, 256]], dtype=np.int32))
    assert [[first == second for second in keys] for first in keys] == [
        [True, False, True, False],
        [False, True, False, False],
        [True, False, True, False],
        [False, False, False, True],
    ]


def test_majority_sequence__flows_outvote_rows_and_shares_are_probabilities() -> None:
    train = _rows([[2], [2], [2], [3]], [0, 1, 0, 2], [1, 6, 1, 2])
    answers = MajoritySequence().fit(train, 3).probabilities(_rows([[2], [3]], [0, 0], [1, 1]).sequences)
    assert answers == pytest.approx(np.array([[2 / 8, 6 / 8, 0], [0, 0, 1]]), abs=1e-5)


def test_majority_sequence__unseen_sequence_gets_the_class_frequencies() -> None:
    train = _rows([[2], [3]], [0, 2], [3, 9])
    answers = MajoritySequence().fit(train, 3).probabilities(_rows([[2, 2]], [0], [1]).sequences)
    assert answers == pytest.approx(np.array([[0.25, 0, 0.75]]))


def test_majority_sequence__tie_goes_to_the_commoner_class() -> None:
    train = _rows([[2], [2], [3]], [0, 2, 2], [4, 4, 1])
    answers = MajoritySequence().fit(train, 3).probabilities(_rows([[2]], [0], [1]).sequences)
    assert answers.argmax(axis=1) == [2]


def test_majority_sequence__equals_a_dictionary_of_counters() -> None:
    encoding = _encoding(packets=2)
    train, test = _random_rows(1, 500, encoding), _random_rows(2, 300, encoding)
    seen: dict[bytes, Counter[int]] = defaultdict(Counter)
    for key, label, flows in zip(side_by_side(train.sequences), train.label, train.num_flows, strict=True):
        seen[key.tobytes()][int(label)] += int(flows)
    answers = MajoritySequence().fit(train, 3).probabilities(test.sequences)
    known = 0
    for key, answer in zip(side_by_side(test.sequences), answers, strict=True):
        counts = seen.get(key.tobytes())
        if counts:
            known += 1
            assert answer == pytest.approx([counts[label] / counts.total() for label in range(3)], abs=1e-5)
    assert 200 < known < 300


def test_sequence_knn__distance_is_of_values_not_of_ids() -> None:
    encoding = _encoding()
    # 41 lies beside 40 (label 0) in bytes and in ids between 40 and 60; 60 is nearer to 41 than to 1500
    train = _rows([[2], [5]], [0, 1], [3, 3])
    answers = SequenceKnn(encoding).fit(train, 3).probabilities(_rows([[3], [4]], [0, 0], [1, 1]).sequences)
    assert answers.argmax(axis=1).tolist() == [0, 0]


def test_sequence_knn__equals_scikit_learn_on_flows_one_by_one() -> None:
    encoding = _encoding(tuple(range(40, 1500, 7)), tuple(range(0, 65536, 131)), packets=16)
    train, test = _random_rows(3, 200, encoding), _random_rows(4, 100, encoding)
    baseline = SequenceKnn(encoding, neighbours=5, packets=10).fit(train, 3)
    raw = RawValues(encoding)

    def points(rows: EncodedFlows) -> np.ndarray:
        columns = []
        for name, ids in sorted(rows.sequences.items()):
            values = raw.decode({name: ids})[name]
            known = raw.decode({name: train.sequences[name]})[name][:, :10]
            flows = np.repeat(known, train.num_flows, axis=0)
            spread = flows[np.repeat(train.sequences[name][:, :10], train.num_flows, axis=0) > 0].std()
            columns.append(values[:, :10] / spread)
        return np.concatenate(columns, axis=1)

    oracle = KNeighborsClassifier(5, metric="manhattan", algorithm="brute")
    oracle.fit(np.repeat(points(train), train.num_flows, axis=0), np.repeat(train.label, train.num_flows))
    assert baseline.probabilities(test.sequences) == pytest.approx(oracle.predict_proba(points(test)))


def test_sequence_knn__labels_of_one_sequence_share_its_vote() -> None:
    train = _rows([[2], [2], [5]], [0, 1, 2], [6, 2, 9])
    answers = SequenceKnn(_encoding()).fit(train, 3).probabilities(_rows([[2]], [0], [1]).sequences)
    assert answers == pytest.approx(np.array([[0.75, 0.25, 0]]))


def test_sequence_knn__fewer_flows_than_neighbours_all_vote() -> None:
    train = _rows([[2], [5]], [0, 1], [1, 1])
    answers = SequenceKnn(_encoding()).fit(train, 3).probabilities(_rows([[2]], [0], [1]).sequences)
    assert answers == pytest.approx(np.array([[0.5, 0.5, 0]]))


def test_random_forest__learns_what_the_flows_say_and_is_seeded() -> None:
    encoding = _encoding()
    train = _rows([[2], [2], [5], [4]] * 10, [0, 1, 2, 1] * 10, [1, 50, 5, 5] * 10)
    test = _rows([[2], [5]], [0, 0], [1, 1])
    first, again, other = (
        RandomForest(encoding, seed).fit(train, 3).probabilities(test.sequences) for seed in (1, 1, 2)
    )
    assert first.argmax(axis=1).tolist() == [1, 2], "50 flows outvote 1 on the same sequence"
    assert (first == again).all()
    assert (first != other).any()
