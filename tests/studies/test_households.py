"""Households: merges, metrics, and a comparison with a known answer."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, identity

from iotid.config import load_settings
from iotid.dataset import LabelledFlows
from iotid.labels import Device, DeviceList
from iotid.schemas import FLOWS
from iotid.studies import compare as comparison
from iotid.studies.households import run as households
from iotid.studies.households import scores as household_scores
from iotid.studies.households.addresses import Addresses, LabelledSets, Observed
from iotid.studies.households.run import ELSEWHERE, HELD_OUT, HOST, Scenario, UnseenSets
from iotid.studies.households.scores import Predictions

_SECOND = 1_000_000


def _predictions(found: list[list[int]], unknown: list[int], undecided: list[int]) -> Predictions:
    found_BK = np.array(found, np.bool_)
    return Predictions(found_BK.astype(float), found_BK, np.array(unknown, np.bool_), np.array(undecided, np.bool_))


def _observed(ids: list[int], times: list[tuple[int, int]] | None = None) -> Observed:
    """A flow for each of ``ids``, with the seconds of its first and last packet."""
    first, last = _SECOND * np.array(times or [(0, 0)] * len(ids)).T
    sequences = {"length": np.array(ids, np.int32)[:, np.newaxis]}
    return Observed.of(sequences, identity(len(ids), format="csr"), first, last)


def test_score_merges__counts_kinds_over_all_merges() -> None:
    there_BK = np.array([[1, 1, 0], [0, 0, 1], [0, 1, 0], [2, 0, 0]])
    found = _predictions([[1, 1, 0], [0, 1, 1], [0, 0, 0], [1, 0, 0]], [0, 1, 1, 0], [0, 0, 0, 0])
    scores = household_scores.score_merges(there_BK, np.array([False, False, True, True]), found)
    assert scores == {
        "exact": 2 / 4,
        "precision": 4 / 5,
        "recall": 4 / 5,
        "f1": 8 / 10,
        "false_unknown": 1 / 2,
        "missed_unknown": 1 / 2,
        "calibration": pytest.approx(1 / 5),  # five have probability 1, four of them are there
        "count_error": None,
    }


def test_score_merges__metrics_of_nothing_are_none() -> None:
    nothing = _predictions([[0], [0]], [1, 1], [0, 0])
    scores = household_scores.score_merges(np.ones((2, 1), np.int64), np.ones(2, np.bool_), nothing)
    assert scores["precision"] is scores["false_unknown"] is scores["calibration"] is None
    assert (scores["recall"], scores["missed_unknown"]) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("units", "error"),
    [([[1, 1], [1, 1]], 1 / 6), ([[2, 1], [1, 1]], 0.0), ([[2, 2], [1, 2]], 2 / 3), ([[2, 1], [2, 1]], 0.0)],
)
def test_count_error__counts_kinds_that_are_there_and_found(units: list[list[int]], error: float) -> None:
    found = _predictions([[1, 1], [0, 1]], [0, 0], [0, 0])._replace(min_devices=np.array(units))
    there_BK = np.array([[2, 1], [1, 1]])  # of the second address the first kind is not found, so not counted
    assert household_scores.count_error(there_BK, found) == pytest.approx(error)


def test_of_single__each_set_is_one_of_four() -> None:
    kind_B = np.array([0, 0, 0, 1, -1, -1, -1, -1])
    found = [[1, 0], [1, 1], [0, 1], [0, 0], [1, 0], [0, 0], [0, 0], [0, 0]]
    predictions = _predictions(found, [0, 0, 0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 0, 0, 0, 0])
    expected = {"right": 1 / 8, "wrong": 3 / 8, "undecided": 1 / 8, "unknown": 3 / 8}
    assert household_scores.score_single_sets(kind_B, predictions) == expected


def test_calibration_error__weighs_bins_by_their_numbers() -> None:
    probability = np.array([0.1, 0.45, 0.45, 0.9, 0.9, 0.9, 1.0])  # the first is too low to count
    is_so = np.array([True, True, False, True, True, False, True])
    assert household_scores.calibration_error(probability, is_so) == pytest.approx((0.1 + 0.7) / 6)


def _unseen(what: list[int], kind: list[int], device: list[int], observed: Observed | None = None) -> UnseenSets:
    """Sets of one flow each."""
    observed = observed or _observed(list(range(len(what))))
    addresses = Addresses.of_units(observed, np.arange(len(what)))
    return UnseenSets(addresses, np.array(what), np.array(kind), np.array(device))


def _flows(merged: households.Merged | None) -> list[list[int]]:
    assert merged is not None
    found: list[list[int]] = merged.addresses.distinct.toarray().tolist()
    return found


def test_merged__has_the_contents_of_each_scenario() -> None:
    unseen, random = _unseen([HELD_OUT, HELD_OUT, ELSEWHERE, HOST], [0, 2, -1, -1], [0, 1, 2, 3]), _random()
    merged = unseen.merged(Scenario(2, never=1), 3, 3, random)
    assert _flows(merged) == [[1, 1, 1, 0]] * 3
    assert merged is not None
    assert merged.devices.tolist() == [[1, 0, 1]] * 3
    assert merged.unknown.all()
    assert _flows(unseen.merged(Scenario(2, hosts=True), 1, 3, random)) == [[1, 1, 0, 1]]
    single = unseen.merged(Scenario(1), 1, 3, random)
    assert single is not None
    assert not single.unknown.any()
    assert unseen.merged(Scenario(3), 1, 3, random) is None
    assert unseen.merged(Scenario(1, two_units=True), 1, 3, random) is None


def test_merged__a_second_device_of_a_kind_is_another_device_if_possible() -> None:
    unseen = _unseen([HELD_OUT] * 4, [0, 1, 1, 1], [0, 1, 1, 2])
    merged = unseen.merged(Scenario(2, two_units=True), 20, 2, _random())
    assert merged is not None
    assert merged.devices.tolist() == [[1, 2]] * 20
    flows = np.array(_flows(merged))
    assert (flows[:, 0] == 1).all()
    assert (flows[:, 3] == 1).all()  # the set of the second device is in every merge
    assert (flows[:, 1:3].sum(axis=1) == 1).all()


def test_merged__of_the_first_hour_later_flows_are_left_out() -> None:
    observed = _observed([0, 1], [(0, 1), (4000, 4001)])
    unseen = _unseen([HELD_OUT] * 2, [0, 1], [0, 1], observed)
    merged = unseen.merged(Scenario(2, first_hour=True), 1, 2, _random())
    assert _flows(merged) == [[1, 0]]
    assert merged is not None
    assert merged.devices.tolist() == [[1, 0]]


def test_addresses__sessions_of_merged_devices_are_open_at_the_same_time() -> None:
    """Two sessions of two minutes one after the other are one at a time; of two devices side by side, two."""
    observed = _observed([7, 7, 7], [(0, 120), (120, 240), (0, 120)])
    flows_BN = csr_matrix(np.array([[1, 1, 0], [1, 0, 1]]))
    addresses = Addresses(observed, flows_BN)
    assert addresses.distinct.toarray().tolist() == [[2], [2]]
    assert addresses.concurrent.toarray().tolist() == [[1], [2]]


def test_labelled_sets__are_in_the_order_of_their_labels() -> None:
    observed = _observed([5, 6, 7, 6])
    labelled = LabelledSets.of(observed, np.array([0, 1, 2, 1]), np.array([2, -1, 0, -1]), np.array([9, 8, 7, 8]))
    sets = labelled.sets()
    assert sets.label.tolist() == [-1, 0, 2]
    assert sets.recording.tolist() == [8, 7, 9]
    assert sets.flows.toarray().tolist() == [[0, 2, 0], [0, 0, 1], [1, 0, 0]]


def test_observed__joins_flows_of_several_laboratories() -> None:
    one, other = _observed([1, 2]), _observed([2, 3, 2], [(0, 1), (2, 3), (4, 5)])
    joined = Observed.join([one, other])
    ids: NDArray[np.int32] = joined.sequences["length"][joined.row]
    assert ids.ravel().tolist() == [1, 2, 2, 3, 2]
    assert joined.fingerprints.shape == (5, 3)
    assert joined.last_us.tolist() == [0, 0, _SECOND, 3 * _SECOND, 5 * _SECOND]


KINDS = ("camera", "hub", "plug")
_SMALL = Path(__file__).with_name("small.yaml")


def _captures(captures: int = 6, flows: int = 5) -> LabelledFlows:
    """Captures of one device of each kind, of so many flows each; kinds share no length."""
    chance = np.random.default_rng(5)
    devices = tuple(
        Device(name=kind, vendor="Acme", type=kind, mac=f"aa:bb:cc:dd:ee:0{number}")
        for number, kind in enumerate(KINDS)
    )
    rows = [
        {
            "capture_file": f"{kind}-{capture}",
            "client_mac": f"aa:bb:cc:dd:ee:0{number}",
            "client_ip": "10.0.0.2",
            "client_port": 1000 + flow,
            "protocol": 6,
            "packet_length": (300 * number + 50 + 4 * chance.integers(0, 3, 3)).tolist(),
            "tcp_window": [1000] * 3,
            "direction": [1, -1, 1],
            "inter_arrival_us": [0, 1000, 1000],
            "first_seen": 20 * _SECOND * flow,
            "last_seen": 20 * _SECOND * flow + 2000,
        }
        for number, kind in enumerate(KINDS)
        for capture in range(captures)
        for flow in range(flows)
    ]
    columns: dict[str, list[object]] = {}
    for field in (schema := FLOWS.arrow_schema()):
        is_list, is_text = pa.types.is_list(field.type), pa.types.is_string(field.type)
        nothing: object = [0] * 3 if is_list else "-" if is_text else None if field.nullable else 0
        nothing = False if field.type == pa.bool_() else nothing
        columns[field.name] = [row.get(field.name, nothing) for row in rows]
    table = pa.Table.from_arrays([pa.array(columns[field.name], field.type) for field in schema], schema=schema)
    settings = load_settings([_SMALL])
    return LabelledFlows.of(table, DeviceList(devices, "list.yaml"), settings.dataset, settings.flow)


@pytest.fixture(scope="module")
def compared() -> households.HouseholdComparison:
    changes = ["evaluation.household_folds=2", "evaluation.household_merges=6", "census.min_flows=1"]
    outcome = households.compare_methods(_captures(), load_settings([_SMALL], changes))
    assert outcome is not None
    return outcome


def test_compare__has_every_method_and_scenario(compared: households.HouseholdComparison) -> None:
    assert compared["kinds"] == [f"Acme {kind}" for kind in KINDS]
    merges = compared["merges"]
    # three kinds are there, of which those of one group of two are never left out with all others
    assert [name for name in merges if "left" not in name] == [
        *(f"{kinds} kind{'s' * (kinds > 1)}" for kinds in (1, 2, 3)),
        *(f"{kinds} kind{'s' * (kinds > 1)}, 50 % of flows" for kinds in (1, 2, 3)),
        "1 kind + a second device of one",
        "3 kinds + a second device of one",
        households.ALL,
    ]
    assert "1 kind + 1 left out" in merges
    for scenario, scores in merges.items():
        assert list(scores) == ["merges", "iotid", "flow vote", "spatial-temporal CNN"]
        assert scenario == households.ALL or scores["merges"] <= 6
    assert merges[households.ALL]["merges"] == sum(
        scores["merges"] for name, scores in merges.items() if name != households.ALL
    )


def test_compare__distinct_kinds_are_found(compared: households.HouseholdComparison) -> None:
    merges = compared["merges"]
    assert merges["1 kind"]["iotid"]["exact"] == merges["3 kinds"]["iotid"]["exact"] == 1.0
    assert merges["3 kinds"]["spatial-temporal CNN"]["recall"] == 1.0
    assert merges["3 kinds"]["iotid"]["count_error"] == 0.0
    two = merges["1 kind + a second device of one"]["iotid"]
    assert two["count_error"] == 0.5  # short flows of two devices are no sign of a second one
    assert merges["1 kind"]["flow vote"]["count_error"] is None
    assert compared["alone"]["held-back captures"]["iotid, hosts"]["right"] == 1.0
    assert compared["alone"]["held-back captures"]["sets"] == 18


def test_compare__is_none_without_merges_or_held_out_captures() -> None:
    assert households.compare_methods(_captures(), load_settings([_SMALL])) is None
    flows = _captures(1, flows=12)
    paths = pa.array(["one.pcap"] * len(flows.label))
    together = flows.flows.set_column(flows.flows.schema.get_field_index("capture_file"), "capture_file", paths)
    one_file = dataclasses.replace(flows, flows=together)
    assert households.compare_methods(one_file, load_settings([_SMALL], ["evaluation.household_merges=1"])) is None


def test_write__has_households(compared: households.HouseholdComparison, tmp_path: Path) -> None:
    folder, _ = comparison.write([], tmp_path, compared)
    assert json.loads((folder / "households.json").read_text()) == json.loads(json.dumps(compared))
    text = (folder / "comparison.md").read_text()
    assert "| merged | merges | method | exact | precision | recall | f1 |" in text
    assert "| 1 kind | 6 | iotid | 100.0 % | 100.0 % | 100.0 % | 100.0 % |" in text
    assert "reconstruction" in text
    numbers = comparison.flat_households(compared)
    assert numbers["households.iotid.exact"] == compared["merges"][households.ALL]["iotid"]["exact"]
    assert json.loads((comparison.write([], tmp_path)[0] / "households.json").read_text()) is None


def _random() -> np.random.Generator:
    return np.random.default_rng(0)
