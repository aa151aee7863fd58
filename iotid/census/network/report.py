"""Renders the page of a network's census: one self-contained file without a script, whose size does not grow with
addresses. All names are untrusted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from iotid.census.attention import ACT, CHECK
from iotid.census.group_titles import group_titles
from iotid.census.groups import OTHERS
from iotid.census.identify import percents
from iotid.census.network.charts import HEIGHT, WIDTH, Axis, BarChart, LineChart, bar_chart, line_chart, ticks
from iotid.census.network.groups import merged_groups
from iotid.census.network.read import COMPLETE, MISSING, PARTIAL
from iotid.census.network.trends import (
    COMPARED_DAYS,
    DateTotals,
    number_of_common_sites,
    series,
    spreading,
)
from iotid.census.totals import ADDRESSES, WITH_PROBABILITIES
from iotid.pages import in_words, page_environment
from iotid.partitions import ALL_SITES

_TYPES = 24  # charts
_LISTED = 25  # of each level
_NAMED = 5  # sites named in a line
_SPREADING, _GROUPS, _SITES, _WATCHED, _MERGED = 20, 30, 60, 20, 10
_TITLES = {"kind": "Kinds", "type": "Types", "vendor": "Vendors", "model": "Models"}
_STATES = {MISSING: 0, PARTIAL: 1, COMPLETE: 2}  # in the order of the page

Row = dict[str, Any]


@dataclass(frozen=True)
class Page:
    """What the page shows: ``metadata`` of the partition with its key; ``rows`` (NETWORK), ``sites`` (NETWORK_SITES)
    and ``groups`` (NETWORK_GROUPS) of the date; ``history``: the dates of the window, the last of which is this one;
    ``before``: for COMPARED_DAYS an earlier date and its rows (NETWORK), if there is one; ``links``: relative addresses
    of sites' pages."""

    metadata: Mapping[str, Any]
    rows: pa.Table
    sites: pa.Table
    groups: pa.Table
    history: Sequence[DateTotals]
    before: Mapping[int, tuple[DateTotals, pa.Table]]
    links: Mapping[str, str]


def render_page(page: Page) -> str:
    environment = page_environment("iotid.census.network")
    environment.filters["percent"] = lambda part: percents(np.array([part]))[0] if part else "0 %"
    environment.filters["near"] = near
    environment.filters["in_words"] = in_words
    axis = Axis.of([each.capture_date for each in page.history])
    merged, name = merged_groups(page.groups), page.metadata["name"]
    of_all = page.rows.filter(pc.is_null(page.rows["site"]))
    spreads, services = _spreads(page, merged), (page.groups[name].to_pylist() for name in ("group_name", "services"))
    return environment.get_template("network.html.j2").render(
        metadata=page.metadata,
        title="Devices at all sites" if name == ALL_SITES else f"Devices of network {name}",
        size={"width": WIDTH, "height": HEIGHT},
        first=page.history[0].capture_date,
        dates=len(page.history),
        incomplete=ticks(axis, [_is_incomplete(each.metadata) for each in page.history]),
        total=_total(of_all),
        types=_types(page, of_all, axis),
        arrivals=_arrivals(page, axis),
        spreads=spreads,
        attention=_attention(page, spreads),
        titles=group_titles(dict(zip(*services, strict=True))),
        groups=_groups(page, axis, merged),
        watched=_watched(page, of_all, axis),
        quality=_quality(page, axis),
        sites=_sites(page),
        tables=_tables(of_all),
    )


def _attention(page: Page, spreads: Row) -> list[Row]:
    """What to look at, the most severe first: severity, text, and the section of the page."""
    sites, metadata = page.sites.to_pylist(), page.metadata
    missing, partial = ([row["site"] for row in sites if row["state"] == state] for state in (MISSING, PARTIAL))
    new = [row for row in page.groups.to_pylist() if row["addresses"] and str(row["first_date"]) == _date_of(page)]
    rising = len(spreads["rows"]) + spreads["more"]
    found = [
        (ACT, metadata["watched"], "address on the watch list", "addresses on the watch list", "watch-list", ""),
        (ACT, len(missing), "site without a census", "sites without a census", "sites", _some(missing)),
        (CHECK, rising, "name spreads", "names spread", "spreads", ""),
        (CHECK, len(new), "unknown group is new", "unknown groups are new", "groups", ""),
        (CHECK, len(partial), "site is partial", "sites are partial", "sites", _some(partial)),
    ]  # fmt: skip
    return [
        {"severity": severity, "text": f"{count:,} {one if count == 1 else many}{more}", "section": section}
        for severity, count, one, many, section, more in found
        if count
    ]


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return f": {', '.join(names[:_NAMED])}{more}" if names else ""


