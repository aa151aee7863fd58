"""What a census leaves out: flows of no device, under the MAC or address of `labels.hosts.name_devices`, and why.

Of each reason the busiest are listed, those without a row in the census first, and one more row sums up the rest: all
rows together are all flows that are left out.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from statistics import median_low
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from iotid.census.microaggregation import power_of_ten
from iotid.labels import hosts
from iotid.schemas import LEFT_OUT

if TYPE_CHECKING:
    from iotid.census.pseudonyms import Pseudonyms

OTHER_PROTOCOL = "other_protocol"  # the model learned from no flow of it
REASONS = (*hosts.REASONS, OTHER_PROTOCOL)
MOST = 200  # MACs and addresses that are listed of a reason
COUNTS = ("addresses", "flows", "packets")
Row = dict[str, Any]
SCHEMA = LEFT_OUT.arrow_schema()


def with_rest(listed: pa.Table, totals: pa.Table) -> pa.Table:
    """LEFT_OUT: rows of ``listed`` (LEFT_OUT but for ``ends``) in their order, by reason, and the rest of ``totals``:
    reason, ends, and COUNTS of all that it sums up."""
    rows: dict[str, list[Row]] = defaultdict(list)
    for row in listed.to_pylist():
        rows[row["reason"]].append(row | {"ends": 1})
    for total in totals.to_pylist():
        own = rows[total["reason"]]
        if total["ends"] > len(own):
            rest = {name: total[name] - sum(row[name] for row in own) for name in ("ends", *COUNTS)}
            own.append({"reason": total["reason"], **rest})
    return _table([row for reason in REASONS for row in rows[reason]])


def hide(left_out: pa.Table, pseudonyms: Pseudonyms) -> pa.Table:
    """LEFT_OUT with pseudonyms: of each reason equal numbers, the medians rounded down to powers of ten, in the order
    of the pseudonyms.

    Listed is only what has no row in the census and is named by its MAC for what it sent: to ask a device, or to send
    from any address outside, would show anybody its pseudonym. All others are in the sum of their reason.
    """
    names = pseudonyms.of(left_out["mac"]).to_pylist()
    listed: dict[str, list[Row]] = defaultdict(list)
    rest: dict[str, list[Row]] = defaultdict(list)
    for row, name in zip(left_out.to_pylist(), names, strict=True):
        is_shown = name and row["in_census"] is False and row["reason"] in (hosts.ROUTER, OTHER_PROTOCOL)
        (listed if is_shown else rest)[row["reason"]].append(row | {"mac": name, "address": None})
    rows: list[Row] = []
    for reason in REASONS:
        own = sorted(listed[reason], key=lambda row: row["mac"])
        common = {name: power_of_ten(median_low(row[name] for row in own)) for name in COUNTS if own}
        rows += [row | common for row in own]
        if others := rest[reason]:
            sums = {name: power_of_ten(sum(row[name] for row in others)) for name in ("ends", *COUNTS)}
            rows.append({"reason": reason, **sums})
    return _table(rows)


def flows_by_reason(left_out: pa.Table) -> dict[str, int]:
    """Reason -> flows, in the order of REASONS."""
    flows: Counter[str] = Counter()
    for reason, count in zip(*(left_out[name].to_pylist() for name in ("reason", "flows")), strict=True):
        flows[reason] += count
    return {reason: flows[reason] for reason in REASONS if reason in flows}


def _table(rows: list[Row]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=SCHEMA)
