"""A dataset whose labels come from persons: named groups of unknown devices, beside a device list and without one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from click.testing import CliRunner

from iotid.cli.write_dataset import main
from iotid.config import load_settings
from iotid.dataset import write_dataset
from iotid.errors import LabelError
from iotid.labels import Device, DeviceList
from iotid.labels.group_names import Statement
from iotid.labels.grouped_devices import state
from iotid.labels.named_devices import read_named_devices
from iotid.partitions import Partition, PartitionKey, Store

DAY = "2026-01-01"
CAM, PLUG, LAMP = (f"50:c7:bf:00:00:0{n}" for n in range(3))
G, H = "g0123456789", "gabcdefabcd"


@pytest.fixture
def store(
    tmp_path: Path,
    flow_table: Callable[[Sequence[dict[str, Any]]], pa.Table],
    write_night: Callable[..., Partition],
    write_grouped_census: Callable,
    grouped_row: Callable,
) -> Store:
    """40 flows of a camera (group G), of a plug (H, by its address) and of a lamp (H)."""
    made = Store(str(tmp_path))
    ends = [{"client_mac": CAM}, {"client_mac": None, "client_ip": "10.0.0.77"}, {"client_mac": LAMP}]
    rows = [
        {**end, "packet_length": [60 + 10 * kind + n % 7], "capture_file": f"{n % 4}.pcap"}
        for n in range(40)
        for kind, end in enumerate(ends)
    ]
    write_night(made, flow_table(rows), site="a", day=DAY, files=3)
    write_grouped_census(made, "a", 1, grouped_row(CAM, G), grouped_row("10.0.0.77", H), grouped_row(LAMP, H))
    state(made, Statement(G, "name", "anna", model="Cam 2", vendor="Acme", type="camera"))
    state(made, Statement(H, "name", "ben", model="Plug", type="plug"))
    return made


def _write(spark: Any, store: Store, devices: DeviceList, *overrides: str) -> Any:
    settings = load_settings(["local.yaml"], ["dataset.min_flows=5", "dataset.min_count=1", *overrides])
    flows = [store.open("flows", PartitionKey.of_date("a", DAY))]
    named = devices.with_named(read_named_devices(store, [each.key for each in flows]))
    return write_dataset(spark, store, flows, named, settings.dataset, settings.flow, "d").metadata


def _flows(metadata: Any) -> dict[str, int]:
    return {label: sum(each["flows"] for each in splits.values()) for label, splits in metadata["labels"].items()}


def test_write_named__without_a_device_list_the_labels_are_those_of_persons(store: Store, plain_spark: Any) -> None:
    metadata = _write(plain_spark(), store, DeviceList((), ""))
    assert _flows(metadata) == {"Cam 2": 40, "Plug": 80}
    assert metadata["from_persons"] == {
        "devices": 3, "flows": 120, "overruled_devices": 0, "overruled_flows": 0, "pseudonyms": 0,
    }  # fmt: skip
    assert metadata["coverage"] == ["devices that persons named (iotid name): 3, with 120 flows"]
    by_type = _write(plain_spark(), store, DeviceList((), ""), "dataset.label=type")
    assert _flows(by_type) == {"camera": 40, "plug": 80}


def test_write_named__a_list_wins_and_each_contradiction_is_a_line(store: Store, plain_spark: Any) -> None:
    listed = DeviceList((Device(name="lamp", mac=LAMP), Device(name="my cam", model="Cam 2", mac=CAM)), "list.yaml")
    metadata = _write(plain_spark(), store, listed)
    assert _flows(metadata) == {"Cam 2": 40, "Plug": 40, "lamp": 40}
    assert metadata["from_persons"] == {
        "devices": 1, "flows": 40, "overruled_devices": 1, "overruled_flows": 40, "pseudonyms": 0,
    }  # fmt: skip
    assert metadata["coverage"][-1] == (
        f"contradiction: {LAMP} of a: lamp by the device list, which is used; ben said Plug of {H} (40 flows)"
    ), "not of the camera, of which both say the same model"


def test_write_named__a_dataset_without_names_has_the_hash_that_it_had(store: Store, plain_spark: Any) -> None:
    listed = DeviceList((Device(name="lamp", mac=LAMP), Device(name="cam", mac=CAM)), "list.yaml")
    with_names = _write(plain_spark(), store, listed)["hash"]
    for group in (G, H):
        state(store, Statement(group, "reject", "anna"))
    metadata = _write(plain_spark(), store, listed)
    assert metadata["hash"] != with_names
    assert metadata["from_persons"]["devices"] == 0
    assert _flows(metadata) == {"cam": 40, "lamp": 40}


def test_write_named__many_contradictions_are_counted(store: Store) -> None:
    from iotid.dataset.from_persons import labels_from_persons

    devices = DeviceList((Device(name="x", mac=CAM),)).with_named(
        read_named_devices(store, [PartitionKey.of_date("a", DAY)])
    )
    numbers, lines = labels_from_persons({("overruled", f"0 {1 + n % 3}"): 2 for n in range(3)}, devices)
    assert (numbers["overruled_devices"], numbers["overruled_flows"], len(lines)) == (3, 6, 3)


def test_write_dataset__needs_a_list_or_names(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[DeviceList] = []

    def write(_spark: object, _store: Store, _flows: object, devices: DeviceList, *_: object) -> Partition:
        taken.append(devices)
        return Partition("/store/datasets/d", PartitionKey(), {"summary": "small"})  # type: ignore[arg-type]

    monkeypatch.setattr("iotid.spark_session", lambda *_: None)
    monkeypatch.setattr("iotid.dataset.write_dataset", write, raising=False)
    asked = ["--site", "a", "--date", DAY, "--dataset", "d", "--set", f"storage.root={store.root}"]
    done = CliRunner().invoke(main, asked)
    assert done.exit_code == 0, done.output
    assert {device.model for device in taken[0].entries} == {"Cam 2", "Plug"}
    for group in (G, H):
        state(store, Statement(group, "reject", "anna"))
    refused = CliRunner().invoke(main, asked)
    assert refused.exit_code == LabelError.exit_code
    assert "Error: --labels: there is no device list, and of the groups of these sites and dates none has a name" in (
        refused.output
    )
