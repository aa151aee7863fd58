"""The rows of a census as CSV and JSON lines, under a schema with a version (docs/export.md).

Both have the columns KEYS and then those of CENSUS. ``key`` is the same for a device in every census of its site.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from iotid.census.report import render_csv

# 2: group_name (was group), status absent, change baseline (was first)
SCHEMA_VERSION = 2  # raise it if a column is renamed, removed, or changes its type or meaning; not for a new one
KEYS = ("schema_version", "key", "site", "capture_date")
_BATCH = 10_000  # rows that are objects of Python at once


def with_keys(census: pa.Table, site: str, capture_date: str) -> pa.Table:
    """The stored columns of CENSUS behind KEYS."""
    number = len(census)
    key = pc.binary_join_element_wise(f"{site}/", census["device_id"], "")
    columns = {
        "schema_version": pa.array(np.full(number, SCHEMA_VERSION)),
        "key": key,
        "site": pa.array([site] * number, pa.string()),
        "capture_date": pa.array([date.fromisoformat(capture_date)] * number, pa.date32()),
    }
    return pa.table(columns | {name: census[name] for name in census.column_names})


def csv_lines(rows: pa.Table) -> Iterator[str]:
    """A header and one line for each row of `with_keys`; lists are joined as in _census.csv."""
    yield render_csv(rows)


def json_lines(rows: pa.Table) -> Iterator[str]:
    """One JSON object on a line (RFC 8259, ASCII) for each row of `with_keys`; times are RFC 3339 in UTC."""
    for start in range(0, len(rows), _BATCH):
        for row in rows.slice(start, _BATCH).to_pylist():
            yield json.dumps({name: _plain(value) for name, value in row.items()}, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    return None if isinstance(value, float) and not math.isfinite(value) else value
