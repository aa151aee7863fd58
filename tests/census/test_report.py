"""The page and the CSV of a census; the page is opened, searched and sorted in headless Chromium where there is one."""

from __future__ import annotations

import csv
import html
import io
import json
import re
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from iotid.census.report import render_csv, render_groups_csv, render_page
from iotid.schemas import CENSUS, GROUPS

HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">&amp;{{7*7}}"
FORMULA = '=HYPERLINK("http://example.org")'
DATA = re.compile(r'<script type="application/json" id="data">(.*?)</script>', re.DOTALL)


def census_of(rows: list[dict[str, Any]]) -> pa.Table:
    usual = {
        "status": "known", "label": "plug", "vendor": "Acme", "type": "socket", "confidence": 0.8125,
        "runners_up": [{"label": "lamp", "confidence": 0.125}, {"label": "bell", "confidence": 0.0625}],
        "flows": 12, "bytes": 3456, "first_seen": datetime(2026, 1, 10, 1, 2, 3, tzinfo=UTC),
        "last_seen": datetime(2026, 1, 10, 4, 5, 6, tzinfo=UTC), "addresses": ["10.0.0.7", "fe80::7"],
        "change": "same", "previous_label": "plug", "watched": False, "several": [], "group": None,
    }  # fmt: skip
    numbered = [{"device_id": f"02:00:00:00:{n >> 8:02x}:{n & 255:02x}", **usual, **row} for n, row in enumerate(rows)]
    return pa.Table.from_pylist(numbered, schema=CENSUS.arrow_schema(stored=True))


def groups_of(**services: list[str]) -> pa.Table:
    rows = [
        {"group": name, "services": names, "protocol": [6], "payload_length": [70], "share": [1.0]}
        for name, names in services.items()
    ]
    return pa.Table.from_pylist(rows, schema=GROUPS.arrow_schema())


def page_of(census: pa.Table, facts: dict[str, Any], **services: list[str]) -> str:
    return render_page(census, groups_of(**services), facts)


def facts(**more: Any) -> dict[str, Any]:
    none = dict.fromkeys(("first", "new", "same", "changed", "back", "gone", "away"), 0)
    return {
        "site": "lab", "capture_date": "2026-01-10", "model_version": "7", "model_date": "2026-01-09",
        "model_quality": "macro F1 91.00 %",
        "settings_hash": "0123456789ab", "key_fingerprint": None,
        "compared_with": {"capture_date": "2026-01-09", "how": "as it was"},
        "packets": {"flow": 12345, "not_ip": 67, "truncated": 0}, "devices": 3, "watched": 1,
        "status": {"known": 3, "several": 0, "undecided": 0, "unknown": 0}, "changes": none, "flows": 1700,
        "flows_of_devices": 1500, "flows_of_other_protocols": 190, "flows_without_device": {"outside": 10},
    } | more  # fmt: skip


