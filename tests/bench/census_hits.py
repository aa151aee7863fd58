"""census_hits.py ROOT SITE DATE LABELS: how many devices of a census get the label of their MAC in the device list.

Prints flows per label of the dataset, then one line of JSON. It checks a census of the network that the model learned
from; it is no measure for unseen networks.
"""

from __future__ import annotations

import json
import sys

import pyarrow.parquet as pq

from iotid.labels import DeviceList
from iotid.partitions import PartitionKey, Store


def main(root: str, site: str, date: str, labels: str) -> None:
    store = Store(root)
    dataset = store.open("datasets", PartitionKey.named(f"{site}-{date}"))
    for label, parts in sorted(dataset.metadata["labels"].items()):
        flows = ", ".join(f"{part} {count['flows']}" for part, count in parts.items())
        sys.stdout.write(f"{label}: {flows}\n")
    truth: dict[str, set[str]] = {}
    for device in DeviceList.read(labels).devices:
        for mac in device.mac:
            truth.setdefault(mac, set()).add(device.model)
    census = store.open("census", PartitionKey.of_date(site, date))
    rows = pq.read_table(f"{census.uri}/part-0.parquet", partitioning=None).to_pylist()
    known = [row for row in rows if row["status"] == "known"]
    listed = [row for row in known if row["device_id"] in truth]
    right = [row for row in listed if row["label"] in truth[row["device_id"]]]
    counts = {
        "devices": len(rows),
        "listed": sum(row["device_id"] in truth for row in rows),
        "known": len(known),
        "right": len(right),
        "wrong": len(listed) - len(right),
        "named_but_not_listed": len(known) - len(listed),
    }
    sys.stdout.write(json.dumps(counts) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
