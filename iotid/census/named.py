"""Gives unknown devices the names that persons gave their groups (`iotid name`). Pure functions on tables.

Shape suffixes: N rows, G groups with a name.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from iotid.arrow import one_chunk
from iotid.labels.devices import device_kind
from iotid.labels.group_names import Statement
from iotid.model.device.decide import STATUSES, UNKNOWN

NAMED = "named"
CENSUS_STATUSES = (*STATUSES, NAMED)
# a person looked at a group, not at each device: the share of devices that are of their group's commonest kind. `make
# drill-network` has a purity of 0.955, `make bench-groups` more (docs/results/census.md)
NAMED_CONFIDENCE = 0.95
_SAID = " A person named its group: "
_OF_KIND = ("label", "vendor", "type")


def with_names(devices: pa.Table, names: Mapping[str, Statement]) -> pa.Table:
    """The devices (columns of CENSUS) with the names of their groups.

    A device of a group in ``names`` is `named`: one kind, its label the model. One that was named, but whose group has
    no name any more, is `unknown` again. All others stay as they are.
    """
    status, size = one_chunk(devices["status"]), len(devices)
    is_free = pc.is_in(status, value_set=pa.array([UNKNOWN, NAMED]))
    number = pc.index_in(one_chunk(devices["group_name"]), value_set=pa.array(list(names), pa.string()))
    number = pc.if_else(is_free, number, None)
    is_named, was_named = pc.is_valid(number), pc.equal(status, NAMED)
    number_N = number.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    named_N, reset_N = (each.to_numpy(zero_copy_only=False) for each in (is_named, pc.and_not(was_named, is_named)))
    # rows 0 to N - 1 are the devices', then those of G groups, then one of none
    row_N = np.where(named_N, size + number_N, np.where(reset_N, size + len(names), np.arange(size)))
    given = _of_groups(names, devices.schema)
    columns = {
        name: pa.concat_arrays([one_chunk(devices[name]), of_groups]).take(pa.array(row_N))
        for name, of_groups in given.items()
    }
    columns["status"] = pc.if_else(is_named, NAMED, pc.if_else(was_named, UNKNOWN, status))
    before = pc.if_else(pa.array(reset_N), _likeliest(devices), one_chunk(devices["confidence"]))
    columns["confidence"] = pc.if_else(is_named, NAMED_CONFIDENCE, before)
    said = pa.array([f"{_SAID}{each.title}, by {each.said}." for each in names.values()] or [""], pa.string())
    bare = pc.if_else(is_free, pc.replace_substring_regex(devices["reason"], _ending(), ""), devices["reason"])
    reason = pc.binary_join_element_wise(one_chunk(bare), said.take(pa.array(np.where(named_N, number_N, 0))), "")
    columns["reason"] = pc.if_else(is_named, reason, one_chunk(bare))
    for name, column in columns.items():
        at = devices.schema.get_field_index(name)
        devices = devices.set_column(at, devices.schema.field(at), column)
    return devices


def _of_groups(names: Mapping[str, Statement], schema: pa.Schema) -> dict[str, pa.Array]:
    """(G + 1,) what the devices of each group get, by column; the last is for a group without a name."""
    rows = []
    for said in names.values():
        of_kind = {"label": said.model, "vendor": said.vendor or None, "type": said.type or None}
        kind = {
            "kind": device_kind(said.model, of_kind),
            **of_kind,
            "confidence": NAMED_CONFIDENCE,
            "flows": 0,
            "units": 1,
        }
        rows.append({**of_kind, "named_by": said.stated_by, "kinds": [kind]})
    rows.append({"kinds": []})
    return {
        name: pa.array([row.get(name) for row in rows], schema.field(name).type)
        for name in (*_OF_KIND, "named_by", "kinds")
    }


def _likeliest(devices: pa.Table) -> pa.Array:
    """(N,) the probability of the likeliest kind, which an unknown row has as its confidence."""
    listed = one_chunk(devices["runners_up"])
    first = pc.list_element(pc.if_else(pc.equal(pc.list_value_length(listed), 0), None, listed), 0)
    return pc.fill_null(pc.struct_field(first, "confidence"), 0.0)


def _ending() -> str:
    return f"(?s){_SAID}.*$"
