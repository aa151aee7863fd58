"""network.py [--sites N] [--addresses N] [--nights N] [--root DIR]: the network's census of many sites and nights.

Writes synthetic censuses, rows as `iotid take-census` writes them (default: 100 sites of 1,000 addresses, 10 nights: a
million address-nights), then times whole processes: `iotid take-network-census` of the last night, which sums all
nights; the same again, which sums nothing; and the night after, which sums one. Beside it, in the same run, one reader
that loads all rows with pyarrow and counts winners by site, night and type. Ends with one line of JSON: seconds, CPU,
peak memory of all processes, bytes of the page; nothing is asserted.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from datetime import UTC, date, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from processes import measured, measured_step, processor

from iotid import messages
from iotid.census.stored import TOTALS_FILE
from iotid.census.totals import totals_of
from iotid.cli import command
from iotid.partitions import PartitionKey, Store
from iotid.schemas import CENSUS, GROUPS

_FIRST = date(2026, 1, 1)
_KINDS = [(f"vendor{n % 17}", ("camera", "plug", "light", "hub", "sensor", "speaker")[n % 6]) for n in range(40)]
_MODELS = 3  # of each kind
_UNKNOWN_GROUPS = 12
_SHARE_UNKNOWN, _SHARE_SHOWN = 0.1, 0.95


def rows_of(site: int, night: int, addresses: int) -> pa.Table:
    """Rows of CENSUS (stored columns) of 95 % of the site's addresses, of which each night shows others."""
    rows = _rows_of_site(site, addresses)
    shown = rows.filter(pa.array(np.random.default_rng((site, night)).random(addresses) < _SHARE_SHOWN))
    at = shown.schema.get_field_index("change")
    return shown.set_column(at, shown.schema.field(at), pa.repeat("same" if night else "baseline", len(shown)))


@cache
def _rows_of_site(site: int, addresses: int) -> pa.Table:
    """Nine in ten addresses are of a known kind, with probabilities from 0.6 to 1."""
    random = np.random.default_rng(site)
    lives_N = random.integers(0, len(_KINDS) * _MODELS, addresses)
    unknown_N, probability_N = random.random(addresses) < _SHARE_UNKNOWN, random.beta(9, 1, addresses)
    rows = [_row(site, n, int(lives_N[n]), bool(unknown_N[n]), float(probability_N[n])) for n in range(addresses)]
    return pa.Table.from_pylist(rows, schema=CENSUS.arrow_schema(stored=True))


