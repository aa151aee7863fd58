"""CSV and JSON lines of a census: schema, key, and text that is untrusted."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from iotid.census.export.rows import KEYS, SCHEMA_VERSION, json_lines, with_keys
from iotid.schemas import CENSUS
from tests.census.export.stored_census import DATE, export, store_census
from tests.census.report_tables import FORMULA, HOSTILE, kind

ROOT = Path(__file__).parents[3]
EVERY_NULL: dict[str, Any] = {
    "status": "unknown", "runners_up": [], "similar_kinds": [],
    "unlike_kind": None, "addresses": [], "previous_label": None, "maker": None,
    "mac_randomised": None, "named_by": None,
}  # fmt: skip
ROWS = [
    {"kinds": [kind("plug"), kind(None)], "status": "several", "marks": ["kinds_at_once"], "maker": "Acme\u2028\n\x1b"},
    EVERY_NULL,
    {"kinds": [kind(HOSTILE, vendor=FORMULA)], "change": "gone", "flows": 0},
]
COLUMNS = [*KEYS, *CENSUS.arrow_schema(stored=True).names]


def test_jsonl__every_line_is_an_object_with_the_columns_in_order(tmp_path: Path) -> None:
    census = store_census(tmp_path, ROWS)
    export(tmp_path, "--site", "lab", "--format", "jsonl", "--output", f"{tmp_path}/out.jsonl")
    lines = (tmp_path / "out.jsonl").read_bytes().decode("ascii").splitlines()
    found = [json.loads(line) for line in lines]
    assert [list(row) for row in found] == [COLUMNS] * 3
    for row, expected in zip(found, census.to_pylist(), strict=True):
        assert row["schema_version"] == SCHEMA_VERSION
        assert row["key"] == f"lab/{expected['device_id']}"
        assert (row["site"], row["capture_date"]) == ("lab", DATE)
        assert row["first_seen"] == "2026-01-10T01:02:03.000000Z"
        assert row["first_seen_ever"] == "2026-01-08T01:02:03.000000Z"
        for name, value in expected.items():
            if name not in ("first_seen", "last_seen", "first_seen_ever"):
                assert row[name] == value, name


def test_jsonl__a_number_that_is_not_finite_is_null() -> None:
    rows = with_keys(pa.table({"device_id": ["a", "b"], "confidence": [float("nan"), float("inf")]}), "lab", DATE)
    assert [json.loads(line)["confidence"] for line in json_lines(rows)] == [None, None]


def test_jsonl__no_rows_are_no_lines(tmp_path: Path) -> None:
    store_census(tmp_path, [])
    assert export(tmp_path, "--site", "lab", "--format", "jsonl").stdout == ""


def test_csv__has_keys_and_the_columns_of_the_census_and_no_formulas(tmp_path: Path) -> None:
    census = store_census(tmp_path, ROWS)
    text = export(tmp_path, "--site", "lab", "--format", "csv").stdout
    found = list(csv.DictReader(io.StringIO(text, newline="")))
    assert list(found[0]) == COLUMNS
    assert [row["device_id"] for row in found] == census["device_id"].to_pylist()
    assert [row["key"] for row in found] == [f"lab/{row['device_id']}" for row in found]
    assert found[1]["maker"] == found[1]["mac_randomised"] == ""
    assert found[2]["vendor"] == f"'{FORMULA}"
    assert found[0]["kinds"] == "plug 81 %; Acme socket 81 %"


def test_export__repeated_gives_the_same_bytes_and_replaces_the_file(tmp_path: Path) -> None:
    store_census(tmp_path, ROWS)
    out = tmp_path / "out.csv"
    for _ in range(2):
        export(tmp_path, "--site", "lab", "--format", "csv", "--output", str(out))
        first = out.read_bytes()
        out.write_bytes(b"an older one")
    export(tmp_path, "--site", "lab", "--format", "csv", "--output", str(out))
    assert out.read_bytes() == first
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["out.csv"], "no temporary file is left"


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["--format", "csv"], "--site: name a site"),
        (["--format", "csv", "--site", "lab", "--network", "all"], "--site: name a site"),
        (["--format", "csv", "--network", "all"], "--network: its totals are for --format prometheus, got csv"),
        (["--format", "netbox", "--site", "lab"], "--output: --format netbox writes several files"),
        (["--format", "csv", "--site", "lab", "--netbox-devices", "x"], "--netbox-devices: is for --format netbox"),
        (["--format", "csv", "--site", "lab", "--output", "/no/such/folder/x"], "--output: /no/such/folder/x: No such"),
    ],
)
def test_export__wrong_options_are_one_line(tmp_path: Path, arguments: list[str], fault: str) -> None:
    store_census(tmp_path, [{}])
    (line,) = export(tmp_path, *arguments, code=2).stderr.splitlines()
    assert line.startswith(f"Error: {fault}")


def test_export__a_census_that_is_absent_names_the_step(tmp_path: Path) -> None:
    assert "run iotid take-census first" in export(tmp_path, "--site", "lab", "--format", "csv", code=2).stderr


def test_export__needs_no_spark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for name in ("pyspark", "torch", "mlflow"):
        monkeypatch.setitem(sys.modules, name, None)
    store_census(tmp_path, [{}])
    for each in ("csv", "jsonl", "prometheus"):
        export(tmp_path, "--site", "lab", "--format", each)


def test_schema__the_document_has_every_column() -> None:
    text = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE))
    assert set(COLUMNS) <= documented
    assert f"version {SCHEMA_VERSION}" in text
