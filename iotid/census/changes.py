"""Compares a census with the earlier one of its site, and adds the change of each device. Pure functions on tables.

A finding is a kind at an address, or that the address is unknown. A device has changed if this census has a finding
that the earlier one lacks: a kind, or another class of a kind if both name a class. These are not changes:

* `undecided`, which is not a finding, before or now;
* a kind that is not found again, as it may have sent too little;
* an unknown device beside the kinds found, as it may have been missed before;
* another MAC of the same device, where that is sure: the row is new, and names the earlier one (`same_device`);
* the effect of another model: the caller scores the earlier flows again with this model, or declares the two not
  comparable, and then no device counts as changed.

Shape suffixes: N rows, P kinds found, U unknown devices.
"""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from iotid.arrow import one_chunk
from iotid.census.identify import names_of_kinds
from iotid.census.same_device import earlier_devices
from iotid.model.device.decide import UNKNOWN
from iotid.schemas import CENSUS

BASELINE, NEW, SAME, CHANGED, BACK, GONE, AWAY = CHANGES = (
    "baseline", "new", "same", "changed", "back", "gone", "away",
)  # fmt: skip
ABSENT = "absent"  # status of devices without flows
_ABSENCES = (GONE, AWAY)
_HISTORY = ("first_seen_ever", "dates_present", "earlier_names")
# columns of CENSUS that the comparison adds
COMPARED = ("change", "previous_label", "new_kinds", "same_as", *_HISTORY)
_MOST_NAMES = 8  # earlier names of a device that are kept


