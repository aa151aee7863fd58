"""What `test_write` proves on Spark, without Java: the whole of `write_dataset` on partitions that are plain lists."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from iotid.config import load_settings
from iotid.dataset import (
    LabelledFlows,
    read_encoding,
    read_sets,
    read_split,
    read_test_sets,
    row_tasks,
    set_tasks,
    split_tasks,
    write_dataset,
)
from iotid.dataset.accounting import FlowAccounting, coverage
from iotid.dataset.label_flows import busiest
from iotid.dataset.split_protocols import DATASET_SPLITS
from iotid.dataset.store import group_rows
from iotid.errors import AccountingError, InputError, LabelError, SchemaError, SettingError
from iotid.labels import Device, DeviceList
from iotid.partitions import Partition, Store
from iotid.spark import shuffle

FlowTable = Callable[[Sequence[dict[str, Any]]], pa.Table]
WriteNight = Callable[..., Partition]

CAM, PLUG, HUE, PHONE, LAMP = (f"aa:bb:cc:dd:ee:0{number}" for number in range(5))
DEVICES = DeviceList(
    (
        Device(name="cam", mac=CAM, vendor="Acme", type="camera"),
        Device(name="plug", mac=PLUG, vendor="Acme", type="plug"),
        Device(name="bridge", mac=HUE, path="*/bridge/*"),
        Device(name="switch", mac=HUE, path="*/switch/*"),
        Device(name="lamp", mac=LAMP),
        Device(name="lamp", ip="10.0.0.99"),
    ),
    "list.yaml",
)


def _rows() -> list[dict[str, Any]]:
    """100 flows of the camera, 60 of the plug, 6 of the bridge, 4 of a shared MAC, 30 unlisted, 10 of ICMP."""
    chance = random.Random(5)
    rows: list[dict[str, Any]] = []

    def add(count: int, low: int, **columns: Any) -> None:
        for _ in range(count):
            lengths = [low + chance.randrange(4) for _ in range(chance.randrange(1, 5))]
            rows.append({**columns, "packet_length": lengths, "inter_arrival_us": [0, *[7] * (len(lengths) - 1)]})

    from_outside = {"client_ip": "192.0.2.1", "client_mac": PHONE, "server_ip": "10.0.0.3"}
    add(100, 40, client_mac=CAM, capture_file="a.pcap")
    add(60, 42, **from_outside, server_mac=PLUG, capture_file="b.pcap")
    add(6, 60, client_mac=HUE, capture_file="x/bridge/c.pcap")
    add(4, 60, **from_outside, server_mac=HUE)
    add(20, 80, client_mac=PHONE)
    add(3, 80, client_mac="00:00:00:00:00:00", client_ip="127.0.0.1")
    add(7, 80, client_ip="10.0.0.50")
    add(10, 90, client_mac=LAMP, protocol=1)
    return rows


def _write(
    spark: Any, store: Store, partitions: Sequence[Partition], *overrides: str, devices: DeviceList = DEVICES
) -> Any:
    settings = load_settings(["local.yaml"], ["dataset.row_groups=3", "flow.max_packets=4", *overrides])
    return write_dataset(spark, store, partitions, devices, settings.dataset, settings.flow, "tiny")


def _content(dataset: Partition) -> dict[str, Counter[tuple[Any, ...]]]:
    """Part -> how many flows each (label, values of both characteristics) has; a value that has no id is None."""
    encoding = read_encoding(dataset.uri)
    values = [[None, None, *vocabulary.values] for vocabulary in encoding.vocabularies.values()]
    content: dict[str, Counter[tuple[Any, ...]]] = defaultdict(Counter)
    for split in DATASET_SPLITS:
        rows = read_split(dataset.uri, split)
        for number in range(len(rows)):
            ids = (sequence[number].tolist() for sequence in rows.sequences.values())
            read = [tuple(known[i] for i in own if i) for known, own in zip(values, ids, strict=True)]
            content[split][encoding.labels[rows.label[number]], *read] += int(rows.num_flows[number])
    return content


def _in_order(dataset: Partition) -> list[Any]:
    """All splits as they are read, row after row."""
    splits = [read_split(dataset.uri, split) for split in DATASET_SPLITS]
    return [
        [each.tolist() for each in (*rows.sequences.values(), rows.label, rows.num_flows)] for rows in splits
    ]  # fmt: skip


def _expected(rows: Sequence[dict[str, Any]], label_of: Callable[[dict[str, Any]], str | None]) -> Counter[Any]:
    """Flows of each (label, lengths, windows), one row at a time; windows are made of lengths (`conftest`)."""
    found: Counter[Any] = Counter()
    for row in rows:
        label = label_of(row) if row.get("protocol", 6) in (6, 17) else None
        if label:
            lengths = tuple(row["packet_length"][:4])
            found[label, lengths, tuple(1000 + length for length in lengths)] += 1
    return found


def _label(row: dict[str, Any]) -> str | None:
    """Of the labels that have 10 flows or more."""
    return {CAM: "cam"}.get(row.get("client_mac") or "") or {PLUG: "plug"}.get(row.get("server_mac") or "")


@pytest.fixture(scope="module")
def stored(
    tmp_path_factory: pytest.TempPathFactory, flow_table: FlowTable, write_night: WriteNight
) -> tuple[Store, Partition]:
    store = Store(str(tmp_path_factory.mktemp("store")))
    return store, write_night(store, flow_table(_rows()), files=3)


def test_write_plain__rows_are_the_distinct_sequences_of_a_label_and_weigh_its_flows(
    plain_spark: Any, stored: tuple[Store, Partition]
) -> None:
    dataset = _write(plain_spark(), stored[0], [stored[1]], "dataset.train=0.7", "dataset.validation=0.1")
    content = _content(dataset)
    together = sum(content.values(), Counter[Any]())
    expected = _expected(_rows(), _label)
    assert sum(together.values()) == sum(expected.values()) == 160
    assert {key for key in together if None not in key[1] + key[2]} <= set(expected)
    assert all(together[key] <= expected[key] for key in together if None not in key[1] + key[2])
    assert {split: sum(content[split].values()) for split in DATASET_SPLITS} == {
        "train": 112,
        "validation": 16,
        "test": 32,
    }
    for split in DATASET_SPLITS:
        rows = read_split(dataset.uri, split)
        assert len(rows) == len(content[split]), "equal rows are one"
        assert len(rows) == dataset.metadata["rows"][split]
        assert int(rows.num_flows.sum()) == dataset.metadata["flows"][split]
    seen = {value for label, lengths, _ in content["train"] for value in lengths}
    assert set(read_encoding(dataset.uri).vocabularies["packet_length"].values) == seen


def test_write_plain__accounts_for_all_flows_and_names_unmatched_devices_and_hosts(
    plain_spark: Any, stored: tuple[Store, Partition]
) -> None:
    metadata = _write(plain_spark(), stored[0], [stored[1]]).metadata
    assert metadata["accounting"] == {
        "in": 210, "kept": 160, "dropped": 6, "unlisted": 30, "conflicts": 4, "other_protocols": 10, "continued": 0,
    }  # fmt: skip
    assert metadata["dropped"] == {"bridge": {"flows": 6, "reason": "fewer than dataset.min_flows=10 flows"}}
    splits = ", ".join(
        f"{split} {metadata['flows'][split]} flows in {metadata['rows'][split]} rows" for split in DATASET_SPLITS
    )
    assert metadata["summary"] == f"2 labels: {splits}; 1 labels left out"
    assert metadata["without_flows"] == ["switch", "lamp"]
    assert metadata["unlisted_hosts"] == {PHONE: 20, "10.0.0.50": 7, "127.0.0.1": 3}
    assert metadata["coverage"] == [
        "devices without a flow: 2 of 5: switch, lamp",
        f"busiest hosts on no list: {PHONE} (20 flows), 10.0.0.50 (7 flows), 127.0.0.1 (3 flows)",
    ]
    for split in DATASET_SPLITS:
        for unit in ("rows", "flows"):
            assert sum(each[split][unit] for each in metadata["labels"].values()) == metadata[unit][split]


def test_write_plain__unlisted_flows_become_a_class_and_their_hosts_are_still_named(
    plain_spark: Any, stored: tuple[Store, Partition]
) -> None:
    dataset = _write(plain_spark(), stored[0], [stored[1]], "dataset.unlisted=unknown")
    assert read_encoding(dataset.uri).labels == ("cam", "plug", "unknown")
    assert dataset.metadata["accounting"]["kept"] == 190
    assert dataset.metadata["unlisted_hosts"][PHONE] == 20
    assert dataset.metadata["without_flows"] == ["switch", "lamp"]


@pytest.mark.parametrize("protocol", ["random_flow", "random_unique", "by_time"])
@pytest.mark.parametrize("unique", ["true", "false"])
def test_write_plain__partitions_files_and_order_change_nothing(
    plain_spark: Any, tmp_path: Path, flow_table: FlowTable, write_night: WriteNight, protocol: str, unique: str
) -> None:
    flows, written = flow_table(_rows()), []
    for number, (partitions, files, batch_rows) in enumerate(((1, 1, 100), (3, 4, 1), (5, 2, 3))):
        order = np.random.default_rng(number).permutation(flows.num_rows)
        store = Store(f"{tmp_path}/{number}")
        stored = write_night(store, flows.take(pa.array(order)), files=files)
        spark = plain_spark(partitions=partitions, batch_rows=batch_rows)
        dataset = _write(spark, store, [stored], f"dataset.protocol={protocol}", f"dataset.unique={unique}")
        sets = read_sets(dataset.uri).to_arrow()
        found = [_content(dataset), dataset.metadata["coverage"], dataset.metadata["hash"], sets]
        written.append([*found, read_encoding(dataset.uri), _in_order(dataset)])
    assert written[0] == written[1] == written[2]


def test_write_plain__by_capture_no_file_is_in_two_splits(
    plain_spark: Any, tmp_path: Path, flow_table: FlowTable, write_night: WriteNight
) -> None:
    rows = [
        {"client_mac": mac, "capture_file": f"{mac}/{number}.pcap", "packet_length": [40 + number]}
        for mac in (CAM, PLUG)
        for number in range(6)
        for _ in range(3)
    ]
    stored = write_night(Store(str(tmp_path)), flow_table(rows), files=2)
    dataset = _write(plain_spark(), Store(str(tmp_path)), [stored], "dataset.protocol=by_capture", "dataset.train=0.5")
    assert dataset.metadata["summary"].startswith("2 labels: train 18 flows in ")
    assert "left out" not in dataset.metadata["summary"]
    content = _content(dataset)
    assert {split: sum(content[split].values()) for split in DATASET_SPLITS} == {
        "train": 18,
        "validation": 6,
        "test": 12,
    }
    train = {(label, lengths) for label, lengths, _ in content["train"]}
    assert not train & {(label, lengths) for split in DATASET_SPLITS[1:] for label, lengths, _ in content[split]}


def test_write_plain__flows_are_those_that_comparisons_read_into_memory(
    plain_spark: Any, stored: tuple[Store, Partition], flow_table: FlowTable, of_night: Any
) -> None:
    settings = load_settings(["local.yaml"], ["flow.max_packets=4"])
    held = LabelledFlows.of(of_night(flow_table(_rows())), DEVICES, settings.dataset, settings.flow)
    dataset = _write(plain_spark(), stored[0], [stored[1]])
    counted = {
        label: sum(split["flows"] for split in own.values()) for label, own in dataset.metadata["labels"].items()
    }
    assert counted == dict(zip(held.labels, np.bincount(held.label).tolist(), strict=True))


def test_write_plain__a_router_of_one_site_is_a_listed_device_at_another(
    plain_spark: Any, tmp_path: Path, flow_table: FlowTable, write_night: WriteNight
) -> None:
    """The plug's MAC forwards at home what the camera asks; at the office it sends from an address outside."""
    asked = {"server_packets": 1, "server_ip": "52.1.2.3"}
    home = [{"client_mac": CAM, "packet_length": [40 + n], "server_mac": PLUG, **asked} for n in range(30)]
    moved = {"client_mac": PLUG, "client_ip": "100.64.0.9", "server_mac": LAMP, **asked}
    office = [{**moved, "packet_length": [40 + n]} for n in range(30)]
    store = Store(str(tmp_path))
    partitions = [write_night(store, flow_table(rows), site) for site, rows in (("home", home), ("office", office))]
    labels = _write(plain_spark(), store, partitions).metadata["labels"]
    kept = {label: sum(split["flows"] for split in own.values()) for label, own in labels.items()}
    assert kept == {"cam": 30, "plug": 30}


