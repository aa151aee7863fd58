"""From the scores of a device's flows to what the device is."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy.sparse import csr_matrix

from iotid.census.vote import VOTES, Tally, vote, watched, width
from iotid.config import Census, Watchlist, load_settings
from iotid.model.bundle import Learned
from iotid.model.kinds import Confusion, kinds_of, sure_of
from iotid.model.novelty import Novelty
from iotid.model.vote import LearnedVote

LABELS = ("camera", "plug", "scale", "lamp", "bell")
DEVICES = {label: {"vendor": f"{label} works", "type": label, "model": ""} for label in LABELS}
SETTINGS = load_settings(
    overrides=[
        "census.min_flows=3", "census.min_confidence=0.6", "census.max_surprise=0.5",
        "census.several_flows=3", "census.several_chance=0.001",
    ]
).census  # fmt: skip

Flow = tuple[str, int, list[float], float]  # device, repeats, probabilities, surprise


def tally_of(
    flows: list[Flow], labels: tuple[str, ...] = LABELS, devices: dict[str, dict[str, str]] = DEVICES
) -> Tally:
    tally = Tally(len(labels))
    probabilities = np.array([flow[2] for flow in flows], np.float32).reshape(-1, len(labels))
    tally.add_flows(
        pa.array([flow[0] for flow in flows], pa.string()),
        np.array([flow[1] for flow in flows], np.int64),
        np.arange(len(flows)),
        probabilities,
        np.array([flow[3] for flow in flows], np.float64),
        sure=sure_of(probabilities, kinds_of(labels, devices)),
    )
    return tally


def row_of(
    flows: list[Flow],
    labels: tuple[str, ...] = LABELS,
    settings: Census = SETTINGS,
    devices: dict[str, dict[str, str]] = DEVICES,
) -> dict[str, Any]:
    tally = tally_of(flows, labels, devices)
    (row,) = vote(tally.table(), labels, devices, settings, learned(labels, devices)).to_pylist()
    return row


def learned(labels: tuple[str, ...] = LABELS, devices: dict[str, dict[str, str]] = DEVICES) -> Learned:
    """A model that no flow of validation led to be sure of a wrong kind."""
    return Learned(confusion=Confusion(np.eye(kinds_of(labels, devices).max() + 1) * 50))


def watchlist(**lists: Any) -> Watchlist:
    return Watchlist.model_validate({"labels": [], "vendors": [], "types": [], "fail": False} | lists)


def twin(flows: list[Flow]) -> dict[str, tuple[int, list[float], float]]:
    """The rule as it reads, one flow after another: flows, shares of the classes, surprise, by device."""
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0] * (len(LABELS) + 3))
    for device, repeats, probabilities, surprise in flows:
        weight = 1 + math.log(repeats)
        for place, value in enumerate([*probabilities, surprise, 1.0]):
            sums[device][place] += weight * value
        sums[device][-1] += repeats
    return {
        device: (int(s[-1]), [share / s[-2] for share in s[: len(LABELS)]], s[-3] / s[-2]) for device, s in sums.items()
    }


def random_flows(count: int) -> list[Flow]:
    rng = np.random.default_rng(11)
    probabilities = rng.dirichlet(np.full(len(LABELS), 0.3), count).astype(np.float32)
    devices = [f"02:00:00:00:00:{number:02x}" for number in rng.integers(0, 40, count)]
    repeats = rng.integers(1, 1000, count)
    return [
        (device, int(n), row.tolist(), float(surprise))
        for device, n, row, surprise in zip(devices, repeats, probabilities, rng.random(count), strict=True)
    ]


def test_tally__equals_the_rule_done_flow_by_flow() -> None:
    flows = random_flows(500)
    expected = twin(flows)
    table = tally_of(flows).table()
    assert set(table["device_id"].to_pylist()) == set(expected)
    for row in table.to_pylist():
        count, shares, surprise = expected[row["device_id"]]
        evidence = np.array(row["evidence"])[: len(LABELS) + 2]
        assert row["flows"] == count
        np.testing.assert_allclose(evidence[:-1] / evidence[-1], [*shares, surprise], rtol=1e-6)


def test_tally__parts_in_any_order_and_number_give_the_same_votes() -> None:
    flows = random_flows(300)
    whole = vote(tally_of(flows).table(), LABELS, DEVICES, SETTINGS).sort_by("device_id")
    order = np.random.default_rng(2).permutation(len(flows))
    for parts in (1, 2, 7, 300):
        merged = Tally(len(LABELS))
        for chosen in np.array_split(order, parts):
            part = tally_of([flows[number] for number in chosen]).table()
            merged.add(part if parts == 2 else part.to_batches()[0])
        assert vote(merged.table(), LABELS, DEVICES, SETTINGS).sort_by("device_id").equals(whole)


def test_tally__scores_of_one_sequence_count_for_every_device_that_showed_it() -> None:
    tally = Tally(2)
    probabilities, surprise = np.array([[0.25, 0.75], [1.0, 0.0]], np.float32), np.array([0.5, 0.0])
    tally.add_flows(pa.array(["a", "b", "a"]), np.array([1, 1, 1]), np.array([0, 0, 1]), probabilities, surprise)
    assert tally.table().to_pylist() == [
        {"device_id": "a", "flows": 2, "evidence": [1.25, 0.75, 0.5, 2.0, *[0.0] * 11]},
        {"device_id": "b", "flows": 1, "evidence": [0.25, 0.75, 0.5, 1.0, *[0.0] * 11]},
    ]


def test_vote__a_model_that_learned_sets_answers_for_the_set_and_tells_new_ones() -> None:
    sequences = {"packet_length": np.array([[2, 3], [2, 2], [4, 0], [5, 3]], np.int32)}
    summaries = np.array([[1, 0], [0, 1], [0, 0], [0, 0]], np.float32)
    train = csr_matrix(np.array([[9, 3, 1, 0], [8, 5, 2, 0], [7, 2, 0, 1], [9, 9, 0, 2]]))
    label = np.array([0, 0, 1, 1])
    novelty = Novelty().fit(sequences, train, label, 2)
    learned = Learned(None, LearnedVote(1).fit(sequences, summaries, train, label, 2), novelty)
    assert learned.vote is not None
    sets = csr_matrix(np.array([[6, 4, 3, 0], [9, 1, 0, 1]]))
    tally, devices = Tally(2), pa.array(["a", "b"])
    for device, flows in zip(devices, sets.toarray(), strict=True):
        shown = np.flatnonzero(flows)
        probabilities = np.full((4, 2), [0.9, 0.1])  # flow by flow, all look like the first class
        same = pa.array([device.as_py()] * len(shown))
        tally.add_flows(same, flows[shown], shown, probabilities, np.zeros(4), learned.vote.of_flows(summaries))
    tally.add_sets(devices, learned.vote.of_bags(sequences, sets), np.array([[1.0, 0, 0], [0.1, 0.2, 0.9]]))
    rows = vote(tally.table(), ("camera", "plug"), DEVICES, SETTINGS, learned).to_pylist()
    expected = learned.vote.probabilities(sequences, summaries, sets)
    assert [row["confidence"] for row in rows] == pytest.approx(expected.max(axis=1).tolist(), abs=1e-5)
    assert expected.argmax(axis=1).tolist() == [0, 1]
    assert [(row["status"], row["label"]) for row in rows] == [("known", "camera"), ("unknown", None)]
    assert rows[1]["runners_up"][0]["label"] == "plug"
    assert rows[1]["novelty"] == pytest.approx(0.85)
    assert row_of([("a", 5, [0.1, 0.7, 0.15, 0.05, 0.0], 0.0)])["novelty"] is None


def test_vote__known_device_has_label_vendor_type_and_the_next_best_as_runners_up() -> None:
    row = row_of([("a", 5, [0.1, 0.7, 0.15, 0.05, 0.0], 0.0)])
    assert (row["status"], row["label"], row["vendor"], row["type"], row["flows"]) == (
        "known", "plug", "plug works", "plug", 5,
    )  # fmt: skip
    assert row["confidence"] == pytest.approx(0.7)
    assert [each["label"] for each in row["runners_up"]] == ["scale", "camera", "lamp"]


def test_vote__copies_of_one_flow_do_not_outvote_different_flows() -> None:
    copies: Flow = ("a", 10_000, [1.0, 0.0, 0.0, 0.0, 0.0], 0.0)
    different: list[Flow] = [("a", 1, [0.0, 1.0, 0.0, 0.0, 0.0], 0.0)] * 20
    row = row_of([copies, *different])
    assert row["label"] == "plug"
    assert row["confidence"] == pytest.approx(20 / (20 + 1 + math.log(10_000)), abs=1e-6)


def test_vote__one_odd_flow_does_not_veto() -> None:
    row = row_of([("a", 1, [0.9, 0.1, 0.0, 0.0, 0.0], 0.0)] * 9 + [("a", 1, [0.0, 1.0, 0.0, 0.0, 0.0], 0.0)])
    assert (row["status"], row["label"]) == ("known", "camera")


def test_vote__too_few_flows_or_too_little_agreement_is_undecided_and_names_the_best_first() -> None:
    few = row_of([("a", 2, [0.9, 0.1, 0.0, 0.0, 0.0], 0.0)])
    split = row_of([("a", 9, [0.5, 0.4, 0.1, 0.0, 0.0], 0.0)])
    for row in (few, split):
        assert (row["status"], row["label"], row["vendor"], row["type"]) == ("undecided", None, None, None)
        assert row["runners_up"][0] == {"label": "camera", "confidence": row["confidence"]}
    assert len(few["runners_up"]) == 2  # classes without any evidence are not listed


def test_vote__flows_that_fit_nothing_learned_are_unknown_however_sure_the_model_is() -> None:
    sure = [1.0, 0.0, 0.0, 0.0, 0.0]
    assert row_of([("a", 9, sure, 0.51)])["status"] == "unknown"
    assert row_of([("a", 9, sure, 0.5)])["status"] == "known"
    assert row_of([("a", 1, sure, 0.9)])["status"] == "unknown"


def test_vote__the_class_of_unlisted_devices_is_no_name() -> None:
    row = row_of([("a", 9, [0.1, 0.9], 0.0)], labels=("camera", "unknown"))
    assert (row["status"], row["label"]) == ("unknown", None)
    assert row["runners_up"][0]["label"] == "unknown"


def test_vote__vendor_that_the_list_leaves_empty_is_null() -> None:
    table = tally_of([("a", 9, [1.0, 0.0, 0.0, 0.0, 0.0], 0.0)]).table()
    (row,) = vote(table, LABELS, {"camera": {"vendor": "", "type": ""}}, SETTINGS).to_pylist()
    assert (row["label"], row["vendor"], row["type"]) == ("camera", None, None)


def test_vote__no_devices_give_an_empty_table_and_one_class_is_enough() -> None:
    assert vote(Tally(5).table(), LABELS, DEVICES, SETTINGS).equals(VOTES.empty_table())
    assert row_of([("a", 9, [1.0], 0.0)], labels=("camera",))["runners_up"] == []


KINDS = {
    "camera": {"vendor": "Acme", "type": "camera"}, "bell": {"vendor": "Acme", "type": "camera"},
    "plug": {"vendor": "Volt", "type": "plug"}, "lamp": {"vendor": "", "type": ""},
}  # fmt: skip


def test_tally__what_is_sure_counts_each_distinct_flow_once() -> None:
    flows: list[Flow] = [("a", 500, [0.95, 0.05, 0, 0, 0], 0.0), ("a", 1, [0.9, 0.1, 0, 0, 0], 0.0)]
    (row,) = tally_of(flows).table().to_pylist()
    assert len(row["evidence"]) == width(5)
    assert row["evidence"][-10:] == pytest.approx([2, 0, 0, 0, 0, 1.85, 0, 0, 0, 0])


def sure_flows(place: int, count: int, repeats: int = 1) -> list[Flow]:
    """So many distinct flows of device a that are sure of a class, with a little left for the first two."""
    return [("a", repeats, (0.92 * np.eye(5)[place] + [0.05, 0.03, 0, 0, 0]).tolist(), 0.0)] * count


def test_vote__flows_sure_of_one_kind_beside_flows_sure_of_another_are_several_devices() -> None:
    row = row_of([*sure_flows(3, 4), *sure_flows(1, 6), *sure_flows(4, 3)])
    assert (row["status"], row["label"], row["vendor"], row["type"], row["flows"]) == ("several", None, None, None, 13)
    assert [(one["label"], one["vendor"], one["type"]) for one in row["several"]] == [
        ("plug", "plug works", "plug"), ("lamp", "lamp works", "lamp"), ("bell", "bell works", "bell"),
    ]  # fmt: skip
    assert [one["confidence"] for one in row["several"]] == pytest.approx([0.95, 0.92, 0.92])
    assert row["runners_up"][0] == {"label": "plug", "confidence": row["confidence"]}


def test_vote__look_alikes_are_one_of_several_and_named_where_one_of_them_is_likely() -> None:
    labels = ("camera", "bell", "plug", "lamp", "scale")

    def several(*looks: list[float]) -> list[dict[str, Any]]:
        flows: list[Flow] = [("a", 1, look, 0.0) for look in looks for _ in range(3)]
        found = row_of(flows, labels, devices=KINDS)["several"]
        assert isinstance(found, list)
        return found

    plug, lamp = [0, 0, 0.9, 0.1, 0], [0, 0, 0, 1.0, 0]
    assert several([0.9, 0.1, 0, 0, 0], [0.1, 0.9, 0, 0, 0]) == []  # both are cameras of Acme
    kind = {"label": None, "vendor": "Acme", "type": "camera", "confidence": pytest.approx(0.95)}
    assert several([0.5, 0.45, 0.05, 0, 0], plug)[0] == kind
    named = {**kind, "label": "bell", "confidence": pytest.approx(0.7)}
    assert several([0.2, 0.7, 0.1, 0, 0], plug)[0] == named
    assert several(plug, lamp)[1] == {"label": "lamp", "vendor": None, "type": None, "confidence": pytest.approx(1.0)}


def test_vote__one_device_that_is_confused_now_and_then_stays_one() -> None:
    assert row_of([*sure_flows(1, 20), *sure_flows(3, 2)])["status"] == "known"  # too few flows
    assert len(row_of([*sure_flows(1, 20), *sure_flows(3, 4)])["several"]) == 2
    often = Learned(confusion=Confusion(np.eye(5) * 40 + 10 * np.eye(5)[[3] * 5]))  # ... taken for the fourth
    tally = tally_of([*sure_flows(1, 20), *sure_flows(3, 4)])
    assert vote(tally.table(), LABELS, DEVICES, SETTINGS, often)["status"].to_pylist() == ["known"]
    hesitant: list[Flow] = [("a", 1, [0, 0.5, 0, 0.5, 0], 0.0), ("a", 1, [0, 0.7, 0, 0.3, 0], 0.0)] * 20
    assert row_of([*hesitant, *sure_flows(1, 5)])["status"] == "known"
    assert row_of(hesitant)["several"] == []


def test_vote__copies_of_one_flow_are_one_flow_that_is_sure() -> None:
    assert row_of([*sure_flows(1, 9), *sure_flows(3, 1, repeats=10_000)])["status"] != "several"
    assert row_of([*sure_flows(1, 9), *sure_flows(3, 3, repeats=10_000)])["status"] == "several"


def test_vote__unlisted_and_unknown_are_no_part_of_several() -> None:
    flows = [*sure_flows(1, 5), *sure_flows(3, 5)]
    unknown = row_of([(*flow[:3], 0.9) for flow in flows])
    assert (unknown["status"], unknown["several"]) == ("unknown", [])
    assert row_of(flows, labels=("camera", "plug", "scale", "unknown", "bell"))["several"] == []


def test_watched__marks_labels_vendors_and_types_of_known_devices_only() -> None:
    flows: list[Flow] = [(name, 9, np.eye(5)[place].tolist(), 0.0) for place, name in enumerate("abcde")]
    votes = vote(tally_of([*flows, ("f", 1, [1.0, 0, 0, 0, 0], 0.0)]).table(), LABELS, DEVICES, SETTINGS)
    lists = watchlist(labels=["camera"], vendors=["plug works"], types=["bell"])
    assert watched(votes, lists).to_pylist() == [True, True, False, False, True, False]
    assert not any(watched(votes, watchlist()).to_pylist())


@pytest.mark.parametrize(
    ("entries", "hits"),
    [
        ([{"name": "camera", "from": 0.8}], [False, True, True]),
        ([{"name": "camera", "to": 0.8}], [True, True, False]),
        ([{"name": "camera", "from": 0.75, "to": 0.85}], [False, True, False]),
        ([{"name": "camera", "to": 0.75}, {"name": "camera", "from": 0.85}], [True, False, True]),
        ([{"name": "camera", "to": 0.65}, "camera"], [True, True, True]),
        ([{"name": "plug", "from": 0.1}], [False, False, False]),
    ],
)
def test_watched__an_entry_counts_between_its_confidences_both_included(entries: list[Any], hits: list[bool]) -> None:
    flows: list[Flow] = [(str(n), 9, [share, 1 - share, 0, 0, 0], 0.0) for n, share in enumerate((0.7, 0.8, 0.9))]
    votes = vote(tally_of(flows).table(), LABELS, DEVICES, SETTINGS)
    assert votes["confidence"].to_pylist() == [0.7, 0.8, 0.9]
    for kind, suffix in (("labels", ""), ("vendors", " works"), ("types", "")):
        named = [entry | {"name": entry["name"] + suffix} if isinstance(entry, dict) else entry + suffix
                 for entry in entries]  # fmt: skip
        assert watched(votes, watchlist(**{kind: named})).to_pylist() == hits


@pytest.mark.parametrize("wanted", [{"labels": ["lamp"]}, {"vendors": ["lamp works"]}, {"types": ["lamp"]}])
def test_watched__marks_an_address_where_one_of_several_is_on_the_list(wanted: dict[str, list[Any]]) -> None:
    flows = [*sure_flows(1, 5), *sure_flows(3, 5), *[("b", *flow[1:]) for flow in sure_flows(1, 5)]]
    votes = vote(tally_of(flows).table(), LABELS, DEVICES, SETTINGS, learned())
    assert votes["status"].to_pylist() == ["several", "known"]
    assert watched(votes, watchlist(**wanted)).to_pylist() == [True, False]
    for limits, hit in (({"from": 0.91}, True), ({"from": 0.93}, False), ({"to": 0.91}, False)):  # its own is 0.92
        entries = {kind: [{"name": names[0], **limits}] for kind, names in wanted.items()}
        assert watched(votes, watchlist(**entries)).to_pylist() == [hit, False]
