"""Stored censuses of earlier versions, read as this version has them."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from iotid.census.groups import NO_GROUPS
from iotid.census.listed import COLUMNS as LISTED
from iotid.census.network.read import read_site
from iotid.census.stored import stored_groups, stored_rows
from iotid.labels.grouped_devices import CensusesRead
from iotid.partitions import Partition, PartitionKey
from iotid.schemas import CENSUS

from .plain_site import A, B, C, D, Site, changes_of
from .report_tables import groups_of


def _as_version_3(plain_site: Site, day: int, rows: pa.Table) -> Partition:
    """The census of the day as version 3 wrote it: several kinds without names, and nothing about why."""
    several = [
        [{name: one[name] for name in ("label", "vendor", "type", "confidence")} for one in kinds]
        if status == "several" else []
        for kinds, status in zip(rows["kinds"].to_pylist(), rows["status"].to_pylist(), strict=True)
    ]  # fmt: skip
    kind = pa.struct([*((name, pa.string()) for name in ("label", "vendor", "type")), ("confidence", pa.float64())])
    since = ["kinds", "unexplained", "household", "reason", "new_kinds", "marks"]
    stored = rows.drop_columns(since).append_column("several", pa.array(several, pa.list_(kind)))
    stored = stored.append_column("novelty", pa.nulls(len(rows), pa.float64()))
    before = plain_site.store.open("census", PartitionKey.of_date("lab", f"2026-01-{day:02}"))
    with plain_site.store.write("census", before.key, 3) as staged:
        pq.write_table(stored, f"{staged.path}/part-0.parquet", filesystem=staged.filesystem)
        pq.write_table(NO_GROUPS, f"{staged.path}/_groups.parquet", filesystem=staged.filesystem)
        staged.metadata |= {name: before.metadata[name] for name in ("model_version", "settings_hash")}
    return plain_site.store.open("census", before.key)


def test_take_plain__compares_with_a_census_of_version_3(plain_site: Site) -> None:
    plain_site.flows(1, a="camera", b="camera+plug", c=None, d="undecided")
    plain_site.flows(2, a="camera", b="camera+plug", c="plug", d="camera")
    rows = pq.read_table(f"{plain_site.census(1).uri}/part-0.parquet", partitioning=None)
    before = stored_rows(_as_version_3(plain_site, 1, rows))
    assert before.schema == CENSUS.arrow_schema(stored=True)
    expected = [
        [{**one, "kind": one["label"], "flows": 0, "units": 1} for one in kinds] for kinds in rows["kinds"].to_pylist()
    ]
    assert before["kinds"].to_pylist() == expected
    assert before["status"].to_pylist() == ["known", "several", "unknown", "undecided"]
    assert set(before["reason"].to_pylist()) == {"Made by an earlier version."}
    assert before["new_kinds"].to_pylist() == [[]] * 4
    after = plain_site.census(2)
    assert after.metadata["compared_with"]["how"] == "as it was"
    assert changes_of(after) == {
        A: ("changed", "camera"), B: ("changed", "camera + plug"), C: ("changed", None), D: ("same", None),
    }  # fmt: skip
    later = plain_site.census(2, version=2)
    assert later.metadata["compared_with"]["how"] == "scored again"


def test_take_plain__compares_with_a_census_of_version_4_without_marks(plain_site: Site) -> None:
    plain_site.flows(1, a="camera", b="camera+plug", c=None)
    plain_site.flows(2, a="camera", b="camera+plug", c=None)
    before = plain_site.census(1)
    rows = pq.read_table(f"{before.uri}/part-0.parquet", partitioning=None)
    with plain_site.store.write("census", before.key, 4) as staged:
        content = rows.drop_columns("marks")
        pq.write_table(content, f"{staged.path}/part-0.parquet", filesystem=staged.filesystem)
        pq.write_table(NO_GROUPS, f"{staged.path}/_groups.parquet", filesystem=staged.filesystem)
        staged.metadata |= {name: before.metadata[name] for name in ("model_version", "settings_hash")}
    assert stored_rows(plain_site.store.open("census", before.key)).equals(rows)
    assert {change for change, _ in changes_of(plain_site.census(2)).values()} == {"same"}


def test_stored_rows__of_version_3_name_a_kind_without_label_by_vendor(plain_site: Site) -> None:
    plain_site.flows(1, b="camera+plug")
    rows = pq.read_table(f"{plain_site.census(1).uri}/part-0.parquet", partitioning=None)
    (kinds,) = rows["kinds"].to_pylist()
    kinds[0] |= {"label": None, "vendor": "Acme", "type": "camera"}
    index = rows.schema.get_field_index("kinds")
    rows = rows.set_column(index, rows.schema.field(index), pa.array([kinds], rows.schema.field(index).type))
    (found,) = stored_rows(_as_version_3(plain_site, 1, rows))["kinds"].to_pylist()
    assert [(one["kind"], one["label"]) for one in found] == [("Acme camera", None), ("plug", "plug")]


def _as_version_6(plain_site: Site, census: Partition, groups: pa.Table) -> Partition:
    """The census as version 6 wrote it: `group`, the change `first`, absent devices with the status they had, side
    tables in Parquet's own extension."""
    rows = pq.read_table(f"{census.uri}/part-0.parquet", partitioning=None)
    rows = rows.drop_columns([*LISTED, "first_seen_ever", "dates_present", "earlier_names"])
    status = pc.if_else(pc.equal(rows["status"], "absent"), "known", rows["status"])
    change = pc.if_else(pc.equal(rows["change"], "baseline"), "first", rows["change"])
    for name, column in (("status", status), ("change", change)):
        rows = rows.set_column(rows.schema.get_field_index(name), name, column)
    former = {"group_name": "group"}
    with plain_site.store.write("census", census.key, 6) as staged:
        for name, table in (("part-0.parquet", rows), ("_groups.parquet", groups)):
            named = table.rename_columns([former.get(each, each) for each in table.column_names])
            pq.write_table(named, f"{staged.path}/{name}", filesystem=staged.filesystem)
        staged.metadata |= {name: census.metadata[name] for name in ("model_version", "settings_hash", "devices")}
    return plain_site.store.open("census", census.key)


