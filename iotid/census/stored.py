"""Reads rows and groups of stored censuses, also of earlier versions, and writes groups."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from iotid.census.changes import ABSENT, AWAY, BASELINE, GONE
from iotid.census.groups import NO_GROUPS, check_groups
from iotid.labels.devices import device_kind
from iotid.labels.grouped_devices import GROUPS_SINCE
from iotid.schemas import CENSUS, GROUPS, TOTALS
from iotid.schemas.metadata import remedy
from iotid.storage import SIDE_SUFFIX, as_schema, read_table, translate_read_errors

if TYPE_CHECKING:
    from iotid.census.pseudonyms import Pseudonyms
    from iotid.partitions import Partition, Staged, Store
    from iotid.schemas.metadata import Census

PAGE, CSV, JSON_LINES = "_census.html", "_census.csv", "_census.jsonl"
GROUPS_FILE, GROUPS_CSV = f"_groups{SIDE_SUFFIX}", "_groups.csv"
TOTALS_FILE = f"_totals{SIDE_SUFFIX}"
LEFT_OUT_FILE, LEFT_OUT_CSV = f"_left_out{SIDE_SUFFIX}", "_left_out.csv"
GROUPS_SEALED = "_groups.sealed"  # GROUPS_FILE encrypted, under pseudonyms: payload lengths can identify a device
_OF_EVERY_VERSION = ("device_id", "status", "label", "vendor", "type", "confidence", "first_seen", "change")
_FORMER_BASELINE = "first"  # until version 6
_GROUPS_OF_VERSION_2 = ("flows_per_hour", "active_hours", "token", "token_share", "device", "absent", "merged")


def stored_rows(census: Partition[Census]) -> pa.Table:
    """The rows of a census with the present columns; those that its version lacks are null or empty.

    Raises:
        DataError: the files are damaged.
    """
    schema = CENSUS.arrow_schema(stored=True)
    if census.metadata["schema_version"] == CENSUS.version:
        return read_table(census.uri, schema, remedy("census"))
    with translate_read_errors(census.uri, remedy("census")):
        return _of_earlier_version(pq.read_table(census.uri, partitioning=None), schema)


def stored_groups(store: Store, census: Partition[Census], pseudonyms: Pseudonyms | None) -> pa.Table:
    """The groups (GROUPS) of a census that was made under the same key.

    Raises:
        DataError: the file is damaged.
    """
    if census.metadata["schema_version"] < GROUPS_SINCE:
        return NO_GROUPS
    if pseudonyms is None:
        content = store.read_bytes(census, GROUPS_FILE)
    else:
        try:
            content = pseudonyms.unseal(store.read_bytes(census, GROUPS_SEALED))
        except FileNotFoundError:  # earlier versions encrypted no groups, and their names were not pseudonyms
            return NO_GROUPS
    with translate_read_errors(f"{census.uri}/{GROUPS_FILE}", remedy("census")):
        found, schema = with_group_name(pq.read_table(pa.BufferReader(content))), GROUPS.arrow_schema()
        for name in _GROUPS_OF_VERSION_2:
            if name not in found.column_names:
                found = found.append_column(name, pa.nulls(len(found), schema.field(name).type))
        return check_groups(as_schema(found, schema))


def stored_totals(store: Store, census: Partition[Census]) -> pa.Table | None:
    """The totals (TOTALS) of a census; None if its version wrote none.

    Raises:
        DataError: the file is damaged.
    """
    try:
        content = store.read_bytes(census, TOTALS_FILE)
    except FileNotFoundError:
        return None
    with translate_read_errors(f"{census.uri}/{TOTALS_FILE}", remedy("census")):
        return as_schema(pq.read_table(pa.BufferReader(content)), TOTALS.arrow_schema())


def with_group_name(table: pa.Table) -> pa.Table:
    """The table with the column `group_name`, which earlier versions called `group`."""
    return table.rename_columns(["group_name" if name == "group" else name for name in table.column_names])


def write_groups(staged: Staged, groups: pa.Table, pseudonyms: Pseudonyms | None) -> None:
    """Write the groups as Parquet, encrypted if there are pseudonyms."""
    buffer = pa.BufferOutputStream()
    pq.write_table(GROUPS.describe(groups), buffer)
    content = buffer.getvalue().to_pybytes()
    if pseudonyms:
        staged.write_bytes(GROUPS_SEALED, pseudonyms.seal(content))
    else:
        staged.write_bytes(GROUPS_FILE, content)


def _of_earlier_version(found: pa.Table, schema: pa.Schema) -> pa.Table:
    """Convert: version 7 gave rows of absent devices a status and all rows a history, and renamed `group`; version 6
    added nullable columns, version 5 marks; before version 4 only rows with several kinds had a list, and the kind of a
    ``known`` row was in its own columns."""
    found.select(_OF_EVERY_VERSION)  # raises a KeyError if one is missing
    found = with_group_name(found)
    is_absent = pc.is_in(found["change"], value_set=pa.array([GONE, AWAY]))
    none = pa.array([[]] * len(found), pa.list_(pa.string()))
    given = {
        "status": pc.if_else(is_absent, ABSENT, found["status"]),
        "change": pc.if_else(pc.equal(found["change"], _FORMER_BASELINE), BASELINE, found["change"]),
        "marks": none,
        "first_seen_ever": found["first_seen"],
        "dates_present": pa.array(np.ones(len(found), np.int64)),
        "earlier_names": none,
    }
    if "marks" in found.column_names:
        del given["marks"]
    if "kinds" not in found.column_names:
        given |= _of_version_3(found, schema)
    columns = [given[name] if name in given else _column_of(found, schema.field(name)) for name in schema.names]
    return pa.table(columns, schema=schema)


def _of_version_3(found: pa.Table, schema: pa.Schema) -> dict[str, pa.Array]:
    kind = schema.field("kinds").type
    rows = found.select(["label", "vendor", "type", "confidence"]).to_pylist()
    several = found["several"].to_pylist() if "several" in found.column_names else [[]] * len(found)
    listed = [
        [{**one, "flows": 0, "units": 1} for one in (kinds or [row])] if kinds or row["label"] is not None else []
        for row, kinds in zip(rows, several, strict=True)
    ]
    for one in (one for kinds in listed for one in kinds):
        one["kind"] = device_kind(one["label"] or "", one) or one["label"]
    return {
        "kinds": pa.array(listed, kind),
        "unexplained": pa.array(np.zeros(len(found))),
        "household": pa.array(np.zeros(len(found))),
        "reason": pa.array(["Made by an earlier version."] * len(found), pa.string()),
        "new_kinds": pa.array([[]] * len(found), schema.field("new_kinds").type),
    }


def _column_of(found: pa.Table, field: pa.Field) -> pa.ChunkedArray | pa.Array:
    return found[field.name].cast(field.type) if field.name in found.column_names else pa.nulls(len(found), field.type)
