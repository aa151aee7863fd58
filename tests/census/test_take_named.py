"""On Spark: a group of a census gets a name, which the next census shows and the next dataset has as a label."""

from __future__ import annotations

import numpy as np
import pytest

from iotid.config import load_settings
from iotid.dataset import read_encoding, write_dataset
from iotid.labels import Device, DeviceList
from iotid.labels.group_names import Statement
from iotid.labels.grouped_devices import state
from iotid.labels.named_devices import read_named_devices

from .conftest import PATTERNS
from .spark_site import IPS, A, B, C, Site, stored

pytestmark = pytest.mark.spark
SETTINGS = load_settings(["local.yaml"], ["dataset.min_flows=5", "dataset.min_count=1", "flow.max_packets=4"])
FLOW = SETTINGS.flow.model_dump(mode="json")
FIXED = "50:c7:bf:00:00:01"


def _flows(site: Site, day: int, *devices: tuple[str, str]) -> None:
    """Eight flows of every sequence of each device's pattern, over several captures."""
    site.flows(
        day,
        *(
            site.make(pattern, IPS.get(mac, "192.168.1.99"), mac, variant, capture_file=f"{n % 4}.pcap")
            for mac, pattern in devices
            for variant in range(len(PATTERNS[pattern]))
            for n in range(8)
        ),
        **FLOW,
    )


def test_name__of_a_group_is_in_the_next_census_and_the_next_dataset(site: Site) -> None:
    _flows(site, 1, (A, "odd"), (FIXED, "odd"), (C, "camera"))
    _flows(site, 2, (B, "odd"), (FIXED, "odd"), (C, "camera"))
    rows = site.rows(1)
    assert {device: row["status"] for device, row in rows.items()} == {A: "unknown", FIXED: "unknown", C: "known"}
    group = rows[A]["group_name"]
    assert rows[FIXED]["group_name"] == group
    state(site.store, Statement(group, "name", "anna", model="Odd 1", vendor="Acme", type="oddity"))

    second = site.census(2)
    named = {row["device_id"]: (row["status"], row["label"], row["named_by"]) for row in stored(second).to_pylist()}
    assert named[B] == named[FIXED] == ("named", "Odd 1", "anna"), "B is of the group, too"
    assert second.metadata["status"]["named"] == 2

    listed = DeviceList((Device(name="camera", mac=C),), "list.yaml")
    keys = site.store.partitions("flows")
    devices = listed.with_named(read_named_devices(site.store, keys))
    flows = [site.store.open("flows", key) for key in keys]
    dataset = write_dataset(site.spark, site.store, flows, devices, SETTINGS.dataset, SETTINGS.flow, "named")
    encoding = read_encoding(dataset.uri)
    assert encoding.labels == ("Odd 1", "camera")
    assert encoding.devices["Odd 1"] == {"vendor": "Acme", "type": "oddity", "model": "Odd 1"}
    flows_of = {
        label: sum(each["flows"] for each in splits.values()) for label, splits in dataset.metadata["labels"].items()
    }
    assert flows_of == {"Odd 1": 8 * 4, "camera": 8 * 2 * len(PATTERNS["camera"])}
    assert dataset.metadata["from_persons"]["devices"] == 3, "A and B on one date each, the fixed MAC on both"


def test_split__gives_the_devices_of_a_group_groups_of_other_names(site: Site) -> None:
    _flows(site, 1, (A, "odd"), (B, "odd"))
    (group,) = {row["group_name"] for row in site.rows(1).values()}
    state(site.store, Statement(group, "split", "anna"))
    assert group not in {row["group_name"] for row in site.rows(1).values()}
    _flows(site, 2, (A, "odd"), (B, "odd"))
    (after,) = {row["group_name"] for row in site.rows(2).values()}
    assert after != group
    assert np.all([row["status"] == "unknown" for row in site.rows(2).values()])
