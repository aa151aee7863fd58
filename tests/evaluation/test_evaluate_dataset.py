"""From stored flows through write_dataset to a report, with a real bundle."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from iotid import schemas
from iotid.config import Settings
from iotid.dataset import read_encoding, read_split, write_dataset
from iotid.evaluation import evaluate
from iotid.labels import Device, DeviceList
from iotid.partitions import Partition, PartitionKey, Store
from iotid.studies import describe as traffic

_MACS = {"cam": "02:00:00:00:00:01", "plug": "02:00:00:00:00:02", "kettle": "02:00:00:00:00:03"}


def _night(store: Store, flows: int, settings: Settings) -> Partition:
    """Flows of three devices that differ in their first length; one in five flows is the same for all."""
    random = np.random.default_rng(1)
    device = random.integers(0, 3, flows)
    length = np.where(random.random(flows) < 0.2, 99, 40 + device)
    seen = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)
    columns: dict[str, Any] = {
        "client_port": list(range(1024, 1024 + flows)),
        "client_mac": [list(_MACS.values())[index] for index in device],
        "packet_length": [
            [int(first), int(second)] for first, second in zip(length, random.integers(50, 55, flows), strict=True)
        ],
    }
    constant = {
        "capture_file": "night.pcap", "protocol": 6, "vlan": None, "client_ip": "10.0.0.1",
        "server_ip": "192.0.2.1", "server_port": 443, "server_mac": None, "first_seen": seen, "last_seen": seen,
        "client_packets": 1, "client_bytes": 40, "server_packets": 1, "server_bytes": 40, "answered": True,
        "address_conflict": False, "end_reason": "end",
        "tcp_window": [100, 200], "direction": [1, -1], "inter_arrival_us": [0, 10], "tcp_flags": [2, 18],
        "payload_length": [0, 0], "first_bytes": None, **{name: [] for name in schemas.HEADER_COLUMNS},
    }  # fmt: skip
    columns |= {name: [value] * flows for name, value in constant.items()}
    schema = schemas.FLOWS.arrow_schema(stored=True)
    table = pa.table({field.name: pa.array(columns[field.name], field.type) for field in schema}, schema=schema)
    keys = PartitionKey.of_date("lab", "2024-01-01")
    with store.write("flows", keys, schemas.FLOWS.version) as staged:
        pq.write_table(table, Path(staged.path) / "part-0.parquet")
        staged.metadata = {"rows": flows, "settings": {"flow": settings.flow.model_dump(mode="json")}}
    return store.open("flows", keys)


@pytest.mark.spark
def test_evaluate__scores_a_written_dataset(spark: Any, settings: Settings, tmp_path: Path, oracle: Any) -> None:
    store = Store(settings.storage.root)
    listed = "\n".join(f"  - {{name: {name}, mac: '{mac}'}}" for name, mac in _MACS.items())
    (tmp_path / "devices.yaml").write_text(f"devices:\n{listed}\n")
    devices = DeviceList.read(str(tmp_path / "devices.yaml"))
    dataset = write_dataset(
        spark, store, [_night(store, 600, settings)], devices, settings.dataset, settings.flow, "lab"
    )
    encoding = read_encoding(dataset.uri)
    oracle.encoding = encoding
    report, answers = evaluate(dataset, {"ensemble": oracle}, settings.evaluation)

    assert report["labels"] == list(encoding.labels) == ["cam", "kettle", "plug"]
    assert report["dataset"]["hash"] == dataset.metadata["hash"]
    assert sum(part["flows"] for part in report["dataset"]["parts"].values()) == 600
    test = read_split(dataset.uri, "test")
    assert report["dataset"]["parts"]["test"] == {"rows": len(test), "flows": test.num_flows.sum()}
    assert answers.num_rows == len(test)
    memory = report["systems"]["majority_sequence"]
    assert 0.75 < memory["metrics"]["accuracy"]["value"] <= report["ceiling"] < 1
    assert [row["support"] for row in memory["per_class"]] == [
        test.num_flows[test.label == label].sum() for label in range(3)
    ]


@pytest.mark.spark
def test_describe__counts_every_labelled_flow(spark: Any, settings: Settings) -> None:
    devices = DeviceList(tuple(Device(name=name, mac=mac, vendor="Acme", type="any") for name, mac in _MACS.items()))
    night = _night(Store(settings.storage.root), 300, settings)
    found, pairs = traffic.describe(spark, [night], devices, settings.dataset, settings.flow)
    for measure in (traffic.MEAN, traffic.ENTROPY):
        for name in settings.dataset.characteristics:
            assert sum(found[label, name, measure].flows.sum() for label in _MACS) == 300
    assert {tuple(found[label, "tcp_window", traffic.ENTROPY].values) for label in _MACS} == {(1.0,)}
    (alike,) = traffic.similar_labels(found, devices, "name").values()
    assert sorted(alike) == sorted(_MACS)
    assert sorted(pairs) == sorted(_MACS)
