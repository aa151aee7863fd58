"""Which new devices are earlier ones under another MAC, where that is sure.

A device that chooses its own MACs (locally administered: phones, laptops, some IoT devices) is a new row whenever it
changes its MAC. It is joined with an earlier row only if

* both MACs are locally administered;
* the later is new on this date, and the earlier was there in the census before and is not now, with its last packet
  before the first of the later;
* both have the same single known kind (and no two different classes), or are in the same group of unknown devices;
* no other new device, and no other device that is gone, could be either of them: of the same kind or group, or with too
  little evidence to tell;
* both have MIN_FLOWS flows.

So two phones of one model that change their MACs in one night are not joined, nor a MAC that changes within a capture
date, nor a device that was away for a night. What remains possible is that one device left for ever in the night in
which another of the same kind came, both with a MAC of their own choice. Pure functions on tables.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from iotid.arrow import one_chunk
from iotid.census.groups import OTHERS
from iotid.census.named import NAMED
from iotid.model.device.decide import KNOWN, UNDECIDED, UNKNOWN

MIN_FLOWS = 10  # of each of the two on its date
_READ = ("device_id", "status", "kinds", "group_name", "flows", "first_seen", "last_seen")
Row = dict[str, Any]


def earlier_devices(new: pa.Table, gone: pa.Table) -> dict[str, str]:
    """``device_id`` of a new device -> that of the earlier one that it is.

    Args:
        new: rows (columns of CENSUS) that are new on this date.
        gone: rows of the census before that were present then, and are not now.
    """
    later_of, earlier_of = _by_key(new), _by_key(gone)
    if later_of.pop(UNDECIDED, None) or earlier_of.pop(UNDECIDED, None):
        return {}
    joined = {}
    for key in later_of.keys() & earlier_of.keys():
        if len(later_of[key]) == len(earlier_of[key]) == 1:
            (later,), (earlier,) = later_of[key], earlier_of[key]
            if _are_one(later, earlier):
                joined[later["device_id"]] = earlier["device_id"]
    return joined


def _by_key(rows: pa.Table) -> dict[str, list[Row]]:
    """The rows of locally administered MACs by what they are; UNDECIDED: those that could be anything."""
    is_local = pc.fill_null(one_chunk(rows["mac_randomised"]), False)
    found = defaultdict(list)
    for row in rows.filter(is_local).select(_READ).to_pylist():
        if key := _key(row):
            found[key].append(row)
    return dict(found)


def _key(row: Row) -> str | None:
    if row["status"] == KNOWN:
        return f"kind {row['kinds'][0]['kind']}"
    if row["group_name"] is not None and row["group_name"] != OTHERS:
        return f"group {row['group_name']}"
    return UNDECIDED if row["status"] in (UNDECIDED, UNKNOWN, NAMED) else None


def _are_one(later: Row, earlier: Row) -> bool:
    labels = {kind["label"] for row in (later, earlier) for kind in row["kinds"]} - {None}
    has_evidence = min(later["flows"], earlier["flows"]) >= MIN_FLOWS
    return has_evidence and len(labels) < 2 and earlier["last_seen"] < later["first_seen"]
