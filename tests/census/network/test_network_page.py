"""The page of a network: names escaped, lists limited, size independent of addresses; opened in headless Chromium."""

from __future__ import annotations

import html
import re
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from iotid.census.network.charts import Axis, bar_chart, line_chart
from iotid.census.network.report import Page, render_page
from iotid.census.network.totals import network_rows
from iotid.census.network.trends import DateTotals, spreading
from iotid.census.totals import totals_of
from iotid.partitions import Partition
from iotid.schemas import NETWORK_GROUPS, NETWORK_SITES

from ..report_browser import result_in_browser
from ..report_tables import HOSTILE
from .network_store import NetworkStore, kind, rows_of

A = {100: 0.5, 200: 0.5}
ACTIONS = """
const all = name => [...document.querySelectorAll(name)];
const wide = all("main *").filter(each => each.getBoundingClientRect().right > innerWidth + 1);
document.querySelector("details").open = true;
Object.assign(result, {
  fits: document.documentElement.scrollWidth <= innerWidth,
  wide: wide.length, charts: all("svg[role=img][aria-label]").length === all("svg").length,
  drawn: all("svg .line").every(each => each.getTotalLength() > 0),
  headings: document.querySelectorAll("h1").length, images: document.querySelectorAll("img, script[src]").length,
  target: !!document.querySelector(document.querySelector(".skip").getAttribute("href")),
});
"""


def _page(network: Partition) -> str:
    return Path(network.uri, "_network.html").read_text(encoding="utf-8")


