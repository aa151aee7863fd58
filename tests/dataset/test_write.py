"""Datasets written by Spark and read back: nothing lost, nothing doubled, the same whenever they are written."""

from __future__ import annotations

import json
import random
import shutil
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from iotid.config import load_settings
from iotid.dataset import EncodedFlows, Encoding, LabelledFlows, read_encoding, read_sets, read_split, write_dataset
from iotid.dataset.split_protocols import DATASET_SPLITS
from iotid.errors import AbsentError, AccountingError, InputError, LabelError, SchemaError, SettingError
from iotid.labels import Device, DeviceList
from iotid.partitions import Partition, PartitionKey, Store

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

FlowTable = Callable[[Sequence[dict[str, Any]]], pa.Table]
WriteNight = Callable[..., Partition]

pytestmark = pytest.mark.spark

CAM, PLUG, HUE, PHONE = (f"aa:bb:cc:dd:ee:0{number}" for number in range(4))
STRANGER = "192.0.2.1"
DEVICES = DeviceList(
    (
        Device(name="cam", mac=CAM, vendor="Acme", type="camera"),
        Device(name="plug", mac=PLUG, vendor="Acme", type="plug"),
        Device(name="bridge", mac=HUE, path="*/bridge/*"),
        Device(name="switch", mac=HUE, path="*/switch/*"),
    ),
    "list.yaml",
)


def _rows(seed: int = 5) -> list[dict[str, Any]]:
    """100 flows of the camera, 60 of the plug, 6 of the bridge, 4 of a shared MAC, 20 of a phone, 10 of ICMP."""
    chance = random.Random(seed)
    rows: list[dict[str, Any]] = []

    def add(count: int, low: int, **columns: Any) -> None:
        for _ in range(count):
            lengths = [low + chance.randrange(4) for _ in range(chance.randrange(1, 5))]
            waits = [0, *(chance.randrange(10**6) for _ in lengths[1:])]
            rows.append({**columns, "packet_length": lengths, "inter_arrival_us": waits})

    from_outside = {"client_ip": STRANGER, "server_ip": "10.0.0.3"}
    add(100, 40, client_mac=CAM, capture_file="a.pcap")
    add(60, 42, **from_outside, server_mac=PLUG, capture_file="b.pcap")
    add(6, 60, client_mac=HUE, capture_file="x/bridge/c.pcap")
    add(4, 60, **from_outside, server_mac=HUE)
    add(20, 80, client_mac=PHONE)
    add(10, 90, client_mac=CAM, protocol=1)
    return rows


def _write(
    spark: SparkSession,
    store: Store,
    partitions: Sequence[Partition],
    *overrides: str,
    devices: DeviceList = DEVICES,
    name: str = "tiny",
) -> Partition:
    settings = load_settings(["local.yaml"], ["dataset.row_groups=3", "flow.max_packets=4", *overrides])
    return write_dataset(spark, store, partitions, devices, settings.dataset, settings.flow, name)


def _content(dataset: Partition) -> dict[str, Counter[tuple[Any, ...]]]:
    """Part -> how many flows each (label, ids of both characteristics) has."""
    labels = read_encoding(dataset.uri).labels
    content: dict[str, Counter[tuple[Any, ...]]] = defaultdict(Counter)
    for split in DATASET_SPLITS:
        rows = read_split(dataset.uri, split)
        for number in range(len(rows)):
            ids = tuple(tuple(sequence[number].tolist()) for sequence in rows.sequences.values())
            content[split][labels[rows.label[number]], *ids] += int(rows.num_flows[number])
    return content


def _splits(dataset: Partition) -> dict[str, EncodedFlows]:
    return {split: read_split(dataset.uri, split) for split in DATASET_SPLITS}


