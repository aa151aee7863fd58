"""Tonight's census against the one before it at the same site; pure functions on tables.

What is compared is what the two say of a device: the names of the kinds behind its address, or that it is unknown. A
device has changed where tonight says what the census before did not. Too little evidence is no opinion, so nothing
changes from or to `undecided`; and that one of several has sent too little tonight to be found again does not say that
it left. A model change is no network change: the caller gives the earlier census as tonight's model makes it, or says
that the two cannot be compared, and then no label counts as changed.
"""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from iotid.census.identify import names_of_kinds
from iotid.dataset.arrays import one_chunk
from iotid.model.device.decide import UNKNOWN
from iotid.schemas import CENSUS

FIRST, NEW, SAME, CHANGED, BACK, GONE, AWAY = CHANGES = ("first", "new", "same", "changed", "back", "gone", "away")
ABSENT = (GONE, AWAY)  # rows of devices that are not there tonight


def compare(tonight: pa.Table, earlier: pa.Table | None, *, comparable: bool, remember_days: int) -> pa.Table:
    """Tonight's rows with ``change`` and ``previous_label``, and rows of the devices that are not there, by device.

    Args:
        tonight: the stored columns of CENSUS without those two.
        earlier: the stored columns of CENSUS; None where there was no census before.
        comparable: the two were made by the same model and settings, so that other labels mean another device.
        remember_days: absent devices are carried along for so long after their last packet, measured by the captures'
            own clock from the latest packet that is known; then they are forgotten, and new when they come back.
    """
    if earlier is None:
        change = pa.array([FIRST] * tonight.num_rows, pa.string())
        return _in_order(tonight, change, pa.nulls(tonight.num_rows, pa.string())).sort_by("device_id")
    before = pc.index_in(tonight["device_id"], value_set=earlier["device_id"])
    was_absent_N = pc.is_in(earlier["change"], value_set=pa.array(ABSENT)).take(before)
    differs = pc.and_(_says_more(tonight, earlier), comparable)
    change = pc.if_else(differs, CHANGED, SAME)
    change = pc.if_else(pc.fill_null(was_absent_N, False), BACK, change)
    change = pc.if_else(pc.is_null(before), NEW, change)
    present = _in_order(tonight, change, name_of(earlier).take(before))
    return pa.concat_tables([present, _absent(tonight, earlier, remember_days)]).sort_by("device_id")


def name_of(census: pa.Table) -> pa.ChunkedArray:
    """The names of the kinds found, in order, joined by +; null where there is none."""
    said = _said(census).sort_by([("row", "ascending"), ("name", "ascending")])
    counts_N = np.bincount(said["row"].to_numpy(), minlength=len(census))
    offsets = np.concatenate([[0], np.cumsum(counts_N)]).astype(np.int32)
    names = pc.binary_join(pa.ListArray.from_arrays(pa.array(offsets), one_chunk(said["name"])), " + ")
    return pc.if_else(pc.and_(pa.array(counts_N > 0), pc.not_equal(census["status"], UNKNOWN)), names, None)


def _says_more(tonight: pa.Table, earlier: pa.Table) -> pa.ChunkedArray:
    """bool of tonight's devices: the earlier census had an opinion of it, and did not say all that tonight's does."""
    said, said_before = _said(tonight), _said(earlier)
    pairs, pairs_before = (
        pc.binary_join_element_wise(table["device_id"], table["name"], "\n") for table in (said, said_before)
    )
    more = said["device_id"].filter(pc.invert(pc.is_in(pairs, value_set=pairs_before)))
    was_said = pc.is_in(tonight["device_id"], value_set=said_before["device_id"])
    return pc.and_(was_said, pc.is_in(tonight["device_id"], value_set=more))


def _said(census: pa.Table) -> pa.Table:
    """All that the census says of its devices, one a row: each kind found by name, or "" (no name is empty) where
    unknown."""
    kinds = one_chunk(census["kinds"])
    rows = pa.array(np.arange(len(census)))
    found = pa.table({"row": pc.list_parent_indices(kinds).cast(pa.int64()), "name": names_of_kinds(kinds.flatten())})
    unknown = rows.filter(pc.equal(census["status"], UNKNOWN))
    said = pa.concat_tables([found, pa.table({"row": unknown, "name": pa.array([""] * len(unknown), pa.string())})])
    return said.append_column("device_id", census["device_id"].take(said["row"]))


def _absent(tonight: pa.Table, earlier: pa.Table, remember_days: int) -> pa.Table:
    """Rows of devices that the census before lists and tonight's flows do not show: no flows, the rest as it was."""
    missing = earlier.filter(pc.invert(pc.is_in(earlier["device_id"], value_set=tonight["device_id"])))
    is_away = pc.is_in(missing["change"], value_set=pa.array(ABSENT))
    latest = pc.max(pa.chunked_array([*tonight["last_seen"].chunks, *earlier["last_seen"].chunks])).as_py()
    if latest is not None:
        remembered = pc.greater_equal(missing["last_seen"], pa.scalar(latest - timedelta(days=remember_days)))
        kept = pc.or_(remembered, pc.invert(is_away))
        missing, is_away = missing.filter(kept), is_away.filter(kept)
    zero = pa.array(np.zeros(missing.num_rows, np.int64))
    for field, column in (("flows", zero), ("bytes", zero), ("watched", pc.equal(zero, 1))):
        missing = missing.set_column(missing.column_names.index(field), field, column)
    return _in_order(missing, pc.if_else(is_away, AWAY, GONE), name_of(missing))


def _in_order(rows: pa.Table, change: pa.Array, previous_label: pa.Array) -> pa.Table:
    schema = CENSUS.arrow_schema(stored=True)
    given = {field: rows[field] for field in rows.column_names} | {"change": change, "previous_label": previous_label}
    return pa.table([given[field] for field in schema.names], schema=schema)