def _text(page: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", page.split("</style>")[1])).split())


def test_page__shows_totals_trends_groups_and_missing_sites_first(network: NetworkStore) -> None:
    for day in range(1, 31):
        spread = [{"kinds": [kind("rogue", 0.99, "Bad", "dongle")]}] * (day // 3)
        network.census("a", day, [{}, {}, *spread], {"g1": A})
        network.census("b", day, [{}, {"watched": day == 30}], {"g2": A} if day > 20 else None, unreadable=day // 30)
    found = network.network(30, ["a", "b", "c"])
    page, text = _page(found), _text(_page(found))
    assert "3 sites: 1 complete, 1 partial , 1 missing" in text
    first = text.split("Needs attention")[1].split("Inventory")[0]
    assert "1 address on the watch list 1 site without a census: c" in first
    assert "unknown group" not in first, "it is of day 1"
    assert "1 unknown group is new" in _text(_page(network.network(1, ["a", "b", "c"])))
    assert first.index("names spread") < first.index("1 site is partial: b")
    assert "dongle 9.9 (9 to 10) · found 10, at 1 site" in text
    assert "2026-01-23 (a week before, 2 sites), and 2026-01-02 (four weeks before, 2 sites)" in text
    spreads = text.split("What spreads")[1].split("Unknown groups")[0]
    assert "Bad dongle kind four weeks before 0 9.9 (9 to 10) ↑ 0 1 ↑" in spreads
    assert "Unknown group 1 (TCP 8883) unknown group four weeks before 1 2 ↑ 1 2 ↑" in spreads
    assert "plug" not in spreads
    groups = text.split("Seen since")[1]
    assert "g1 2 2 1 0 2 a, b Nova TCP 8883 · 4 flows an hour, in 24 of 24 hours 2026-01-01 first at a" in groups
    sites = text.split("Flows skipped")[1]
    assert sites.index("c missing no captures of the date") < sites.index("b partial 1 capture in quarantine")
    assert sites.index("b partial") < sites.index("a complete")
    assert 'href="../../../census/site=a/capture_date=2026-01-30/_census.html"' in page
    assert 'href="../../../census/site=c/' not in page
    assert "On 2026-01-30 p1 1 at 1 site b 1" in text
    assert (Path(found.uri) / "../../../census/site=a/capture_date=2026-01-30/part-0.parquet").resolve().exists()


def test_page__of_hostile_names_is_inert(network: NetworkStore) -> None:
    hostile = kind(HOSTILE, vendor=HOSTILE, type=HOSTILE)
    for day in (1, 8):
        devices = [{"kinds": [hostile], "watched": True}] * day
        network.census("a", day, [*devices, {"status": "unknown", "group_name": "g1", "maker": HOSTILE}], {"g1": A})
    found = network.network(8)
    page = _page(found)
    assert "<script" not in page
    assert "<img" not in page
    assert "{{7*7}}" in html.unescape(page)
    assert page.count(html.escape(HOSTILE).replace("&#x27;", "&#39;").replace("&quot;", "&#34;")) >= 5
    assert "default-src 'none'" in page
    network.census("a", 9, [{"kinds": [kind("=1+1", type="=cmd()")]}])
    assert '"\'=cmd()"' in Path(network.network(9).uri, "_network.csv").read_text()


def test_page__without_earlier_dates_says_so(network: NetworkStore) -> None:
    network.census("a", 1, [{}])
    text = _text(_page(network.network(1)))
    assert "No date about a week or four weeks before is in the store." in text
    assert "No unknown group." in text
    assert "No watched device on any of these dates." in text
    network.census("b", 1, [{}])
    assert "No type was found." in _text(_page(network.network(2, ["b"], name="empty")))


def test_spreading__a_site_that_was_missing_then_is_no_rise() -> None:
    two, four = ([{"kinds": [kind("p", 0.999)]}] * number for number in (2, 4))
    a, more, b = (totals_of(rows_of(each, 1)) for each in (two, four, four))
    before, now, grown = (network_rows(each, {}) for each in ({"a": a}, {"a": a, "b": b}, {"a": more, "b": b}))
    assert not spreading(now, before, {})
    (kind_row, type_row) = spreading(grown, before, {})
    assert (kind_row["level"], type_row["level"]) == ("kind", "type")
    assert (type_row["now"]["found"], type_row["before"]["found"]) == (4, 2)
    assert (type_row["addresses"], type_row["sites"]) == (True, False)


def test_spreading__within_the_interval_is_no_rise() -> None:
    tables = [totals_of(rows_of([{"kinds": [kind("p", 0.7)]}] * number, 1)) for number in (20, 22)]
    before, now = (network_rows({"a": each}, {}) for each in tables)
    assert not spreading(now, before, {})


def test_charts__dates_that_are_absent_leave_a_gap() -> None:
    axis = Axis.of(["2026-01-01", "2026-01-02", "2026-01-04", "2026-01-05"])
    chart = line_chart(axis, [1.0, 2.0, 3.0, None], [(0, 2), (1, 3), (2, 4), None])
    assert (chart.line.count("M"), chart.band.count("M"), chart.most) == (2, 2, 4)
    bars = bar_chart(axis, [1, 0, 3, 0], [0, 2, 0, 0])
    assert (bars.up.count("M"), bars.down.count("M"), bars.most_up, bars.most_down) == (2, 1, 3, 2)


def _large_page(sites: int, dates: int, addresses: int) -> str:
    """A network of so many sites and dates with 60 types, 200 groups and names of 100 characters."""
    long = "x" * 90
    rows = [
        {"site": None, "level": level, "item": f"{long}{n}", "found": addresses, "expected": float(addresses), "low": 0,
         "high": 2 * addresses, "sites": sites, "sites_expected": float(sites), "sites_low": 0, "sites_high": sites,
         **dict.fromkeys(("new", "gone", "changed", "back", "remembered"), addresses), "variance": 9.0,
         "third_cumulant": 0.0, "p_none": 0.0}
        for level in ("type", "kind", "vendor", "model", "group") for n in range(60 if level == "type" else 200)
    ]  # fmt: skip
    table = pa.Table.from_pylist(rows, schema=network_rows({}, {}).schema)
    site = {
        "state": "partial", "reason": long, "addresses": addresses, "known": 1, "undecided": 1, "unknown": 1,
        "unexplained": 0.5, "watched": 1, "flows": 3, "flows_left_out": 1,
    }  # fmt: skip
    of_sites = [{**site, "site": f"{long}{n}"} for n in range(sites)]
    day = date(2026, 1, 1)
    group = {
        "first_date": day, "first_site": long, "last_date": day, "num_sites": sites,
        "sites": [f"{long}{n}" for n in range(min(sites, 100))],
        "addresses": addresses, "new": 1, "makers": [long] * 5, "services": ["TCP 1"] * 3,
    }  # fmt: skip
    groups = [{**group, "group_name": f"{long}{n}"} for n in range(200)]
    metadata = {
        "name": "all", "capture_date": "2026-03-31", "models": ["1"], "key_fingerprint": None, "not_joined": 0,
        "addresses": addresses, "watched": 3, "undecided": 1, "unexplained": 0.1,
        "sites": {"complete": 0, "partial": sites, "missing": 0},
    }  # fmt: skip
    last = date(2026, 3, 31)
    history = [DateTotals((last - timedelta(days=n)).isoformat(), table, metadata) for n in reversed(range(dates))]
    return render_page(
        Page(
            metadata,
            table,
            pa.Table.from_pylist(of_sites, schema=NETWORK_SITES.arrow_schema()),
            pa.Table.from_pylist(groups, schema=NETWORK_GROUPS.arrow_schema()),
            history,
            {7: (history[0], table), 28: (history[0], table)},
            {f"{long}{n}": f"../{long}{n}" for n in range(sites)},
        )
    )


def test_page__size_does_not_grow_with_addresses_or_many_sites() -> None:
    small, large = _large_page(100, 90, 100), _large_page(500, 90, 1_000_000)
    assert len(large) < 1_000_000
    assert len(large) < 1.3 * len(small)
    text = _text(large)
    assert "440 further sites: _sites.csv has all." in text
    assert "170 further groups: _groups.csv has all." in text
    assert "36 rarer types are not drawn" in text


@pytest.mark.parametrize("width", [1280, 390])
def test_page__opens_and_fits_in_a_browser(network: NetworkStore, tmp_path: Path, width: int) -> None:
    for day in (1, 2, 5, 9):
        devices: list[dict[str, Any]] = [
            {"kinds": [kind(HOSTILE * 3, vendor=HOSTILE, type=HOSTILE * 2)], "watched": True}
        ] * day
        network.census("a", day, [*devices, {}], {"g0123456789": A})
        network.census("site-" + "b" * 90, day, [{}], {"g0123456789": A})
    page = _page(network.network(9, ["a", "site-" + "b" * 90, "c"]))
    policy = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')  # it lets no script run
    assert result_in_browser(tmp_path, policy.sub("", page), ACTIONS, width) == {
        "width": width, "title": "Devices at all sites on Friday, 9 January 2026",
        "fits": True, "wide": 0, "charts": True, "drawn": True,
        "headings": 1, "images": 0, "target": True,
    }  # fmt: skip