@pytest.fixture(scope="module")
def stored(
    tmp_path_factory: pytest.TempPathFactory, flow_table: FlowTable, write_night: WriteNight
) -> tuple[Store, Partition]:
    """The 200 flows as a partition below a folder with an odd name."""
    store = Store(str(tmp_path_factory.mktemp("store") / "odd #?%20;é root"))
    return store, write_night(store, flow_table(_rows()), files=3)


@pytest.fixture(scope="module")
def written(spark: SparkSession, stored: tuple[Store, Partition]) -> Partition:
    """Its dataset with default settings."""
    return _write(spark, stored[0], [stored[1]], name="written")


def _expected(encoding: Encoding, flows: pa.Table) -> Counter[tuple[Any, ...]]:
    """Flows of each (label, ids), encoded in one piece; the camera's are the first 100, the plug's the next 60."""
    expected: Counter[tuple[Any, ...]] = Counter()
    for name, start, count in (("cam", 0, 100), ("plug", 100, 60)):
        ids = encoding.encode(flows.slice(start, count))
        expected.update((name, *row) for row in zip(*(map(tuple, each.tolist()) for each in ids.values()), strict=True))
    return expected


def test_write__rows_are_the_distinct_sequences_of_a_label_and_weigh_its_flows(
    written: Partition, flow_table: FlowTable
) -> None:
    encoding = read_encoding(written.uri)
    assert encoding.labels == ("cam", "plug")
    assert encoding.devices["cam"] == {"vendor": "Acme", "type": "camera", "model": "cam"}
    assert (encoding.max_packets, encoding.protocols, encoding.length) == (4, (6, 17), "ip")
    content = _content(written)
    assert sum(content.values(), Counter()) == _expected(encoding, flow_table(_rows()))
    splits = _splits(written)
    assert {split: int(rows.num_flows.sum()) for split, rows in splits.items()} == {
        "train": 128, "validation": 16, "test": 16,
    }  # fmt: skip
    assert all(len(content[split]) == len(rows) for split, rows in splits.items())
    train = splits["train"]
    assert train.sequences["packet_length"].dtype == np.int32
    assert (train.label.dtype, train.num_flows.dtype) == (np.int64, np.int64)


def test_write__without_unique_every_flow_is_a_row_in_as_many_row_groups_as_asked(
    spark: SparkSession, stored: tuple[Store, Partition], written: Partition, flow_table: FlowTable
) -> None:
    dataset = _write(spark, stored[0], [stored[1]], "dataset.unique=false", name="flows")
    content, splits = _content(dataset), _splits(dataset)
    assert sum(content.values(), Counter()) == _expected(read_encoding(dataset.uri), flow_table(_rows()))
    assert content == _content(written)
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 128, "validation": 16, "test": 16}
    assert all((rows.num_flows == 1).all() for rows in splits.values())
    for split in DATASET_SPLITS:
        groups = [pq.read_metadata(path).num_row_groups for path in Path(dataset.uri, split).glob("part-*.parquet")]
        assert 3 <= sum(groups) <= 3 + len(groups), "at most one more in each file"


def test_write__accounting_adds_up_and_names_what_was_left_out(written: Partition) -> None:
    metadata = written.metadata
    assert metadata["accounting"] == {
        "in": 200, "kept": 160, "dropped": 6, "unlisted": 20, "conflicts": 4, "other_protocols": 10, "continued": 0,
    }  # fmt: skip
    assert metadata["dropped"] == {"bridge": {"flows": 6, "reason": "fewer than dataset.min_flows=10 flows"}}
    assert sum(metadata["flows"].values()) == 160
    for split in DATASET_SPLITS:
        assert sum(of_label[split]["flows"] for of_label in metadata["labels"].values()) == metadata["flows"][split]
        assert sum(of_label[split]["rows"] for of_label in metadata["labels"].values()) == metadata["rows"][split]
        assert metadata["rows"][split] == len(read_split(written.uri, split))
    assert metadata["summary"].startswith("2 labels: train 128 flows in ")
    assert metadata["protocol"] == "random_flow"


