"""The census for a person: a self-contained HTML page, and a CSV. Nothing in either is trusted: names come from lists.

The page asks the network for nothing. It carries all devices as JSON and draws one leaf of the table at a time, so that
a hundred thousand of them stay usable.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from pyarrow import csv

from iotid.census.changes import ABSENT, BACK, CHANGED, GONE, NEW
from iotid.model.status import KNOWN, UNDECIDED, UNKNOWN

_BARS = 12  # of a chart; what is beyond is one bar of "others"
_LISTED = 10  # devices shown of a section; the table shows them all
_CODED = ("status", "label", "vendor", "type", "change", "previous_label")  # few values: sent once, then by number
_FORMULA = r"^[=+\-@\t\r]"  # what a spreadsheet would run


def render_csv(census: pa.Table) -> str:
    """One line per row of CENSUS (stored columns) under a header; lists are joined by blanks or semicolons.

    Text that a spreadsheet would run as a formula gets an apostrophe before it.
    """
    columns = _flat(census)
    for name, column in columns.items():
        if pa.types.is_string(column.type):
            runs = pc.match_substring_regex(column, _FORMULA)
            columns[name] = pc.if_else(runs, pc.binary_join_element_wise("'", column, ""), column)
    out = io.BytesIO()
    csv.write_csv(pa.table(columns), out)
    return out.getvalue().decode()


def render_page(census: pa.Table, facts: Mapping[str, Any]) -> str:
    """The page of one night. ``facts`` is what the partition's metadata says, with site and capture_date."""
    environment = Environment(
        loader=PackageLoader("iotid.census", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    present = census.filter(pc.invert(pc.is_in(census["change"], value_set=pa.array(ABSENT))))
    known = present.filter(pc.equal(present["status"], KNOWN))
    return environment.get_template("census.html.j2").render(
        facts=facts,
        charts={"Type": _bars(known["type"]), "Vendor": _bars(known["vendor"])},
        sections=_sections(census),
        packets_left=sum(count for reason, count in facts["packets"].items() if reason != "flow"),
        data=_script_json(_columns(census)),
    )


def _sections(census: pa.Table) -> list[dict[str, Any]]:
    """What an operator acts on, most pressing first: title, view of the table that shows all, number, first rows."""
    change, status = census["change"], census["status"]
    is_present = pc.invert(pc.is_in(change, value_set=pa.array(ABSENT)))
    wanted = {
        ("watched", "On the watch list"): census["watched"],
        (CHANGED, "Changed"): pc.equal(change, CHANGED),
        (NEW, "New"): pc.equal(change, NEW),
        (BACK, "Back"): pc.equal(change, BACK),
        (GONE, "Gone"): pc.equal(change, GONE),
        (UNKNOWN, "Unknown"): pc.and_(is_present, pc.equal(status, UNKNOWN)),
        (UNDECIDED, "Undecided"): pc.and_(is_present, pc.equal(status, UNDECIDED)),
    }
    found = {names: census.filter(mask) for names, mask in wanted.items()}
    return [
        {"view": view, "title": title, "count": rows.num_rows, "rows": rows.slice(0, _LISTED).to_pylist()}
        for (view, title), rows in found.items()
    ]


def _bars(names: pa.ChunkedArray) -> list[tuple[str, int, float]]:
    """Name, number and percentage of the longest, for the commonest names; the rest, and null, as one bar each."""
    counts = Counter(names.to_pylist())
    unnamed = counts.pop(None, 0)
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    bars = ranked[:_BARS]
    others = sum(count for _, count in ranked[_BARS:])
    bars += [(f"{len(ranked) - _BARS} others", others)] if others else []
    bars += [("not in the device list", unnamed)] if unnamed else []
    longest = max((count for _, count in bars), default=1)
    return [(name, count, round(100 * count / longest, 1)) for name, count in bars]


def _columns(census: pa.Table) -> dict[str, Any]:
    """The rows for the page's script, column by column."""
    flat = _flat(census)
    columns: dict[str, Any] = {}
    for name in _CODED:
        coded = flat[name].combine_chunks().dictionary_encode()
        columns[name] = {"names": coded.dictionary.to_pylist(), "codes": coded.indices.fill_null(-1).to_pylist()}
    for name in ("device_id", "flows", "bytes", "watched", "addresses", "runners_up"):
        columns[name] = flat[name].to_pylist()
    columns["confidence"] = pc.round(census["confidence"], 3).to_pylist()
    for name in ("first_seen", "last_seen"):
        columns[name] = pc.divide(census[name].cast(pa.int64()), 1_000_000).to_pylist()
    return columns


def _flat(census: pa.Table) -> dict[str, pa.ChunkedArray]:
    """The columns without lists: addresses joined by blanks, runners-up as "label 12 %; label 3 %"."""
    columns = {name: census[name] for name in census.column_names}
    listed = census["runners_up"].combine_chunks()
    percent = pc.cast(pc.round(pc.multiply(listed.flatten().field("confidence"), 100)).cast(pa.int64()), pa.string())
    texts = pc.binary_join_element_wise(
        listed.flatten().field("label"), pc.binary_join_element_wise(percent, "%", " "), " "
    )
    offsets = np.concatenate([[0], np.cumsum(pc.list_value_length(listed).to_numpy())]).astype(np.int32)
    columns["runners_up"] = pc.binary_join(pa.ListArray.from_arrays(pa.array(offsets), texts), "; ")
    columns["addresses"] = pc.binary_join(census["addresses"], " ")
    return {
        name: pa.chunked_array([column]) if isinstance(column, pa.Array) else column for name, column in columns.items()
    }


def _script_json(value: Any) -> Markup:
    """JSON that cannot end the script element it stands in, nor begin a comment or an entity."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))
