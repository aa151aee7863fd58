"""What the rows of a census's page show, fold and print, in headless Chromium if it is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from .report_browser import result_in_browser
from .report_tables import HOSTILE, census_of, facts, kind, page_of

LISTED = {
    "devices": 3, "not_seen": 1, "not_seen_names": ["cellar"], "never_seen": 2,
    "agrees": 1, "differs": 1, "not_identified": 0, "not_listed": 1, "unknown": 2,
}  # fmt: skip


def _rows() -> list[dict[str, Any]]:
    """A listed device of four addresses and two earlier names, one answered otherwise, an unlisted, two unknown ones,
    and one that is gone."""
    hall = {"device_name": "hall light", "listed_label": "plug", "list_check": "agrees"}
    many = {"addresses": ["10.0.0.7", "10.0.0.8", "10.0.0.9", "fe80::77"], "earlier_names": ["Cam 2", HOSTILE]}
    desk = {"device_name": "desk", "listed_label": "lantern", "list_check": "differs", "reason": "Of 5 distinct flows."}
    unknown = {"status": "unknown", "group_name": "gmany", "list_check": "unknown", "dates_present": 1}
    unknown["similar_kinds"] = ["Acme lamp", "Volt bell", "mug"]
    return [
        hall | many,
        desk,
        {"list_check": "not_listed", "watched": True},
        unknown | {"change": "new", "same_as": "02:00:00:00:00:77"},
        unknown,
        {"change": "gone", "flows": 0},
    ]


def _page(**more: Any) -> str:
    return page_of(census_of(_rows()), facts(device_list=LISTED, **more), gmany=["TCP 8883", "UDP 53"])


def test_rows__show_two_addresses_the_list_and_the_history(tmp_path: Path) -> None:
    actions = """
result.columns = [...document.querySelectorAll("#header button")].map(button => button.textContent);
order.value = "0 0"; order.dispatchEvent(new Event("change"));
result.rows = lines().map(line => [0, 1, 2, 3, 6, 7].map(index => cell(line, index)));
"""
    result = result_in_browser(tmp_path, _page(), actions)
    assert result["columns"] == [
        "Device", "What it is", "Device list", "Status", "Flows", "Bytes", "Seen", "Change",
    ]  # fmt: skip
    plug, unknown = ["plug81 %Acme · socket", "More"], "Unknown group MANY (TCP 8883, UDP 53)"
    seen = ["2026-01-10 04:05", "from 2026-01-10 01:02", "since 2026-01-08, on 3 dates"]
    two = "10.0.0.7 fe80::7"
    novel = ["Of 3 distinct flows: 3 like those of Acme socket alone.", "most like: Acme lamp, Volt bell", "More"]
    assert result["rows"] == [
        [["desk", "02:00:00:00:00:01", two], plug, ["not as listed", "lantern"], ["known"], seen, ["same"]],
        [["hall light", "02:00:00:00:00:00", "10.0.0.7 10.0.0.8 +2"], plug, ["as listed"], ["known"], seen, ["same"]],
        [["02:00:00:00:00:02", two], plug, ["not listed"], ["known", "on the watch list"], seen, ["same"]],
        [
            ["02:00:00:00:00:03", two], [unknown, *novel], ["neither listed nor recognised"], ["unknown"],
            [*seen[:2], "first date"],
            ["new", "before 02:00:00:00:00:77"],
        ],
        [
            ["02:00:00:00:00:04", two], [unknown, *novel], ["neither listed nor recognised"], ["unknown"],
            [*seen[:2], "first date"], ["same"],
        ],
    ]  # fmt: skip


def test_rows__say_which_device_is_unlike_its_kind_and_how_much(tmp_path: Path) -> None:
    actions = """
result.rows = lines().map(line => cell(line, 1).join("|"));
for (const words of ["unlike its kind", "p 0.012", "p 0.40"]) { show("present", words); result[words] = ids().sort(); }
"""
    rows: list[dict[str, Any]] = [{"unlike_kind": 0.0123}, {"unlike_kind": 0.4}, {}]
    result = result_in_browser(tmp_path, page_of(census_of(rows), facts()), actions)
    assert ["unlike its kind (p 0.012)" in row for row in result["rows"]] == [True, False, False]
    of = [f"02:00:00:00:00:0{number}" for number in range(3)]
    assert result["unlike its kind"] == of[:2], "the second when its row is opened"
    assert (result["p 0.012"], result["p 0.40"]) == (of[:1], of[1:2])


def test_search__finds_all_that_a_row_shows_also_opened(tmp_path: Path) -> None:
    words = {
        "hall light": [0], "cam 2": [0], "fe80::77": [0], "lantern": [1], "of 5 distinct flows.": [1],
        "02:00:00:00:00:77": [3], "group many": [3, 4], "gmany": [3, 4], "udp 53": [3, 4], "iotid name": [3, 4],
        "on the watch list": [2], "since 2026-01-08": [0, 1, 2],
    }  # fmt: skip
    actions = f"""
for (const words of {list(words)}) {{ show("present", words); result[words] = ids().sort(); }}
"""
    result = result_in_browser(tmp_path, _page(), actions)
    assert {each: result[each] for each in words} == {
        each: [f"02:00:00:00:00:0{row}" for row in rows] for each, rows in words.items()
    }


OPENED = """
const opened = async line => {
  const details = line.querySelector("details");
  details.open = true;
  await new Promise(resolve => details.addEventListener("toggle", () => setTimeout(resolve)));
  const terms = [...details.querySelectorAll("dt")].map(term => term.textContent);
  return Object.fromEntries(terms.map((term, index) => [term, details.querySelectorAll("dd")[index].textContent]));
};
"""


def test_more__shows_history_and_commands_that_a_button_copies(tmp_path: Path) -> None:
    actions = f"""{OPENED}