def test_write__unlisted_flows_become_a_class_where_the_setting_says_so(
    spark: SparkSession, stored: tuple[Store, Partition]
) -> None:
    devices = DeviceList(DEVICES.devices[:2])
    options = (
        "dataset.unlisted=unknown",
        "dataset.label=type",
        "dataset.characteristics=[packet_length,inter_arrival]",
    )
    dataset = _write(spark, stored[0], [stored[1]], *options, devices=devices)
    encoding = read_encoding(dataset.uri)
    assert encoding.labels == ("camera", "plug", "unknown")
    assert encoding.devices["unknown"] == {"vendor": "", "type": "", "model": ""}
    assert dataset.metadata["accounting"]["kept"] == 190
    assert dataset.metadata["accounting"]["unlisted"] == 0
    assert list(read_split(dataset.uri, "test").sequences) == ["packet_length", "inter_arrival"]
    assert (
        724 in encoding.vocabularies["inter_arrival"].values or len(encoding.vocabularies["inter_arrival"].values) > 8
    )


def _read(dataset: Partition) -> dict[str, list[Any]]:
    """The rows of each split, in order."""
    read = {split: read_split(dataset.uri, split) for split in DATASET_SPLITS}
    return {
        split: [[ids.tolist() for ids in rows.sequences.values()], rows.label.tolist(), rows.num_flows.tolist()]
        for split, rows in read.items()
    }


def test_write__rows_in_another_order_are_read_the_same_another_seed_gives_others(
    spark: SparkSession, tmp_path: Path, written: Partition, flow_table: FlowTable, write_night: WriteNight
) -> None:
    flows = flow_table(_rows())
    order = np.random.default_rng(2).permutation(flows.num_rows)
    store = Store(str(tmp_path))
    stored = write_night(store, flows.take(pa.array(order)), files=4)
    again = _write(spark, store, [stored])
    assert _read(again) == _read(written)
    assert read_encoding(again.uri) == read_encoding(written.uri)
    assert again.metadata["hash"] == written.metadata["hash"]
    other = _write(spark, store, [stored], "dataset.seed=2")
    assert _read(other) != _read(written)
    assert other.metadata["hash"] != written.metadata["hash"]


def test_write__random_unique_leaves_no_sequence_in_two_parts(
    spark: SparkSession, stored: tuple[Store, Partition]
) -> None:
    dataset = _write(spark, stored[0], [stored[1]], "dataset.protocol=random_unique")

    def keys(split: str) -> set[tuple[Any, ...]]:
        """Sequences without an out-of-vocabulary id, which may stand for several values."""
        rows = read_split(dataset.uri, split)
        ids = np.concatenate([*rows.sequences.values(), rows.label[:, None]], axis=1)
        return set(map(tuple, ids[~(ids[:, :-1] == 1).any(axis=1)].tolist()))

    assert all(keys(split) for split in DATASET_SPLITS)
    assert not keys("train") & (keys("validation") | keys("test"))
    assert not keys("validation") & keys("test")


def test_write__vocabulary_is_of_the_training_part_alone_and_rare_values_share_an_id(
    spark: SparkSession, tmp_path: Path, flow_table: FlowTable, write_night: WriteNight
) -> None:
    rows = _rows()[:160]
    rows[0]["packet_length"] = rows[1]["packet_length"] = [7777]  # the camera's two earliest flows are for training
    rows[99]["packet_length"] = [9999]  # its latest is for the test
    rows[0]["inter_arrival_us"] = rows[1]["inter_arrival_us"] = rows[99]["inter_arrival_us"] = [0]
    store = Store(str(tmp_path))
    stored = write_night(store, flow_table(rows))
    dataset = _write(spark, store, [stored], "dataset.protocol=by_time")
    values = read_encoding(dataset.uri).vocabularies["packet_length"].values
    assert 7777 in values
    assert 9999 not in values
    test = read_split(dataset.uri, "test")
    assert (test.sequences["packet_length"][:, 0] == 1).sum() == 1
    dataset = _write(spark, store, [stored], "dataset.protocol=by_time", "dataset.min_count=3")
    assert 7777 not in read_encoding(dataset.uri).vocabularies["packet_length"].values
    with pytest.raises(SettingError, match=r"dataset\.min_count: no value of packet_length occurs 100000 times"):
        _write(spark, store, [stored], "dataset.min_count=100000")