def _date_of(page: Page) -> str:
    return str(page.metadata["capture_date"])


def near(value: float) -> str:
    """An expected number: whole from 10 on, else with one decimal."""
    return f"{value:,.0f}" if value >= 9.95 else f"{value:.1f}".removesuffix(".0")


def _is_incomplete(metadata: Mapping[str, Any]) -> bool:
    return bool(metadata["sites"][MISSING] or metadata["sites"][PARTIAL])


def _total(of_all: pa.Table) -> Row:
    rows = of_all.filter(pc.equal(of_all["level"], "all")).to_pylist()
    return rows[0] if rows else dict.fromkeys(of_all.column_names, 0)


def _types(page: Page, of_all: pa.Table, axis: Axis) -> Row:
    """A chart for each of the commonest types of the date."""
    ranked = _ranked(of_all, "type")
    items = [row["item"] for row in ranked[:_TYPES]]
    by_item = series(page.history, "type", items, {})
    charts = [
        {"name": row["item"], "row": row, "chart": _line(axis, _filled(by_item[row["item"]], page.history))}
        for row in ranked[:_TYPES]
    ]
    return {"charts": charts, "more": len(ranked) - len(charts)}


def _ranked(of_all: pa.Table, level: str) -> list[Row]:
    rows = of_all.filter(pc.and_(pc.equal(of_all["level"], level), pc.greater_equal(of_all["expected"], 0.05)))
    return sorted(rows.to_pylist(), key=lambda row: (-row["expected"], row["item"]))


def _filled(rows: Sequence[Row | None], history: Sequence[DateTotals]) -> list[Row | None]:
    """Dates that have addresses, but not this item, count as 0; dates without any address have no value."""
    zero = {"expected": 0.0, "found": 0, "low": 0, "high": 0}
    return [row or (zero if each.metadata["addresses"] else None) for row, each in zip(rows, history, strict=True)]


def _line(axis: Axis, rows: Sequence[Row | None]) -> LineChart:
    ends = [(row["low"], row["high"]) if row else None for row in rows]
    return line_chart(axis, [row["expected"] if row else None for row in rows], ends)


def _arrivals(page: Page, axis: Axis) -> Row:
    rows = series(page.history, "all", [ADDRESSES], {})[ADDRESSES]
    counted = [row or dict.fromkeys(("new", "gone", "changed", "back", "found"), 0) for row in rows]
    chart: BarChart = bar_chart(axis, [row["new"] for row in counted], [row["gone"] for row in counted])
    return {"chart": chart, "line": _line(axis, _filled(rows, page.history)), "last": counted[-1]}


def _spreads(page: Page, merged: Mapping[str, str]) -> Row:
    """What rose against a week and four weeks before, one entry for each name."""
    rising: dict[tuple[str, str], Row] = {}
    compared = []
    for days in COMPARED_DAYS:
        if days not in page.before:
            continue
        earlier, rows = page.before[days]
        found = spreading(page.rows, rows, merged)
        compared.append(
            {
                "days": days,
                "capture_date": earlier.capture_date,
                "sites": number_of_common_sites(page.rows, rows),
                "other_models": earlier.metadata.get("models") != page.metadata["models"],
            }
        )
        for each in found:
            if each["level"] == "group" and each["item"] == OTHERS:
                continue
            entry = rising.setdefault((each["level"], each["item"]), {"rise": 0.0, "against": {}})
            entry["rise"] = max(entry["rise"], each["rise"])
            entry["against"][days] = each
    entries = [{"level": level, "item": item, **entry} for (level, item), entry in rising.items()]
    entries.sort(key=lambda each: (-round(each["rise"], 6), each["level"], each["item"]))
    return {"compared": compared, "rows": entries[:_SPREADING], "more": max(len(entries) - _SPREADING, 0)}


