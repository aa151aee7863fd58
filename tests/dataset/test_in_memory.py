"""Flows in memory: folds of captures, and rows that tell which flows they stand for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from iotid.config import load_settings
from iotid.dataset import LabelledFlows
from iotid.errors import LabelError, SettingError
from iotid.labels import Device, DeviceList
from iotid.partitions import Partition, Store

FlowTable = Callable[[Sequence[dict[str, Any]]], pa.Table]
Label = Callable[[Sequence[dict[str, Any]]], LabelledFlows]

CAM, PLUG = "aa:bb:cc:dd:ee:01", "aa:bb:cc:dd:ee:02"
DEVICES = DeviceList((Device(name="cam", mac=CAM), Device(name="plug", mac=PLUG)), "list.yaml")


@pytest.fixture
def labelled(flow_table: FlowTable, of_night: Callable[[pa.Table], pa.Table]) -> Label:
    settings = load_settings(overrides=["dataset.min_flows=2", "flow.max_packets=4"])

    def label(rows: Sequence[dict[str, Any]]) -> LabelledFlows:
        return LabelledFlows.of(of_night(flow_table(rows)), DEVICES, settings.dataset, settings.flow)

    return label


def _captures(cams: int, plugs: int) -> list[dict[str, Any]]:
    """Captures of one device, three flows each, and one capture of five of the plug's flows and one of the camera's."""
    rows = [{"client_mac": CAM, "capture_file": f"cam{number}"} for number in range(cams) for _ in range(3)]
    rows += [{"client_mac": PLUG, "capture_file": f"plug{number}"} for number in range(plugs) for _ in range(3)]
    rows += [{"client_mac": mac, "capture_file": "both"} for mac in [PLUG] * 5 + [CAM]]
    return [{**row, "packet_length": [40 + number % 3, 60]} for number, row in enumerate(rows)]


def test_folds__cut_no_capture_and_deal_each_label_evenly(labelled: Label) -> None:
    flows = labelled(_captures(10, 7))
    fold_N = flows.folds(4)
    captures = flows.flows["capture_file"].to_pylist()
    fold_of = dict(zip(captures, fold_N.tolist(), strict=True))
    assert all(fold_of[capture] == fold for capture, fold in zip(captures, fold_N.tolist(), strict=True))
    cams = Counter(fold for capture, fold in fold_of.items() if capture.startswith("cam"))
    plugs = Counter(fold for capture, fold in fold_of.items() if not capture.startswith("cam"))
    assert sorted(cams.values()) == [2, 2, 3, 3]
    assert sorted(plugs.values()) == [2, 2, 2, 2]


def test_folds__do_not_depend_on_the_order_of_the_flows(labelled: Label) -> None:
    rows = _captures(6, 6)
    some, turned = labelled(rows), labelled(rows[::-1])
    np.testing.assert_array_equal(some.folds(3), turned.folds(3)[::-1])


def test_dataset__vocabularies_are_of_training_alone_and_rows_know_their_flows(labelled: Label) -> None:
    rows = _captures(2, 2)
    rows[0]["packet_length"] = [999]
    flows = labelled(rows)
    split_N = np.where(np.arange(len(rows)) == 0, 2, 0)
    encoding, splits = flows.dataset(split_N)
    assert set(splits) == {"train", "test"}
    assert 999 not in encoding.vocabularies["packet_length"].values
    assert splits["test"].flow.tolist() == [0]
    train = splits["train"]
    assert train.rows.num_flows.sum() == len(train.flow) == len(rows) - 1
    encoded = encoding.encode(flows.flows)
    for name, ids_NM in encoded.items():
        np.testing.assert_array_equal(train.rows.sequences[name][train.row_of_flow], ids_NM[train.flow])


def test_of__one_label_alone_is_nothing_to_tell_apart(labelled: Label) -> None:
    with pytest.raises(LabelError, match="1 of 1 labels can be learned, at least 2 are needed"):
        labelled([{"client_mac": CAM}] * 5)


def test_bytes_of__are_those_that_were_kept_of_each_flow(flow_table: FlowTable, of_night: Any) -> None:
    settings = load_settings(overrides=["dataset.min_flows=2", "flow.keep_bytes=3", "flow.keep_packets=2"])
    rows = [{"client_mac": mac, "first_bytes": bytes([n] * 3 + [n + 100] * 3)} for n, mac in enumerate([CAM, PLUG] * 3)]
    flows = LabelledFlows.of(of_night(flow_table(rows)), DEVICES, settings.dataset, settings.flow)
    assert flows.bytes_of(np.array([4, 0, 5])).tolist() == [[n] * 3 + [n + 100] * 3 for n in (4, 0, 5)]
    assert flows.bytes_of(np.empty(0, np.int64)).shape == (0, 6)


def test_of_partitions__has_the_flows_of_all_files(
    tmp_path: Path, labelled: Label, flow_table: FlowTable, write_night: Callable[..., Partition]
) -> None:
    rows = _captures(3, 2)
    store, settings = Store(str(tmp_path)), load_settings(overrides=["dataset.min_flows=2", "flow.max_packets=4"])
    partitions = [
        write_night(store, flow_table(rows[:10]), files=2, max_packets=4),
        write_night(store, flow_table(rows[10:]), day="2024-03-02", max_packets=4),
    ]
    held = LabelledFlows.of_partitions(None, partitions, DEVICES, settings.dataset, settings.flow)
    whole = labelled(rows)
    assert held.labels == whole.labels == ("cam", "plug")

    def content(flows: LabelledFlows) -> list[tuple[int, list[int]]]:
        return list(zip(flows.label.tolist(), flows.flows["packet_length"].to_pylist(), strict=True))

    assert sorted(content(held)) == sorted(content(whole))
    turned = flow_table(rows[:10]).take(list(range(9, -1, -1)))  # a row may lie in any file
    stored = write_night(store, turned, files=3, max_packets=4)
    again = LabelledFlows.of_partitions(None, [stored, partitions[1]], DEVICES, settings.dataset, settings.flow)
    assert content(again) == content(held)
    by_time = held.with_protocol("by_time")
    assert (by_time.settings.protocol, held.settings.protocol) == ("by_time", settings.dataset.protocol)
    assert by_time.flows is held.flows
    with pytest.raises(SettingError, match=r"flow\.max_packets"):
        LabelledFlows.of_partitions(None, partitions, DEVICES, settings.dataset, load_settings().flow)