def test_write__flows_of_several_dates_and_sites_are_one_dataset(
    spark: SparkSession, tmp_path: Path, flow_table: FlowTable, write_night: WriteNight
) -> None:
    flows, store = flow_table(_rows()), Store(str(tmp_path))
    partitions = [
        write_night(store, flows),
        write_night(store, flows, site="office"),
        write_night(store, flows, day="2024-03-02"),
    ]
    dataset = _write(spark, store, partitions, "dataset.min_flows=18")
    assert dataset.metadata["accounting"]["in"] == 600
    assert read_encoding(dataset.uri).labels == ("bridge", "cam", "plug")
    assert dataset.metadata["nights"] == [stored.key for stored in partitions]


def test_write__list_that_fits_nothing_is_an_error_with_the_macs_seen(
    spark: SparkSession, stored: tuple[Store, Partition]
) -> None:
    devices = DeviceList((Device(name="x", mac="00:00:00:00:00:01"),), "other.yaml")
    expected = f"other.yaml: fits none of the 200 flows (4 distinct MACs seen, such as {CAM}, {PLUG}, {HUE})"
    for unlisted in ("drop", "unknown"):
        with pytest.raises(LabelError) as raised:
            _write(spark, stored[0], [stored[1]], f"dataset.unlisted={unlisted}", devices=devices, name="none")
        assert expected in str(raised.value)
    assert not stored[0].exists("datasets", PartitionKey.named("none"))


def test_write__too_few_labels_or_an_empty_part_is_an_error_with_counts(
    spark: SparkSession, stored: tuple[Store, Partition]
) -> None:
    store, flows = stored
    with pytest.raises(
        LabelError, match=r"1 of 3 labels can be learned, at least 2 are needed \(cam: 100 flows, plug: 60 flows"
    ):
        _write(spark, store, [flows], "dataset.min_flows=70")
    with pytest.raises(LabelError, match=r"no flow is in the validation split under dataset\.protocol=by_capture"):
        _write(spark, store, [flows], "dataset.protocol=by_capture")
    with pytest.raises(InputError, match="no capture date"):
        _write(spark, store, [])


def test_write__label_that_no_training_capture_holds_is_left_out(
    spark: SparkSession, tmp_path: Path, flow_table: FlowTable, write_night: WriteNight
) -> None:
    store = Store(str(tmp_path))
    rows = [
        {"client_mac": mac, "capture_file": f"{folder}/{number}.pcap"}
        for mac, folder in ((CAM, "cam"), (HUE, "x/bridge"))
        for number in range(5)
        for _ in range(10 + number)  # so that a split's number of flows tells which captures are in it
    ]
    options = ("dataset.protocol=by_capture", "dataset.min_flows=2")
    dataset = _write(spark, store, [write_night(store, flow_table(rows))], *options)
    in_test = dataset.metadata["labels"]["cam"]["test"]["flows"] - 10
    rows += [{"client_mac": PLUG, "capture_file": f"cam/{in_test}.pcap"}] * 3
    dataset = _write(spark, store, [write_night(store, flow_table(rows))], *options)
    assert dataset.metadata["dropped"] == {
        "plug": {"flows": 3, "reason": "none of them in the training split (by_capture)"}
    }
    assert read_encoding(dataset.uri).labels == ("bridge", "cam")


