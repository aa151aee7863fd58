"""Adds the totals of sites, with intervals. Pure functions on tables.

Shape suffixes: R rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from iotid.arrow import one_chunk
from iotid.census.groups import OTHERS
from iotid.census.network.intervals import intervals
from iotid.census.totals import ADDRESSES, LEVELS
from iotid.schemas import NETWORK, TOTALS

_SUMS = ("found", "expected", "variance", "third_cumulant", "new", "gone", "changed", "back", "remembered")
_DECIMALS = 6
_LIKELY_ABSENT, _LIKELY_PRESENT = 0.025, 0.975  # of one draw, the 95 % interval is 0, 0 to 1, or 1


def network_rows(totals: Mapping[str, pa.Table], groups: Mapping[str, Mapping[str, str]]) -> pa.Table:
    """NETWORK (stored columns) of sites: first the rows of all sites, then each site's, in the order of LEVELS and
    items.

    Args:
        totals: TOTALS of each site.
        groups: for each site whose groups are joined, the network's name of each of its groups.
    """
    tables = [_of_site(site, table, groups.get(site)) for site, table in sorted(totals.items())]
    of_sites = pa.concat_tables(tables) if tables else _of_site("", TOTALS.arrow_schema().empty_table(), None)
    most = _most(of_sites)
    site_rows = _summed(of_sites, ["site", "level", "item"])
    of_all = _summed(of_sites, ["level", "item"])
    of_all = of_all.append_column("site", pa.nulls(len(of_all), pa.string()))
    finished = [_with_intervals(of_all, sum(most.values()), len(tables)), _with_site_intervals(site_rows, most)]
    rows = pa.concat_tables([table.select(finished[0].column_names) for table in finished])
    order = rows.append_column("order", pc.index_in(rows["level"], value_set=pa.array(LEVELS)))
    order = order.append_column("is_site", pc.is_valid(order["site"]).cast(pa.int8()))
    names = ("is_site", "site", "order", "item")
    schema = NETWORK.arrow_schema(stored=True)
    ordered = order.sort_by([(name, "ascending") for name in names])
    return pa.table([ordered[name] for name in schema.names], schema=schema).combine_chunks()


def added(rows: pa.Table) -> pa.Table:
    """The sums of the rows (NETWORK) of some sites, by level and item, with intervals."""
    sites = rows.filter(pc.is_valid(rows["site"]))
    return _with_intervals(_summed(sites, ["level", "item"]), sum(_most(sites).values()), _number_of_sites(sites))


def _of_site(site: str, totals: pa.Table, groups: Mapping[str, str] | None) -> pa.Table:
    """TOTALS of one site with a column ``site`` and the network's names of groups; without groups if None."""
    is_group = pc.equal(totals["level"], "group")
    if groups is None:
        totals = totals.filter(pc.invert(is_group))
    else:
        names = [
            groups.get(item, item) if level == "group" and item != OTHERS else item
            for level, item in zip(totals["level"].to_pylist(), totals["item"].to_pylist(), strict=True)
        ]
        index = totals.schema.get_field_index("item")
        renamed = totals.set_column(index, totals.schema.field(index), pa.array(names, pa.string()))
        is_one = len({*zip(totals["level"].to_pylist(), names, strict=True)}) < len(names)
        totals = _joined(renamed) if is_one else renamed
    return totals.append_column("site", pa.array([site] * len(totals), pa.string()))


def _joined(totals: pa.Table) -> pa.Table:
    """TOTALS in which several groups of the site may have become one, which is certain to be there if any is."""
    summed = totals.group_by(["level", "item"], use_threads=False).aggregate(
        [*((name, "sum") for name in _SUMS), ("p_none", "min")]
    )
    columns = {name: summed[name] for name in ("level", "item")} | {name: summed[f"{name}_sum"] for name in _SUMS}
    columns["p_none"] = summed["p_none_min"]
    return pa.table([columns[name] for name in totals.column_names], schema=totals.schema)


def _summed(rows: pa.Table, by: list[str]) -> pa.Table:
    """Sums by ``by`` of counts and cumulants; ``p_none``, ``sites`` and the cumulants of the number of sites."""
    p_none_R = rows["p_none"].to_numpy()
    with np.errstate(divide="ignore"):
        log_none = np.log(p_none_R)
    spread_R = p_none_R * (1 - p_none_R)
    derived = {
        "log_none": log_none,
        "sites": pc.greater(rows["found"], 0).cast(pa.int64()),
        "sites_expected": 1 - p_none_R,
        "sites_variance": spread_R,
        "sites_third": spread_R * (2 * p_none_R - 1),
    }
    for name, values in derived.items():
        rows = (
            rows.set_column(rows.schema.get_field_index(name), name, [values])
            if name in rows.column_names
            else rows.append_column(name, [values])
        )
    names = [*_SUMS, *derived]
    summed = rows.group_by(by, use_threads=False).aggregate([(name, "sum") for name in names])
    columns = {name: summed[name] for name in by} | {name: summed[f"{name}_sum"] for name in names}
    columns["p_none"] = pa.array(np.round(np.exp(columns.pop("log_none").to_numpy()), _DECIMALS))
    for name in ("expected", "variance", "third_cumulant", "sites_expected"):
        columns[name] = pa.array(np.round(columns[name].to_numpy(), _DECIMALS))
    return pa.table(columns)


def _with_intervals(rows: pa.Table, addresses: int, sites: int) -> pa.Table:
    most = {"": addresses, "sites_": sites}
    names = {
        "": ("expected", "variance", "third_cumulant"),
        "sites_": ("sites_expected", "sites_variance", "sites_third"),
    }
    for prefix, cumulants in names.items():
        rows = _append(rows, prefix, *_intervals(rows, cumulants, np.full(len(rows), most[prefix], np.int64)))
    return rows.drop_columns(["sites_variance", "sites_third"])


def _with_site_intervals(rows: pa.Table, most: Mapping[str, int]) -> pa.Table:
    most_R = np.array([most.get(site, 0) for site in rows["site"].to_pylist()], np.int64)
    rows = _append(rows, "", *_intervals(rows, ("expected", "variance", "third_cumulant"), most_R))
    p_R = rows["sites_expected"].to_numpy()
    ends = ((p_R >= _LIKELY_PRESENT).astype(np.int64), (p_R > _LIKELY_ABSENT).astype(np.int64))
    return _append(rows, "sites_", *ends).drop_columns(["sites_variance", "sites_third"])


def _intervals(
    rows: pa.Table, cumulants: Sequence[str], most_R: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    expected_R, variance_R, third_R = (rows[name].to_numpy() for name in cumulants)
    return intervals(expected_R, variance_R, third_R, most_R)


def _append(rows: pa.Table, prefix: str, low_R: NDArray[np.int64], high_R: NDArray[np.int64]) -> pa.Table:
    for name, values in ((f"{prefix}low", low_R), (f"{prefix}high", high_R)):
        rows = rows.append_column(name, pa.array(values))
    return rows


def _most(rows: pa.Table) -> dict[str, int]:
    """Addresses of each site."""
    totals = rows.filter(pc.and_(pc.equal(rows["level"], "all"), pc.equal(rows["item"], ADDRESSES)))
    return dict(zip(totals["site"].to_pylist(), totals["found"].to_pylist(), strict=True))


def _number_of_sites(rows: pa.Table) -> int:
    return len(one_chunk(rows["site"]).unique())
