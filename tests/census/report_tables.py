"""Synthetic tables of a census for the tests of its page and CSV files."""

from __future__ import annotations

import html
import json
import re
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from iotid.census.report import render_page
from iotid.schemas import CENSUS, GROUPS, LEFT_OUT

HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">&amp;{{7*7}}"
FORMULA = '=HYPERLINK("http://example.org")'
DATA = re.compile(r'<script type="application/json" id="data">(.*?)</script>', re.DOTALL)


def kind(label: str | None, confidence: float = 0.8125, **more: Any) -> dict[str, Any]:
    """A kind found; without a label it is one of several similar models."""
    vendor, type_ = more.get("vendor", "Acme"), more.get("type", "socket")
    name = more.get("kind", f"{vendor} {type_}")
    found = {"kind": name, "label": label, "vendor": vendor, "type": type_, "confidence": confidence, "flows": 3}
    return {**found, "units": more.get("units", 1)}


def census_of(rows: list[dict[str, Any]]) -> pa.Table:
    """Known plugs, changed by ``rows``; a status without kinds empties ``kinds``."""
    usual = {
        "status": "known", "kinds": [kind("plug")], "confidence": 0.8125,
        "runners_up": [{"label": "lamp", "confidence": 0.125}, {"label": "bell", "confidence": 0.0625}],
        "similar_kinds": [], "unlike_kind": None,
        "unexplained": 0.25, "household": 0.5, "reason": "Of 3 distinct flows: 3 like those of Acme socket alone.",
        "flows": 12, "bytes": 3456, "first_seen": datetime(2026, 1, 10, 1, 2, 3, tzinfo=UTC),
        "last_seen": datetime(2026, 1, 10, 4, 5, 6, tzinfo=UTC), "addresses": ["10.0.0.7", "fe80::7"],
        "change": "same", "previous_label": "plug", "new_kinds": [], "watched": False, "group_name": None, "marks": [],
        "named_by": None, "dates_present": 3, "earlier_names": [],
        "first_seen_ever": datetime(2026, 1, 8, 1, 2, 3, tzinfo=UTC),
    }  # fmt: skip
    numbered = []
    for n, row in enumerate(rows):
        whole = {"device_id": f"02:00:00:00:{n >> 8:02x}:{n & 255:02x}", **usual, **row}
        if whole["change"] in ("gone", "away"):
            whole["status"] = "absent"
        if whole["status"] in ("unknown", "undecided"):
            whole["kinds"] = []
        only = whole["kinds"][0] if len(whole["kinds"]) == 1 else {}
        numbered.append({name: only.get(name) for name in ("label", "vendor", "type")} | whole)
    return pa.Table.from_pylist(numbered, schema=CENSUS.arrow_schema(stored=True))


def groups_of(**services: list[str]) -> pa.Table:
    rows = [
        {"group_name": name, "services": names, "protocol": [6], "payload_length": [70], "share": [1.0]}
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
    none = dict.fromkeys(("baseline", "new", "same", "changed", "back", "gone", "away"), 0)
    return {
        "site": "lab", "capture_date": "2026-01-10", "model_version": "7", "model_date": "2026-01-09",
        "model_quality": "macro F1 91.00 %, 95 % of the ceiling", "device_quality": "named 9 of 10 devices",
        "settings_hash": "0123456789ab", "key_fingerprint": None,
        "compared_with": {"capture_date": "2026-01-09", "how": "as it was"},
        "packets": {"flow": 12345, "not_ip": 67, "truncated": 0}, "devices": 3, "watched": 1,
        "status": {"known": 3, "several": 0, "several_with_unknown": 0, "undecided": 0, "unknown": 0, "named": 0},
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