def text_of(page: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", page)).split())


def data_of(page: str) -> dict[str, Any]:
    match = DATA.search(page)
    assert match is not None
    loaded: dict[str, Any] = json.loads(match.group(1))
    return loaded


def test_page__hostile_names_stay_text_everywhere() -> None:
    rows = [{"label": HOSTILE, "vendor": HOSTILE, "type": HOSTILE, "previous_label": HOSTILE, "change": change}
            for change in ("changed", "new", "back", "gone")]  # fmt: skip
    undecided = {"status": "undecided", "label": None, "runners_up": [{"label": HOSTILE, "confidence": 0.4}]}
    page = page_of(census_of([*rows, undecided]), facts(site=HOSTILE, packets={"flow": 1, HOSTILE: 2}))
    assert page.count("<script") == 2
    assert page.count("</script>") == 2
    assert "<img" not in page
    assert "49" not in DATA.sub("", page)
    assert data_of(page)["label"]["names"] == [HOSTILE]
    assert HOSTILE in text_of(page) or HOSTILE in html.unescape(page)


def test_page__asks_the_network_for_nothing() -> None:
    page = page_of(census_of([{}]), facts())
    assert re.findall(r'href="(.)', page) == ["#"]
    assert not re.search(r"src=|://|@import|url\(|fetch\(|XMLHttpRequest", page)
    assert "default-src 'none'" in page


def test_page__tells_version_date_comparison_and_every_packet_and_flow() -> None:
    told = text_of(page_of(census_of([{}]), facts()))
    for part in (
        "Census of lab, 2026-01-10", "Model version 7 of 2026-01-09: macro F1 91.00 %.",
        "Compared with the census of 2026-01-09",
        "in flows 12,345", "left aside: not ip 67", "together 12,412", "did not learn 190", "inside: outside 10",
        "together 1,700",
    ):  # fmt: skip
        assert part in told
    assert "truncated" not in told
    assert "First census" in text_of(page_of(census_of([{}]), facts(compared_with=None)))
    for how, words in (("scored again", "were scored again"), ("labels not compared", "names are not compared")):
        compared = {"capture_date": "2026-01-09", "how": how}
        assert words in text_of(page_of(census_of([{}]), facts(compared_with=compared)))


def test_page__tells_that_identifiers_are_pseudonyms_and_why_nights_are_not_compared() -> None:
    apart = {"capture_date": "2026-01-09", "how": "not joinable"}
    told = text_of(page_of(census_of([{}]), facts(compared_with=apart, key_fingerprint="00ff00ff00ff")))
    assert "are pseudonyms (key 00ff00ff00ff)" in told
    assert "Not compared with the census of 2026-01-09, whose identifiers were not made with this key" in told
    told = text_of(page_of(census_of([{}]), facts(compared_with=apart)))
    assert "whose identifiers are pseudonyms: every device is there for the first time" in told
    assert "(key" not in told


def test_page__sections_list_what_to_look_at_and_count_all_of_it() -> None:
    rows = [{"change": "new"}] * 13 + [{"change": "gone", "status": "unknown", "label": None}]
    rows += [{"change": "changed", "previous_label": None}, {"watched": True}]
    rows += [{"status": "undecided", "label": None}]
    told = text_of(page_of(census_of(rows), facts()))
    for part in (
        "New: 13", "Show all 13 in the table", "Gone: 1", "was unknown , now plug",
        "On the watch list: 1", "nearest lamp , 12 % of the evidence of 12 flows", "Undecided: 1",
        "None: back, several behind one address, unknown.",
    ):  # fmt: skip
        assert part in told


def unknowns() -> list[dict[str, Any]]:
    """Fifty units of one new thing, one of another, one that is gone, and a device that is known."""
    unknown = {"status": "unknown", "label": None, "vendor": None, "type": None, "flows": 3, "bytes": 10}
    rows = [{**unknown, "group": "gmany"} for _ in range(50)]
    rows[7] |= {"flows": 9, "change": "new"}
    return [*rows, {**unknown, "group": "gone1"}, {**unknown, "group": "gmany", "change": "gone", "flows": 0}, {}]


def test_page_and_csv__units_of_one_new_thing_are_one_line() -> None:
    services = {"gmany": ["TCP 8883", "UDP 5353"], "gone1": []}
    page = page_of(census_of(unknowns()), facts(), **services)
    told = text_of(page)
    assert "Unknown: 51 in 2 groups gmany 50 devices, 1 new, such as 02:00:00:00:00:07 · TCP 8883, UDP 5353" in told
    assert "gone1 1 device, such as 02:00:00:00:00:32" in told
    data = data_of(page)
    assert {row: count for row, count in enumerate(data["stands_for"]) if count} == {7: 50, 50: 1}
    assert data["services"] == {"gmany": "TCP 8883, UDP 5353", "gone1": ""}
    many, one = csv.DictReader(io.StringIO(render_groups_csv(census_of(unknowns()), groups_of(**services))))
    assert many == {
        "group": "gmany", "devices": "50", "new": "1", "flows": "156", "bytes": "500",
        "services": "TCP 8883, UDP 5353", "example": "02:00:00:00:00:07",
    }  # fmt: skip
    assert (one["group"], one["devices"], one["services"]) == ("gone1", "1", "")
    device = next(csv.DictReader(io.StringIO(render_csv(census_of(unknowns())))))
    assert device["group"] == "gmany"


def test_page__lists_ten_groups_and_offers_the_rest() -> None:
    rows = [{"status": "unknown", "label": None, "group": f"g{n:02}"} for n in range(12)]
    told = text_of(page_of(census_of(rows), facts(), **{f"g{n:02}": [] for n in range(12)}))
    assert "Unknown: 12 g00" in told
    assert "g09 1 device" in told
    assert "g10 1 device" not in told
    assert "Show all 12 groups in the table" in told


def test_page_and_csv__tell_each_of_several_devices_behind_one_address() -> None:
    both = [{"label": name, "vendor": "Acme", "type": "x", "confidence": 0.41} for name in (HOSTILE, FORMULA)]
    several = {"status": "several", "label": None, "vendor": None, "type": None, "several": both}
    rows = [several, {**several, "change": "changed", "previous_label": "plug"}]
    page = page_of(census_of(rows), facts())
    assert page.count("<script") == 2
    told = text_of(page)
    assert "Several behind one address: 2" in told
    assert f"was plug , now {HOSTILE} + {FORMULA}" in told
    assert data_of(page)["several"][0] == f"{HOSTILE} 41 %; {FORMULA} 41 %"
    assert next(csv.DictReader(io.StringIO(render_csv(census_of(rows)))))["several"] == data_of(page)["several"][0]


def test_page__charts_count_known_devices_that_are_there_and_gather_what_is_beyond_twelve() -> None:
    rows = [{"type": f"type {n:02}"} for n in range(15)] + [{"type": "type 14"}, {"type": None}]
    rows += [{"type": "absent", "change": "gone"}, {"type": "unsure", "status": "undecided", "label": None}]
    told = text_of(page_of(census_of(rows), facts()))
    assert "Type type 14 2 type 00 1" in told
    assert "type 10 1 3 others 3 not in the device list 1" in told
    assert "absent 1" not in told
    assert "unsure 1" not in told


def test_page__carries_every_row_for_its_table() -> None:
    data = data_of(page_of(census_of([{}, {"watched": True, "label": None, "runners_up": []}]), facts()))
    assert data["device_id"] == ["02:00:00:00:00:00", "02:00:00:00:00:01"]
    assert data["label"] == {"names": ["plug"], "codes": [0, -1]}
    assert data["runners_up"] == ["lamp 12 %; bell 6 %", ""]
    assert data["addresses"] == ["10.0.0.7 fe80::7"] * 2
    assert data["first_seen"] == [int(datetime(2026, 1, 10, 1, 2, 3, tzinfo=UTC).timestamp())] * 2


def test_page_and_csv__of_an_empty_night_are_whole() -> None:
    empty = CENSUS.arrow_schema(stored=True).empty_table()
    assert len(render_groups_csv(empty, groups_of()).splitlines()) == 1
    assert "No known devices." in page_of(empty, facts(packets={}))
    assert len(render_csv(empty).splitlines()) == 1


def test_csv__loads_again_and_runs_no_formula() -> None:
    rows = [{"label": FORMULA, "vendor": 'A "quoted", vendor\nin two lines'}, {"label": "-1", "previous_label": None}]
    first, second = csv.DictReader(io.StringIO(render_csv(census_of(rows))))
    assert first["label"] == f"'{FORMULA}"
    assert first["vendor"] == 'A "quoted", vendor\nin two lines'
    assert (second["label"], second["previous_label"]) == ("'-1", "")
    assert (first["addresses"], first["runners_up"]) == ("10.0.0.7 fe80::7", "lamp 12 %; bell 6 %")
    assert (first["confidence"], first["first_seen"][:19]) == ("0.8125", "2026-01-10 01:02:03")


# A browser's window has a least width, a frame has none: the page is opened in one, and tells its parent what it did.
FRAME = """<!doctype html><iframe src="page.html" style="width:{width}px;height:900px;border:0"></iframe>
<pre id="told"></pre><script>onmessage = told => document.getElementById("told").textContent = told.data</script>"""
ACTIONS = """
const told = {width: innerWidth, title: document.title, shown: rows.length, drawn: byId("rows").children.length};
const lines = () => [...document.querySelectorAll("#rows tr")];
const cells = place => lines().map(line => line.children[place].firstChild.textContent);
search.value = "LAMP kitchen"; select(); told.found = cells(0); told.status = byId("told").textContent;
search.value = "no such thing"; select(); told.none = byId("told").textContent;
search.value = ""; view.value = "gone"; select(); told.gone = cells(0);
document.querySelector('[data-view="watched"]').click();
told.watched = cells(0); told.focus = document.activeElement.id;
view.value = "groups"; select(); told.groups = lines().map(line => line.children[2].textContent);
document.querySelector('[data-search="gmany"]').click(); told.of_group = rows.length;
view.value = "present"; search.value = ""; select();
const heads = [...document.querySelectorAll("#heads button")];
heads[4].click(); told.most = cells(4).slice(0, 2); told.sort = byId("heads").children[4].getAttribute("aria-sort");
heads[4].click(); told.least = cells(4).slice(0, 2);
byId("next").click(); told.page = byId("page").textContent; told.disabled = byId("previous").disabled;
told.fits = document.documentElement.scrollWidth <= innerWidth;
const fields = [...document.querySelectorAll("input, select")], buttons = [...document.querySelectorAll("button")];
told.labelled = fields.every(field => document.querySelector(`label[for=${field.id}]`));
told.reachable = buttons.every(button => button.textContent.trim() && button.tabIndex >= 0);
parent.postMessage(JSON.stringify(told), "*");
"""


@pytest.mark.parametrize("width", [1280, 390])
def test_page__loads_searches_sorts_and_leafs_in_a_browser(tmp_path: Path, width: int) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium: install it to test the page in a browser")
    hours = [timedelta(hours=n % 24) for n in range(2000)]
    rows: list[dict[str, Any]] = [
        {"flows": n, "last_seen": datetime(2026, 1, 10, tzinfo=UTC) + hour, "vendor": HOSTILE, "label": HOSTILE * 3}
        for n, hour in enumerate(hours)
    ]
    rows[5] |= {"label": "Kitchen lamp", "vendor": "Acme"}
    rows[6] |= {"change": "gone", "flows": 0}
    rows[7] |= {"watched": True}
    rows[8] |= {"status": "unknown", "label": None, "group": "gmany"}
    rows[9] |= {"status": "unknown", "label": None, "group": "gmany"}
    page = page_of(census_of(rows), facts(site=HOSTILE), gmany=["TCP 8883"]).replace(
        "</body>", f"<script>{ACTIONS}</script></body>"
    )
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    (tmp_path / "frame.html").write_text(FRAME.format(width=width), encoding="utf-8")
    arguments = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile", "--dump-dom"]
    told = subprocess.run(
        [browser, *arguments, "--window-size=1400,1000", "--virtual-time-budget=10000", f"file://{tmp_path}/frame.html"],
        capture_output=True, text=True, check=True, timeout=60,
    ).stdout  # fmt: skip
    match = re.search(r'<pre id="told">(.*?)</pre>', told, re.DOTALL)
    assert match is not None
    assert json.loads(html.unescape(match.group(1))) == {
        "width": width, "title": f"Census of {HOSTILE}, 2026-01-10", "shown": 1999, "drawn": 50,
        "found": ["02:00:00:00:00:05"], "status": "1 device", "none": "0 devices", "gone": ["02:00:00:00:00:06"],
        "watched": ["02:00:00:00:00:07"], "focus": "devices", "most": ["1,999", "1,998"], "sort": "descending",
        "least": ["0", "1"], "groups": ["unknowngmany, 2 alike"], "of_group": 2,
        "page": "Page 2 of 40", "disabled": False, "fits": True, "labelled": True,
        "reachable": True,
    }  # fmt: skip