def test_take_plain__continues_a_census_of_version_6(plain_site: Site) -> None:
    plain_site.flows(1, a="camera", b="?gold", d="plug")
    plain_site.flows(2, a="camera", b="?gold")
    plain_site.flows(3, a="camera", b="?gold", d="plug")
    first = _as_version_6(plain_site, plain_site.census(1), groups_of(gold=["TCP 1"]))
    assert set(stored_rows(first)["change"].to_pylist()) == {"baseline"}
    now = plain_site.census(2)
    before = _as_version_6(plain_site, now, groups_of(gold=["TCP 1"]))
    rows = {row["device_id"]: row for row in stored_rows(before).to_pylist()}
    assert stored_rows(before).schema == CENSUS.arrow_schema(stored=True)
    assert {device: row["status"] for device, row in rows.items()} == {A: "known", B: "unknown", D: "absent"}
    assert (rows[B]["group_name"], rows[B]["dates_present"]) == ("gold", 1)
    assert rows[A]["first_seen_ever"] == rows[A]["first_seen"]
    assert stored_groups(plain_site.store, before, None)["group_name"].to_pylist() == ["gold"]
    members = CensusesRead(plain_site.store).members(["gold"])
    assert {(row["capture_date"].day, row["group_name"]) for row in members.to_pylist()} == {(1, "gold"), (2, "gold")}
    after = stored_rows(plain_site.census(3)).to_pylist()
    assert {row["device_id"]: row["change"] for row in after} == {A: "same", B: "same", D: "back"}


def test_network__reads_makers_and_groups_of_a_census_of_version_6(plain_site: Site) -> None:
    plain_site.flows(1, b="?gold")
    census = plain_site.census(1)
    rows = pq.read_table(f"{census.uri}/part-0.parquet", partitioning=None)
    at = rows.schema.get_field_index("maker")
    rows = rows.set_column(at, rows.schema.field(at), pa.array(["Nova"], pa.string()))
    pq.write_table(rows, f"{census.uri}/part-0.parquet")
    read = read_site(
        plain_site.store, "lab", _as_version_6(plain_site, census, groups_of(gold=["TCP 1"])).key["capture_date"]
    )
    assert read.counts.to_pylist() == [
        {"group_name": "gold", "addresses": 1, "new": 0, "makers": ["Nova"], "maker_addresses": [1]}
    ]
    assert read.groups["group_name"].to_pylist() == ["gold"]
