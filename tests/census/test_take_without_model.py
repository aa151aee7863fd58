"""The census without a model, on Spark: unknown devices in groups, every flow counted, and the first model after it."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from .spark_site import IPS, A, B, C, D, Site, stored

pytestmark = pytest.mark.spark


def test_take_census__without_a_model_groups_all_devices_and_counts_every_flow(site: Site) -> None:
    make = site.make
    site.flows(
        1,
        *[make("camera", IPS[A], A)] * 3,
        *[make("camera", IPS[B], B)] * 2,
        make("plug", IPS[C], C, server_port=8883),
        make("camera", "52.9.9.9", None),
        *[make("camera", IPS[D], D, protocol=1)] * 4,
    )
    census = site.census(1, version=None, min_flows=2)
    rows = {row["device_id"]: row for row in stored(census).to_pylist()}
    assert {device: (row["status"], row["confidence"], row["flows"]) for device, row in rows.items()} == {
        A: ("unknown", 0, 3), B: ("unknown", 0, 2), C: ("unknown", 0, 1),
    }  # fmt: skip
    assert rows[A]["group_name"] == rows[B]["group_name"] != rows[C]["group_name"]
    assert rows[A]["reason"] == "No model was there; unknown devices with similar traffic are one group."
    assert (rows[A]["kinds"], rows[A]["runners_up"], rows[A]["unexplained"]) == ([], [], 1)
    metadata = census.metadata
    assert (metadata["flows"], metadata["flows_of_devices"], metadata["flows_of_other_protocols"]) == (11, 6, 4)
    assert (metadata["flows_without_device"], metadata["groups"]) == ({"outside": 1}, 2)
    groups = pq.read_table(f"{census.uri}/_groups.pq", partitioning=None).to_pylist()
    services = {row["group_name"]: row["services"] for row in groups}
    assert services == {rows[A]["group_name"]: ["TCP 443"], rows[C]["group_name"]: ["TCP 8883"]}
    assert "Made without a model" in Path(census.uri, "_census.html").read_text(encoding="utf-8")
    again = site.census(1, version=None, min_flows=2)
    assert stored(again).to_pylist() == stored(census).to_pylist()


def test_take_census__the_first_model_names_devices_and_changes_none(site: Site) -> None:
    site.devices(1, a="camera", b="plug", c="odd")
    site.devices(2, a="camera", b="camera", c="odd")
    assert site.changes(1, version=None) == {A: "baseline", B: "baseline", C: "baseline"}
    group = site.rows(1, version=None)[C]["group_name"]
    census = site.census(2)
    rows = {row["device_id"]: row for row in stored(census).to_pylist()}
    assert census.metadata["compared_with"] == {"capture_date": "2026-01-01", "how": "scored again"}
    assert {device: (row["change"], row["label"], row["previous_label"]) for device, row in rows.items()} == {
        A: ("same", "camera", "camera"), B: ("changed", "camera", "plug"), C: ("same", None, None),
    }  # fmt: skip
    assert rows[C]["group_name"] == group, "its group keeps its name"


def test_take_census__without_a_model_pseudonyms_hide_every_mac_and_address(site: Site) -> None:
    site.devices(1, a="camera", b="camera", c="odd")
    census = site.with_key(1, "one key of this test", version=None)
    assert {row["status"] for row in stored(census).to_pylist()} == {"unknown"}
    for file in Path(census.uri).iterdir():
        content = file.read_bytes()
        assert not [text for text in (A, B, C, *IPS.values()) if text.encode() in content], file
