"""The page of a census: its sections, counts and table rows."""

from __future__ import annotations

import csv
import html
import io
import re
from datetime import UTC, datetime
from typing import Any

import pytest

from iotid.census.report import render_csv, render_groups_csv
from iotid.schemas import CENSUS

from .report_tables import (
    DATA,
    FORMULA,
    HOSTILE,
    census_of,
    data_of,
    facts,
    groups_of,
    kind,
    left_out_of,
    page_of,
    text_of,
)


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


def test_page__flows_left_out_are_folded_with_counts_and_the_busiest() -> None:
    rows = [{"mac": f"02:00:00:00:01:{n:02x}", "addresses": 1, "address": f"100.64.0.{n}"} for n in range(12)]
    rows.append({"in_census": None, "ends": 3000, "flows": 1000, "packets": 5000})
    rows.append({"reason": "unanswered", "mac": HOSTILE, "in_census": True, "ends": 1, "flows": 1, "packets": 1})
    counted = {"flows_without_device": {"router": 1084, "unanswered": 1}, "flows_of_other_protocols": 0}
    page = page_of(census_of([{}]), facts(**counted), left_out=left_out_of(*rows))
    (folded,) = re.findall(r"<details>.*?</details>", page, re.DOTALL)
    assert "<img" not in folded
    text = text_of(folded)
    assert "Forwarded by a router from an outside address: 1,084 flows, 3,012 MACs or addresses" in text
    assert text.count("7 flows, 70 packets · not in the census") == 10
    assert "To an address that did not answer: 1 flow, 1 MAC or address" in text
    assert f"{HOSTILE} 2 addresses · 1 flow, 1 packet" in text
    assert "skipped: to an address that did not answer 1" in text_of(page)
    assert "<details>" not in page_of(census_of([{}]), facts(flows_without_device={}, flows_of_other_protocols=0))


def test_page__marked_rows_have_a_section_a_view_and_a_status() -> None:
    marks = ["address_conflict", "kinds_at_once"]
    rows: list[dict[str, Any]] = [{"marks": marks}, {"marks": marks[:1]}, {"marks": marks, "change": "gone"}, {}]
    page = page_of(census_of(rows), facts())
    text = text_of(page)
    assert "Address used by another MAC at the same time: 2 act 02:00:00:00:00:00" in text
    assert "Several kinds at the same time under one MAC: 1 check 02:00:00:00:00:00" in text
    data = data_of(page)["marks"]
    assert [data["names"][code] for code in data["codes"]] == ["; ".join(row.get("marks", [])) for row in rows]
    for mark in marks:
        assert f'<option value="{mark}">' in page
    first, *_ = csv.DictReader(io.StringIO(render_csv(census_of(rows))))
    assert first["marks"] == "address_conflict; kinds_at_once"
    many = [{"flows": 100 + n} for n in range(30)] + rows[:2]
    kept = data_of(page_of(census_of(many), facts(), most_rows=4))
    assert {"02:00:00:00:00:1e", "02:00:00:00:00:1f"} <= set(kept["device_id"]), "a flood of others does not hide them"


def test_page__loads_nothing_from_the_network() -> None:
    page = page_of(census_of([{}]), facts())
    assert re.findall(r'href="([^"]*)', page) == ["#devices", "_census.csv", "_census.jsonl"]
    assert not re.search(r"src=|://|@import|url\(|fetch\(|XMLHttpRequest", page)
    assert "default-src 'none'" in page


def test_page__shows_version_date_comparison_and_all_packet_counts() -> None:
    text = text_of(page_of(census_of([{}]), facts()))
    for part in (
        "Devices at lab on Saturday, 10 January 2026", "Model version 7 of 2026-01-09: named 9 of 10 devices.",
        "Compared with the census of 2026-01-09",
        "in flows 12,345", "skipped: not ip 67", "Total 12,412", "skipped: of another IP protocol 190",
        "skipped: from an outside address, without a MAC 10", "Total 1,700",
    ):  # fmt: skip
        assert part in text
    assert "truncated" not in text
    assert "macro F1" not in text, "the header counts devices"
    assert "ceiling" not in text
    assert "First census" in text_of(page_of(census_of([{}]), facts(compared_with=None)))
    for how, words in (("scored again", "were scored again"), ("labels not compared", "names are not compared")):
        compared = {"capture_date": "2026-01-09", "how": how}
        assert words in text_of(page_of(census_of([{}]), facts(compared_with=compared)))