def test_write_plain__row_groups_are_as_many_as_asked(plain_spark: Any, stored: tuple[Store, Partition]) -> None:
    for partitions in (1, 3):
        dataset = _write(plain_spark(partitions=partitions), stored[0], [stored[1]], "dataset.unique=false")
        for split in DATASET_SPLITS:
            files = sorted(Path(dataset.uri, split).glob("part-*.parquet"))
            groups = [pq.read_metadata(path).num_row_groups for path in files]
            assert 3 <= sum(groups) <= 3 + len(files)


@pytest.mark.parametrize("plain_spark", ["cluster"], indirect=True)
def test_write_plain__files_are_as_many_as_the_number_of_flows_asks_for(
    plain_spark: Any, stored: tuple[Store, Partition], monkeypatch: pytest.MonkeyPatch
) -> None:
    for partition_bytes, files in ((512 << 20, 1), (50 * shuffle.FLOW_BYTES, 6)):
        monkeypatch.setattr(shuffle, "_PARTITION_BYTES", partition_bytes)
        dataset = _write(plain_spark(derived=True), stored[0], [stored[1]], "dataset.unique=false")
        assert 200 < stored[1].metadata["rows"] <= 250
        assert len(list(Path(dataset.uri, "train").glob("part-*.parquet"))) == files


