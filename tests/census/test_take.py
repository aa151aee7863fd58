"""The census from flows to partition, on Spark, with a real small model: comparison, groups and refusals."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
import pytest

from iotid.census import check_watchlist
from iotid.config import Watchlist
from iotid.errors import AbsentError, AccountingError, DataError, WatchError
from iotid.partitions import Partition, PartitionKey
from iotid.schemas import CENSUS
from iotid.spark.session import DERIVED

if TYPE_CHECKING:
    pass


from .spark_site import IPS, WATCHED, A, B, C, D, Site, stored

pytestmark = pytest.mark.spark


def test_take_census__writes_table_page_and_csv_and_counts_every_flow(site: Site) -> None:
    make = site.make
    site.flows(
        1,
        *[make("camera", IPS[A], A)] * 3,
        make("camera", "fe80::a", A, server_ip="ff02::fb", server_mac="33:33:00:00:00:fb"),
        *[make("plug", "52.9.9.9", "02:00:00:00:00:01", server_ip=IPS[B], server_mac=B)] * 2,
        *[make("plug", "10.9.9.9", None)] * 2,
        *[make("odd", IPS[C], C)] * 2,
        make("plug", IPS[D], D),
        make("camera", "52.9.9.9", None),
        make("camera", "0.0.0.0", A, server_ip="255.255.255.255", server_mac="ff:ff:ff:ff:ff:ff"),
        *[make("camera", IPS[A], A, protocol=1)] * 5,
    )
    census = site.census(1, min_flows=2)
    rows = {row["device_id"]: row for row in stored(census).to_pylist()}
    assert {device: (row["status"], row["label"], row["flows"]) for device, row in rows.items()} == {
        A: ("known", "camera", 5), B: ("known", "plug", 2), "10.9.9.9": ("known", "plug", 2),
        C: ("unknown", None, 2), D: ("undecided", None, 1),
    }  # fmt: skip
    assert rows[A]["addresses"] == [IPS[A], "fe80::a"]
    assert rows[A]["bytes"] == 5 * 3060
    assert (rows[A]["vendor"], rows[A]["type"], rows[A]["watched"]) == ("camera works", "camera", True)
    assert (rows[A]["first_seen"].second, rows[A]["last_seen"].second) == (0, 12 + 5)
    assert not rows[B]["watched"]
    assert rows[A]["confidence"] > 0.9
    assert [one["kind"] for one in rows[A]["kinds"]] == ["camera works camera"]
    assert rows[A]["reason"] == "Of 1 distinct flow: 1 like those of camera works camera alone."
    metadata = census.metadata
    assert (metadata["flows"], metadata["flows_of_devices"], metadata["flows_of_other_protocols"]) == (18, 12, 5)
    assert metadata["flows_without_device"] == {"outside": 1}
    assert metadata["status"] == {
        "known": 3, "several": 0, "several_with_unknown": 0, "undecided": 1, "unknown": 1, "named": 0,
    }  # fmt: skip
    assert metadata["labels"] == {"camera": 1, "plug": 2}
    assert metadata["changes"]["baseline"] == metadata["devices"] == metadata["rows"] == 5
    assert (metadata["watched"], metadata["model_version"], metadata["compared_with"]) == (1, "1", None)
    assert metadata["packets"] == {"flow": 72, "not_ip": 3}
    assert stored(census).schema.equals(CENSUS.arrow_schema(stored=True))
    assert site.spark.read.parquet(census.uri).count() == 5
    assert A in Path(census.uri, "_census.html").read_text(encoding="utf-8")
    assert len(Path(census.uri, "_census.csv").read_text(encoding="utf-8").splitlines()) == 1 + 5


def test_take_census__a_model_that_learned_no_sets_is_refused(site: Site, model_folder: Callable[..., Path]) -> None:
    site.devices(1, a="camera")
    with pytest.raises(DataError, match="has no device model; write the dataset and train again"):
        site.census(1, model=model_folder(sets=False))


def test_take_census__new_gone_away_back_and_changed_over_four_dates(site: Site) -> None:
    site.devices(1, a="camera", b="plug", c="camera")
    site.devices(2, a="camera", c="camera")
    site.devices(3, a="plug", d="plug")
    site.devices(4, a="plug", b="plug", c="odd")
    for elsewhere, day in (("lab2", 1), ("lab", 9)):  # another site, and a later night: neither is compared with
        with site.store.write("census", PartitionKey.of_date(elsewhere, f"2026-01-{day:02}")):
            pass
    assert site.changes(1) == {A: "baseline", B: "baseline", C: "baseline"}
    assert site.changes(2) == {A: "same", B: "gone", C: "same"}
    third = site.rows(3)
    assert {device: row["change"] for device, row in third.items()} == {A: "changed", B: "away", C: "gone", D: "new"}
    assert (third[A]["previous_label"], third[A]["label"]) == ("camera", "plug")
    assert (third[B]["flows"], third[B]["label"]) == (0, "plug")
    fourth = site.census(4)
    assert {change: count for change, count in fourth.metadata["changes"].items() if count} == {
        "same": 1, "back": 2, "gone": 1,
    }  # fmt: skip
    assert fourth.metadata["devices"] == 3
    assert fourth.metadata["status"] == {
        "known": 2, "several": 0, "several_with_unknown": 0, "undecided": 0, "unknown": 1, "named": 0,
    }  # fmt: skip


def test_take_census__again_or_with_other_batches_and_partitions_gives_the_same_rows(site: Site) -> None:
    site.devices(1, a="camera", b="plug")
    site.flows(
        2, *(site.make(pattern, ip, mac) for mac, ip in IPS.items() for pattern in ("camera", "plug", "odd", "plug"))
    )
    site.census(1)
    once = stored(site.census(2))
    assert stored(site.census(2)).equals(once)
    name = "spark.sql.shuffle.partitions"
    usual = str(site.spark.conf.get(name))
    try:
        site.spark.conf.set(name, "7")
        assert stored(site.census(2, batch_rows=1)).equals(once)
        site.spark.conf.set(DERIVED, "true")
        assert stored(site.census(2)).equals(once)
        assert site.spark.conf.get(name) == "7", "as it was"
    finally:
        site.spark.conf.set(name, usual)
        site.spark.conf.unset(DERIVED)


def test_take_census__another_model_is_no_change(site: Site, model_folder: Callable[..., Path]) -> None:
    other = model_folder(("webcam", "socket"))
    site.devices(1, a="camera", b="plug", c="camera")
    site.devices(2, a="camera", b="plug")
    site.devices(3, a="camera", b="camera", c="camera")
    site.census(1)
    site.census(2)
    census = site.census(3, version=2, model=other)
    rows = {row["device_id"]: row for row in stored(census).to_pylist()}
    assert census.metadata["compared_with"] == {"capture_date": "2026-01-02", "how": "scored again"}
    assert {device: (row["change"], row["label"], row["previous_label"]) for device, row in rows.items()} == {
        A: ("same", "webcam", "webcam"), B: ("changed", "webcam", "socket"), C: ("back", "webcam", "camera"),
    }  # fmt: skip
    shutil.rmtree(site.store.uri("flows", PartitionKey.of_date("lab", "2026-01-02")))
    blind = site.census(3, version=2, model=other)
    assert blind.metadata["compared_with"] == {"capture_date": "2026-01-02", "how": "labels not compared"}
    changes = {row["device_id"]: row["change"] for row in stored(blind).to_pylist()}
    assert changes == {A: "same", B: "same", C: "back"}


def groups_of(census: Partition) -> set[str]:
    return set(pq.read_table(f"{census.uri}/_groups.pq", partitioning=None)["group_name"].to_pylist())


def test_take_census__groups_keep_their_names_while_a_device_is_remembered(
    site: Site, model_folder: Callable[..., Path]
) -> None:
    site.devices(1, a="odd", b="odd", c="camera")
    site.devices(2, a="camera", b="camera", c="camera")
    site.devices(3, b="odd", c="camera", d="odd")
    first = site.rows(1)
    name = first[A]["group_name"]
    assert (first[A]["group_name"], first[B]["group_name"], first[C]["group_name"]) == (name, name, None)
    assert groups_of(site.census(1)) == {name}
    assert site.census(1).metadata["groups"] == 1
    assert groups_of(site.census(2)) == set()  # both have a name now, and nobody of the group is away
    again = site.census(3, version=2, model=model_folder(("webcam", "socket")))
    rows = {row["device_id"]: row for row in stored(again).to_pylist()}
    assert (
        rows[B]["group_name"] == rows[D]["group_name"] == name
    )  # of what it sends, so the same where nothing is remembered
    site.devices(4, c="camera")
    absent = {row["device_id"]: row for row in stored(site.census(4)).to_pylist()}
    assert (absent[B]["change"], absent[B]["group_name"], absent[C]["group_name"]) == ("gone", name, None)
    assert groups_of(site.census(4)) == {name}
    assert absent.keys() == {A, B, C, D}
    assert site.census(4).metadata["groups"] == 0


def test_take_census__an_earlier_census_of_version_2_has_no_groups(site: Site) -> None:
    site.devices(1, a="odd", b="camera")
    site.devices(2, b="camera")
    before = site.census(1)
    since = ["group_name", "kinds", "unexplained", "household", "reason", "new_kinds", "marks"]
    rows = stored(before).drop_columns(since)
    with site.store.write("census", before.key, 2) as staged:
        pq.write_table(rows, f"{staged.path}/part-0.parquet")
        staged.metadata |= {name: before.metadata[name] for name in ("model_version", "settings_hash")}
    after = site.rows(2)
    assert {device: (row["change"], row["previous_label"], row["group_name"]) for device, row in after.items()} == {
        A: ("gone", None, None), B: ("same", "camera", None),
    }  # fmt: skip
    assert (after[A]["kinds"], after[A]["reason"]) == ([], "Made by an earlier version.")


def test_take_census__without_flows_all_devices_are_gone(site: Site) -> None:
    site.devices(1, a="camera")
    site.census(1)
    site.flows(2)
    assert site.changes(2) == {A: "gone"}


def test_take_census__missing_flows_fail_it_and_nothing_is_written(site: Site) -> None:
    site.flows(1, *[site.make("camera", IPS[A], A)] * 3, rows=4)
    with pytest.raises(
        AccountingError, match="has 4 flows by its metadata, but 3 were scored and left out are none, together 3"
    ):
        site.census(1)
    assert not site.store.exists("census", PartitionKey.of_date("lab", "2026-01-01"))


def test_take_census__flows_with_other_settings_or_absent_are_refused(site: Site) -> None:
    with pytest.raises(AbsentError, match="flows: no completed data for site lab"):
        site.census(1)
    site.flows(1, length="frame")
    with pytest.raises(DataError, match=r"flow\.length=frame, the model learned ip"):
        site.census(1)
    site.flows(1, max_packets=3)
    with pytest.raises(DataError, match=r"flow\.max_packets=3, the model reads 4"):
        site.census(1)


def test_check_watchlist__raises_only_with_watchlist_fail(site: Site) -> None:
    site.devices(1, a="camera", b="camera", c="plug")
    site.devices(2, c="plug")
    first, second = site.census(1), site.census(2)
    assert first.metadata["watched_labels"] == {"camera": 2}
    failing = Watchlist.model_validate(WATCHED | {"fail": True})
    with pytest.raises(WatchError, match=r"lab, 2026-01-01, is written; watched devices: 2 \(2 camera\)") as caught:
        check_watchlist(first, failing)
    assert caught.value.exit_code == 3
    assert A not in str(caught.value)
    check_watchlist(second, failing)  # both cameras are gone: none was met on this date
    check_watchlist(first, Watchlist.model_validate(WATCHED))