def test_page__says_that_identifiers_are_pseudonyms_and_not_joinable() -> None:
    apart = {"capture_date": "2026-01-09", "how": "not joinable"}
    text = text_of(page_of(census_of([{}]), facts(compared_with=apart, key_fingerprint="00ff00ff00ff")))
    assert "are pseudonyms (key 00ff00ff00ff); addresses with the same kinds share the numbers of their rows." in text
    assert "rounded down: counts to powers of ten, times to days" in text
    assert "Not compared with the census of 2026-01-09: its identifiers were not made with this key" in text
    text = text_of(page_of(census_of([{}]), facts(compared_with=apart)))
    assert "its identifiers are pseudonyms. No device counts as new." in text
    assert "(key" not in text
    assert "powers of ten" not in text


def test_page__shows_days_where_times_are_rounded_to_days() -> None:
    day = datetime(2026, 1, 10, tzinfo=UTC)
    gone = census_of([{"change": "gone", "first_seen": day, "last_seen": day}])
    assert "last seen 2026-01-10 00:00" in text_of(page_of(gone, facts()))
    text = page_of(gone, facts(key_fingerprint="00ff00ff00ff"))
    assert "last seen 2026-01-10" in text_of(text)
    assert "2026-01-10 00:00" not in text_of(text)
    assert "toISOString().slice(0, 10)" in text


def test_page__sections_list_five_rows_and_count_all() -> None:
    rows: list[dict[str, Any]] = [{"change": "new"}] * 13 + [{"change": "gone", "status": "unknown"}]
    rows += [{"watched": True}, {"status": "undecided"}]
    page = page_of(census_of(rows), facts())
    text = text_of(page)
    for part in (
        "New, other than unknown: 13 check", "Show all 13 in the table",
        "Gone since the census before: 1 for information",
        "On the watch list: 1 act", "plug 81 % · Acme", "nearest: lamp 13 %, by 12 flows",
        "Undecided: 1 for information",
    ):  # fmt: skip
        assert part in text
    new = text.partition("New, other than unknown: 13")[2].partition("Show all 13")[0]
    assert re.findall(r"02:00:00:00:00:..", new) == [f"02:00:00:00:00:0{n}" for n in range(5)]
    for title in (
        "Several kinds at the same time under one MAC", "Named otherwise than the maker of the MAC", "Changed", "Back",
        "Shared address with an unknown device", "Shared address", "Unknown", "Named by persons",
    ):  # fmt: skip
        assert f"{title}: " not in text, "no section without a row"
        assert re.search(rf"<option value=\"\w+\">{re.escape(title)}</option>", page), "but a view of the table"


@pytest.mark.parametrize(
    ("row", "text", "also"),
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
            "was unknown , now plug and an unknown device",
            None,
        ),
    ],
)
def test_page__shows_what_a_changed_address_was_and_is(row: dict[str, Any], text: str, also: str | None) -> None:
    page = page_of(census_of([{"change": "changed", "status": "several", **row}]), facts())
    assert f"Changed: 1 check 02:00:00:00:00:00 {text} " in text_of(page)
    assert data_of(page)["also"]["names"] == ([also] if also else [])


def unknowns() -> list[dict[str, Any]]:
    """Fifty units of one new model, one of another, one that is gone, and a known device."""
    unknown = {"status": "unknown", "flows": 3, "bytes": 10}
    rows = [{**unknown, "group_name": "gmany"} for _ in range(50)]
    rows[7] |= {"flows": 9, "change": "new"}
    return [
        *rows,
        {**unknown, "group_name": "gone1"},
        {**unknown, "group_name": "gmany", "status": "absent", "change": "gone", "flows": 0},
        {},
    ]


def test_page_and_csv__units_of_one_new_model_are_one_line() -> None:
    services = {"gmany": ["TCP 8883", "UDP 5353"], "gone1": []}
    page = page_of(census_of(unknowns()), facts(), **services)
    text = text_of(page)
    assert "Unknown: 51 in 2 groups check Unknown group MANY (TCP 8883, UDP 5353) 50 devices, 1 new, such as" in text
    assert "such as 02:00:00:00:00:07 iotid name gmany --model … --vendor … --type … Copy" in text
    assert "Unknown group ONE1 1 device, such as 02:00:00:00:00:32" in text
    data = data_of(page)
    assert {row: count for row, count in enumerate(data["stands_for"]) if count} == {7: 50, 50: 1}
    assert data["services"] == {"gmany": "TCP 8883, UDP 5353", "gone1": ""}
    many, one = csv.DictReader(io.StringIO(render_groups_csv(census_of(unknowns()), groups_of(**services))))
    assert many == {
        "group_name": "gmany", "devices": "50", "new": "1", "flows": "156", "bytes": "500",
        "services": "TCP 8883, UDP 5353", "example": "02:00:00:00:00:07", "name": "", "named_by": "",
    }  # fmt: skip
    assert (one["group_name"], one["devices"], one["services"]) == ("gone1", "1", "")
    device = next(csv.DictReader(io.StringIO(render_csv(census_of(unknowns())))))
    assert device["group_name"] == "gmany"