def is_present(change: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """(N,) whether a row is of a device with flows on the capture date, from its ``change``."""
    return pc.invert(pc.is_in(change, value_set=pa.array(_ABSENCES)))


def present(census: pa.Table) -> pa.Table:
    """The rows (with the column ``change`` of CENSUS) of devices with flows on the capture date."""
    return census.filter(is_present(census["change"]))


def compare(current: pa.Table, earlier: pa.Table | None, *, comparable: bool, remember_days: int) -> pa.Table:
    """The current rows with the columns COMPARED, and rows of absent devices, ordered by device.

    Args:
        current: the stored columns of CENSUS without COMPARED.
        earlier: the stored columns of CENSUS; None without an earlier census.
        comparable: both were made with the same model and settings, so that another label means another device.
        remember_days: how long absent devices stay listed, from their last packet to the latest packet of both tables;
            later they are removed, and new if they return.
    """
    if earlier is None:
        change = pa.array([BASELINE] * current.num_rows, pa.string())
        given = {"change": change, "previous_label": pa.nulls(current.num_rows, pa.string())}
        return _in_order(current, given | _history(current, None)).sort_by("device_id")
    before = pc.index_in(current["device_id"], value_set=earlier["device_id"])
    was_absent_N = pc.is_in(earlier["change"], value_set=pa.array(_ABSENCES)).take(before)
    differences = _differences(current, earlier)
    differs = pc.and_(pc.is_in(current["device_id"], value_set=differences["device_id"]), comparable)
    change = pc.if_else(differs, CHANGED, SAME)
    change = pc.if_else(pc.fill_null(was_absent_N, False), BACK, change)
    change = pc.if_else(pc.is_null(before), NEW, change)
    differences = differences.filter(
        pc.and_(pc.is_valid(differences["kind"]), pc.equal(change, CHANGED).take(differences["row"]))
    )
    given = {
        "change": change,
        "previous_label": joined_names(earlier).take(before),
        "new_kinds": _by_row(differences, current.num_rows),
        "same_as": _same_as(current, change, earlier, comparable=comparable),
    }
    present = _in_order(current, given | _history(current, earlier))
    return pa.concat_tables([present, _absent(current, earlier, remember_days)]).sort_by("device_id")


def joined_names(census: pa.Table) -> pa.ChunkedArray:
    """(N,) the sorted names of the kinds found, joined by " + "; null if none was found."""
    findings = _findings(census)
    names = _by_row(
        findings.filter(pc.is_valid(findings["kind"])).sort_by([("row", "ascending"), ("name", "ascending")]),
        len(census),
    )
    return pa.chunked_array([pc.if_else(pc.equal(pc.list_value_length(names), 0), None, pc.binary_join(names, " + "))])


def with_history(rows: pa.Table, stored: pa.Table) -> pa.Table:
    """The rows with ``same_as`` and the history of the same devices in ``stored``; for others, null and their own."""
    of_stored = pc.index_in(rows["device_id"], value_set=one_chunk(stored["device_id"]))
    for name in ("same_as", *_HISTORY):
        index, column = rows.schema.get_field_index(name), stored[name].take(of_stored)
        if name != "same_as":
            column = pc.if_else(pc.is_null(of_stored), rows[name], column)
        rows = rows.set_column(index, rows.schema.field(index), column)
    return rows


def without_history(census: pa.Table) -> pa.Table:
    """The rows with nulls in the columns _HISTORY, which would distinguish devices that share all other numbers."""
    for name in _HISTORY:
        index, field = census.schema.get_field_index(name), census.schema.field(name)
        census = census.set_column(index, field, pa.nulls(len(census), field.type))
    return census


def _history(current: pa.Table, earlier: pa.Table | None) -> dict[str, pa.Array | pa.ChunkedArray]:
    """The columns _HISTORY of the current rows: as the earlier row of each says, and this date."""
    first_seen = one_chunk(current["first_seen"])
    if earlier is None:
        ones = pa.array(np.ones(len(current), np.int64))
        return dict(zip(_HISTORY, (first_seen, ones, _lists([[]] * len(current))), strict=True))
    of_earlier = pc.index_in(current["device_id"], value_set=one_chunk(earlier["device_id"]))
    names_before, name_before = (
        column.take(of_earlier).to_pylist() for column in (earlier["earlier_names"], joined_names(earlier))
    )
    names = []
    for name, last, before in zip(joined_names(current).to_pylist(), name_before, names_before, strict=True):
        known = dict.fromkeys([last, *(before or [])])
        names.append([each for each in known if each is not None and each != name][:_MOST_NAMES])
    before = one_chunk(earlier["first_seen_ever"]).take(of_earlier)
    return {
        "first_seen_ever": pc.if_else(pc.fill_null(pc.less(before, first_seen), False), before, first_seen),
        "dates_present": pc.add(pc.fill_null(one_chunk(earlier["dates_present"]).take(of_earlier), 0), 1),
        "earlier_names": _lists(names),
    }


def _lists(names: list[list[str]]) -> pa.Array:
    return pa.array(names, pa.list_(pa.string()))


def _same_as(current: pa.Table, change: pa.Array, earlier: pa.Table, *, comparable: bool) -> pa.Array:
    """(N,) the earlier device that each current one is, under another MAC; known since it was new."""
    column = earlier["same_as"].take(pc.index_in(current["device_id"], value_set=one_chunk(earlier["device_id"])))
    if not comparable:
        return column
    is_current = pc.is_in(earlier["device_id"], value_set=one_chunk(current["device_id"]))
    was_absent = pc.is_in(earlier["change"], value_set=pa.array(_ABSENCES))
    gone = earlier.filter(pc.invert(pc.or_(is_current, was_absent)))
    joined = earlier_devices(current.filter(pc.equal(change, NEW)), gone)
    if not joined:
        return column
    names = pa.array(joined.values(), pa.string())
    found = names.take(pc.index_in(current["device_id"], value_set=pa.array(joined.keys(), pa.string())))
    return pc.coalesce(found, column)


def _differences(current: pa.Table, earlier: pa.Table) -> pa.Table:
    """The current ``_findings`` that the earlier census lacks, of devices for which it has any."""
    findings, earlier_findings = _findings(current), _findings(earlier)
    keys, earlier_keys = (
        pc.binary_join_element_wise(table["device_id"], pc.fill_null(table["kind"], ""), "\n")
        for table in (findings, earlier_findings)
    )
    index = pc.index_in(keys, value_set=earlier_keys)
    is_other_class = pc.fill_null(pc.not_equal(findings["label"], earlier_findings["label"].take(index)), False)
    has_earlier = pc.is_in(findings["device_id"], value_set=earlier_findings["device_id"])
    return findings.filter(pc.and_(has_earlier, pc.or_(pc.is_null(index), is_other_class)))


def _findings(census: pa.Table) -> pa.Table:
    """The findings of a census, one a row: kind, label and name of each kind found, in the order of the census; then of
    each unknown device, with nulls."""
    kinds = one_chunk(census["kinds"])
    found, row_P = kinds.flatten(), pc.list_parent_indices(kinds).to_numpy()
    unknown_U = np.flatnonzero(pc.equal(census["status"], UNKNOWN).to_numpy())
    nothing = pa.nulls(len(unknown_U), pa.string())
    columns = {"kind": found.field("kind"), "label": found.field("label"), "name": names_of_kinds(found)}
    findings = pa.table({name: pa.chunked_array([column, nothing]) for name, column in columns.items()})
    row = pa.array(np.concatenate([row_P, unknown_U]).astype(np.int64))
    return findings.append_column("row", row).append_column("device_id", census["device_id"].take(row))


def _by_row(findings: pa.Table, rows: int) -> pa.ListArray:
    """(N,) lists of the names of each row's findings; ``findings`` are in the order of the rows."""
    counts_N = np.bincount(findings["row"].to_numpy(), minlength=rows)
    offsets = np.concatenate([[0], np.cumsum(counts_N)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), one_chunk(findings["name"]))


def _absent(current: pa.Table, earlier: pa.Table, remember_days: int) -> pa.Table:
    """Rows of devices that only the earlier census lists, without flows and otherwise unchanged."""
    missing = earlier.filter(pc.invert(pc.is_in(earlier["device_id"], value_set=current["device_id"])))
    is_away = pc.is_in(missing["change"], value_set=pa.array(_ABSENCES))
    latest = pc.max(pa.chunked_array([*current["last_seen"].chunks, *earlier["last_seen"].chunks])).as_py()
    if latest is not None:
        remembered = pc.greater_equal(missing["last_seen"], pa.scalar(latest - timedelta(days=remember_days)))
        kept = pc.or_(remembered, pc.invert(is_away))
        missing, is_away = missing.filter(kept), is_away.filter(kept)
    zero = pa.array(np.zeros(missing.num_rows, np.int64))
    status = pa.array([ABSENT] * missing.num_rows, pa.string())
    for field, column in (("status", status), ("flows", zero), ("bytes", zero), ("watched", pc.equal(zero, 1))):
        missing = missing.set_column(missing.column_names.index(field), field, column)
    return _in_order(missing, {"change": pc.if_else(is_away, AWAY, GONE), "previous_label": joined_names(missing)})


def _in_order(rows: pa.Table, given: dict[str, pa.Array | pa.ChunkedArray]) -> pa.Table:
    """The rows with the columns ``given``, in the order of CENSUS; no kind is new unless given. ``same_as`` and the
    columns about the device list are null unless given or in the rows."""
    schema = CENSUS.arrow_schema(stored=True)
    defaults = dict.fromkeys(("same_as", "device_name", "listed_label", "list_check"), pa.nulls(len(rows), pa.string()))
    stored = {field: rows[field] for field in rows.column_names if field != "new_kinds"}
    columns = defaults | {"new_kinds": _lists([[]] * len(rows))} | stored | given
    return pa.table([columns[field] for field in schema.names], schema=schema)