def test_write_plain__sets_are_learned_from_those_of_test_flows_apart(
    plain_spark: Any, stored: tuple[Store, Partition]
) -> None:
    dataset = _write(plain_spark(), stored[0], [stored[1]])
    flows = {label: {split: each["flows"] for split, each in own.items()}
             for label, own in dataset.metadata["labels"].items()}  # fmt: skip
    sets = read_sets(dataset.uri)
    held = dict(zip(sets.label.tolist(), np.asarray(sets.flows.sum(axis=1)).ravel().tolist(), strict=True))
    assert held[0] == flows["cam"]["train"] + flows["cam"]["validation"] < 100
    tested = read_test_sets(dataset.uri)
    assert tested is not None
    assert (int(tested.flows[tested.label == 0].sum()), -1 in tested.label) == (flows["cam"]["test"], False)


def test_write_plain__unlisted_hosts_are_sets_without_label_unanswered_flows_in_none(
    plain_spark: Any, stored: tuple[Store, Partition], tmp_path: Path, flow_table: FlowTable, write_night: WriteNight
) -> None:
    sets = read_sets(_write(plain_spark(), stored[0], [stored[1]]).uri)
    flows_B = np.asarray(sets.flows.sum(axis=1)).ravel().tolist()
    # two hosts inside; one of loopback is none, and the plug answered nobody
    assert sorted(zip(sets.label.tolist(), flows_B, strict=True))[:-1] == [(-1, 7), (-1, 20)]
    assert sets.label.tolist() == [-1, -1, 0]
    rows = [row | {"server_packets": 1 if row.get("server_mac") == PLUG else 0} for row in _rows()]
    store = Store(str(tmp_path))
    dataset = _write(plain_spark(), store, [write_night(store, flow_table(rows))])
    answered = read_sets(dataset.uri)
    assert answered.label.tolist() == [-1, -1, 0, 1]
    plug = dataset.metadata["labels"]["plug"]
    assert answered.flows[3].sum() == plug["train"]["flows"] + plug["validation"]["flows"] == 54


