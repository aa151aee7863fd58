"""The CSV files of a census: they load again, and a spreadsheet runs no cell."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest

from iotid.census.report import render_csv, render_groups_csv, render_left_out_csv

from .report_tables import (
    FORMULA,
    census_of,
    groups_of,
    kind,
    left_out_of,
)


def test_left_out_csv__has_no_formula() -> None:
    (row,) = csv.DictReader(io.StringIO(render_left_out_csv(left_out_of({"mac": "=1+1"}))))
    assert (row["mac"], row["flows"], row["in_census"]) == ("'=1+1", "7", "false")


def test_csv__loads_again_and_has_no_formula() -> None:
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
    assert second["runners_up"] == ""  # it would show 0 %
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
def test_csv__no_cell_begins_a_formula_after_any_prefix(before: str, sign: str) -> None:
    hostile = f"{before}{sign}cmd|' /C calc'!A0"
    rows = [{"kinds": [kind(hostile, vendor=hostile, type=hostile)], "previous_label": hostile, "reason": hostile}]
    rows[0] |= {"new_kinds": [hostile], "group_name": hostile, "status": "known"}
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
def test_csv__no_cell_begins_with_an_invisible_character(before: str) -> None:
    (row,) = csv.DictReader(io.StringIO(render_csv(census_of([{"kinds": [kind(f"{before}plug")]}])), newline=""))
    assert row["label"] == f"'{before}plug"


@pytest.mark.parametrize("separator", [",", ";", "\t", "\n", "; ", ",\xa0"])
def test_csv__no_part_of_a_cell_is_a_formula_after_a_separator(separator: str) -> None:
    (row,) = csv.DictReader(io.StringIO(render_csv(census_of([{"reason": f"A{separator}=1+1"}])), newline=""))
    assert row["reason"] == f"A{separator[0]}'{separator[1:]}=1+1"


@pytest.mark.parametrize("plain", ["A-b = c", "x@y", "2026-01-10", "Ku\u0308che", "kitchen; hall, A-1", "\u2212 5"])
def test_csv__other_text_stays_as_it_is(plain: str) -> None:
    (row,) = csv.DictReader(io.StringIO(render_csv(census_of([{"reason": plain}]))))
    assert row["reason"] == plain
