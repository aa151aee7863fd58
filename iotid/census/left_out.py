"""Lists the flows that belong to no device (LEFT_OUT) by reason, and by MAC or address (`labels.hosts.name_devices`).

For each reason the entries with most flows are listed, those without a row in the census first; one more row is the sum
of the remainder. So the sum over all rows is the number of flows left out.
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

OTHER_PROTOCOL = "other_protocol"  # the model was not trained on this protocol
REASONS = (*hosts.REASONS, OTHER_PROTOCOL)
MAX_LISTED = 200  # MACs and addresses listed for each reason
COUNTS = ("addresses", "flows", "packets")
Row = dict[str, Any]
SCHEMA = LEFT_OUT.arrow_schema()


def with_remainder_rows(listed: pa.Table, totals: pa.Table) -> pa.Table:
    """LEFT_OUT: the rows of ``listed`` (LEFT_OUT without ``ends``) by reason, then a row for the remainder of the
    reason's ``totals`` (reason, ends and COUNTS)."""
    rows: dict[str, list[Row]] = defaultdict(list)
    for row in listed.to_pylist():
        rows[row["reason"]].append(row | {"ends": 1})
    for total in totals.to_pylist():
        own = rows[total["reason"]]
        if total["ends"] > len(own):
            remainder = {name: total[name] - sum(row[name] for row in own) for name in ("ends", *COUNTS)}
            own.append({"reason": total["reason"], **remainder})
    return _table([row for reason in REASONS for row in rows[reason]])


def pseudonymize(left_out: pa.Table, pseudonyms: Pseudonyms) -> pa.Table:
    """LEFT_OUT with pseudonyms, sorted by them; rows of one reason share medians, rounded down to powers of ten.

    Only MACs that sent something and have no row in the census are listed. The others are only in the sum of their
    reason: anyone could learn a pseudonym by sending to a device, or from an outside address.
    """
    names = pseudonyms.of(left_out["mac"]).to_pylist()
    listed: dict[str, list[Row]] = defaultdict(list)
    unlisted: dict[str, list[Row]] = defaultdict(list)
    for row, name in zip(left_out.to_pylist(), names, strict=True):
        is_listed = name and row["in_census"] is False and row["reason"] in (hosts.ROUTER, OTHER_PROTOCOL)
        (listed if is_listed else unlisted)[row["reason"]].append(row | {"mac": name, "address": None})
    rows: list[Row] = []
    for reason in REASONS:
        own = sorted(listed[reason], key=lambda row: row["mac"])
        common = {name: power_of_ten(median_low(row[name] for row in own)) for name in COUNTS if own}
        rows += [row | common for row in own]
        if others := unlisted[reason]:
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
