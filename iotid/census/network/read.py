"""Reads the census of each site of a date in Spark tasks: its totals, its groups, and whether it is complete.

A task reads the small files of some sites; only of a census of an earlier version, which has no totals, it reads the
rows. So what the driver gets grows with sites and kinds, not with addresses.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from iotid.census.changes import NEW, present
from iotid.census.groups import NO_GROUPS, OTHERS
from iotid.census.stored import stored_groups, stored_rows, stored_totals, with_group_name
from iotid.census.totals import ADDRESSES, totals_of
from iotid.errors import DataError
from iotid.labels.grouped_devices import MAKERS_SINCE, group_column
from iotid.model.device.decide import KNOWN, SEVERAL, UNDECIDED, WITH_UNKNOWN
from iotid.partitions import PartitionKey, Store
from iotid.schemas import NETWORK_SITES, TOTALS
from iotid.schemas.metadata import remedy
from iotid.spark.phases import set_phase
from iotid.spark.shuffle import (
    SIDE_OUTPUTS,
    map_batches,
    partitions_of,
    read_tables,
    read_task_ids,
    side_output,
    task_ids,
)
from iotid.storage import translate_read_errors

if TYPE_CHECKING:
    from iotid.partitions import Partition
    from iotid.schemas.metadata import Census
    from iotid.spark.in_process import Session

COMPLETE, PARTIAL, MISSING = STATES = ("complete", "partial", "missing")
GROUP_COUNTS = pa.schema(
    [
        ("group_name", pa.string()),
        ("addresses", pa.int64()),
        ("new", pa.int64()),
        ("makers", pa.list_(pa.string())),
        ("maker_addresses", pa.list_(pa.int64())),
    ]
)
_FOUND = (KNOWN, SEVERAL, WITH_UNKNOWN)
_MOST_MAKERS = 20
_SUMS = ("all", "status", "watched")  # levels of which the row of a site has sums
_SITE, _TOTALS, _GROUPS, _COUNTS = "site", "totals", "groups", "counts"


@dataclass
class SiteCensus:
    """What the census of a network reads of one site: ``row`` of NETWORK_SITES, TOTALS, the groups of present devices
    (GROUPS, empty if they are encrypted) and GROUP_COUNTS."""

    row: dict[str, Any]
    totals: pa.Table = field(default_factory=lambda: TOTALS.arrow_schema().empty_table())
    groups: pa.Table = field(default_factory=lambda: NO_GROUPS)
    counts: pa.Table = field(default_factory=GROUP_COUNTS.empty_table)


def identity_of(census: Partition[Census]) -> str:
    """Hash of a census's metadata, which includes one of its totals and groups: another one has other content."""
    text = json.dumps(dict(census.metadata), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_sites(
    spark: Session, store: Store, capture_date: str, sites: Sequence[str], written_us: Mapping[str, int]
) -> dict[str, SiteCensus]:
    """Each site's census of the date, in the order of ``sites``; of a site without one, only its row.

    ``written_us``: when each site's census was written, µs since 1970 UTC.
    """
    # a task of its own for each site would cost more than reading its few small files
    tasks = min(len(sites), partitions_of(spark))
    read = partial(_read, root=store.root, capture_date=capture_date, sites=list(sites), tasks=tasks)
    set_phase(spark, "take-network-census", f"read the census of {len(sites):,} sites on {capture_date}")
    rows = map_batches(task_ids(spark, range(tasks)), read, SIDE_OUTPUTS).toArrow()
    found: dict[str, dict[str, pa.Table]] = defaultdict(dict)
    for kind, table in read_tables(rows):
        number, _, what = kind.partition(":")
        found[sites[int(number)]][what] = table
    read_of = {}
    for site in sites:
        tables = found[site]
        row = tables[_SITE].to_pylist()[0] | {"written_us": written_us.get(site)}
        read_of[site] = SiteCensus(row, *(tables[what] for what in (_TOTALS, _GROUPS, _COUNTS) if what in tables))
    return with_model_differences(read_of)


def with_model_differences(sites: dict[str, SiteCensus]) -> dict[str, SiteCensus]:
    """The sites, partial if their model is not that of most sites (of equally many, the latest)."""
    present = [site.row for site in sites.values() if site.row["state"] != MISSING]
    counted = Counter(row["model_version"] for row in present)
    usual = max(counted, key=lambda version: (counted[version], _order(version)), default=None)
    for row in present:
        if row["model_version"] != usual:
            text = f"its census has {_model(row['model_version'])}, that of most sites {_model(usual)}"
            row["state"], row["reason"] = PARTIAL, "; ".join(filter(None, [row["reason"], text]))
    return sites


def read_site(store: Store, site: str, capture_date: str) -> SiteCensus:
    """One site's census of the date."""
    key = PartitionKey.of_date(site, capture_date)
    if not store.exists("census", key):
        return SiteCensus(_missing(site, _why_missing(store, key)))
    try:
        census = store.open("census", key)
        totals = stored_totals(store, census)
        if totals is None:
            totals = totals_of(stored_rows(census))
        is_clear = census.metadata.get("key_fingerprint") is None
        names = totals.filter(pc.equal(totals["level"], "group"))["item"]
        groups = stored_groups(store, census, None) if is_clear and len(names) else NO_GROUPS
        groups = groups.filter(pc.is_in(groups["group_name"], value_set=names.combine_chunks()))
        row = _row(store, census, totals)
        return SiteCensus(row, totals, groups, _group_counts(census, totals))
    except DataError as fault:
        return SiteCensus(_missing(site, str(fault)))


def _read(
    numbers: Iterable[pa.RecordBatch], root: str, capture_date: str, sites: list[str], tasks: int
) -> Iterator[pa.RecordBatch]:
    """Side outputs of every ``tasks``-th site, from the number of the task on."""
    store = Store(root)
    for number in (each for first in read_task_ids(numbers) for each in range(first, len(sites), tasks)):
        census = read_site(store, sites[number], capture_date)
        schema = NETWORK_SITES.arrow_schema()
        yield side_output(f"{number}:{_SITE}", pa.Table.from_pylist([census.row], schema=_nullable(schema)))
        if census.row["state"] != MISSING:
            for what, table in ((_TOTALS, census.totals), (_GROUPS, census.groups), (_COUNTS, census.counts)):
                yield side_output(f"{number}:{what}", table.combine_chunks())


def _nullable(schema: pa.Schema) -> pa.Schema:
    return pa.schema([each.with_nullable(True) for each in schema])


def _missing(site: str, reason: str) -> dict[str, Any]:
    zeros = dict.fromkeys(("addresses", "known", "undecided", "unknown", "watched", "flows", "flows_left_out"), 0)
    nulls = dict.fromkeys(("model_version", "key_fingerprint", "identity", "written_us"))
    return {"site": site, "state": MISSING, "reason": reason, "unexplained": 0.0, **zeros, **nulls}


def _why_missing(store: Store, key: PartitionKey) -> str:
    if store.exists("flows", key):
        return "there are flows of the date, but no census"
    return "there are captures of the date, but no flows" if store.exists("splits", key) else "no captures of the date"


def _row(store: Store, census: Partition[Census], totals: pa.Table) -> dict[str, Any]:
    """The site's row of NETWORK_SITES, without ``written_us``."""
    metadata = census.metadata
    found = {(row["level"], row["item"]): row["found"] for row in totals.to_pylist() if row["level"] in _SUMS}
    status = Counter({item: count for (level, item), count in found.items() if level == "status"})
    reasons = _why_partial(store, census)
    unexplained = metadata.get("unexplained")
    if unexplained is None:
        unexplained = _mean_unexplained(census)
    version = metadata.get("model_version")
    return {
        "site": census.key.site,
        "state": PARTIAL if reasons else COMPLETE,
        "reason": "; ".join(reasons),
        "addresses": found.get(("all", ADDRESSES), 0),
        "known": sum(status[name] for name in _FOUND),
        "undecided": status[UNDECIDED],
        "unknown": status.total() - sum(status[name] for name in (*_FOUND, UNDECIDED)),
        "unexplained": unexplained,
        "watched": sum(count for (level, _), count in found.items() if level == "watched"),
        "flows": metadata.get("flows", 0),
        "flows_left_out": metadata.get("flows", 0) - metadata.get("flows_of_devices", 0),
        "model_version": None if version is None else str(version),
        "key_fingerprint": metadata.get("key_fingerprint"),
        "identity": identity_of(census),
        "written_us": None,
    }


def _why_partial(store: Store, census: Partition[Census]) -> list[str]:
    """What a census lacks: captures in quarantine, and flows that were assembled again after it."""
    unreadable, reasons = census.metadata.get("unreadable"), []
    if store.exists("flows", census.key):
        flows = store.open("flows", census.key).metadata
        unreadable = flows.get("unreadable", 0) if unreadable is None else unreadable
        rows, packets = flows.get("rows"), flows.get("packets")
        if (census.metadata.get("flows", rows), census.metadata.get("packets", packets)) != (rows, packets):
            reasons.append("its flows were assembled again after its census: take the census again")
    if unreadable:
        reasons.insert(0, f"{unreadable:,} capture{'s' * (unreadable != 1)} in quarantine")
    return reasons


def _mean_unexplained(census: Partition[Census]) -> float:
    return round(pc.mean(present(stored_rows(census))["unexplained"]).as_py() or 0.0, 6)


def _group_counts(census: Partition[Census], totals: pa.Table) -> pa.Table:
    """GROUP_COUNTS of the groups of present devices, without OTHERS."""
    listed = totals.filter(pc.and_(pc.equal(totals["level"], "group"), pc.greater(totals["found"], 0)))
    rows = [row for row in listed.to_pylist() if row["item"] != OTHERS]
    makers = _makers(census) if rows else {}
    counted = []
    for row in rows:
        common = sorted(makers.get(row["item"], Counter()).items(), key=lambda each: (-each[1], each[0]))[:_MOST_MAKERS]
        names, numbers = [name for name, _ in common], [number for _, number in common]
        counted.append(
            {
                "group_name": row["item"],
                "addresses": row["found"],
                "new": row[NEW],
                "makers": names,
                "maker_addresses": numbers,
            }
        )
    return pa.Table.from_pylist(counted, schema=GROUP_COUNTS)


def _makers(census: Partition[Census]) -> dict[str, Counter[str]]:
    """Makers of the present devices of each group; none under pseudonyms and of earlier versions."""
    makers: dict[str, Counter[str]] = defaultdict(Counter)
    if census.metadata.get("key_fingerprint") is not None or census.metadata["schema_version"] < MAKERS_SINCE:
        return makers
    column = group_column(census.metadata["schema_version"])
    with translate_read_errors(census.uri, remedy("census")):
        table = pq.read_table(census.uri, partitioning=None, columns=[column, "maker", "change"])
        table = with_group_name(table)
    rows = present(table.filter(pc.and_(pc.is_valid(table["group_name"]), pc.is_valid(table["maker"]))))
    for group, maker in zip(rows["group_name"].to_pylist(), rows["maker"].to_pylist(), strict=True):
        makers[group][maker] += 1
    return makers


def _order(version: str | None) -> tuple[int, str]:
    return (int(version), "") if version is not None and version.isdecimal() else (-1, version or "")


def _model(version: str | None) -> str:
    return "no model" if version is None else f"model version {version}"
