"""Titles of unknown groups."""

from __future__ import annotations

import pytest

from iotid.census.group_titles import group_titles
from iotid.census.groups import OTHERS


@pytest.mark.parametrize(
    ("services", "title"),
    [
        ([], "Unknown group 2329"),
        (["TCP 443"], "Unknown group 2329 (TCP 443)"),
        (["TCP 443", "TCP 9999"], "Unknown group 2329 (TCP 443, 9999)"),
        (["TCP 443", "UDP 53", "UDP 67", "TCP 9"], "Unknown group 2329 (TCP 443, UDP 53, 67)"),
        (["UDP 53", "TCP 443", "UDP 67"], "Unknown group 2329 (UDP 53, TCP 443, UDP 67)"),
        (["ICMP"], "Unknown group 2329 (ICMP)"),
    ],
)
def test_titles__have_a_short_name_and_the_commonest_services(services: list[str], title: str) -> None:
    assert group_titles({"g2329ff185": services}) == {"g2329ff185": title}


def test_titles__are_longer_where_two_groups_would_share_one() -> None:
    names = ["g2329ff185", "g2329fe000", "gaaaa00000"]
    found = group_titles(dict.fromkeys(names, ()))
    assert found == {
        "g2329ff185": "Unknown group 2329FF", "g2329fe000": "Unknown group 2329FE",
        "gaaaa00000": "Unknown group AAAA00",
    }  # fmt: skip
    assert group_titles(dict.fromkeys(reversed(names), ())) == found, "their order does not matter"


def test_titles__of_names_that_are_beginnings_of_others_or_shorter_than_a_title() -> None:
    found = group_titles({"gab": (), "gabcde": (), "gabcdef": ()})
    assert list(found.values()) == ["Unknown group AB", "Unknown group ABCDE", "Unknown group ABCDEF"]


def test_titles__devices_of_no_group_have_their_own() -> None:
    assert group_titles({}) == {}
    assert group_titles({OTHERS: ["TCP 1"]}) == {OTHERS: "Unknown devices of no group"}
    assert group_titles({OTHERS: (), "g0123": ()})["g0123"] == "Unknown group 0123"