def test_write_plain__sets_of_an_entry_with_a_mac_hold_only_flows_of_that_host(
    plain_spark: Any, tmp_path: Path, flow_table: FlowTable, write_night: WriteNight
) -> None:
    rows = [
        {"client_mac": mac, "capture_file": f"/x/{name}/1.pcap", "packet_length": [40 + number]}
        for mac, name in ((CAM, "cam"), (PHONE, "cam"), (PLUG, "plug"), (PHONE, "plug"))
        for number in range(20)
    ]
    devices = DeviceList(
        (Device(name="cam", mac=CAM, path="*/cam/*"), Device(name="plug", path="*/plug/*")), "list.yaml"
    )
    store = Store(str(tmp_path))
    dataset = _write(plain_spark(), store, [write_night(store, flow_table(rows))], devices=devices)
    kept = {
        name: own["train"]["flows"] + own["validation"]["flows"] for name, own in dataset.metadata["labels"].items()
    }
    sets = read_sets(dataset.uri)
    flows = dict(zip(sets.label.tolist(), np.asarray(sets.flows.sum(axis=1)).ravel().tolist(), strict=True))
    assert kept == {"cam": 36, "plug": 36}
    assert flows[0] < 20 < flows[1] == kept["plug"]


def test_write_plain__a_devices_sets_of_a_date_share_a_recording(
    plain_spark: Any, tmp_path: Path, flow_table: FlowTable, write_night: WriteNight
) -> None:
    rows = [
        {"client_mac": mac, "capture_file": f"{capture}.pcap", "packet_length": [40 + number]}
        for mac, captures in ((CAM, "ab"), (PLUG, "a"))
        for capture in captures
        for number in range(12)
    ]
    store = Store(str(tmp_path))
    partitions = [write_night(store, flow_table(rows), day=f"2024-03-0{day}") for day in (1, 2)]
    sets = read_sets(_write(plain_spark(), store, partitions).uri)
    assert sets.label.tolist() == [0] * 4 + [1] * 2
    assert sorted(Counter(sets.recording[:4].tolist()).values()) == [2, 2]
    assert len(set(sets.recording.tolist())) == 4


