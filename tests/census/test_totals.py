"""Totals of a census: addresses by kind, type, vendor and model, found and expected from probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from iotid.census.identify import LIKELY, Classes
from iotid.census.totals import expected_of_rows, expected_of_scores, totals_of
from iotid.schemas import TOTALS

from .report_tables import census_of, kind

CLASSES = Classes.of(
    ("hall", "porch", "plug", "mug"),
    {
        "hall": {"vendor": "Acme", "type": "camera"},
        "porch": {"vendor": "Acme", "type": "camera"},
        "plug": {"vendor": "Volt", "type": "plug"},
        "mug": {"vendor": "Volt", "type": "camera"},
    },
)
ACME, VOLT_CAMERA, PLUG = (CLASSES.kinds.index(name) for name in ("Acme camera", "Volt camera", "Volt plug"))


def _scored(household: list[float], kinds: list[dict[int, float]], classes: list[dict[int, float]]) -> pa.Table:
    lists = [
        [[{"index": index, "probability": p} for index, p in row.items()] for row in rows] for rows in (kinds, classes)
    ]
    columns = {name: pa.array(rows, LIKELY.field(name).type) for name, rows in zip(LIKELY.names, lists, strict=True)}
    return pa.table({**columns, "household": pa.array(household)})


def _by_item(table: pa.Table) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["level"], row["item"]): row for row in table.to_pylist()}


def test_expected__sums_the_probabilities_of_all_addresses() -> None:
    scored = _scored([0.0, 0.0], [{PLUG: 0.9}, {PLUG: 0.25}], [{2: 0.9}, {2: 0.25}])
    plug = _by_item(expected_of_scores(scored, CLASSES))["kind", "Volt plug"]
    variance = 0.9 * 0.1 + 0.25 * 0.75
    assert plug["expected"] == pytest.approx(1.15)
    assert plug["variance"] == pytest.approx(variance)
    assert plug["third_cumulant"] == pytest.approx(0.09 * -0.8 + 0.1875 * 0.5)
    assert plug["p_none"] == pytest.approx(0.1 * 0.75)


@pytest.mark.parametrize(("household", "at_least_one"), [(0.0, 0.9), (1.0, 1 - 0.5 * 0.6), (0.5, 0.8)])
def test_expected__kinds_of_a_type_exclude_each_other_at_a_host_only(household: float, at_least_one: float) -> None:
    scored = _scored([household], [{ACME: 0.5, VOLT_CAMERA: 0.4, PLUG: 0.1}], [{}])
    found = _by_item(expected_of_scores(scored, CLASSES))
    assert found["type", "camera"]["expected"] == pytest.approx(at_least_one)
    assert found["type", "plug"]["expected"] == pytest.approx(0.1)


def test_expected__at_a_host_no_more_than_one_is_expected() -> None:
    scored = _scored([0.0], [{ACME: 0.8, VOLT_CAMERA: 0.7}], [{0: 0.6, 1: 0.2}])
    found = _by_item(expected_of_scores(scored, CLASSES))
    camera = found["type", "camera"]
    assert (camera["expected"], camera["variance"], camera["p_none"]) == (1, 0, 0)
    assert found["model", "hall"]["expected"] == pytest.approx(0.6)


def test_expected__of_a_simulated_site_is_how_many_addresses_have_it() -> None:
    random = np.random.default_rng(3)
    p_N = random.random(4000) ** 3
    scored = _scored([0.0] * 4000, [{PLUG: p} for p in p_N], [{}] * 4000)
    plug = _by_item(expected_of_scores(scored, CLASSES))["kind", "Volt plug"]
    drawn = (random.random((300, 4000)) < p_N).sum(axis=1)
    assert plug["expected"] == pytest.approx(drawn.mean(), abs=4 * np.sqrt(plug["variance"] / 300))
    assert plug["variance"] == pytest.approx(drawn.var(), rel=0.3)


def test_totals__count_what_rows_name_and_how_it_changed() -> None:
    lamp = kind("lamp", vendor="Acme", type="light")
    census = census_of(
        [
            {"kinds": [kind("plug"), kind("plug 2")], "status": "several", "change": "new"},
            {"change": "changed", "kinds": [kind("plug"), lamp], "new_kinds": ["lamp"], "status": "several"},
            {"change": "gone", "watched": False}, {"change": "away"}, {"change": "back"},
            {"status": "unknown", "group_name": "g1", "change": "new"}, {"status": "unknown", "group_name": "g1"},
            {"watched": True},
        ]
    )  # fmt: skip
    totals = totals_of(census)
    assert totals.schema.equals(TOTALS.arrow_schema())
    rows = _by_item(totals)

    def counts(level: str, item: str) -> tuple[int, ...]:
        return tuple(rows[level, item][name] for name in ("found", "new", "gone", "changed", "back", "remembered"))

    assert counts("all", "addresses") == (6, 2, 1, 1, 1, 8)
    assert counts("kind", "Acme socket") == (4, 1, 1, 0, 1, 6)
    assert counts("type", "socket") == (4, 1, 1, 0, 1, 6), "an address counts once"
    assert counts("type", "light") == (1, 0, 0, 1, 0, 1)
    assert counts("vendor", "Acme") == (4, 1, 1, 1, 1, 6)
    assert counts("model", "plug 2") == (1, 1, 0, 0, 0, 1)
    assert counts("status", "unknown") == (2, 1, 0, 0, 0, 2)
    assert counts("group", "g1") == (2, 1, 0, 0, 0, 2)
    assert counts("watched", "plug") == (1, 0, 0, 0, 0, 1)
    assert rows["group", "g1"]["expected"] == 2
    assert rows["all", "addresses"]["p_none"] == 0


def test_totals__of_a_census_without_scores_use_what_its_rows_name() -> None:
    row = {"kinds": [kind(None, 0.75)], "runners_up": [{"label": "bell", "confidence": 0.25}], "household": 0.0}
    rows = _by_item(totals_of(census_of([row, row, row | {"change": "gone"}])))
    assert rows["kind", "Acme socket"]["expected"] == 1.5
    assert (rows["kind", "bell"]["found"], rows["kind", "bell"]["expected"]) == (0, 0.5)
    assert rows["type", "socket"]["expected"] == 1.5
    assert ("type", None) not in rows


def test_totals__given_expectations_are_kept_and_rounded_under_pseudonyms() -> None:
    scored = _scored([0.0], [{PLUG: 0.97}], [{}])
    expected = expected_of_scores(scored, CLASSES)
    census = census_of([{"kinds": [kind("plug", vendor="Volt", type="plug")]}])
    exact, rounded = (_by_item(totals_of(census, expected, rounded=each)) for each in (False, True))
    assert exact["kind", "Volt plug"]["expected"] == 0.97
    plug = rounded["kind", "Volt plug"]
    assert (plug["expected"], plug["variance"], plug["p_none"]) == (1.0, 0.1, 0.0), "variance rounded up"


def test_totals__of_an_empty_census_have_no_rows() -> None:
    assert not len(totals_of(census_of([])))
    assert not len(expected_of_rows(census_of([])))


def test_totals__do_not_depend_on_the_order_of_rows() -> None:
    random = np.random.default_rng(5)
    census = census_of([{"kinds": [kind(f"m{n % 7}", p)]} for n, p in enumerate(random.random(60))])
    assert totals_of(census).equals(totals_of(census.take(random.permutation(60))))
