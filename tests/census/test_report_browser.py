"""The page of a census, opened, searched and sorted in headless Chromium if it is installed."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from .report_tables import (
    HOSTILE,
    census_of,
    facts,
    kind,
    page_of,
)

# A browser window has a minimum width: the page is opened in a frame, and posts its results.
FRAME = """<!doctype html><iframe src="page.html" style="width:{width}px;height:900px;border:0"></iframe>
<pre id="result"></pre>
<script>onmessage = result => document.getElementById("result").textContent = result.data</script>"""
ACTIONS = """
const result = {width: innerWidth, title: document.title, shown: rows.length, drawn: byId("rows").children.length};
const lines = () => [...document.querySelectorAll("#rows tr")];
const cells = index => lines().map(line => line.children[index].firstChild.textContent);
search.value = "LAMP kitchen"; select(); result.found = cells(0); result.status = byId("count").textContent;
result.maker = [...lines()[0].children[0].children].map(line => line.textContent);
search.value = "nordlicht local"; select(); result.by_maker = cells(0);
search.value = "no such thing"; select(); result.none = byId("count").textContent;
search.value = ""; view.value = "gone"; select(); result.gone = cells(0);
document.querySelector('[data-view="watched"]').click();
result.watched = cells(0); result.focus = document.activeElement.id;
view.value = "groups"; select(); result.groups = lines().map(line => line.children[2].textContent);
document.querySelector('[data-search="gmany"]').click(); result.of_group = rows.length;
result.command = [...document.querySelectorAll(".command")].map(line => line.textContent);
view.value = "named"; search.value = "anna"; select();
result.named = [...lines()[0].children[1].querySelectorAll("li, td > small")].map(line => line.textContent);
view.value = "several_with_unknown"; search.value = "doorbell"; select();
result.behind = [...lines()[0].children[1].querySelectorAll("li, td > small")].map(line => line.textContent);
result.also = lines()[0].children[6].textContent; result.beside = lines()[0].children[2].textContent;
view.value = "present"; search.value = ""; select();
order.value = "7 1"; order.dispatchEvent(new Event("change")); result.surest = cells(0)[0];
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
parent.postMessage(JSON.stringify(result), "*");
"""


@pytest.mark.parametrize("width", [1280, 390])
def test_page__loads_searches_sorts_and_turns_pages_in_a_browser(tmp_path: Path, width: int) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium: install it to test the page in a browser")
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
    page = page_of(census_of(rows), facts(site=HOSTILE), gmany=["TCP 8883"], gnamed=["TCP 1"]).replace(
        "</body>", f"<script>{ACTIONS}</script></body>"
    )
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    (tmp_path / "frame.html").write_text(FRAME.format(width=width), encoding="utf-8")
    arguments = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile", "--dump-dom"]
    result = subprocess.run(
        [browser, *arguments, "--window-size=1400,1000", "--virtual-time-budget=10000", f"file://{tmp_path}/frame.html"],
        capture_output=True, text=True, check=True, timeout=60,
    ).stdout  # fmt: skip
    match = re.search(r'<pre id="result">(.*?)</pre>', result, re.DOTALL)
    assert match is not None
    assert json.loads(html.unescape(match.group(1))) == {
        "width": width, "title": f"Census of {HOSTILE}, 2026-01-10", "shown": 1999, "drawn": 50,
        "found": ["02:00:00:00:00:05"], "status": "1 address",
        "maker": ["02:00:00:00:00:05", "10.0.0.7 fe80::7", f"Nordlicht {HOSTILE}", "locally administered MAC"],
        "by_maker": ["02:00:00:00:00:05"], "none": "0 addresses", "gone": ["02:00:00:00:00:06"],
        "watched": ["02:00:00:00:00:07"], "focus": "devices", "most": ["1,999", "1,998"], "sort": "descending",
        "least": ["0", "1"], "groups": ["unknowngmany, 2 similar"], "of_group": 2,
        "command": ["iotid name gmany --model … --vendor … --type …"],
        "named": [
            "Cam 295 %Acme · socket", "named by anna", "TCP 1", "not found: lamp 13 %; bell 6 %",
            "Of 3 distinct flows: 3 like those of Acme socket alone.",
        ],
        "behind": [
            "Bell X>99 %Acme · doorbell", "k099 %", "k189 %", "k279 %", "and an unknown device",
            "not found: lamp 13 %; bell 6 %", "Of 3 distinct flows: 3 like those of Acme socket alone.",
        ],
        "also": "changednow also: Bell X", "beside": "several with unknown", "surest": "02:00:00:00:00:0a",
        "unsorted": True, "page": "Page 2 of 40", "disabled": False, "fits": True, "labelled": True,
        "reachable": True,
    }  # fmt: skip
