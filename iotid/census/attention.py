"""What an operator has to look at in a census, sorted by severity. Pure functions on tables.

Shape suffixes: N rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from iotid.arrow import one_chunk
from iotid.census.changes import BACK, CHANGED, GONE, NEW, is_present, joined_names
from iotid.census.listed import DIFFERS, NOT_IDENTIFIED, NOT_LISTED
from iotid.census.marks import ADDRESS_CONFLICT, KINDS_AT_ONCE, MAKER_DIFFERS
from iotid.census.named import NAMED
from iotid.model.device.decide import SEVERAL, UNDECIDED, UNKNOWN, WITH_UNKNOWN

ACT, CHECK, NOTE = "act", "check", "note"
NEW_OTHER = "new_other"
NOT_SEEN = "not_seen"  # listed devices, which have no row
ROWS = 5  # listed in a section; the table lists all


class Section(NamedTuple):
    """``view``: of the table with all ``number`` rows; ``rows``: the first ones."""

    view: str
    severity: str
    title: str
    number: int
    rows: list[dict[str, Any]]


# view, severity and title, the most severe first
_SECTIONS = (
    ("watched", ACT, "On the watch list"),
    (ADDRESS_CONFLICT, ACT, "Address used by another MAC at the same time"),
    ("new_unknown", ACT, "New and unknown"),
    (DIFFERS, ACT, "Not what the device list says"),
    (NOT_LISTED, CHECK, "Recognised, but not listed"),
    (UNKNOWN, CHECK, "Unknown"),
    (WITH_UNKNOWN, CHECK, "Shared address with an unknown device"),
    (CHANGED, CHECK, "Changed"),
    (KINDS_AT_ONCE, CHECK, "Several kinds at the same time under one MAC"),
    (MAKER_DIFFERS, CHECK, "Named otherwise than the maker of the MAC"),
    (NEW_OTHER, CHECK, "New, other than unknown"),
    (GONE, NOTE, "Gone since the census before"),
    (BACK, NOTE, "Back"),
    (NOT_SEEN, NOTE, "Listed, but not seen on this date"),
    (NOT_IDENTIFIED, NOTE, "Listed, but not identified"),
    (UNDECIDED, NOTE, "Undecided"),
    (SEVERAL, NOTE, "Shared address"),
    (NAMED, NOTE, "Named by persons"),
)
VIEWS = {view: title for view, _, title in _SECTIONS if view != NOT_SEEN}


def sections(census: pa.Table, device_list: Mapping[str, Any]) -> list[Section]:
    """All sections, also those without a row. ``census``: CENSUS, with the column `also`; ``device_list``: as in the
    metadata of a census."""
    census = census.append_column("name", joined_names(census))
    masks = _masks(census)
    found = []
    for view, severity, title in _SECTIONS:
        if view == NOT_SEEN:
            names = [{"device_name": name} for name in device_list.get("not_seen_names", [])[:ROWS]]
            found.append(Section(view, severity, title, device_list.get("not_seen", 0), names))
        else:
            rows = census.filter(masks[view])
            rows = rows.sort_by([("flows", "descending"), ("device_id", "ascending")])
            found.append(Section(view, severity, title, len(rows), rows.slice(0, ROWS).to_pylist()))
    return found


def ranks(census: pa.Table) -> list[int]:
    """(N,) the order of the rows in the page's table: unknown ones first, new before others; then as the sections;
    then those without any, and last absent ones."""
    masks = _masks(census)
    order = ["new_unknown", UNKNOWN, WITH_UNKNOWN]
    order += [view for view, severity, _ in _SECTIONS if view in masks and view not in order and severity != NOTE]
    order += [UNDECIDED, NOT_IDENTIFIED]
    conditions = [masks[view].to_numpy(zero_copy_only=False) for view in order]
    is_here_N = is_present(census["change"]).to_numpy().astype(bool)
    usual_N = np.where(is_here_N, len(order), len(order) + 1)
    return np.select(conditions, list(range(len(order))), usual_N).tolist() if len(census) else []


def _masks(census: pa.Table) -> dict[str, pa.Array]:
    """The rows of each section, by view; those of absent devices only in `gone`."""
    change, status, check = (one_chunk(census[name]) for name in ("change", "status", "list_check"))
    is_new, is_unknown = pc.equal(change, NEW), pc.equal(status, UNKNOWN)
    masks = {
        "watched": one_chunk(census["watched"]),
        "new_unknown": pc.and_(is_new, pc.or_(is_unknown, pc.equal(status, WITH_UNKNOWN))),
        CHANGED: pc.equal(change, CHANGED),
        NEW_OTHER: pc.and_(is_new, pc.invert(pc.or_(is_unknown, pc.equal(status, WITH_UNKNOWN)))),
        GONE: pc.equal(change, GONE),
        BACK: pc.equal(change, BACK),
    }
    masks |= {mark: _is_marked(census, mark) for mark in (ADDRESS_CONFLICT, KINDS_AT_ONCE, MAKER_DIFFERS)}
    masks |= {value: pc.equal(status, value) for value in (UNKNOWN, WITH_UNKNOWN, UNDECIDED, SEVERAL, NAMED)}
    masks |= {value: pc.fill_null(pc.equal(check, value), False) for value in (DIFFERS, NOT_LISTED, NOT_IDENTIFIED)}
    # what a person said of a group was not recognised
    masks[NOT_LISTED] = pc.and_(masks[NOT_LISTED], pc.not_equal(status, NAMED))
    return masks


def _is_marked(census: pa.Table, mark: str) -> pa.Array:
    marked = pa.array([mark in marks for marks in census["marks"].to_pylist()], pa.bool_())
    return pc.and_(marked, one_chunk(is_present(census["change"])))
