"""From answers of the device model to rows of a census.

The answers are made by hand. Shape suffixes: N addresses, K kinds, C classes.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from iotid.census.identify import (
    ANSWERS,
    SCORES,
    Classes,
    answers_from_arrow,
    answers_to_arrow,
    identify,
    names_of_kinds,
    percents,
    watched,
)
from iotid.census.marks import SENTENCES
from iotid.config import Census, Watchlist, load_settings
from iotid.model.device import STATUSES, Answer

# "hall" and "porch" are of one vendor and type; of "mug" only the name is known
LABELS = ("hall", "mug", "plug", "porch", "unknown")
DEVICES: dict[str, dict[str, str | None]] = {
    "hall": {"vendor": "Acme", "type": "camera"},
    "mug": {"vendor": None, "type": None},
    "plug": {"vendor": "Volt", "type": "plug"},
    "porch": {"vendor": "Acme", "type": "camera"},
}
CLASSES = Classes.of(LABELS, DEVICES)
CAMERA, PLUG, MUG = (CLASSES.kinds.index(name) for name in ("Acme camera", "Volt plug", "mug"))
K = len(CLASSES.kinds)


@pytest.fixture(scope="module")
def settings() -> Census:
    return load_settings().census.model_copy(update={"min_flows": 2, "min_confidence": 0.6})


def _rows(
    *addresses: dict[int, float],
    own: dict[int, int] | None = None,
    several: int = 0,
    distinct: int = 8,
    units: dict[int, int] | None = None,
    hall: float = 0.5,
    unknown: float = 0.0,
    num_flows: int = 20,
    together: bool = False,
    log_odds: float = 0.0,
    similarity: list[list[float]] | None = None,
) -> pa.Table:
    """ANSWERS of addresses at which kinds have these probabilities, as hosts and as households; ``own``: distinct flows
    of a kind alone; ``hall``: probability of that class among the cameras; ``together``: all of them at one time."""
    N = len(addresses)
    there, flows, number = np.zeros((N, K)), np.zeros((N, K + 1), np.int64), np.ones((N, K), np.int64)
    share = np.ones((N, len(LABELS)))
    share[:, LABELS.index("hall")], share[:, LABELS.index("porch")] = hall, 1 - hall
    for row, probability in enumerate(addresses):
        there[row, list(probability)] = list(probability.values())
    for matrix, values in ((flows, own), (number, units)):
        for kind, value in (values or {}).items():
            matrix[:, kind] = value
    flows[:, -1] = several
    answer = Answer(
        host=there,
        household=there,
        log_odds=np.full(N, log_odds),
        class_share=share,
        unexplained=np.full(N, 0.25),
        unknown=np.full(N, unknown),
        flows=flows,
        distinct=np.full(N, distinct),
        min_devices=number,
        begins=np.zeros_like(number),
        ends=np.zeros_like(number) if together else np.zeros_like(number) - 1,
        known_tokens=np.full((N, K), 3),
        similarity=np.zeros((N, K)) if similarity is None else np.array(similarity),
    )
    return answers_to_arrow(pa.array([f"device {n}" for n in range(N)]), np.full(N, num_flows), answer)


def _identify(rows: pa.Table, settings: Census, share: float = 1.0) -> list[dict[str, Any]]:
    table = identify(rows, share, CLASSES, settings)
    assert table.schema == SCORES
    return table.to_pylist()


def test_classes__labels_of_one_vendor_and_type_are_one_kind() -> None:
    assert CLASSES.kinds == ("Acme camera", "Volt plug", "mug")
    assert CLASSES.kind_of.tolist() == [CAMERA, MUG, PLUG, CAMERA, -1]
    assert CLASSES.vendor == ("Acme", None, "Volt", "Acme", None)
    assert CLASSES.type == ("camera", None, "plug", "camera", None)


def test_answers__come_back_from_arrow_as_they_were() -> None:
    random = np.random.default_rng(1)
    per_kind = dict.fromkeys(
        ("host", "household", "min_devices", "begins", "ends", "known_tokens", "similarity", "unlike_kind"), K
    )
    lists = per_kind | {"class_share": 5, "flows": K + 1}
    counts = ("flows", "distinct", "min_devices", "begins", "ends", "known_tokens")
    values = {
        field.name: random.integers(0, 9, (4, lists[field.name]) if field.name in lists else 4)
        if field.name in counts
        else random.random((4, lists[field.name]) if field.name in lists else 4)
        for field in fields(Answer)
    }
    rows = answers_to_arrow(pa.array(list("abcd")), np.array([5, 6, 7, 8]), Answer(**values))
    assert rows.schema == ANSWERS
    assert rows["device_id"].to_pylist() == list("abcd")
    assert rows["num_flows"].to_pylist() == [5, 6, 7, 8]
    sliced = pa.concat_tables([rows[:1], rows[1:]])  # of several chunks, whose offsets do not begin at 0
    for table in (rows, sliced, rows.combine_chunks().to_batches()[0]):
        again = answers_from_arrow(table)
        for name, value in values.items():
            assert getattr(again, name).tolist() == value.tolist(), name
    assert answers_from_arrow(rows[2:]).host.tolist() == values["host"][2:].tolist()


def test_identify__lists_similar_kinds_unless_a_kind_is_found(settings: Census) -> None:
    similarity = [[0.2, 0.3, 0.1], [0.05, 0.0, 0.0001], [0.2, 0.3, 0.1], [0.0, 0.0, 0.0]]
    rows = _identify(_rows({PLUG: 0.1}, {PLUG: 0.5}, {PLUG: 0.9}, {}, similarity=similarity), settings)
    names = list(CLASSES.kinds)
    assert [row["status"] for row in rows] == ["unknown", "undecided", "known", "unknown"]
    assert [row["similar_kinds"] for row in rows] == [[names[1], names[0], names[2]], [names[0]], [], []]


def test_identify__unlike_kind_is_the_p_value_of_the_only_kind_found(settings: Census) -> None:
    addresses = ({PLUG: 0.9}, {PLUG: 0.9, MUG: 0.9}, {PLUG: 0.4}, {MUG: 0.9}, {})
    rows = _rows(*addresses)
    assert [row["unlike_kind"] for row in _identify(rows, settings)] == [None] * 5, "not asked for"
    p_NK = np.full((5, K), 0.5)
    p_NK[:, PLUG], p_NK[3, MUG] = 0.0123456789, np.nan  # the mug has one recording
    at, lists = rows.schema.get_field_index("unlike_kind"), pa.array(p_NK.tolist(), pa.list_(pa.float64()))
    given = _identify(rows.set_column(at, rows.schema.field(at), lists), settings)
    assert [row["status"] for row in given] == ["known", "several", "undecided", "known", "unknown"]
    assert [row["unlike_kind"] for row in given] == [0.012346, None, None, None, None]
    beside = _rows({PLUG: 0.9}, unknown=0.9).set_column(at, rows.schema.field(at), lists.slice(0, 1))
    (row,) = _identify(beside, settings)
    assert (row["status"], row["unlike_kind"]) == ("several_with_unknown", None)


def test_identify__every_status_with_the_kinds_found(settings: Census) -> None:
    of_status: list[dict[str, Any]] = [
        *_identify(_rows({PLUG: 0.9}, {PLUG: 0.9, MUG: 0.6}, {PLUG: 0.5}, {PLUG: 0.1}), settings),
        *_identify(_rows({PLUG: 0.9}, unknown=0.9), settings),
    ]
    assert [(row["status"], [one["kind"] for one in row["kinds"]]) for row in of_status] == [
        ("known", ["Volt plug"]),
        ("several", ["Volt plug", "mug"]),
        ("undecided", []),
        ("unknown", []),
        ("several_with_unknown", ["Volt plug"]),
    ]
    assert {row["status"] for row in of_status} == set(STATUSES)
    assert [(row["label"], row["vendor"], row["type"]) for row in of_status] == [
        ("plug", "Volt", "plug"), *[(None, None, None)] * 3, ("plug", "Volt", "plug"),
    ]  # fmt: skip
    assert [row["confidence"] for row in of_status] == [0.9, 0.9, 0.5, 0.1, 0.9]
    assert all((row["unexplained"], row["household"], row["flows"]) == (0.25, 1, 20) for row in of_status)
    assert [row["device_id"] for row in of_status] == [*(f"device {n}" for n in range(4)), "device 0"]


def test_identify__few_flows_are_undecided(settings: Census) -> None:
    (row,) = _identify(_rows({PLUG: 0.9}, num_flows=1), settings)
    assert (row["status"], row["kinds"], row["label"], row["confidence"]) == ("undecided", [], None, 0.9)
    assert row["runners_up"] == [{"label": "Volt plug", "confidence": 0.9}]


def test_identify__kinds_with_most_flows_of_their_own_come_first_then_the_likelier(settings: Census) -> None:
    addresses = {MUG: 0.7, CAMERA: 0.8, PLUG: 0.9}
    for own, expected in (
        ({MUG: 5, PLUG: 2, CAMERA: 1}, [MUG, PLUG, CAMERA]),
        ({MUG: 1, CAMERA: 3, PLUG: 1}, [CAMERA, PLUG, MUG]),
        ({}, [PLUG, CAMERA, MUG]),
    ):
        kinds = _identify(_rows(addresses, own=own, units={MUG: 2}), settings)[0]["kinds"]
        assert [one["kind"] for one in kinds] == [CLASSES.kinds[kind] for kind in expected]
        assert [one["flows"] for one in kinds] == [own.get(kind, 0) for kind in expected]
        assert [one["units"] for one in kinds] == [2 if kind == MUG else 1 for kind in expected]


@pytest.mark.parametrize(
    ("probability", "hall", "label", "confidence"),
    [
        (1.0, 0.5, None, 1.0),  # one of the two, and none of them sure: the kind alone is named
        (0.8, 0.7, None, 0.8),  # 0.56 is below min_confidence
        (0.8, 0.75, "hall", 0.6),
        (0.9, 0.1, "porch", 0.81),
    ],
)
def test_identify__one_label_of_a_kind_is_named_from_min_confidence_on(
    probability: float, hall: float, label: str | None, confidence: float, settings: Census
) -> None:
    (row,) = _identify(_rows({CAMERA: probability}, hall=hall), settings)
    (kind,) = row["kinds"]
    assert row["status"] == "known"
    assert (kind["kind"], kind["label"], kind["confidence"]) == ("Acme camera", label, confidence)
    assert (row["label"], row["vendor"], row["type"], row["confidence"]) == (label, "Acme", "camera", confidence)
    kinds = identify(_rows({CAMERA: probability}, hall=hall), 1.0, CLASSES, settings)["kinds"]
    assert names_of_kinds(kinds.combine_chunks().flatten()).to_pylist() == [label or "Acme camera"]


def test_identify__the_only_class_of_a_kind_is_named_with_the_kinds_probability(settings: Census) -> None:
    plug, mug = _identify(_rows({PLUG: 0.6, MUG: 0.59}, {MUG: 0.65}), settings)
    assert (plug["label"], plug["vendor"], plug["confidence"]) == ("plug", "Volt", 0.6)
    assert (mug["label"], mug["vendor"], mug["type"], mug["confidence"]) == ("mug", None, None, 0.65)


def test_identify__runners_up_are_the_likeliest_kinds_not_found(settings: Census) -> None:
    found, none, nothing = _identify(
        _rows({PLUG: 0.9, MUG: 0.1, CAMERA: 0.2}, {PLUG: 0.1, MUG: 0.2, CAMERA: 0.05}, {}), settings
    )
    assert [tuple(one.values()) for one in found["runners_up"]] == [("Acme camera", 0.2), ("mug", 0.1)]
    assert [tuple(one.values()) for one in none["runners_up"]] == [
        ("mug", 0.2), ("Volt plug", 0.1), ("Acme camera", 0.05),
    ]  # fmt: skip
    assert nothing["runners_up"] == []
    many = Classes.of([f"c{n}" for n in range(9)], {})
    rows = answers_to_arrow(
        pa.array(["a"]), np.array([20]),
        Answer(*[np.arange(9.0)[np.newaxis] / 20] * 2, np.zeros(1), np.ones((1, 9)), np.zeros(1), np.zeros(1),
               np.zeros((1, 10), np.int64), np.ones(1, np.int64), *[np.ones((1, 9), np.int64)] * 3, np.full((1, 9), 3),
               np.zeros((1, 9))),
    )  # fmt: skip
    (row,) = identify(rows, 1.0, many, settings).to_pylist()
    assert [one["label"] for one in row["runners_up"]] == ["c8", "c7", "c6"]


@pytest.mark.parametrize(
    ("probability", "more", "status", "reason"),
    [
        ({PLUG: 0.9}, {"own": {PLUG: 5}, "several": 2}, "known",
         "Of 8 distinct flows: 5 like those of Volt plug alone; 2 like those of several kinds; "
         "1 like those of none of the kinds found."),
        ({PLUG: 0.9}, {"own": {PLUG: 1}, "distinct": 1}, "known",
         "Of 1 distinct flow: 1 like those of Volt plug alone."),
        ({PLUG: 0.9}, {"several": 8}, "known", "Of 8 distinct flows: 8 like those of several kinds."),
        ({PLUG: 0.9, MUG: 0.8}, {"own": {MUG: 5, PLUG: 3}}, "several",
         "Of 8 distinct flows: 5 like those of mug alone, 3 like those of Volt plug alone."),
        ({PLUG: 0.9}, {"own": {PLUG: 2, CAMERA: 1}, "unknown": 0.9}, "several_with_unknown",
         "Of 8 distinct flows: 2 like those of Volt plug alone; 6 like those of none of the kinds found."),
        ({PLUG: 0.5}, {"own": {PLUG: 3, MUG: 1}, "several": 1}, "undecided",
         "Not enough evidence; likeliest is Volt plug (50 %); of 8 distinct flows: 3 like those of Volt plug alone, "
         "1 like those of mug alone; 1 like those of several kinds; 3 like those of no learned kind."),
        ({PLUG: 0.002}, {}, "unknown",
         "No learned kind explains this address; "
         "of 8 distinct flows: 8 like those of no learned kind."),
        ({MUG: 0.2}, {"own": {MUG: 1}, "distinct": 1}, "unknown",
         "No learned kind explains this address; "
         "of 1 distinct flow: 1 like those of mug alone."),
    ],
)  # fmt: skip
def test_identify__the_reason_counts_the_flows_of_each_kind(
    probability: dict[int, float], more: dict[str, Any], status: str, reason: str, settings: Census
) -> None:
    (row,) = _identify(_rows(probability, **more), settings)
    assert (row["status"], row["reason"]) == (status, reason)


def test_identify__the_share_of_households_decides_which_answer_counts(settings: Census) -> None:
    rows = _rows({PLUG: 0.9}, unknown=0.9)
    host, household = (_identify(rows, settings, share)[0] for share in (0.0, 1.0))
    assert (host["status"], host["household"]) == ("known", 0)
    assert (household["status"], household["household"]) == ("several_with_unknown", 1)
    assert _identify(rows, settings, 0.5)[0]["household"] == 0.5


def test_identify__in_pieces_gives_the_same_rows(settings: Census) -> None:
    rows = _rows({PLUG: 0.9}, {}, {CAMERA: 0.8, MUG: 0.7}, {MUG: 0.4}, own={PLUG: 2, MUG: 1}, several=1)
    whole = _identify(rows, settings)
    assert [row for n in range(4) for row in _identify(rows[n : n + 1], settings)] == whole
    assert identify(rows.to_batches()[0], 1.0, CLASSES, settings).to_pylist() == whole


def _watch(**lists: Any) -> Watchlist:
    return Watchlist.model_validate({"labels": [], "vendors": [], "types": [], "fail": False, **lists})


@pytest.mark.parametrize(
    ("listed", "expected"),
    [
        ({"labels": ["plug"]}, [True, True, False, False]),
        ({"labels": ["porch"]}, [False, True, False, False]),
        ({"vendors": ["Acme"]}, [False, True, True, False]),
        ({"types": ["plug"], "labels": ["mug"]}, [True, True, True, False]),
        ({"labels": [{"name": "plug", "from": 0.8}]}, [True, False, False, False]),  # the second's camera is at 0.81
        ({"labels": [{"name": "plug", "to": 0.8}]}, [False, True, False, False]),
        ({"labels": [{"name": "porch", "from": 0.82}]}, [False] * 4),
        ({"vendors": [{"name": "Acme", "from": 0.81, "to": 0.81}]}, [False, True, False, False]),
        ({"vendors": [{"name": "Acme", "from": 0.9}, {"name": "Acme", "to": 0.65}]}, [False, False, True, False]),
        ({"labels": ["Acme camera", "unknown"]}, [False] * 4),
        ({}, [False] * 4),
    ],
)
def test_watched__by_each_kinds_own_confidence(listed: dict[str, Any], expected: list[bool], settings: Census) -> None:
    rows = pa.concat_tables(
        [
            identify(_rows({PLUG: 0.9}), 1.0, CLASSES, settings),
            identify(_rows({PLUG: 0.7, CAMERA: 0.9}, hall=0.1), 1.0, CLASSES, settings),
            identify(_rows({CAMERA: 0.65, MUG: 0.9}), 1.0, CLASSES, settings),  # no camera is named by its label
            identify(_rows({PLUG: 0.5}), 1.0, CLASSES, settings),  # not found
        ]
    )
    assert watched(rows, _watch(**listed)).to_pylist() == expected


def test_watched__by_address_whatever_the_device_is(settings: Census) -> None:
    rows = identify(_rows({PLUG: 0.9}, {PLUG: 0.5}, {PLUG: 0.9}), 1.0, CLASSES, settings)
    devices = ["02:00:00:00:00:0a", "02:00:00:00:00:0b", "fe80::1"]
    rows = rows.set_column(0, "device_id", pa.array(devices))
    assert watched(rows, _watch(devices=["02:00:00:00:00:0B"])).to_pylist() == [False, True, False]
    assert watched(rows, _watch(devices=["FE80::1"])).to_pylist() == [False, False, True]
    assert watched(rows, _watch(devices=["02:00:00:00:00:99"])).to_pylist() == [False] * 3
    assert watched(rows, _watch(devices=[devices[1]], labels=["plug"])).to_pylist() == [True] * 3
    assert watched(rows[:0], _watch(devices=devices)).to_pylist() == []


def test_percents__are_never_rounded_to_0_or_100() -> None:
    shares = np.array([0, 0.004, 0.005, 0.5, 0.985, 0.994, 0.995, 1])
    assert percents(shares) == ["<1 %", "<1 %", "1 %", "50 %", "99 %", "99 %", ">99 %", ">99 %"]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6])
def test_identify__concurrent_kinds_are_marked_where_most_are_hosts(settings: Census, share: float) -> None:
    rows = _rows({PLUG: 0.9, CAMERA: 0.8}, {PLUG: 0.9}, log_odds=1.0, together=True)
    devices = ["02:00:00:00:00:0a", "02:00:00:00:00:0b"]
    rows = rows.set_column(0, "device_id", pa.array(devices))
    both, one = identify(rows, share, CLASSES, settings).to_pylist()
    assert both["marks"] == (["kinds_at_once"] if share < 0.5 else [])
    assert both["reason"].endswith(SENTENCES["kinds_at_once"]) == (share < 0.5)
    assert (one["marks"], one["reason"].count(".")) == ([], 1)
