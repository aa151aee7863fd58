"""Tonight's census against the one before it at the same site; pure functions on tables.

What is compared is what the two say of a device: the kinds behind its address, or that it is unknown. A device has
changed where tonight says what the census before did not: a kind that it did not find, or another class of one where
both name a class. Too little evidence is no opinion, so nothing changes from or to `undecided`; and that one of several
has sent too little tonight to be found again does not say that it left. Nor does something unknown beside the kinds
found say that anything came: it may have been there, and not have been noticed. A model change is no network change:
the caller gives the earlier census as tonight's model makes it, or says that the two cannot be compared, and then
nothing counts as changed.
"""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from iotid.arrow import one_chunk
from iotid.census.identify import names_of_kinds
from iotid.model.device.decide import UNKNOWN
from iotid.schemas import CENSUS

FIRST, NEW, SAME, CHANGED, BACK, GONE, AWAY = CHANGES = ("first", "new", "same", "changed", "back", "gone", "away")
ABSENT = (GONE, AWAY)  # rows of devices that are not there tonight
COMPARED = ("change", "previous_label", "new_kinds")  # columns of CENSUS that a comparison makes


def compare(tonight: pa.Table, earlier: pa.Table | None, *, comparable: bool, remember_days: int) -> pa.Table:
    """Tonight's rows with COMPARED, and rows of the devices that are not there, by device.

    Args:
        tonight: the stored columns of CENSUS without COMPARED.
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
    news = _news(tonight, earlier)
    differs = pc.and_(pc.is_in(tonight["device_id"], value_set=news["device_id"]), comparable)
    change = pc.if_else(differs, CHANGED, SAME)
    change = pc.if_else(pc.fill_null(was_absent_N, False), BACK, change)
    change = pc.if_else(pc.is_null(before), NEW, change)
    news = news.filter(pc.and_(pc.is_valid(news["kind"]), pc.equal(change, CHANGED).take(news["row"])))
    present = _in_order(tonight, change, name_of(earlier).take(before), _by_row(news, tonight.num_rows))
    return pa.concat_tables([present, _absent(tonight, earlier, remember_days)]).sort_by("device_id")


def name_of(census: pa.Table) -> pa.ChunkedArray:
    """The names of the kinds found, in order, joined by +; null where there is none."""
    said = _said(census)
    names = _by_row(
        said.filter(pc.is_valid(said["kind"])).sort_by([("row", "ascending"), ("name", "ascending")]), len(census)
    )
    return pa.chunked_array([pc.if_else(pc.equal(pc.list_value_length(names), 0), None, pc.binary_join(names, " + "))])


def _news(tonight: pa.Table, earlier: pa.Table) -> pa.Table:
    """What tonight says (``_said``) that the earlier census did not, of devices that it had an opinion of."""
    said, said_before = _said(tonight), _said(earlier)
    pairs, pairs_before = (
        pc.binary_join_element_wise(table["device_id"], pc.fill_null(table["kind"], ""), "\n")
        for table in (said, said_before)
    )
    place = pc.index_in(pairs, value_set=pairs_before)
    is_another = pc.fill_null(pc.not_equal(said["label"], said_before["label"].take(place)), False)
    was_said = pc.is_in(said["device_id"], value_set=said_before["device_id"])
    return said.filter(pc.and_(was_said, pc.or_(pc.is_null(place), is_another)))


def _said(census: pa.Table) -> pa.Table:
    """All that the census says of its devices, one a row: the kind, label and name of each kind found, in the order of
    the rows; nulls where the device is unknown."""
    kinds = one_chunk(census["kinds"])
    found, row_P = kinds.flatten(), pc.list_parent_indices(kinds).to_numpy()
    unknown_U = np.flatnonzero(pc.equal(census["status"], UNKNOWN).to_numpy())
    nothing = pa.nulls(len(unknown_U), pa.string())
    columns = {"kind": found.field("kind"), "label": found.field("label"), "name": names_of_kinds(found)}
    said = pa.table({name: pa.chunked_array([column, nothing]) for name, column in columns.items()})
    row = pa.array(np.concatenate([row_P, unknown_U]).astype(np.int64))
    return said.append_column("row", row).append_column("device_id", census["device_id"].take(row))


def _by_row(said: pa.Table, rows: int) -> pa.ListArray:
    """(N,) the names that ``said`` has of each row; it is in their order."""
    counts_N = np.bincount(said["row"].to_numpy(), minlength=rows)
    offsets = np.concatenate([[0], np.cumsum(counts_N)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), one_chunk(said["name"]))


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


def _in_order(
    rows: pa.Table, change: pa.Array, previous_label: pa.Array, new_kinds: pa.ListArray | None = None
) -> pa.Table:
    schema = CENSUS.arrow_schema(stored=True)
    none = pa.array([[]] * rows.num_rows, schema.field("new_kinds").type)
    given = dict(zip(COMPARED, (change, previous_label, none if new_kinds is None else new_kinds), strict=True))
    columns = {field: rows[field] for field in rows.column_names} | given
    return pa.table([columns[field] for field in schema.names], schema=schema)