def test_write_plain__a_lost_file_other_settings_or_another_schema_are_refused(
    plain_spark: Any, tmp_path: Path, flow_table: FlowTable, write_night: WriteNight
) -> None:
    store = Store(str(tmp_path))
    stored = write_night(store, flow_table(_rows()), files=4)
    stranger = Partition(stored.uri, stored.key, {**stored.metadata, "schema_version": 99})
    for partitions, overrides, kind, expected in (
        ([], (), InputError, "no capture date is named"),
        ([stranger], (), SchemaError, "schema version 99"),
        ([stored], ("flow.max_packets=33",), SettingError, "flow.max_packets: is 33"),
        ([stored], ("flow.tcp_close=false",), SettingError, "flow.tcp_close: is False"),
        ([stored], ("dataset.min_count=100000",), SettingError, "dataset.min_count"),
        ([stored], ("flow.header_fields=true",), SettingError, "flow.header_fields: is True"),
        ([stored], ("dataset.characteristics=[dscp]",), SettingError, "dscp must have flow.header_fields=true, got"),
        ([stored], ("dataset.min_flows=70",), LabelError, "1 of 3 labels can be learned, at least 2 are needed"),
    ):
        with pytest.raises(kind, match=expected):
            _write(plain_spark(), store, partitions, *overrides)
    Path(stored.uri, "part-2.parquet").unlink()
    with pytest.raises(AccountingError, match="report 210 flows"):
        _write(plain_spark(), store, [stored])


