"""The page of a census, opened, searched and sorted in headless Chromium if it is installed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from .report_browser import result_in_browser
from .report_tables import HOSTILE, census_of, facts, kind, page_of

ACTIONS = """
result.shown = rows.length; result.drawn = lines().length; result.first = ids().slice(0, 4);
show("present", "LAMP kitchen"); result.found = ids(); result.status = byId("count").textContent;
result.maker = cell(lines()[0], 0);
show("present", "nordlicht local"); result.by_maker = ids();
show("present", "no such thing"); result.none = byId("count").textContent; result.empty = !byId("empty").hidden;
show("gone", ""); result.gone = ids(); result.filled = byId("empty").hidden;
document.querySelector('[data-view="watched"]').click();
result.watched = ids(); result.focus = document.activeElement.id;
show("groups", ""); result.groups = lines().map(line => [cell(line, 1)[0], ...cell(line, 2)]);
document.querySelector('[data-search="gmany"]').click(); result.of_group = rows.length;
result.command = [...document.querySelectorAll(".section .command")].map(line => line.textContent);
show("named", "anna"); result.named = cell(lines()[0], 1);
show("several_with_unknown", "doorbell"); result.behind = cell(lines()[0], 1);
result.also = cell(lines()[0], 6); result.beside = cell(lines()[0], 2);
show("present", "");
order.value = "7 1"; order.dispatchEvent(new Event("change")); result.surest = ids()[0];
result.unsorted = !document.querySelector("[aria-sort]");
const headers = [...document.querySelectorAll("#header button")];
headers[3].click(); result.most = cells(3).slice(0, 2);
result.sort = byId("header").children[3].getAttribute("aria-sort");
headers[3].click(); result.least = cells(3).slice(0, 2);
byId("next").click(); result.page = byId("page").textContent; result.disabled = byId("previous").disabled;
result.fits = document.documentElement.scrollWidth <= innerWidth;
const fields = [...document.querySelectorAll("input, select")], buttons = [...document.querySelectorAll("button")];
result.labelled = fields.every(field => document.querySelector(`label[for=${field.id}]`));
result.reachable = buttons.every(button => button.textContent.trim() && button.tabIndex >= 0);
"""


@pytest.mark.parametrize(("width", "drawn", "pages"), [(1280, 50, 40), (390, 20, 100)])
def test_page__loads_searches_sorts_and_turns_pages_in_a_browser(
    tmp_path: Path, width: int, drawn: int, pages: int
) -> None:
    hours = [timedelta(hours=n % 24) for n in range(2000)]
    rows: list[dict[str, Any]] = [
        {
            "flows": n,
            "last_seen": datetime(2026, 1, 10, tzinfo=UTC) + hour,
            "kinds": [kind(HOSTILE * 3, vendor=HOSTILE)],
        }
        for n, hour in enumerate(hours)
    ]
    rows[5] |= {"kinds": [kind("Kitchen lamp")], "maker": f"Nordlicht {HOSTILE}", "mac_randomised": True}
    rows[6] |= {"change": "gone", "flows": 0}
    rows[7] |= {"watched": True}
    rows[8] |= {"status": "unknown", "group_name": "gmany"}
    rows[9] |= {"status": "unknown", "group_name": "gmany"}
    rows[10] |= {
        "status": "several_with_unknown", "change": "changed", "new_kinds": ["Bell X"], "confidence": 0.996,
        "kinds": [kind("Bell X", 0.996, type="doorbell")],
    }  # fmt: skip
    rows[10]["kinds"] += [kind(None, 0.994 - n / 10, kind=f"k{n}") for n in range(3)]
    rows[11] |= {"status": "named", "group_name": "gnamed", "named_by": "anna", "kinds": [kind("Cam 2", 0.95)]}
    page = page_of(census_of(rows), facts(site=HOSTILE), gmany=["TCP 8883"], gnamed=["TCP 1"])
    assert result_in_browser(tmp_path, page, ACTIONS, width) == {
        "width": width, "title": f"Devices at {HOSTILE} on Saturday, 10 January 2026", "shown": 1999, "drawn": drawn,
        "first": [f"02:00:00:00:00:{last}" for last in ("09", "08", "0a", "07")],
        "found": ["02:00:00:00:00:05"], "status": "1 device",
        "maker": ["02:00:00:00:00:05", "10.0.0.7 fe80::7", f"Nordlicht {HOSTILE}", "locally administered MAC"],
        "by_maker": ["02:00:00:00:00:05"], "none": "0 devices", "empty": True, "gone": ["02:00:00:00:00:06"],
        "filled": True, "watched": ["02:00:00:00:00:07"], "focus": "devices", "most": ["1,999", "1,998"],
        "sort": "descending", "least": ["0", "1"],
        "groups": [["Unknown group MANY (TCP 8883)", "unknown", "2 similar"]], "of_group": 2,
        "command": ["iotid name gmany --model … --vendor … --type …"],
        "named": ["Cam 2Acme · socket", "named by anna", "More"],
        "behind": ["Bell X>99 %Acme · doorbell", "k099 %", "k189 %", "k279 %", "and an unknown device", "More"],
        "also": ["changed", "now also: Bell X"], "beside": ["shared address with unknown"],
        "surest": "02:00:00:00:00:0a", "unsorted": True, "page": f"Page 2 of {pages}", "disabled": False,
        "fits": True, "labelled": True, "reachable": True,
    }  # fmt: skip