def _groups(page: Page, axis: Axis, merged: Mapping[str, str]) -> Row:
    """The unknown groups of the date, those that grow most first; and those that merged lately."""
    present = [row for row in page.groups.to_pylist() if row["addresses"]]
    before = {days: _counts(page, days, merged) for days in COMPARED_DAYS}
    for row in present:
        row["before"] = {
            days: counts.get(row["group_name"], 0) for days, counts in before.items() if counts is not None
        }
        row["growth"] = max((row["addresses"] - count for count in row["before"].values()), default=row["new"])
    present.sort(key=lambda row: (-row["growth"], -row["addresses"], row["group_name"]))
    listed = present[:_GROUPS]
    by_group = series(page.history, "group", [row["group_name"] for row in listed], merged)
    for row in listed:
        row["chart"] = _line(axis, _filled(by_group[row["group_name"]], page.history))
    lately = [row for row in page.groups.to_pylist() if row["merged_into"]]
    lately.sort(key=lambda row: (row["last_date"], row["group_name"]), reverse=True)
    return {
        "rows": listed, "more": len(present) - len(listed), "number": len(present), "merged": lately[:_MERGED],
        "has_before": {days: counts is not None for days, counts in before.items()},
    }  # fmt: skip


def _counts(page: Page, days: int, merged: Mapping[str, str]) -> dict[str, int] | None:
    """Addresses of each group on the earlier date; None if there is none."""
    if days not in page.before:
        return None
    rows = page.before[days][0].rows
    counts: dict[str, int] = {}
    for row in rows.filter(pc.equal(rows["level"], "group")).to_pylist():
        name = merged.get(row["item"], row["item"])
        counts[name] = counts.get(name, 0) + row["found"]
    return counts


def _watched(page: Page, of_all: pa.Table, axis: Axis) -> Row:
    rows = of_all.filter(pc.and_(pc.equal(of_all["level"], "watched"), pc.greater(of_all["found"], 0))).to_pylist()
    rows.sort(key=lambda row: (-row["found"], row["item"]))
    numbers = [float(each.metadata["watched"]) if each.metadata["addresses"] else None for each in page.history]
    chart = line_chart(axis, numbers, [None] * len(numbers))
    sites = [row for row in page.sites.to_pylist() if row["watched"]]
    sites.sort(key=lambda row: (-row["watched"], row["site"]))
    return {
        "rows": rows[:_WATCHED], "more": max(len(rows) - _WATCHED, 0), "chart": chart, "ever": any(numbers),
        "sites": [row | {"link": page.links.get(row["site"])} for row in sites[:_WATCHED]],
        "more_sites": max(len(sites) - _WATCHED, 0),
    }  # fmt: skip


def _quality(page: Page, axis: Axis) -> list[Row]:
    """Shares by date: of addresses undecided, of flows unexplained, of sites without a complete census."""

    def share(metadata: Mapping[str, Any], name: str) -> float | None:
        if name == "incomplete":
            sites = metadata["sites"]
            return (sites[MISSING] + sites[PARTIAL]) / max(sum(sites.values()), 1)
        if not metadata["addresses"]:
            return None
        return metadata["unexplained"] if name == "unexplained" else metadata[name] / metadata["addresses"]

    titles = {
        "undecided": "Addresses undecided", "unexplained": "Flows unexplained (mean over addresses)",
        "incomplete": "Sites partial or missing",
    }  # fmt: skip
    charts = []
    for name, title in titles.items():
        values = [share(each.metadata, name) for each in page.history]
        percent = [None if value is None else 100 * value for value in values]
        charts.append(
            {"title": title, "last": values[-1] or 0.0, "chart": line_chart(axis, percent, [None] * len(values))}
        )
    return charts


def _sites(page: Page) -> Row:
    """Missing and partial sites first, then those with watched and with most addresses."""
    rows = page.sites.to_pylist()
    rows.sort(key=lambda row: (_STATES[row["state"]], -row["watched"], -row["addresses"], row["site"]))
    for row in rows[:_SITES]:
        row["link"] = page.links.get(row["site"])
    return {"rows": rows[:_SITES], "more": max(len(rows) - _SITES, 0), "number": len(rows)}


def _tables(of_all: pa.Table) -> list[Row]:
    tables = []
    for level in WITH_PROBABILITIES:
        ranked = _ranked(of_all, level)
        tables.append({"title": _TITLES[level], "rows": ranked[:_LISTED], "more": max(len(ranked) - _LISTED, 0)})
    return tables
