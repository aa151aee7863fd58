"""Marks of census rows: hints that a MAC is forged, forwards packets of other devices, or that a name is wrong.

Shape suffixes: N addresses, K kinds, P likely kinds of one address.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from iotid.arrow import one_chunk
from iotid.labels.owner import parse_addresses

if TYPE_CHECKING:
    from iotid import config
    from iotid.model.device import Answer

ADDRESS_CONFLICT, KINDS_AT_ONCE, MAKER_DIFFERS = MARKS = ("address_conflict", "kinds_at_once", "maker_differs")
SENTENCES = {
    ADDRESS_CONFLICT: "Another MAC used an address of it at the same time.",
    KINDS_AT_ONCE: "Its flows are of several kinds at the same time, under one MAC.",
    MAKER_DIFFERS: "Its MAC's prefix is registered by another vendor of the device list.",
}
_LISTS = pa.list_(pa.string())


def have_concurrent_kinds(
    answer: Answer, share: float, device: pa.Array, flows_N: NDArray[np.int64], settings: config.Census
) -> NDArray[np.bool_]:
    """bool (N,): MACs with flows of two kinds at the same time, if most addresses of the site are one host each.

    Independent of ``census.behind`` it uses the probabilities for households: two kinds are likely, the address is more
    likely a household than a host, and the times between the first and last flow of each kind overlap. ``share``: of
    households among the addresses; if it is a half or more, several kinds at an address are normal and no MAC is
    marked.
    """
    is_concurrent_N = np.zeros(len(flows_N), np.bool_)
    if share >= 0.5:
        return is_concurrent_N
    likely_NK = (answer.household >= settings.min_confidence) & (answer.ends >= answer.begins)
    is_mac_N = parse_addresses(device.to_pylist())[0] == 0
    is_checked_N = is_mac_N & (likely_NK.sum(axis=1) > 1) & (answer.log_odds > 0) & (flows_N >= settings.min_flows)
    for row in np.flatnonzero(is_checked_N):
        begins_P, ends_P = answer.begins[row, likely_NK[row]], answer.ends[row, likely_NK[row]]
        order_P = np.argsort(begins_P)
        is_concurrent_N[row] = (begins_P[order_P][1:] <= np.maximum.accumulate(ends_P[order_P])[:-1]).any()
    return is_concurrent_N


def mark_lists(is_marked_N: NDArray[np.bool_], mark: str) -> pa.ListArray:
    """(N,) lists: the mark, or empty."""
    offsets = np.concatenate([[0], np.cumsum(is_marked_N)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array([mark] * int(is_marked_N.sum()), pa.string()))


def with_conflicts(devices: pa.Table, conflicting: pa.Array) -> pa.Table:
    """The table (columns of CENSUS) with ADDRESS_CONFLICT as first mark of the ``conflicting`` devices."""
    return with_mark(devices, pc.is_in(one_chunk(devices["device_id"]), value_set=conflicting), ADDRESS_CONFLICT)


def with_mark(devices: pa.Table, is_marked: pa.Array, mark: str) -> pa.Table:
    """The table (columns of CENSUS) with the mark and its sentence where ``is_marked``; marks are in the order of
    MARKS."""
    if not pc.any(is_marked).as_py():
        return devices
    rows = zip(is_marked.to_pylist(), devices["marks"].to_pylist(), devices["reason"].to_pylist(), strict=True)
    marks, reasons = [], []
    for is_own, before, reason in rows:
        marks.append(sorted([mark, *before], key=MARKS.index) if is_own else before)
        reasons.append(f"{reason} {SENTENCES[mark]}" if is_own else reason)
    for name, column in (("marks", pa.array(marks, _LISTS)), ("reason", pa.array(reasons, pa.string()))):
        index = devices.schema.get_field_index(name)
        devices = devices.set_column(index, devices.schema.field(index), column)
    return devices


def with_mark_sentences(reason: str, marks: list[str]) -> str:
    """The reason, followed by the sentence of each mark."""
    return " ".join([reason, *(SENTENCES[mark] for mark in marks)])
