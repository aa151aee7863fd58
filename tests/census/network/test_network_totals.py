"""Totals of a network: sums over sites, with intervals for addresses and for sites."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from iotid.census.network.totals import added, network_rows
from iotid.census.totals import totals_of
from iotid.schemas import NETWORK, TOTALS

from .network_store import kind, rows_of


def _site(*confidences: float, group: str | None = None) -> pa.Table:
    devices: list[dict[str, Any]] = [{"kinds": [kind("p1", each)]} for each in confidences]
    return totals_of(rows_of([*devices, *([{"status": "unknown", "group_name": group}] if group else [])], 1))


def _rows(table: pa.Table, site: str | None, level: str) -> dict[str, dict[str, Any]]:
    return {row["item"]: row for row in table.to_pylist() if row["site"] == site and row["level"] == level}


def test_network__adds_counts_and_expected_numbers_of_sites() -> None:
    rows = network_rows({"a": _site(0.9, 0.8), "b": _site(0.7)}, {})
    assert rows.schema.equals(NETWORK.arrow_schema(stored=True))
    plug = _rows(rows, None, "type")["plug"]
    assert (plug["found"], plug["sites"]) == (3, 2)
    assert plug["expected"] == pytest.approx(2.4)
    assert plug["variance"] == pytest.approx(0.09 + 0.16 + 0.21)
    assert plug["sites_expected"] == pytest.approx(0.98 + 0.7)
    assert plug["p_none"] == pytest.approx(0.1 * 0.2 * 0.3)
    assert plug["low"] <= 2.4 <= plug["high"] <= 3
    of_b = _rows(rows, "b", "type")["plug"]
    assert (of_b["found"], of_b["expected"], of_b["sites_low"], of_b["sites_high"]) == (1, 0.7, 0, 1)


def test_network__names_groups_as_the_network_does_but_of_other_keys() -> None:
    sites = {"a": _site(group="g1"), "b": _site(group="g2"), "c": _site(group="g3")}
    rows = network_rows(sites, {"a": {"g1": "g1"}, "b": {"g2": "g1"}})
    assert {item: row["found"] for item, row in _rows(rows, None, "group").items()} == {"g1": 2}
    assert not _rows(rows, "c", "group")
    assert _rows(rows, None, "all")["addresses"]["found"] == 3


def test_network__a_site_counts_once_though_two_of_its_groups_are_one() -> None:
    site = totals_of(rows_of([{"status": "unknown", "group_name": name} for name in ("g1", "g2", "g2")], 1))
    rows = network_rows({"a": site}, {"a": {"g1": "n", "g2": "n"}})
    for name in (None, "a"):
        (row,) = _rows(rows, name, "group").values()
        assert (row["item"], row["found"], row["expected"], row["sites"], row["sites_expected"]) == (
            "n",
            3,
            3.0,
            1,
            1.0,
        )


def test_network__rows_do_not_depend_on_the_order_of_sites() -> None:
    random = np.random.default_rng(2)
    sites = {f"s{n}": _site(*random.random(7)) for n in range(9)}
    reversed_sites = dict(reversed(sites.items()))
    assert network_rows(sites, {}).equals(network_rows(reversed_sites, {}))


def test_network__sums_of_chosen_sites_are_those_of_a_network_of_them() -> None:
    sites = {"a": _site(0.9, 0.8), "b": _site(0.7), "c": _site(0.2)}
    some = {name: sites[name] for name in ("a", "c")}
    whole, part = network_rows(sites, {}), network_rows(some, {})
    chosen = added(whole.filter(pa.compute.is_in(whole["site"], value_set=pa.array(["a", "c"]))))
    wanted = part.filter(pa.compute.is_null(part["site"]))
    by_item = {(row["level"], row["item"]): row for row in chosen.to_pylist()}
    for row in wanted.to_pylist():
        for name in ("found", "expected", "low", "high", "sites", "sites_low", "sites_high"):
            assert by_item[row["level"], row["item"]][name] == row[name]


def test_network__without_any_census_has_no_rows() -> None:
    assert not len(network_rows({}, {}))
    assert not len(network_rows({"a": TOTALS.arrow_schema().empty_table()}, {}))


def test_network__expected_numbers_cover_what_is_drawn_at_many_sites() -> None:
    random = np.random.default_rng(4)
    p = [random.beta(0.5, 1, 40) for _ in range(30)]
    plug = _rows(network_rows({f"s{n:02}": _site(*each) for n, each in enumerate(p)}, {}), None, "type")["plug"]
    drawn = np.array([[int((random.random(40) < each).sum()) for each in p] for _ in range(400)])
    covered = (plug["low"] <= drawn.sum(axis=1)) & (drawn.sum(axis=1) <= plug["high"])
    assert covered.mean() >= 0.92
