"""The page of a census beside other data: the device list, the model's training, other dates and other pages."""

from __future__ import annotations

import html
import re

import pytest

from .report_tables import HOSTILE, census_of, data_of, facts, page_of, text_of

LISTED = {
    "devices": 5, "never_seen": 2, "not_seen": 140, "not_seen_names": [HOSTILE, *(f"cam {n}" for n in range(99))],
    "agrees": 1, "differs": 1, "not_identified": 2, "not_listed": 3, "unknown": 4,
}  # fmt: skip


def test_page__compares_with_the_device_list() -> None:
    rows = [
        {"device_name": HOSTILE, "listed_label": HOSTILE, "list_check": "differs"},
        {"device_name": "hall", "listed_label": "plug", "list_check": "agrees"},
        {"list_check": "not_listed"},
        {"device_name": "attic", "listed_label": "bell", "list_check": "not_identified", "status": "undecided"},
    ]
    page = page_of(census_of(rows), facts(device_list=LISTED))
    text = text_of(page)
    for part in (
        f"Not what the device list says: 1 act {HOSTILE} 02:00:00:00:00:00 listed as {HOSTILE} , found plug 81 %",
        "Recognised, but not listed: 1 check 02:00:00:00:00:02 plug 81 %",
        "Listed, but not identified: 1 for information attic 02:00:00:00:00:03 undecided · nearest: lamp 13 %",
        f"Listed, but not seen on this date: 140 for information {HOSTILE} cam 0 cam 1 cam 2 cam 3 and 135 more",
        "The device list has 5 devices for this date; 140 were seen here before, but not on this date, and "
        "2 never (a list may be of several sites). Of the addresses, 1 is listed and recognised, "
        "1 is listed but answered otherwise, 2 listed but not identified, 3 recognised but not listed, 4 neither.",
    ):
        assert part in text, part
    assert page.count("<script") == 2
    assert "<img" not in page
    data = data_of(page)
    assert data["device_name"] == {"names": [HOSTILE, "hall", "attic"], "codes": [0, 1, -1, 2]}
    assert data["list_check"]["names"] == ["differs", "agrees", "not_listed", "not_identified"]
    views = {"agrees", "differs", "not_listed", "not_identified"}
    assert views <= set(re.findall(r'<option value="([^"]*)"', page))
    without = page_of(census_of([{}]), facts())
    assert not views & set(re.findall(r'<option value="([^"]*)"', without))
    assert "device list has" not in text_of(without)


@pytest.mark.parametrize(("learned", "is_said"), [(True, True), (False, False), (None, False)])
def test_page__says_that_the_model_was_trained_on_the_date(*, learned: bool | None, is_said: bool) -> None:
    text = text_of(page_of(census_of([{}]), facts(learned_from_date=learned)))
    assert ("The model was trained on this date , so these answers" in text) == is_said


def test_page__warns_of_flows_of_other_dates() -> None:
    text = text_of(page_of(census_of([{}]), facts(flows_by_date={"2026-01-10": 1, "2025-03-01": 9})))
    assert "Other dates: 90.0 % of the flows began on other dates (2025-03-01). Check the date" in text
    assert "Other dates" not in text_of(page_of(census_of([{}]), facts(flows_by_date={"2026-01-10": 9})))


def test_page__leads_to_other_pages_that_there_are() -> None:
    links = {
        "before": "../a%252b/_census.html", "before_date": "2026-01-09", "after": None, "after_date": "2026-01-11",
        "network": "../network/_network.html", "report": '"><img>',
    }  # fmt: skip
    page = page_of(census_of([{}]), facts(links=links))
    assert re.findall(r'href="([^"]*)"', page)[1:] == [
        "../a%252b/_census.html", "../network/_network.html", html.escape('"><img>').replace("&quot;", "&#34;"),
        "_census.csv", "_census.jsonl",
    ]  # fmt: skip
    assert "← 2026-01-09 All sites Report on the model CSV JSON lines" in text_of(page)
    after = page_of(census_of([{}]), facts(links={"after": "../b/_census.html", "after_date": "2026-01-11"}))
    assert '<a href="../b/_census.html">2026-01-11 →</a>' in after
    assert "<img" not in page


def test_page__says_in_a_sentence_that_nothing_needs_attention() -> None:
    text = text_of(page_of(census_of([{}, {"change": "away"}]), facts()))
    assert "Needs attention No device needs attention: nothing is new, changed, unknown or gone. Devices" in text
    assert "No device needs attention" not in text_of(page_of(census_of([{"change": "gone"}]), facts()))


def test_page__orders_rows_by_attention() -> None:
    rows = [{"change": "gone"}, {}, {"watched": True}, {"status": "unknown", "group_name": "gmany"}]
    rank = data_of(page_of(census_of(rows), facts(), gmany=[]))["rank"]
    assert sorted(range(len(rows)), key=lambda row: rank[row]) == [3, 2, 1, 0]


def test_page__names_the_groups_by_their_titles() -> None:
    rows = [{"status": "unknown", "group_name": name} for name in ("gabcd1000", "gabcd2000", "others")]
    data = data_of(page_of(census_of(rows), facts(), gabcd1000=["TCP 443", "TCP 9999"], gabcd2000=[], others=[]))
    assert data["titles"] == {
        "gabcd1000": "Unknown group ABCD1 (TCP 443, 9999)", "gabcd2000": "Unknown group ABCD2",
        "others": "Unknown devices of no group",
    }  # fmt: skip
