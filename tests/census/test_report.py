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

from iotid.census.report import render_csv, render_groups_csv, render_left_out_csv, render_page
from iotid.schemas import CENSUS, GROUPS, LEFT_OUT

HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">&amp;{{7*7}}"
FORMULA = '=HYPERLINK("http://example.org")'
DATA = re.compile(r'<script type="application/json" id="data">(.*?)</script>', re.DOTALL)


def kind(label: str | None, confidence: float = 0.8125, **more: Any) -> dict[str, Any]:
    """A kind found; without a label it is one of several look-alikes."""
    vendor, type_ = more.get("vendor", "Acme"), more.get("type", "socket")
    name = more.get("kind", f"{vendor} {type_}")
    found = {"kind": name, "label": label, "vendor": vendor, "type": type_, "confidence": confidence, "flows": 3}
    return {**found, "units": more.get("units", 1)}


def census_of(rows: list[dict[str, Any]]) -> pa.Table:
    """Known plugs but for what ``rows`` say; ``kinds`` are none where they name a status without any."""
    usual = {
        "status": "known", "kinds": [kind("plug")], "confidence": 0.8125,
        "runners_up": [{"label": "lamp", "confidence": 0.125}, {"label": "bell", "confidence": 0.0625}],
        "unexplained": 0.25, "household": 0.5, "reason": "Of 3 distinct flows: 3 like those of Acme socket alone.",
        "flows": 12, "bytes": 3456, "first_seen": datetime(2026, 1, 10, 1, 2, 3, tzinfo=UTC),
        "last_seen": datetime(2026, 1, 10, 4, 5, 6, tzinfo=UTC), "addresses": ["10.0.0.7", "fe80::7"],
        "change": "same", "previous_label": "plug", "new_kinds": [], "watched": False, "group": None, "marks": [],
    }  # fmt: skip
    numbered = []
    for n, row in enumerate(rows):
        whole = {"device_id": f"02:00:00:00:{n >> 8:02x}:{n & 255:02x}", **usual, **row}
        if whole["status"] in ("unknown", "undecided"):
            whole["kinds"] = []
        only = whole["kinds"][0] if len(whole["kinds"]) == 1 else {}
        numbered.append({name: only.get(name) for name in ("label", "vendor", "type")} | whole)
    return pa.Table.from_pylist(numbered, schema=CENSUS.arrow_schema(stored=True))


def groups_of(**services: list[str]) -> pa.Table:
    rows = [
        {"group": name, "services": names, "protocol": [6], "payload_length": [70], "share": [1.0]}
        for name, names in services.items()
    ]
    return pa.Table.from_pylist(rows, schema=GROUPS.arrow_schema())


def left_out_of(*rows: dict[str, Any]) -> pa.Table:
    usual = {"reason": "router", "addresses": 2, "in_census": False, "ends": 1, "flows": 7, "packets": 70}
    return pa.Table.from_pylist([usual | row for row in rows], schema=LEFT_OUT.arrow_schema())


def page_of(
    census: pa.Table,
    facts: dict[str, Any],
    most_rows: int = 10_000,
    left_out: pa.Table | None = None,
    **services: list[str],
) -> str:
    return render_page(census, groups_of(**services), left_out_of() if left_out is None else left_out, facts, most_rows)