def test_page_and_csv__a_named_group_is_shown_as_said_by_a_person() -> None:
    by_anna = {"status": "named", "named_by": HOSTILE, "group_name": "gnamed", "kinds": [kind(HOSTILE, 0.95)]}
    rows = [
        by_anna,
        by_anna,
        {"status": "unknown", "group_name": "gother"},
        {"status": "unknown", "group_name": "others"},
    ]
    census, status = census_of(rows), {**facts()["status"], "named": 2}
    page = page_of(census, facts(status=status), gnamed=["TCP 1"], gother=[])
    assert page.count("<script") == 2
    assert "<img" not in page
    text = text_of(page)
    assert " 2 named " in text
    assert f"Named by persons: 2 for information 02:00:00:00:00:00 {HOSTILE} · Acme · named by {HOSTILE} " in text
    assert "Unknown: 2 check Unknown group OTHE 1 device, such as 02:00:00:00:00:02 iotid name gother --model" in text
    assert "Unknown devices of no group 1 device, such as 02:00:00:00:00:03" in text
    assert "iotid name gnamed" not in text
    assert "iotid name others" not in text
    assert '<option value="named">Named by persons</option>' in page
    assert data_of(page)["named_by"]["names"] == [HOSTILE]
    named, *_ = csv.DictReader(io.StringIO(render_groups_csv(census, groups_of(gnamed=["TCP 1"]))))
    assert (named["group_name"], named["devices"], named["name"], named["named_by"]) == (
        "gnamed",
        "2",
        HOSTILE,
        HOSTILE,
    )
    formula = census_of([{**by_anna, "named_by": FORMULA}])
    assert f"'{FORMULA}" in next(csv.DictReader(io.StringIO(render_csv(formula))))["named_by"]


def test_page__lists_five_groups_and_a_button_for_the_rest() -> None:
    rows = [{"status": "unknown", "group_name": f"g{n:02}"} for n in range(12)]
    text = text_of(page_of(census_of(rows), facts(), **{f"g{n:02}": [] for n in range(12)}))
    assert "Unknown: 12 check Unknown group 00 1 device" in text
    assert "Unknown group 04 1 device" in text
    assert "Unknown group 05 1 device" not in text
    assert "Show all 12 groups in the table" in text


def test_page_and_csv__name_every_kind_of_an_address_with_its_probability() -> None:
    behind = [kind(HOSTILE, 0.9951), kind(None, 0.9949, vendor="Volt", type="plug"), kind(FORMULA, 0.605)]
    rows = [{"status": "several", "kinds": behind}, {"status": "several_with_unknown", "kinds": behind[1:]}]
    page = page_of(census_of(rows), facts())
    text = text_of(page)
    assert page.count("<script") == 2
    assert (
        f"Shared address: 1 for information 02:00:00:00:00:00 {HOSTILE} >99 % , Volt plug 99 % , {FORMULA} 61 %" in text
    )
    beside = f"02:00:00:00:00:01 Volt plug 99 % , {FORMULA} 61 % and an unknown device"
    assert f"Shared address with an unknown device: 1 check {beside}" in text
    data = data_of(page)
    assert data["kinds"]["named"] == [
        [HOSTILE, "Acme", "socket"], ["Volt plug", None, None], [FORMULA, "Acme", "socket"],
    ]  # fmt: skip
    assert data["kinds"]["of"] == [[0, 0.9951, 1, 0.9949, 2, 0.605], [1, 0.9949, 2, 0.605]]
    first, second = csv.DictReader(io.StringIO(render_csv(census_of(rows))))
    assert first["kinds"] == f"{HOSTILE} >99 %; Volt plug 99 %;' {FORMULA} 61 %"
    assert (second["kinds"], second["status"]) == (f"Volt plug 99 %;' {FORMULA} 61 %", "several_with_unknown")


