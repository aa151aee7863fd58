"""Writes docs/tables.md from iotid/schemas/tables.py: make tables."""

from __future__ import annotations

import sys
from pathlib import Path

from iotid.census import stored as census
from iotid.census.network import stored as network
from iotid.flows import partitions as flows
from iotid.flows.tasks import OPEN_FOLDER
from iotid.partitions import PartitionKey
from iotid.schemas import tables as contracts
from iotid.schemas.metadata import step_of
from iotid.schemas.table import Table

PAGE = Path(__file__).parents[1] / "docs" / "tables.md"
_PARTS = "part-*.parquet"
# constant in tables.py -> table that it is stored with, and its files there; of others why they are in no file
STORED = {
    "SPLITS": ("splits", "splits.parquet"),
    "COUNTERS": ("flows", flows.COUNTERS_FILE),
    "QUARANTINE": ("flows", flows.QUARANTINE_FILE),
    "OPEN_FLOWS": ("flows", f"{OPEN_FOLDER}/part-*.pq"),
    "FLOWS": ("flows", _PARTS),
    "CENSUS": ("census", _PARTS),
    "GROUPS": ("census", census.GROUPS_FILE),
    "LEFT_OUT": ("census", census.LEFT_OUT_FILE),
    "TOTALS": ("census", census.TOTALS_FILE),
    "GROUP_NAMES": ("group_names", _PARTS),
    "NETWORK": ("network", _PARTS),
    "NETWORK_SITES": ("network", network.SITES_FILE),
    "NETWORK_GROUPS": ("network", network.GROUPS_FILE),
    "MEMBERS": ("network", network.MEMBERS_FILE),
}
ALSO = {"GROUPS": [("network", network.PROFILES_FILE)]}
NOT_STORED = {
    "PACKETS": 'what `iotid.capture.read_packets` and `spark.read.format("pcap")` return',
    "PARTIAL_FLOWS": "shuffled by Spark within `assemble-flows`",
    "PREDICTIONS": "what `predict` of a model returns",
}
_KEYS = {
    "network": PartitionKey.of_network("NAME", "DATE"),
    "group_names": PartitionKey.named("NAME"),
}
_INTRO = """# Tables

Generated from `iotid/schemas/tables.py` by `make tables`; do not edit. Queries for pandas, DuckDB and Spark are in \
[how-to](how-to.md#read-the-tables), retention and upgrades in [operations](operations.md).

* A partition is a folder `TABLE/KEY=VALUE/…` below `storage.root`. It is complete if it has `_SUCCESS` (on an \
object store this names the folder of the current version); `_METADATA.json` has its settings, inputs and counts. \
Key columns are in the folder names, not in the files.
* Files and folders whose names begin with `_` are other tables beside the rows; Spark and pyarrow do not read them \
as rows. With pseudonyms, groups are encrypted (`.sealed`).
* Every Parquet file of the tables below has its table and version in the Parquet footer (`iotid.table`, \
`iotid.version`), and each column its meaning and unit as metadata of the Arrow field (`meaning`, `unit`); Spark shows \
them as the column's comment. Files that earlier versions wrote have none.
* Times are UTC with microseconds. *null*: the column may be null.
* `kind_found` is a struct of `kind`, `label`, `vendor`, `type` (string), `confidence` (float64), `flows`, `units` \
(int64); `runner_up` of `label` (string), `confidence` (float64).
* Datasets are Petastorm datasets, whose columns depend on the characteristics that were chosen; sets of flows of one \
device are in `_sets.pq` (learned from) and `_test_sets.pq` (test split); reports, decisions, \
comparisons and descriptions are JSON, pages and figures.

"""


def page() -> str:
    """The text of docs/tables.md."""
    tables = {name: each for name, each in vars(contracts).items() if isinstance(each, Table)}
    listed = [f"[{name}](#{name})" for name in (table.name for table in tables.values())]
    return (
        _INTRO + " · ".join(listed) + "\n\n" + "\n\n".join(_section(name, each) for name, each in tables.items()) + "\n"
    )


def _section(constant: str, table: Table) -> str:
    rows = [
        f"| `{column.name}` | {column.type.replace('<', '&lt;')} | {column.unit or ''} | {'null' * column.nullable} | "
        f"{column.meaning.replace('|', chr(92) + '|').replace('<', '&lt;')} |"
        for column in table.columns
    ]
    head = ["| column | type | unit | null | meaning |", "|---|---|---|---|---|"]
    return "\n".join([f"## {table.name}", "", _place(constant, table), "", *head, *rows])


def _place(constant: str, table: Table) -> str:
    version = f"`{constant}`, version {table.version}"
    if constant in NOT_STORED:
        return f"{version}. In no file: {NOT_STORED[constant]}."
    of, file = STORED[constant]
    also = "".join(f", and by `iotid {step_of(each)}` to {_path(each, name)}" for each, name in ALSO.get(constant, ()))
    keys = f" Key: {', '.join(f'`{name}`' for name in table.partition_by)}." if table.partition_by else ""
    return f"{version}. Written by `iotid {step_of(of)}` to {_path(of, file)}{also}.{keys}"


def _path(of: str, file: str) -> str:
    folder = _KEYS.get(of, PartitionKey.of_date("SITE", "DATE")).folder
    return f"`{of}/{folder}/{file}`"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    sys.stdout.write(f"{PAGE}\n")