def facts(**more: Any) -> dict[str, Any]:
    none = dict.fromkeys(("first", "new", "same", "changed", "back", "gone", "away"), 0)
    return {
        "site": "lab", "capture_date": "2026-01-10", "model_version": "7", "model_date": "2026-01-09",
        "model_quality": "macro F1 91.00 %",
        "settings_hash": "0123456789ab", "key_fingerprint": None,
        "compared_with": {"capture_date": "2026-01-09", "how": "as it was"},
        "packets": {"flow": 12345, "not_ip": 67, "truncated": 0}, "devices": 3, "watched": 1,
        "status": {"known": 3, "several": 0, "several_with_unknown": 0, "undecided": 0, "unknown": 0},
        "changes": none, "flows": 1700,
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
    hostile = {"kinds": [kind(HOSTILE, vendor=HOSTILE, type=HOSTILE)], "reason": HOSTILE, "previous_label": HOSTILE}
    rows = [{**hostile, "change": change} for change in ("changed", "new", "back", "gone")]
    rows += [{**hostile, "status": status} for status in ("several", "several_with_unknown")]
    two = [*hostile["kinds"], kind(None, kind=HOSTILE)]
    rows.append({**hostile, "change": "changed", "kinds": two, "new_kinds": [HOSTILE]})
    undecided = {"status": "undecided", "reason": HOSTILE, "runners_up": [{"label": HOSTILE, "confidence": 0.4}]}
    page = page_of(census_of([*rows, undecided]), facts(site=HOSTILE, packets={"flow": 1, HOSTILE: 2}))
    assert page.count("<script") == 2
    assert page.count("</script>") == 2
    assert "<img" not in page
    assert "49" not in DATA.sub("", page)
    data = data_of(page)
    assert data["kinds"]["named"] == [[HOSTILE, HOSTILE, HOSTILE], [HOSTILE, None, None]]
    assert data["reason"]["names"] == data["also"]["names"] == [HOSTILE]
    assert HOSTILE in text_of(page) or HOSTILE in html.unescape(page)


def test_page__what_is_left_out_is_folded_with_counts_and_the_busiest_of_each_reason() -> None:
    rows = [{"mac": f"02:00:00:00:01:{n:02x}", "addresses": 1, "address": f"100.64.0.{n}"} for n in range(12)]
    rows.append({"in_census": None, "ends": 3000, "flows": 1000, "packets": 5000})
    rows.append({"reason": "unanswered", "mac": HOSTILE, "in_census": True, "ends": 1, "flows": 1, "packets": 1})
    counted = {"flows_without_device": {"router": 1084, "unanswered": 1}, "flows_of_other_protocols": 0}
    page = page_of(census_of([{}]), facts(**counted), left_out=left_out_of(*rows))
    (folded,) = re.findall(r"<details>.*?</details>", page, re.DOTALL)
    assert "<img" not in folded
    text = text_of(folded)
    assert "Sent by a router from an address outside, for others: 1,084 flows, 3,012 MACs or addresses" in text
    assert text.count("7 flows, 70 packets · not in the census") == 10
    assert "Sent to what did not answer: 1 flow, 1 MAC or address" in text
    assert f"{HOSTILE} 2 addresses · 1 flow, 1 packet" in text
    assert "left out: sent to what did not answer 1" in text_of(page)
    assert "<details>" not in page_of(census_of([{}]), facts(flows_without_device={}, flows_of_other_protocols=0))


def test_page__rows_that_are_marked_are_a_section_a_view_and_a_word_of_their_status() -> None:
    marks = ["address_conflict", "kinds_at_once"]
    rows: list[dict[str, Any]] = [{"marks": marks}, {"marks": marks[:1]}, {"marks": marks, "change": "gone"}, {}]
    page = page_of(census_of(rows), facts())
    told = text_of(page)
    assert "Another MAC used an address of it at the same time: 2 02:00:00:00:00:00" in told
    assert "Several kinds at the same time under one MAC: 1 02:00:00:00:00:00" in told
    data = data_of(page)["marks"]
    assert [data["names"][code] for code in data["codes"]] == ["; ".join(row.get("marks", [])) for row in rows]
    for mark in marks:
        assert f'<option value="{mark}">' in page
    first, *_ = csv.DictReader(io.StringIO(render_csv(census_of(rows))))
    assert first["marks"] == "address_conflict; kinds_at_once"
    many = [{"flows": 100 + n} for n in range(30)] + rows[:2]
    kept = data_of(page_of(census_of(many), facts(), most_rows=4))
    assert {"02:00:00:00:00:1e", "02:00:00:00:00:1f"} <= set(kept["device_id"]), "a flood of others does not hide them"


def test_left_out_csv__is_what_a_spreadsheet_runs_no_formula_of() -> None:
    (row,) = csv.DictReader(io.StringIO(render_left_out_csv(left_out_of({"mac": "=1+1"}))))
    assert (row["mac"], row["flows"], row["in_census"]) == ("'=1+1", "7", "false")


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
        "in flows 12,345", "left aside: not ip 67", "together 12,412", "did not learn 190", "no MAC is shown 10",
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
    assert "are pseudonyms (key 00ff00ff00ff), and numbers of a row are those of all addresses with the" in told
    assert "rounded down: counts to powers of ten, times to days" in told
    assert "Not compared with the census of 2026-01-09, whose identifiers were not made with this key" in told
    told = text_of(page_of(census_of([{}]), facts(compared_with=apart)))
    assert "whose identifiers are pseudonyms: every device is there for the first time" in told
    assert "(key" not in told
    assert "powers of ten" not in told


def test_page__shows_days_where_times_are_rounded_to_days() -> None:
    day = datetime(2026, 1, 10, tzinfo=UTC)
    gone = census_of([{"change": "gone", "first_seen": day, "last_seen": day}])
    assert "last seen 2026-01-10 00:00" in text_of(page_of(gone, facts()))
    told = page_of(gone, facts(key_fingerprint="00ff00ff00ff"))
    assert "last seen 2026-01-10" in text_of(told)
    assert "2026-01-10 00:00" not in text_of(told)
    assert "toISOString().slice(0, 10)" in told


def test_page__sections_list_what_to_look_at_and_count_all_of_it() -> None:
    rows: list[dict[str, Any]] = [{"change": "new"}] * 13 + [{"change": "gone", "status": "unknown"}]
    rows += [{"watched": True}, {"status": "undecided"}]
    told = text_of(page_of(census_of(rows), facts()))
    for part in (
        "New: 13", "Show all 13 in the table", "Gone: 1", "On the watch list: 1", "plug 81 % · Acme",
        "nearest lamp , 13 %, by 12 flows", "Undecided: 1",
        "one mac, changed, back, something unknown beside the kinds found, several kinds behind one address, unknown.",
    ):  # fmt: skip
        assert part in told


@pytest.mark.parametrize(
    ("row", "told", "also"),
    [
        ({"previous_label": None, "new_kinds": ["plug"]}, "was unknown , now plug", None),
        ({"previous_label": "lamp", "new_kinds": ["plug"]}, "was lamp , now plug", None),
        ({"previous_label": "lamp", "status": "unknown"}, "was lamp , now unknown", None),
        (
            {"previous_label": "lamp + plug", "kinds": [kind("bell"), kind("plug")], "new_kinds": ["bell"]},
            "now also: bell · was lamp + plug",
            "bell",
        ),
        (
            {"kinds": [kind("tv"), kind("bell"), kind("plug")], "new_kinds": ["tv", "bell"]},
            "now also: tv, bell · was plug",
            "tv, bell",
        ),
        (
            {"previous_label": "plug", "kinds": [kind("tv"), kind("bell")], "new_kinds": ["tv", "bell"]},
            "was plug , now bell + tv",
            None,
        ),
        (
            {"previous_label": None, "status": "several_with_unknown", "new_kinds": ["plug"]},
            "was unknown , now plug and something unknown",
            None,
        ),
    ],
)
def test_page__of_a_changed_address_tells_what_came_or_what_it_was(
    row: dict[str, Any], told: str, also: str | None
) -> None:
    page = page_of(census_of([{"change": "changed", "status": "several", **row}]), facts())
    assert f"Changed: 1 02:00:00:00:00:00 {told} " in text_of(page)
    assert data_of(page)["also"]["names"] == ([also] if also else [])


def unknowns() -> list[dict[str, Any]]:
    """Fifty units of one new thing, one of another, one that is gone, and a device that is known."""
    unknown = {"status": "unknown", "flows": 3, "bytes": 10}
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
    rows = [{"status": "unknown", "group": f"g{n:02}"} for n in range(12)]
    told = text_of(page_of(census_of(rows), facts(), **{f"g{n:02}": [] for n in range(12)}))
    assert "Unknown: 12 g00" in told
    assert "g09 1 device" in told
    assert "g10 1 device" not in told
    assert "Show all 12 groups in the table" in told


def test_page_and_csv__name_every_kind_behind_one_address_and_how_probable_it_is() -> None:
    behind = [kind(HOSTILE, 0.9951), kind(None, 0.9949, vendor="Volt", type="plug"), kind(FORMULA, 0.605)]
    rows = [{"status": "several", "kinds": behind}, {"status": "several_with_unknown", "kinds": behind[1:]}]
    page = page_of(census_of(rows), facts())
    told = text_of(page)
    assert page.count("<script") == 2
    assert (
        f"Several kinds behind one address: 1 02:00:00:00:00:00 {HOSTILE} >99 % , Volt plug 99 % , {FORMULA} 61 %"
        in told
    )
    beside = f"02:00:00:00:00:01 Volt plug 99 % , {FORMULA} 61 % and something unknown"
    assert f"Something unknown beside the kinds found: 1 {beside}" in told
    data = data_of(page)
    assert data["kinds"]["named"] == [
        [HOSTILE, "Acme", "socket"], ["Volt plug", None, None], [FORMULA, "Acme", "socket"],
    ]  # fmt: skip
    assert data["kinds"]["of"] == [[0, 0.9951, 1, 0.9949, 2, 0.605], [1, 0.9949, 2, 0.605]]
    first, second = csv.DictReader(io.StringIO(render_csv(census_of(rows))))
    assert first["kinds"] == f"{HOSTILE} >99 %; Volt plug 99 %;' {FORMULA} 61 %"
    assert (second["kinds"], second["status"]) == (f"Volt plug 99 %;' {FORMULA} 61 %", "several_with_unknown")


def test_page_and_csv__say_where_more_than_one_device_of_a_kind_must_be_there() -> None:
    rows = [{"status": "several", "kinds": [kind("plug", units=2), kind("lamp")]}]
    assert [name for name, *_ in data_of(page_of(census_of(rows), facts()))["kinds"]["named"]] == [
        "plug (2 or more)",
        "lamp",
    ]
    (row,) = csv.DictReader(io.StringIO(render_csv(census_of(rows))))
    assert row["kinds"] == "plug (2 or more) 81 %; lamp 81 %"


def test_page__charts_count_every_kind_found_behind_what_is_there_and_gather_what_is_beyond_twelve() -> None:
    types = [*(f"type {n:02}" for n in range(15)), "type 14", None]
    rows: list[dict[str, Any]] = [{"kinds": [kind("plug", type=each, kind="plug")]} for each in types[:-2]]
    rows.append({"status": "several", "kinds": [kind("plug", type=each, kind="plug") for each in types[-2:]]})
    rows += [{"kinds": [kind("plug", type="absent")], "change": "gone"}, {"status": "undecided"}]
    told = text_of(page_of(census_of(rows), facts()))
    assert "17 kinds found behind 16 addresses;" in told
    assert "Type type 14 2 type 00 1" in told
    assert "type 10 1 3 others 3 not in the device list 1" in told
    assert "absent 1" not in told


def test_page__carries_every_row_for_its_table() -> None:
    rows = [{}, {"watched": True, "runners_up": [], "kinds": [kind("plug"), kind("lamp", 0.75)], "reason": "Why."}]
    data = data_of(page_of(census_of(rows), facts()))
    assert data["device_id"] == ["02:00:00:00:00:00", "02:00:00:00:00:01"]
    assert data["kinds"] == {
        "named": [["plug", "Acme", "socket"], ["lamp", "Acme", "socket"]], "of": [[0, 0.8125], [0, 0.8125, 1, 0.75]],
    }  # fmt: skip
    assert data["reason"] == {
        "names": ["Of 3 distinct flows: 3 like those of Acme socket alone.", "Why."],
        "codes": [0, 1],
    }
    assert data["runners_up"] == {"names": ["lamp 13 %; bell 6 %", ""], "codes": [0, 1]}
    assert data["addresses"] == ["10.0.0.7 fe80::7"] * 2
    assert data["first_seen"] == [int(datetime(2026, 1, 10, 1, 2, 3, tzinfo=UTC).timestamp())] * 2


def test_page__of_a_flood_has_as_many_rows_as_it_may_and_says_so() -> None:
    flood = [{"status": "unknown", "change": "new", "group": f"g{n:03}", "flows": 1} for n in range(200)]
    flood += [{"status": "unknown", "change": "gone", "group": "gmany", "flows": 0} for _ in range(200)]
    honest = [{"flows": n} for n in range(8)] + [{"change": "changed"}, {"status": "undecided"}, {"change": "gone"}]
    honest += [{"status": "unknown", "change": "new", "group": "gmany", "flows": flows} for flows in (700, 60)]
    rows = [*flood, *honest, {"watched": True, "flows": 1}]
    groups: dict[str, list[str]] = {f"g{n:03}": ["TCP 1"] for n in range(200)} | {"gmany": ["TCP 2"]}
    page = page_of(census_of(rows), facts(), 40, **groups)
    data, ids = data_of(page), [f"02:00:00:00:{n >> 8:02x}:{n & 255:02x}" for n in range(len(rows))]
    assert len(data["device_id"]) == 40
    kept = [ids.index(name) for name in data["device_id"]]
    assert kept == sorted(kept)
    assert set(range(402, 414)) <= set(kept), "the flood's sorts have not all of the room"
    assert set(data["services"]) == {rows[row]["group"] for row in kept if "group" in rows[row]}
    assert data["stands_for"][data["device_id"].index(ids[411])] == 2
    told = text_of(page)
    assert "This page holds 40 of 414 addresses (census.page_rows)" in told
    assert "Unknown: 202 in 201 groups" in told, "what is counted is all"
    assert "This page holds" not in text_of(page_of(census_of(rows), facts(), 414, **groups))
    assert len(data_of(page_of(census_of(rows), facts(), 1, **groups))["device_id"]) == 1


def test_page__lists_the_commonest_reasons_and_the_sum_of_all_others() -> None:
    odd = {f"unknown_ether_type_0x{n:04x}": 2 for n in range(500)}
    told = text_of(page_of(census_of([{}]), facts(packets={"flow": 10, "not_ip": 70, **odd})))
    assert "left aside: not ip 70" in told
    assert "left aside: 471 further reasons 942" in told
    assert told.count("unknown ether type") == 29
    assert "together 1,080" in told


def test_page_and_csv__of_an_empty_night_are_whole() -> None:
    empty = CENSUS.arrow_schema(stored=True).empty_table()
    assert len(render_groups_csv(empty, groups_of()).splitlines()) == 1
    assert "No kind was found." in page_of(empty, facts(packets={}))
    assert len(render_csv(empty).splitlines()) == 1


def test_csv__loads_again_and_runs_no_formula() -> None:
    rows: list[dict[str, Any]] = [
        {"kinds": [kind(FORMULA, vendor='A "quoted", vendor\nin two lines')], "new_kinds": ["+1", "lamp"]},
        {"kinds": [kind("-1")], "previous_label": None, "runners_up": [{"label": "lamp", "confidence": 0.004}]},
    ]
    first, second = csv.DictReader(io.StringIO(render_csv(census_of(rows))))
    assert first["label"] == f"'{FORMULA}"
    assert first["vendor"] == 'A "quoted", vendor\nin two lines'
    assert (second["label"], second["previous_label"]) == ("'-1", "")
    assert (first["addresses"], first["runners_up"]) == ("10.0.0.7 fe80::7", "lamp 13 %; bell 6 %")
    assert (first["kinds"], first["new_kinds"]) == (f"'{FORMULA} 81 %", "'+1; lamp")
    assert (first["reason"], first["unexplained"]) == (
        "Of 3 distinct flows: 3 like those of Acme socket alone.",
        "0.25",
    )
    assert second["runners_up"] == ""  # it would be one of 0 %
    assert (first["confidence"], first["first_seen"][:19]) == ("0.8125", "2026-01-10 01:02:03")


@pytest.mark.parametrize("sign", "=+-@＝＋－＠")  # noqa: RUF001 - the same of full width
@pytest.mark.parametrize(
    "before",
    [
        "",
        "\t",
        "\r",
        "\n",
        "\r\n",
        " ",
        "  \t",
        "\xa0",
        "\u3000",
        "\ufeff",
        "\u200b",
        "\u2060",
        "\u202e",
        "\x00",
        "\x0b",
    ],
)
def test_csv__no_cell_begins_a_formula_whatever_stands_before_its_sign(before: str, sign: str) -> None:
    hostile = f"{before}{sign}cmd|' /C calc'!A0"
    rows = [{"kinds": [kind(hostile, vendor=hostile, type=hostile)], "previous_label": hostile, "reason": hostile}]
    rows[0] |= {"new_kinds": [hostile], "group": hostile, "status": "known"}
    for text in (
        render_csv(census_of(rows)),
        render_groups_csv(census_of([rows[0] | {"status": "unknown"}]), groups_of(**{hostile: [hostile]})),
    ):
        (row,) = csv.DictReader(io.StringIO(text, newline=""))
        cells = [cell for cell in row.values() if "calc" in cell]
        assert len(cells) >= 2
        for cell in cells:
            assert cell.startswith(f"'{hostile}")


@pytest.mark.parametrize("before", [" ", "\t", "\n", "\xa0", "\ufeff"])
def test_csv__no_cell_begins_with_what_is_not_seen(before: str) -> None:
    (row,) = csv.DictReader(io.StringIO(render_csv(census_of([{"kinds": [kind(f"{before}plug")]}])), newline=""))
    assert row["label"] == f"'{before}plug"


@pytest.mark.parametrize("separator", [",", ";", "\t", "\n", "; ", ",\xa0"])
def test_csv__no_part_of_a_cell_is_a_formula_where_a_spreadsheet_parts_cells_there(separator: str) -> None:
    (row,) = csv.DictReader(io.StringIO(render_csv(census_of([{"reason": f"A{separator}=1+1"}])), newline=""))
    assert row["reason"] == f"A{separator[0]}'{separator[1:]}=1+1"


@pytest.mark.parametrize("plain", ["A-b = c", "x@y", "2026-01-10", "Ku\u0308che", "kitchen; hall, A-1", "\u2212 5"])
def test_csv__other_text_stays_as_it_is(plain: str) -> None:
    (row,) = csv.DictReader(io.StringIO(render_csv(census_of([{"reason": plain}]))))
    assert row["reason"] == plain


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
view.value = "several_with_unknown"; search.value = "doorbell"; select();
told.behind = [...lines()[0].children[1].querySelectorAll("li, td > small")].map(line => line.textContent);
told.also = lines()[0].children[6].textContent; told.beside = lines()[0].children[2].textContent;
view.value = "present"; search.value = ""; select();
order.value = "7 1"; order.dispatchEvent(new Event("change")); told.surest = cells(0)[0];
told.unsorted = !document.querySelector("[aria-sort]");
const heads = [...document.querySelectorAll("#heads button")];
heads[3].click(); told.most = cells(3).slice(0, 2); told.sort = byId("heads").children[3].getAttribute("aria-sort");
heads[3].click(); told.least = cells(3).slice(0, 2);
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
        {
            "flows": n,
            "last_seen": datetime(2026, 1, 10, tzinfo=UTC) + hour,
            "kinds": [kind(HOSTILE * 3, vendor=HOSTILE)],
        }
        for n, hour in enumerate(hours)
    ]
    rows[5] |= {"kinds": [kind("Kitchen lamp")]}
    rows[6] |= {"change": "gone", "flows": 0}
    rows[7] |= {"watched": True}
    rows[8] |= {"status": "unknown", "group": "gmany"}
    rows[9] |= {"status": "unknown", "group": "gmany"}
    rows[10] |= {
        "status": "several_with_unknown", "change": "changed", "new_kinds": ["Bell X"], "confidence": 0.996,
        "kinds": [kind("Bell X", 0.996, type="doorbell")],
    }  # fmt: skip
    rows[10]["kinds"] += [kind(None, 0.994 - n / 10, kind=f"k{n}") for n in range(3)]
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
        "found": ["02:00:00:00:00:05"], "status": "1 address", "none": "0 addresses", "gone": ["02:00:00:00:00:06"],
        "watched": ["02:00:00:00:00:07"], "focus": "devices", "most": ["1,999", "1,998"], "sort": "descending",
        "least": ["0", "1"], "groups": ["unknowngmany, 2 alike"], "of_group": 2,
        "behind": [
            "Bell X>99 %Acme · doorbell", "k099 %", "k189 %", "k279 %", "and something unknown",
            "not found: lamp 13 %; bell 6 %", "Of 3 distinct flows: 3 like those of Acme socket alone.",
        ],
        "also": "changednow also: Bell X", "beside": "several with unknown", "surest": "02:00:00:00:00:0a",
        "unsorted": True, "page": "Page 2 of 40", "disabled": False, "fits": True, "labelled": True,
        "reachable": True,
    }  # fmt: skip
