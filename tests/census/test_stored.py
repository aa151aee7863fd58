"""Stored censuses of earlier versions, read as this version has them."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq

from iotid.census.groups import NO_GROUPS
from iotid.census.stored import stored_rows
from iotid.partitions import Partition, PartitionKey
from iotid.schemas import CENSUS

from .plain_site import A, B, C, D, Site, changes_of


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
