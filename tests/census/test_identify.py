"""From the device model's answers to what is said of each address."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from iotid.census.identify import (
    ANSWERS,
    IDENTIFIED,
    Classes,
    answers_from_arrow,
    answers_to_arrow,
    identify,
    percents,
    watched,
)
from iotid.config import Census, Watchlist, load_settings
from iotid.model.device import Answer
from iotid.schemas import CENSUS

SETTINGS = load_settings().census
DEVICES: dict[str, dict[str, str | None]] = {
    "cam1": {"vendor": "Acme", "type": "camera"}, "cam2": {"vendor": "Acme", "type": "camera"},
    "plug": {"vendor": "Volt", "type": "plug"}, "lamp": {"vendor": "", "type": ""},
}  # fmt: skip
LABELS = (*DEVICES, "unknown")
CLASSES = Classes.of(LABELS, DEVICES)
CAMERA, PLUG, LAMP = KINDS = ("Acme camera", "Volt plug", "lamp")


def answer(*rows: dict[str, Any]) -> Answer:
    """Of each address: ``host`` and ``household`` (3,) kinds, ``log_odds``, ``cam1``: share of that class among
    cameras, ``unexplained``, ``unknown``, ``flows`` (4,) and ``distinct``; equal views where ``household`` is not
    given."""
    usual = {"log_odds": 0.0, "cam1": 1.0, "unexplained": 0.0, "unknown": 0.0, "flows": [0, 0, 0, 0], "distinct": 9}
    whole = [usual | {"household": row["host"]} | row for row in rows]

    def column(name: str) -> np.ndarray:
        return np.array([row[name] for row in whole])

    cam1_N, one_N = column("cam1"), np.ones(len(whole))
    return Answer(
        host=column("host"), household=column("household"), log_odds=column("log_odds"),
        class_share=np.stack([cam1_N, 1 - cam1_N, one_N, one_N, 0 * one_N], axis=1), unexplained=column("unexplained"),
        unknown=column("unknown"), flows=column("flows"), distinct=column("distinct"),
    )  # fmt: skip


def rows_of(
    *rows: dict[str, Any], share: float = 0.0, settings: Census = SETTINGS, num_flows: int = 20
) -> list[dict[str, Any]]:
    """What is said of the addresses; ``share`` of households among them."""
    names = pa.array([f"a{number}" for number in range(len(rows))])
    asked = answers_to_arrow(names, np.full(len(rows), num_flows), answer(*rows))
    found: list[dict[str, Any]] = identify(asked, share, CLASSES, settings).to_pylist()
    assert [row["device_id"] for row in found] == names.to_pylist()
    return found


def row_of(share: float = 0.0, settings: Census = SETTINGS, num_flows: int = 20, **row: Any) -> dict[str, Any]:
    (found,) = rows_of(row, share=share, settings=settings, num_flows=num_flows)
    return found


def names(row: dict[str, Any]) -> list[str]:
    return [one["kind"] for one in row["kinds"]]


def test_classes__look_alikes_are_one_kind_and_unlisted_devices_are_none() -> None:
    assert CLASSES.kinds == KINDS
    assert CLASSES.kind_of.tolist() == [0, 0, 1, 2, -1]
    assert (CLASSES.vendor, CLASSES.type) == (
        ("Acme", "Acme", "Volt", None, None), ("camera", "camera", "plug", None, None),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("host", "share", "unknown", "num_flows", "status", "found"),
    [
        ([0.1, 0.9, 0.1], 0.0, 0.0, 20, "known", [PLUG]),
        ([0.1, 0.6, 0.1], 0.0, 0.0, 20, "known", [PLUG]),  # from min_confidence on
        ([0.1, 0.599, 0.1], 0.0, 0.0, 20, "undecided", []),
        ([0.1, 0.3, 0.1], 0.0, 0.0, 20, "undecided", []),
        ([0.1, 0.299, 0.1], 0.0, 0.0, 20, "unknown", []),
        ([0.1, 0.9, 0.8], 0.0, 0.0, 20, "several", [PLUG, LAMP]),
        ([0.1, 0.9, 0.8], 1.0, 0.9, 20, "several_with_unknown", [PLUG, LAMP]),
        ([0.1, 0.9, 0.1], 1.0, 0.9, 20, "several_with_unknown", [PLUG]),
        ([0.1, 0.9, 0.1], 1.0, 0.5, 20, "known", [PLUG]),  # a model that never met a stranger says 0.5 of each
        ([0.1, 0.9, 0.1], 0.0, 0.9, 20, "known", [PLUG]),  # one host is not two devices
        ([0.1, 0.1, 0.1], 1.0, 0.9, 20, "unknown", []),
        ([0.1, 0.9, 0.1], 1.0, 0.9, 2, "several_with_unknown", [PLUG]),
        ([0.1, 0.9, 0.8], 1.0, 0.9, 1, "undecided", []),  # fewer flows than min_flows
        ([0.1, 0.1, 0.1], 0.0, 0.0, 1, "undecided", []),
    ],
)
def test_identify__the_status_is_what_is_found_and_what_is_left(
    host: list[float], share: float, unknown: float, num_flows: int, status: str, found: list[str]
) -> None:
    row = row_of(share, num_flows=num_flows, host=host, unknown=unknown)
    assert (row["status"], names(row), row["flows"]) == (status, found, num_flows)


def test_identify__both_views_count_by_how_likely_a_household_is() -> None:
    views = {"host": [0.0, 0.9, 0.1], "household": [0.8, 1.0, 0.1]}
    rows = rows_of({**views, "log_odds": -30.0}, {**views, "log_odds": 0.0}, {**views, "log_odds": 30.0}, share=0.5)
    assert [row["household"] for row in rows] == [0.0, 0.5, 1.0]
    assert [row["status"] for row in rows] == ["known", "undecided" if False else "known", "several"]
    assert rows[1]["confidence"] == pytest.approx(0.95)
    assert rows[1]["runners_up"][0] == {"label": CAMERA, "confidence": pytest.approx(0.4)}
    rare, common = (row_of(share, **views, log_odds=0.0)["household"] for share in (0.1, 0.9))
    assert (rare, common) == (pytest.approx(0.1), pytest.approx(0.9))
    assert [row_of(share, **views)["household"] for share in (0.0, 1.0)] == [0.0, 1.0]


def test_identify__a_known_address_bears_the_name_of_its_kind_and_one_of_several_bears_none() -> None:
    known = row_of(host=[0.1, 0.9, 0.1], unexplained=0.125)
    assert [known[name] for name in ("label", "vendor", "type", "confidence", "unexplained")] == [
        "plug", "Volt", "plug", 0.9, 0.125,
    ]  # fmt: skip
    lamp = row_of(host=[0.1, 0.1, 0.9])
    assert [lamp[name] for name in ("label", "vendor", "type")] == ["lamp", None, None]
    for row in (row_of(host=[0.1, 0.9, 0.8]), row_of(host=[0.1, 0.4, 0.3]), row_of(host=[0.1, 0.2, 0.05])):
        assert [row[name] for name in ("label", "vendor", "type")] == [None, None, None]
        assert row["confidence"] == max(
            [*(one["confidence"] for one in row["kinds"]), 0.4 if not row["kinds"] else 0]
        ) or (row["confidence"] == 0.2)


def test_identify__kinds_are_in_the_order_of_their_own_flows_then_of_their_probability() -> None:
    assert names(row_of(host=[0.7, 0.9, 0.8], flows=[5, 2, 9, 30])) == [LAMP, CAMERA, PLUG]
    assert names(row_of(host=[0.7, 0.9, 0.8], flows=[2, 2, 2, 0])) == [PLUG, LAMP, CAMERA]
    assert names(row_of(host=[0.8, 0.8, 0.8])) == [CAMERA, PLUG, LAMP]
    row = row_of(host=[0.7, 0.2, 0.8], flows=[5, 7, 9, 30])
    assert [(one["kind"], one["confidence"], one["flows"]) for one in row["kinds"]] == [
        (LAMP, 0.8, 9),
        (CAMERA, 0.7, 5),
    ]


@pytest.mark.parametrize(
    ("cam1", "least", "label", "confidence"),
    [
        (0.9, 0.6, "cam1", 0.72),  # of 0.8 that a camera is there
        (0.75, 0.6, "cam1", 0.6),
        (0.74, 0.6, None, 0.8),  # either camera, and that is surer
        (0.5, 0.6, None, 0.8),
        (0.2, 0.6, "cam2", 0.64),
        (0.5, 0.4, "cam1", 0.4),
    ],
)
def test_identify__one_of_look_alikes_is_named_only_where_it_alone_is_probable_enough(
    cam1: float, least: float, label: str | None, confidence: float
) -> None:
    row = row_of(settings=SETTINGS.model_copy(update={"min_confidence": least}), host=[0.8, 0.1, 0.1], cam1=cam1)
    (one,) = row["kinds"]
    assert (one["kind"], one["label"], one["vendor"], one["type"]) == (CAMERA, label, "Acme", "camera")
    assert one["confidence"] == row["confidence"] == pytest.approx(confidence)
    assert (row["status"], row["label"], row["vendor"], row["type"]) == ("known", label, "Acme", "camera")


def test_identify__runners_up_are_the_likeliest_kinds_that_were_not_found() -> None:
    assert row_of(host=[0.2, 0.9, 0.25])["runners_up"] == [
        {"label": LAMP, "confidence": 0.25}, {"label": CAMERA, "confidence": 0.2},
    ]  # fmt: skip
    assert row_of(host=[0.0, 0.9, 0.0])["runners_up"] == []
    few = row_of(host=[0.2, 0.9, 0.25], num_flows=1)
    assert [each["label"] for each in few["runners_up"]] == [PLUG, LAMP, CAMERA]
    many = Classes.of(tuple("abcdefgh"), {})
    shares = np.array([[0.05, 0.1, 0.9, 0.2, 0.15, 0.01, 0.0, 0.02]])
    nothing_1, flows = np.zeros(1), np.zeros((1, 9), np.int64)
    asked = Answer(shares, shares, nothing_1, np.ones((1, 8)), nothing_1, nothing_1, flows, np.array([9]))
    (row,) = identify(answers_to_arrow(pa.array(["x"]), np.array([20]), asked), 0.0, many, SETTINGS).to_pylist()
    assert [each["label"] for each in row["runners_up"]] == ["d", "e", "b"]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (
            {"host": [0.1, 0.9, 0.1], "flows": [0, 6, 0, 2], "distinct": 9},
            "Of 9 distinct flows: 6 that only Volt plug showed; 2 that several kinds showed; "
            "1 that no kind found showed exactly.",
        ),
        (
            {"host": [0.1, 0.9, 0.1], "flows": [0, 1, 0, 0], "distinct": 1},
            "Of 1 distinct flow: 1 that only Volt plug showed.",
        ),
        (
            {"host": [0.1, 0.9, 0.9], "flows": [1, 3, 5, 0], "distinct": 9},
            "Of 9 distinct flows: 5 that only lamp showed, 3 that only Volt plug showed; "
            "1 that no kind found showed exactly.",  # the one of cameras, which were not found
        ),
        (
            {"host": [0.9, 0.1, 0.9], "flows": [4, 0, 0, 5], "unknown": 0.9, "log_odds": 30.0},
            "Of 9 distinct flows: 4 that only Acme camera showed; 5 that several kinds showed.",
        ),
        (
            {"host": [0.1, 0.45, 0.1], "flows": [0, 0, 0, 9]},
            "Not enough evidence; likeliest is Volt plug (45 %); of 9 distinct flows: 9 that several kinds showed.",
        ),
        (
            {"host": [0.1, 0.02, 0.001]},
            "No learned kind explains this address; nearest is Acme camera (10 %); of 9 distinct flows: "
            "9 that no kind found showed exactly.",
        ),
    ],
)
def test_identify__the_reason_counts_the_flows_that_speak_for_what_is_said(row: dict[str, Any], reason: str) -> None:
    assert row_of(0.5, **{"log_odds": -30.0} | row)["reason"] == reason


def test_identify__a_reason_says_of_nothing_that_it_is_certain_or_impossible() -> None:
    assert "likeliest is Volt plug (>99 %)" in row_of(host=[0.1, 0.999, 0.1], num_flows=1)["reason"]
    assert "nearest is Volt plug (<1 %)" in row_of(host=[0.0, 0.001, 0.0])["reason"]
    assert percents(np.array([0, 0.00499, 0.005, 0.145, 0.99499, 0.995, 1])) == [
        "<1 %", "<1 %", "1 %", "14 %", "99 %", ">99 %", ">99 %",
    ]  # fmt: skip


def test_identify__each_address_is_judged_alone_and_of_none_there_is_nothing() -> None:
    chance = np.random.default_rng(3)
    rows = [
        {
            "host": chance.random(3), "household": chance.random(3), "log_odds": chance.normal(), "cam1": chance.random(),
            "unknown": chance.random(), "flows": chance.integers(0, 5, 4), "distinct": 20,
        }
        for _ in range(200)
    ]  # fmt: skip
    together = rows_of(*rows, share=0.4)
    alone = [row_of(0.4, **row) | {"device_id": f"a{number}"} for number, row in enumerate(rows)]
    assert together == alone
    assert {row["status"] for row in together} == {
        "known", "several", "several_with_unknown", "undecided", "unknown",
    }  # fmt: skip
    for row in together:
        assert (row["label"] is None) or (row["status"] in ("known", "several_with_unknown"))
        assert bool(row["kinds"]) == (row["status"] not in ("undecided", "unknown"))
        assert all(SETTINGS.min_confidence <= one["confidence"] <= 1 for one in row["kinds"])
    assert identify(ANSWERS.empty_table(), 0.5, CLASSES, SETTINGS).equals(IDENTIFIED.empty_table())


def test_identify__its_columns_are_those_of_the_census() -> None:
    asked = answers_to_arrow(pa.array(["a"]), np.array([20]), answer({"host": [0.1, 0.9, 0.1]}))
    schema = CENSUS.arrow_schema()
    for rows in (asked, asked.to_batches()[0]):
        found = identify(rows, 0.0, CLASSES, SETTINGS)
        assert found.schema == IDENTIFIED
        assert all(found.schema.field(name).type == schema.field(name).type for name in found.column_names)


def test_answers__survive_arrow_whole_sliced_and_empty() -> None:
    chance = np.random.default_rng(5)
    rows = [
        {"host": chance.random(3), "household": chance.random(3), "log_odds": chance.normal(), "unknown": chance.random(),
         "unexplained": chance.random(), "flows": chance.integers(0, 99, 4), "distinct": int(chance.integers(1, 99))}
        for _ in range(5)
    ]  # fmt: skip
    asked = answer(*rows)
    table = answers_to_arrow(pa.array(list("abcde")), np.arange(5), asked)
    assert table.schema == ANSWERS
    assert table["num_flows"].to_pylist() == [0, 1, 2, 3, 4]
    for found, chosen in (
        (answers_from_arrow(table), slice(None)),
        (answers_from_arrow(table.to_batches()[0]), slice(None)),
        (answers_from_arrow(table.slice(2, 2)), slice(2, 4)),
        (answers_from_arrow(table.to_batches()[0].slice(3)), slice(3, None)),
    ):
        for field in fields(Answer):
            np.testing.assert_array_equal(getattr(found, field.name), getattr(asked, field.name)[chosen])
    assert answers_from_arrow(ANSWERS.empty_table()).host.shape == (0, 0)


def watchlist(**lists: Any) -> Watchlist:
    return Watchlist.model_validate({"labels": [], "vendors": [], "types": [], "fail": False} | lists)


def census(*rows: dict[str, Any], share: float = 0.0) -> pa.Table:
    asked = answers_to_arrow(pa.array([str(n) for n in range(len(rows))]), np.full(len(rows), 20), answer(*rows))
    return identify(asked, share, CLASSES, SETTINGS)


def test_watched__marks_labels_vendors_and_types_of_kinds_that_are_found() -> None:
    rows = census(
        {"host": [0.9, 0.1, 0.1]},
        {"host": [0.1, 0.9, 0.1]},
        {"host": [0.1, 0.1, 0.9]},
        {"host": [0.1, 0.5, 0.1]},  # undecided
        {"host": [0.9, 0.1, 0.1], "cam1": 0.5},  # either camera
        {"host": [0.1, 0.9, 0.9]},
    )
    assert watched(rows, watchlist(labels=["cam1"])).to_pylist() == [True, False, False, False, False, False]
    assert watched(rows, watchlist(vendors=["Volt"])).to_pylist() == [False, True, False, False, False, True]
    assert watched(rows, watchlist(types=["camera"])).to_pylist() == [True, False, False, False, True, False]
    assert watched(rows, watchlist(labels=["lamp"], types=["plug"])).to_pylist() == [
        False, True, True, False, False, True,
    ]  # fmt: skip
    assert not any(watched(rows, watchlist()).to_pylist())
    assert watched(rows.slice(1, 2), watchlist(labels=["lamp"])).to_pylist() == [False, True]


@pytest.mark.parametrize(
    ("entries", "hits"),
    [
        ([{"name": "plug", "from": 0.8}], [False, True, True]),
        ([{"name": "plug", "to": 0.8}], [True, True, False]),
        ([{"name": "plug", "from": 0.75, "to": 0.85}], [False, True, False]),
        ([{"name": "plug", "to": 0.75}, {"name": "plug", "from": 0.85}], [True, False, True]),
        ([{"name": "plug", "to": 0.65}, "plug"], [True, True, True]),
        ([{"name": "lamp", "from": 0.1}], [False, False, False]),
    ],
)
def test_watched__an_entry_counts_between_its_confidences_both_included(entries: list[Any], hits: list[bool]) -> None:
    rows = census(*({"host": [0.1, share, 0.1]} for share in (0.7, 0.8, 0.9)))
    assert watched(rows, watchlist(labels=entries)).to_pylist() == hits
    assert watched(rows, watchlist(types=entries)).to_pylist() == hits
    vendors = [{**entry, "name": "Volt"} if isinstance(entry, dict) else "Volt" for entry in entries]
    is_plug = entries[0] != {"name": "lamp", "from": 0.1}
    assert watched(rows, watchlist(vendors=vendors)).to_pylist() == (hits if is_plug else [True] * 3)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_watched__of_several_kinds_each_counts_at_its_own_confidence(share: float) -> None:
    rows = census({"host": [0.1, 0.95, 0.7], "unknown": 0.9}, {"host": [0.1, 0.95, 0.1]}, share=share)
    assert rows["status"].to_pylist()[0] == ("several_with_unknown" if share else "several")
    for limits, hit in (({}, True), ({"from": 0.7}, True), ({"from": 0.71}, False), ({"to": 0.69}, False)):
        entry = [{"name": "lamp", **limits}]
        assert watched(rows, watchlist(labels=entry)).to_pylist() == [hit, False]