def test_source_read__many_rows_are_sent_in_several_pieces_and_none_is_lost(
    plain_spark: Any, stored: tuple[Store, Partition], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _content(_write(plain_spark(), stored[0], [stored[1]]))
    for module in (split_tasks, row_tasks, set_tasks):
        monkeypatch.setattr(module, "_HELD_ROWS", 7)
    assert _content(_write(plain_spark(), stored[0], [stored[1]])) == whole


def test_write_plain__header_fields_and_the_servers_port_are_characteristics(
    plain_spark: Any, tmp_path: Path, flow_table: FlowTable, write_night: WriteNight
) -> None:
    rows = [
        {**row, "ttl": [ttl] * len(row["packet_length"]), "server_port": port}
        for number, row in enumerate(_rows())
        for ttl, port in [((60, 443), (128, 80), (200, 443))[number % 3]]
    ]
    store = Store(str(tmp_path))
    partition = write_night(store, flow_table(rows), files=3, header_fields=True)
    read = "dataset.characteristics=[server_port,ttl_class,packet_length]"
    dataset = _write(plain_spark(), store, [partition], "flow.header_fields=true", read)
    encoding = read_encoding(dataset.uri)
    assert encoding.vocabularies["server_port"].values == (80, 443)
    expected: Counter[Any] = Counter()
    for row in rows:
        label, count = (_label(row) if row.get("protocol", 6) in (6, 17) else None), min(len(row["packet_length"]), 4)
        if label:
            ttl = {60: 64, 128: 128, 200: 255}[row["ttl"][0]]
            expected[label, (row["server_port"],) * count, (ttl,) * count] += 1
    found = sum(_content(dataset).values(), Counter[Any]())
    assert sum((Counter({key[:3]: flows}) for key, flows in found.items()), Counter[Any]()) == expected


def test_busiest__breaks_ties_by_name() -> None:
    assert list(busiest(Counter({"b": 2, "c": 3, "a": 2, "d": 1}), 3)) == ["c", "a", "b"]


def test_coverage__is_silent_where_all_met_and_short_where_many_did_not() -> None:
    assert list(coverage([], 3, {})) == []
    (sentence,) = coverage([f"d{number:02}" for number in range(23)], 1000, {})
    assert sentence.startswith("devices without a flow: 23 of 1,000: d00, ")
    assert sentence.endswith("d19 and 3 more")
    assert list(coverage(["cam"], 1, {})) == ["devices without a flow: 1 of 1: cam"]


def test_accounts__add_up_or_are_an_error() -> None:
    accounting = FlowAccounting(21, 1, 2, 3, 4, {"a": 5, "b": 6})
    accounting.check()
    accounting.drop_rare(5, "list")
    with pytest.raises(
        LabelError, match=r"list: 1 of 2 labels can be learned, at least 2 are needed \(b: 6 flows, a: 5 flows\)"
    ):
        accounting.drop_rare(6, "list")
    assert accounting.to_json() == {
        "in": 21, "kept": 6, "dropped": 5, "unlisted": 3, "conflicts": 4, "other_protocols": 2, "continued": 1,
    }  # fmt: skip
    with pytest.raises(AccountingError, match="report 22 flows, 21 were read"):
        FlowAccounting(22, 1, 2, 3, 4, {"a": 5, "b": 6}).check()


def test_group_rows__makes_groups_of_one_size_and_no_empty_ones() -> None:
    of_partitions = [{"train": 10, "test": 0}, {"train": 5, "test": 4}]
    assert group_rows({"train": 15, "test": 4}, of_partitions, 3) == [{"train": 5}, {"train": 5, "test": 1}]
    assert group_rows({"train": 1, "test": 0}, [{"train": 1}], 4) == [{"train": 1}]
    assert group_rows({"train": 10**6}, [{"train": 10**6}], 1) == [{"train": 250_000}]