show("present", "hall"); result.hall = await opened(lines()[0]);
show("watched", ""); result.watched = Object.keys(await opened(lines()[0]));
show("new_unknown", ""); result.unknown = await opened(lines()[0]);
const button = lines()[0].querySelector(".copy button"), copied = [];
const clipboard = writeText =>
  Object.defineProperty(navigator, "clipboard", {{value: {{writeText}}, configurable: true}});
clipboard(async text => copied.push(text));
button.click(); await 0; await 0; result.copied = [...copied, button.textContent];
document.querySelector(".section .copy button").click(); await 0; result.in_section = copied[1];
clipboard(async () => {{ throw new Error("not allowed"); }}); document.execCommand = () => false;
button.click(); await 0; await 0; await 0; result.refused = [button.textContent, getSelection().toString()];
"""
    result = result_in_browser(tmp_path, _page(), actions)
    assert result["hall"] == {
        "Why": "Of 3 distinct flows: 3 like those of Acme socket alone.", "Not found": "lamp 13 %; bell 6 %",
        "First seen": "2026-01-08 01:02; on 3 dates", "Names before": f"Cam 2; {HOSTILE}",
        "Addresses": "10.0.0.7 10.0.0.8 10.0.0.9 fe80::77",
        "Watch it": 'devices: ["02:00:00:00:00:00"]  # conf/watchlist.yamlCopy',
    }  # fmt: skip
    assert "Watch it" not in result["watched"]
    command = "iotid name gmany --model … --vendor … --type …"
    assert (result["unknown"]["Name it"], result["unknown"]["Group"]) == (f"{command}Copy", "gmany: TCP 8883, UDP 53")
    assert result["unknown"]["First seen"] == "2026-01-08 01:02; on 1 date"
    assert result["copied"] == [command, "Copied"]
    assert result["in_section"] == command
    assert result["refused"] == ["Selected", command], "so that the keyboard can copy it"


def test_more__of_pseudonyms_has_no_command_to_watch(tmp_path: Path) -> None:
    actions = f'{OPENED} show("present", "hall"); result.terms = Object.keys(await opened(lines()[0]));'
    result = result_in_browser(tmp_path, _page(key_fingerprint="00ff00ff00ff"), actions)
    assert result["terms"] == ["Why", "Not found", "First seen", "Names before", "Addresses"]


def test_print__shows_all_rows_of_the_view_and_says_so(tmp_path: Path) -> None:
    actions = """
byId("next").click();
result.sections = document.querySelectorAll("details.section:not([open])").length;
dispatchEvent(new Event("beforeprint"));
result.printed = [lines().length, byId("paper").textContent];
result.folded = document.querySelectorAll("details.section:not([open])").length;
dispatchEvent(new Event("afterprint")); result.after = lines().length;
"""
    rows: list[dict[str, Any]] = [{}] * 120 + [{"change": "gone"}] * 3
    assert result_in_browser(tmp_path, page_of(census_of(rows), facts()), actions) == {
        "width": 1280, "title": "Devices at lab on Saturday, 10 January 2026", "sections": 1, "after": 50,
        "printed": [120, "All 120 rows of this view are printed."], "folded": 0,
    }  # fmt: skip
    page = page_of(census_of([{}] * 2100), facts())
    assert result_in_browser(tmp_path, page, actions)["printed"] == [
        2000, "The first 2,000 of 2,100 rows are printed; _census.csv has all.",
    ]  # fmt: skip


def test_phone__folds_rows_until_they_are_opened(tmp_path: Path) -> None:
    actions = f"""{OPENED}
const folded = () => [...lines()[0].children].filter(td => td.checkVisibility() === false).map(td => td.dataset.title);
result.folded = folded(); await opened(lines()[0]); result.opened = folded();
"""
    narrow, wide = (result_in_browser(tmp_path, _page(), actions, width) for width in (390, 1280))
    assert narrow["folded"] == ["Flows", "Bytes", "Seen"]
    assert narrow["opened"] == wide["folded"] == wide["opened"] == []


@pytest.mark.parametrize("width", [1280, 390])
def test_layout__begins_with_what_needs_attention_and_never_overflows(tmp_path: Path, width: int) -> None:
    hostile = {"kinds": [kind(HOSTILE * 3, vendor=HOSTILE, type="x" * 300)], "device_name": "n" * 200}
    changes = ("changed", "new", "back", "gone")
    rows = [*_rows(), *({**hostile, "change": change, "previous_label": "p" * 200} for change in changes)]
    links = {
        "before": "../b.html", "before_date": "2026-01-09", "after": "../a.html", "after_date": "2026-01-11",
        "network": "../n.html", "report": "../r.html",
    }  # fmt: skip
    other_dates = {"2026-01-10": 10, "2025-01-01": 90}
    warned = facts(device_list=LISTED, links=links, learned_from_date=True, flows_by_date=other_dates)
    page = page_of(census_of(rows), warned, gmany=["TCP 8883"])
    actions = """
const box = byId("attention").getBoundingClientRect(); result.top = box.top; result.height = box.height;
result.order = [...document.querySelectorAll("h2")].map(title => title.textContent);
document.querySelectorAll("details").forEach(details => { details.open = true; });
await new Promise(done => setTimeout(done, 200)); // until the rows have drawn what is folded
result.fits = document.documentElement.scrollWidth <= innerWidth;
"""
    result = result_in_browser(tmp_path, page, actions, width)
    assert 0 < result["top"] < 500
    assert result["height"] > 0
    assert result["order"] == ["Needs attention", "Devices", "Inventory", "Coverage"]
    assert result["fits"]