def _row(site: int, number: int, model: int, unknown: bool, probability: float) -> dict[str, Any]:
    vendor, type_ = _KINDS[model // _MODELS]
    probability = round(0.6 + 0.4 * probability, 6)
    names = {"label": f"{vendor} {type_} {model % _MODELS}", "vendor": vendor, "type": type_}
    kind = {"kind": f"{vendor} {type_}", **names, "confidence": probability, "flows": 9, "units": 1}
    noon = datetime(_FIRST.year, _FIRST.month, _FIRST.day, 12, tzinfo=UTC)
    return {
        **dict.fromkeys(CENSUS.arrow_schema(stored=True).names),
        "device_id": bytes([2, *site.to_bytes(2), *number.to_bytes(3)]).hex(":"),
        "status": "unknown" if unknown else "known",
        **({} if unknown else names),
        "confidence": 0.1 if unknown else probability,
        "kinds": [] if unknown else [kind],
        "runners_up": [{"label": "vendor0 camera", "confidence": round(1 - probability, 6)}],
        "unexplained": 0.9 if unknown else 0.05, "household": 0.0, "reason": "Of 9 distinct flows.", "marks": [],
        "group_name": f"g{site % 7:02}{model % _UNKNOWN_GROUPS:02}" if unknown else None,
        "flows": 12, "bytes": 3456, "first_seen": noon, "last_seen": noon + timedelta(hours=1),
        "addresses": [f"10.{site & 255}.{number >> 8 & 255}.{number & 255}"],
        "change": "same", "new_kinds": [], "watched": False, "mac_randomised": True,
    }  # fmt: skip


def groups_of(site: int) -> pa.Table:
    """The groups (GROUPS) of a site: twelve profiles, each like those of every other site."""
    rows = []
    for group in range(_UNKNOWN_GROUPS):
        random = np.random.default_rng((group, site))
        share_E = np.random.default_rng(group).dirichlet(np.ones(8)) * random.uniform(0.9, 1.1, 8)
        first = 100 * group
        rows.append(
            {
                "group_name": f"g{site % 7:02}{group:02}", "services": ["TCP 443"], "flows_per_hour": 4.0,
                "active_hours": 24.0, "protocol": [6] * 8,
                "payload_length": list(range(first, first + 8)), "share": (share_E / share_E.sum()).tolist(),
            }
        )  # fmt: skip
    return pa.Table.from_pylist(rows, schema=GROUPS.arrow_schema())


def write_census(store: Store, site: int, night: int, addresses: int) -> None:
    """A whole partition, with the fields of metadata that later steps read."""
    rows = rows_of(site, night, addresses)
    key = PartitionKey.of_date(f"site{site:03}", (_FIRST + timedelta(days=night)).isoformat())
    statuses = rows["status"].to_pylist()
    with store.write("census", key, CENSUS.version) as staged:
        pq.write_table(rows, f"{staged.path}/part-0.parquet", filesystem=staged.filesystem)
        pq.write_table(groups_of(site), f"{staged.path}/_groups.pq", filesystem=staged.filesystem)
        pq.write_table(totals_of(rows), f"{staged.path}/{TOTALS_FILE}", filesystem=staged.filesystem)
        staged.metadata |= {
            "model_version": "1", "settings_hash": "bench", "key_fingerprint": None, "rows": len(rows),
            "devices": len(rows), "status": {name: statuses.count(name) for name in set(statuses)},
            "changes": {}, "marks": {}, "flows_without_device": {}, "flows_of_other_protocols": 0,
            "groups": _UNKNOWN_GROUPS, "watched": 0, "watched_labels": {},
        }  # fmt: skip


def count_winners(root: str) -> None:
    """The other program: all rows at once, and the named rows by site, night and type."""
    columns = ["site", "capture_date", "type"]
    rows = ds.dataset(f"{root}/census", format="parquet", partitioning="hive").to_table(columns=columns)
    counted = rows.group_by(columns).aggregate([([], "count_all")])
    command.print_lines(f"{len(rows):,} rows, {len(counted):,} totals")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--sites", type=int, default=100)
    options.add_argument("--addresses", type=int, default=1000, help="of each site (default 1000)")
    options.add_argument("--nights", type=int, default=10)
    options.add_argument("--root", help="an empty folder to keep; default: a temporary one")
    options.add_argument("--count-winners", metavar="ROOT", help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.count_winners:
        count_winners(given.count_winners)
        return
    messages.log_to_stderr()
    with tempfile.TemporaryDirectory() as made:
        root = given.root or f"{made}/root"
        store, last = Store(root), _FIRST + timedelta(days=given.nights - 1)
        for night in range(given.nights + 1):
            for site in range(given.sites):
                write_census(store, site, night, given.addresses)
            sys.stderr.write(f"written: night {night + 1} of {given.nights + 1}\n")
        sites = [part for site in range(given.sites) for part in ("--site", f"site{site:03}")]
        line = ["take-network-census", "--set", f"storage.root={root}", *sites, "--date"]
        reader = [sys.executable, __file__, "--count-winners", root]
        result = {
            "processor": processor(), "sites": given.sites, "addresses": given.addresses, "nights": given.nights,
            "address_nights": sum(store.open("census", key).metadata["rows"] for key in store.partitions("census")),
            "all_nights": measured_step(*line, last.isoformat()),
            "again": measured_step(*line, last.isoformat()),
            "next_night": measured_step(*line, (last + timedelta(days=1)).isoformat()),
            "pyarrow_winners": measured(reader),
            "page_bytes": max(path.stat().st_size for path in Path(root).glob("network/**/*.html")),
        }  # fmt: skip
    command.print_lines(json.dumps(result))


if __name__ == "__main__":
    main()
