"""Tonight's census against the one before it at the same site; pure functions on tables.

What is compared is what the two say of a device: its label, or that it is unknown. Too little evidence is no opinion,
so nothing changes from or to `undecided`. A model change is no network change: the caller gives the earlier census as
tonight's model makes it, or says that the two cannot be compared, and then no label counts as changed.
"""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from iotid.model.status import UNDECIDED, UNKNOWN
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
    differs = pc.and_(pc.fill_null(pc.not_equal(_opinion(tonight), _opinion(earlier).take(before)), False), comparable)
    change = pc.if_else(differs, CHANGED, SAME)
    change = pc.if_else(pc.fill_null(was_absent_N, False), BACK, change)
    change = pc.if_else(pc.is_null(before), NEW, change)
    present = _in_order(tonight, change, earlier["label"].take(before))
    return pa.concat_tables([present, _absent(tonight, earlier, remember_days)]).sort_by("device_id")


def _opinion(census: pa.Table) -> pa.ChunkedArray:
    """The label, or the word for unknown (no label is empty, so neither is mistaken for it); null where undecided."""
    unknown = pc.if_else(pc.equal(census["status"], UNKNOWN), "", census["label"])
    return pc.if_else(pc.equal(census["status"], UNDECIDED), None, unknown)


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
    for name, column in (("flows", zero), ("bytes", zero), ("watched", pc.equal(zero, 1))):
        missing = missing.set_column(missing.column_names.index(name), name, column)
    return _in_order(missing, pc.if_else(is_away, AWAY, GONE), missing["label"])


def _in_order(rows: pa.Table, change: pa.Array, previous_label: pa.Array) -> pa.Table:
    schema = CENSUS.arrow_schema(stored=True)
    given = {name: rows[name] for name in rows.column_names} | {"change": change, "previous_label": previous_label}
    return pa.table([given[name] for name in schema.names], schema=schema)