def test_page_and_csv__show_that_there_is_more_than_one_device_of_a_kind() -> None:
    rows = [{"status": "several", "kinds": [kind("plug", units=2), kind("lamp")]}]
    assert [name for name, *_ in data_of(page_of(census_of(rows), facts()))["kinds"]["named"]] == [
        "plug (2 or more)",
        "lamp",
    ]
    (row,) = csv.DictReader(io.StringIO(render_csv(census_of(rows))))
    assert row["kinds"] == "plug (2 or more) 81 %; lamp 81 %"


def test_page__charts_count_the_kinds_of_present_addresses_twelve_at_most() -> None:
    types = [*(f"type {n:02}" for n in range(15)), "type 14", None]
    rows: list[dict[str, Any]] = [{"kinds": [kind("plug", type=each, kind="plug")]} for each in types[:-2]]
    rows.append({"status": "several", "kinds": [kind("plug", type=each, kind="plug") for each in types[-2:]]})
    rows += [{"kinds": [kind("plug", type="absent")], "change": "gone"}, {"status": "undecided"}]
    text = text_of(page_of(census_of(rows), facts()))
    assert "17 kinds found behind 16 addresses;" in text
    assert "Type type 14 2 type 00 1" in text
    assert "type 10 1 3 others 3 not in the device list 1" in text
    assert "absent 1" not in text


def test_page__has_every_row_for_its_table() -> None:
    rows = [
        {},
        {
            "watched": True,
            "runners_up": [],
            "similar_kinds": [],
            "unlike_kind": None,
            "kinds": [kind("plug"), kind("lamp", 0.75)],
            "reason": "Why.",
        },
    ]
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


def test_page__has_p_values_only_if_the_census_has_any() -> None:
    without = page_of(census_of([{}, {}]), facts())
    assert "unlike_kind" not in data_of(without)
    data = data_of(page_of(census_of([{"unlike_kind": 0.012}, {}]), facts()))
    assert data["unlike_kind"] == [0.012, None]


def test_page__shows_at_most_page_rows_and_says_so() -> None:
    flood = [{"status": "unknown", "change": "new", "group_name": f"g{n:03}", "flows": 1} for n in range(200)]
    flood += [{"status": "unknown", "change": "gone", "group_name": "gmany", "flows": 0} for _ in range(200)]
    honest = [{"flows": n} for n in range(8)] + [{"change": "changed"}, {"status": "undecided"}, {"change": "gone"}]
    honest += [{"status": "unknown", "change": "new", "group_name": "gmany", "flows": flows} for flows in (700, 60)]
    rows = [*flood, *honest, {"watched": True, "flows": 1}]
    groups: dict[str, list[str]] = {f"g{n:03}": ["TCP 1"] for n in range(200)} | {"gmany": ["TCP 2"]}
    page = page_of(census_of(rows), facts(), 40, **groups)
    data, ids = data_of(page), [f"02:00:00:00:{n >> 8:02x}:{n & 255:02x}" for n in range(len(rows))]
    assert len(data["device_id"]) == 40
    kept = [ids.index(name) for name in data["device_id"]]
    assert kept == sorted(kept)
    assert set(range(402, 414)) <= set(kept), "the flood does not displace other rows"
    assert set(data["services"]) == {rows[row]["group_name"] for row in kept if "group_name" in rows[row]}
    assert data["stands_for"][data["device_id"].index(ids[411])] == 2
    text = text_of(page)
    assert "This page shows 40 of 414 rows (census.page_rows)" in text
    assert "Unknown: 202 in 201 groups" in text, "the count is over all rows"
    assert "This page shows" not in text_of(page_of(census_of(rows), facts(), 414, **groups))
    assert len(data_of(page_of(census_of(rows), facts(), 1, **groups))["device_id"]) == 1


def test_page__lists_the_commonest_reasons_and_the_sum_of_all_others() -> None:
    odd = {f"unknown_ether_type_0x{n:04x}": 2 for n in range(500)}
    text = text_of(page_of(census_of([{}]), facts(packets={"flow": 10, "not_ip": 70, **odd})))
    assert "skipped: not ip 70" in text
    assert "skipped: 471 further reasons 942" in text
    assert text.count("unknown ether type") == 29
    assert "Total 1,080" in text


def test_page_and_csv__of_an_empty_census_are_whole() -> None:
    empty = CENSUS.arrow_schema(stored=True).empty_table()
    assert len(render_groups_csv(empty, groups_of()).splitlines()) == 1
    assert "No kind was found." in page_of(empty, facts(packets={}))
    assert len(render_csv(empty).splitlines()) == 1