def test_write__partition_with_a_lost_file_is_an_error(
    spark: SparkSession, tmp_path: Path, flow_table: FlowTable, write_night: WriteNight
) -> None:
    store = Store(str(tmp_path))
    stored = write_night(store, flow_table(_rows()), files=4)
    Path(stored.uri, "part-2.parquet").unlink()
    with pytest.raises(AccountingError, match="report 200 flows, 150 were read"):
        _write(spark, store, [stored])


def test_write__flows_of_another_schema_or_other_settings_are_refused(
    spark: SparkSession, stored: tuple[Store, Partition]
) -> None:
    store, flows = stored
    stranger = Partition(flows.uri, flows.key, {**flows.metadata, "schema_version": 99})
    with pytest.raises(SchemaError, match="schema version 99"):
        _write(spark, store, [stranger])
    with pytest.raises(SettingError, match=r"flow\.length: is frame, the flows of .* were assembled with 'ip'"):
        _write(spark, store, [flows], "flow.length=frame")
    with pytest.raises(SettingError, match=r"flow\.max_packets: is 64, .* assembled with 32"):
        _write(spark, store, [flows], "flow.max_packets=64")
    with pytest.raises(SettingError, match=r"flow\.keep_bytes: is 250, .* assembled with 0"):
        _write(spark, store, [flows], "flow.keep_bytes=250", "flow.keep_packets=4")


def test_read__says_nothing_and_rows_that_petastorm_loses_raise(
    written: Partition, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        whole = read_split(written.uri, "train")
    assert capfd.readouterr() == ("", "")
    from petastorm import reader

    def ends_at_once(self: Any) -> Any:
        raise StopIteration

    monkeypatch.setattr(reader.Reader, "__next__", ends_at_once)
    with pytest.raises(AccountingError, match=rf"Petastorm delivered 0 rows, the Parquet footers report {len(whole)}"):
        read_split(written.uri, "train")


def test_read__missing_file_or_marker_raises(written: Partition, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(written.uri, copy)
    for path in (copy / "test").glob("part-*.parquet"):
        path.unlink()
    with pytest.raises(AccountingError, match="footers report 0"):
        read_split(str(copy), "test")
    (copy / "_SUCCESS").unlink()
    with pytest.raises(AbsentError, match="datasets: no completed data at"):
        read_split(str(copy), "train")
    with pytest.raises(AbsentError, match="datasets: no completed data at"):
        read_encoding(str(copy))


@pytest.mark.parametrize(
    ("protocol", "unique", "join_files"),
    [
        ("random_flow", True, True),
        ("random_flow", False, False),
        ("random_unique", True, True),
        ("by_time", True, False),
        ("by_capture", True, True),
    ],
)
def test_in_memory__same_labels_vocabularies_and_rows(
    spark: SparkSession,
    tmp_path: Path,
    flow_table: FlowTable,
    of_night: Callable[[pa.Table], pa.Table],
    write_night: WriteNight,
    protocol: str,
    unique: bool,
    join_files: bool,
) -> None:
    store, rows = Store(str(tmp_path)), _rows()
    for number, row in enumerate(rows):
        row["first_seen"] = number * 37 % 200
        if "capture_file" in row:
            row["capture_file"] = f"{number % 7}-{row['capture_file']}"
        row["server_packets"], row["client_port"] = number % 2, number
    stored = write_night(store, flow_table(rows), files=3, join_files=join_files)
    changes = [f"dataset.protocol={protocol}", f"dataset.unique={json.dumps(unique)}", "dataset.min_count=2"]
    changes.append(f"flow.join_files={json.dumps(join_files)}")
    dataset = _write(spark, store, [stored], *changes)
    settings = load_settings(["local.yaml"], ["flow.max_packets=4", *changes])
    labelled = LabelledFlows.of(of_night(flow_table(rows)), DEVICES, settings.dataset, settings.flow)
    encoding, splits = labelled.dataset(labelled.assign_splits())
    assert encoding == read_encoding(dataset.uri)
    expected = _content(dataset)
    for name, split in splits.items():
        assert len(split.rows) == len(read_split(dataset.uri, name))
        found: Counter[tuple[Any, ...]] = Counter()
        for number in range(len(split.rows)):
            ids = tuple(tuple(sequence[number].tolist()) for sequence in split.rows.sequences.values())
            found[encoding.labels[split.rows.label[number]], *ids] += int(split.rows.num_flows[number])
        assert found == expected[name]
        np.testing.assert_array_equal(labelled.label[split.flow], split.rows.label[split.row_of_flow])
    sets = read_sets(dataset.uri)
    split_N = labelled.assign_splits()
    number_N, client_N = labelled.flows["client_port"].to_numpy(), np.array(labelled.flows["client_ip"].to_pylist())
    is_held_N = (
        (split_N >= 0) & (split_N != DATASET_SPLITS.index("test")) & ((client_N != STRANGER) | (number_N % 2 == 1))
    )
    seen: dict[tuple[str, str], Counter[tuple[Any, ...]]] = {}

    def add(label: str, capture: str, ids_of: dict[str, np.ndarray], number: int) -> None:
        ids = tuple(tuple(sequence[number].tolist()) for sequence in ids_of.values())
        seen.setdefault((label, capture), Counter())[ids] += 1

    ids_of, captures = encoding.encode(labelled.flows), labelled.flows["capture_file"].to_pylist()
    for number in np.flatnonzero(is_held_N).tolist():
        add(encoding.labels[labelled.label[number]], captures[number], ids_of, number)
    unlisted = flow_table(rows).filter(pc.field("client_mac") == PHONE)  # of no split, and all in one capture
    for number in range(len(unlisted)):
        add("", "", encoding.encode(unlisted.combine_chunks()), number)
    of_label: Counter[tuple[str, frozenset[Any]]] = Counter(
        (label, frozenset(content.items())) for (label, _), content in seen.items()
    )
    names = [*encoding.labels, ""]  # -1 is the last
    found_sets: Counter[tuple[str, frozenset[Any]]] = Counter()
    for label, flows_D in zip(sets.label.tolist(), sets.flows.toarray(), strict=True):
        content = {
            tuple(tuple(ids[row].tolist()) for ids in sets.sequences.values()): int(flows_D[row])
            for row in np.flatnonzero(flows_D)
        }
        found_sets[names[label], frozenset(content.items())] += 1
    assert found_sets == of_label
    few_sets = read_sets(_write(spark, store, [stored], *changes, "dataset.sets=2").uri)
    assert Counter(names[label] for label in few_sets.label.tolist()) == {
        label: min(2, sum(name == label for name, _ in seen)) for label in names
    }


@pytest.mark.parametrize("join_files", [True, False])
def test_write__a_set_is_one_device_in_one_capture_those_of_a_date_are_one_recording(
    spark: SparkSession,
    tmp_path: Path,
    flow_table: FlowTable,
    write_night: WriteNight,
    join_files: bool,
) -> None:
    rows = [
        {"client_mac": mac, "capture_file": name, "first_seen": number, "packet_length": [40 + number]}
        for number in range(30)
        for mac, name in ((CAM, "a"), (CAM, "b"), (HUE, "a"), (HUE, "b"), (PLUG, "a"))
    ]
    store = Store(str(tmp_path))
    stored = write_night(store, flow_table(rows), files=2, join_files=join_files)
    cams = [Device(name=name, mac=mac, model="cam") for name, mac in (("porch", CAM), ("hall", HUE))]
    devices = DeviceList((*cams, Device(name="plug", mac=PLUG)), "list.yaml")
    dataset = _write(spark, store, [stored], f"flow.join_files={json.dumps(join_files)}", devices=devices)
    sets = read_sets(dataset.uri)
    assert len(sets) == 5
    assert sorted(Counter(sets.recording.tolist()).values()) == [1, 2, 2]
