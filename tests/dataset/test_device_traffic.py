"""Counts of devices' packets against counts made one packet at a time."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest

from iotid.capture import read_packets
from iotid.config import Settings, load_settings
from iotid.dataset import DeviceTraffic, read_device_traffic
from iotid.dataset.device_traffic import _at_devices, label_traffic
from iotid.errors import LabelError
from iotid.labels import Device, DeviceList
from iotid.simulate.captures import CAPTURE_DATES, write_demo
from iotid.simulate.frames import CaptureFile, Clock, Host, Network, Packet

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

CAM, PLUG, PHONE = "02:00:00:00:00:01", "02:00:00:00:00:02", "02:00:00:00:00:09"
_HOSTS = {
    CAM: Host(CAM, "10.0.0.1", "fd00::1"),
    PLUG: Host(PLUG, "10.0.0.2", "fd00::2"),
    PHONE: Host(PHONE, "10.0.0.9", "fd00::9"),
}
_COLUMNS = ("capture_file", "device", "second", "sent", "frame_length", "label")


def _counts(rows: Sequence[dict[str, Any]]) -> pa.Table:
    """What Spark counts, of rows that name only what matters."""
    usual = {"capture_file": "x.pcap", "device": CAM, "second": 0, "sent": True, "frame_length": 60, "packets": 1}
    types = (pa.string(), pa.string(), pa.int64(), pa.bool_(), pa.int32(), pa.int64())
    schema = pa.schema(list(zip(usual, types, strict=True)))
    return pa.Table.from_pylist([{**usual, **row} for row in rows], schema=schema)


def _labelled(rows: Sequence[dict[str, Any]], *entries: dict[str, Any]) -> list[tuple[Any, ...]]:
    """(file, device, second, label) of the rows that are left."""
    devices = DeviceList(tuple(Device(**entry) for entry in entries))
    traffic = label_traffic(_counts(rows), devices, "name", sorted({entry["name"] for entry in entries}))
    columns = ("capture_file", "device", "second", "label")
    return list(zip(*(traffic.table[name].to_pylist() for name in columns), strict=True))


def _as_counter(traffic: DeviceTraffic) -> Counter[tuple[Any, ...]]:
    found: Counter[tuple[Any, ...]] = Counter()
    for row in traffic.table.to_pylist():
        key = tuple(row[name] for name in _COLUMNS)
        assert key not in found, "a row of its own for each key"
        found[key] = row["packets"]
    return found


def _one_by_one(packets: pa.Table, label_of: dict[str, int]) -> Counter[tuple[Any, ...]]:
    """The slow reference: inside, devices by their MACs; where none is shown, by the addresses of one MAC alone."""
    rows = packets.to_pylist()
    inside = [ip_network(text) for text in load_settings().census.inside]
    senders: dict[tuple[str, str], set[str]] = defaultdict(set)

    def is_inside(address: str) -> bool:
        return any(ip_address(address) in network for network in inside)

    for row in rows:
        if row["source_mac"] in label_of and is_inside(row["source_ip"]):
            senders[row["capture_file"], row["source_ip"]].add(row["source_mac"])
    counted: Counter[tuple[Any, ...]] = Counter()
    for row in rows:
        second = int(row["timestamp"].timestamp() // 1)
        for side in ("source", "destination"):
            mac = row[f"{side}_mac"]
            known = senders.get((row["capture_file"], row[f"{side}_ip"]), set())
            if mac is None and len(known) == 1:
                (mac,) = known
            if mac in label_of and is_inside(row[f"{side}_ip"]):
                key = (row["capture_file"], mac, second, side == "source", row["frame_length"], label_of[mac])
                counted[key] += 1
    return counted


def test_label_traffic__a_phones_packets_in_a_devices_capture_are_not_the_devices() -> None:
    hub = {"name": "hub", "mac": CAM, "path": "*/hub/*"}
    rows = [{"capture_file": "/d/hub/a.pcap", "device": device} for device in (CAM, PHONE)]
    phone = {"name": "phone", "mac": PHONE}
    assert _labelled(rows, hub) == [("/d/hub/a.pcap", CAM, 0, 0)]
    assert _labelled(rows, hub, phone) == [("/d/hub/a.pcap", CAM, 0, 0)], "the capture is the hub's"
    assert _labelled([{"device": PHONE}], hub, phone) == [("x.pcap", PHONE, 0, 1)]
    assert _labelled(rows, {"name": "by path", "path": "*/hub/*"}) == []


def test_label_traffic__a_shared_mac_is_distinguished_by_path_and_nobodys_elsewhere() -> None:
    rows = [{"capture_file": file} for file in ("/d/one/a.pcap", "/d/two/a.pcap", "/d/else.pcap")]
    one, two = ({"name": name, "mac": CAM, "path": f"*/{name}/*"} for name in ("one", "two"))
    assert _labelled(rows, two, one) == [("/d/one/a.pcap", CAM, 0, 0), ("/d/two/a.pcap", CAM, 0, 1)]


def test_label_traffic__a_device_changes_hands_at_the_second() -> None:
    first, then = {"name": "a", "mac": CAM, "valid_to": "2020-02-01"}, {"name": "b", "mac": CAM}
    noon = int(datetime(2020, 2, 2, tzinfo=UTC).timestamp())
    rows = [{"second": second} for second in (noon, noon - 1)]
    valid_from = datetime(2020, 2, 2, tzinfo=UTC)
    assert _labelled(rows, first, {**then, "valid_from": valid_from}) == [
        ("x.pcap", CAM, noon - 1, 0),
        ("x.pcap", CAM, noon, 1),
    ]


def test_label_traffic__entries_of_one_name_are_one_device_also_by_address() -> None:
    entries = [{"name": "a", "mac": CAM, "path": "*/a/*"}, {"name": "a", "mac": PLUG}, {"name": "b", "ip": "10.0.0.9"}]
    rows = [
        {"capture_file": "/a/x.pcap", "device": PLUG},
        {"capture_file": "/b/x.pcap", "device": PLUG},
        {"capture_file": "/b/x.pcap", "device": "10.0.0.9"},
        {"capture_file": "/b/x.pcap", "device": "10.0.0.8"},
    ]
    assert _labelled(rows, *entries) == [
        ("/a/x.pcap", PLUG, 0, 0),
        ("/b/x.pcap", PLUG, 0, 0),
        ("/b/x.pcap", "10.0.0.9", 0, 1),
    ]


def test_label_traffic__labels_are_indices_of_those_given_and_rows_are_in_order() -> None:
    devices = DeviceList(tuple(Device(name=mac, model=model, mac=mac) for mac, model in ((CAM, "c"), (PLUG, "p"))))
    rows = [
        {"capture_file": file, "device": device, "second": second, "sent": sent, "frame_length": length}
        for file in ("b", "a")
        for device in (PLUG, CAM)
        for second in (10, 9)
        for sent in (True, False)
        for length in (100, 60)
    ]
    traffic = label_traffic(_counts(rows), devices, "model", ["z", "p"])
    assert traffic.labels == ("z", "p")
    assert set(traffic.table["label"].to_pylist()) == {1}
    assert set(traffic.table["device"].to_pylist()) == {PLUG}
    keys = [tuple(row.values())[:5] for row in traffic.table.to_pylist()]
    assert keys == sorted(keys)
    assert len(keys) == 16
    assert traffic.table["capture_file"].chunk(0).dictionary.to_pylist() == ["a", "b"]
    assert label_traffic(_counts([]), devices, "model", ["p"]).table.num_rows == 0
    with pytest.raises(LabelError, match="has no type"):
        label_traffic(_counts(rows), devices, "type", ["p"])


def _sending(*messages: tuple[str, str, float, int]) -> list[Packet]:
    """UDP datagrams: sender, receiver, seconds since 1970, payload bytes."""
    network, packets = Network(), []
    for source, target, time_s, length in messages:
        clock = Clock(int(time_s * 1e9), 0, random.Random(1))
        packets += network.udp((_HOSTS[source], _HOSTS[target]), (5000, 6000), [(0, bytes(length))], clock)
    return packets


def _rows(traffic: DeviceTraffic, *names: str) -> list[tuple[Any, ...]]:
    return list(zip(*(traffic.table[name].to_pylist() for name in names), strict=True))


def test_ends__are_asked_for_by_the_macs_and_addresses_of_all_devices() -> None:
    devices = DeviceList((
        Device(name="plug", mac=(PLUG, CAM)), Device(name="hub", mac=PHONE, ip="10.0.0.9"),
        Device(name="tv", ip=("10.0.0.4", "10.0.0.3")), Device(name="box", path="*/b/*"),
    ))  # fmt: skip
    assert devices.macs == [CAM, PLUG, PHONE]
    assert devices.addresses() == ["10.0.0.3", "10.0.0.4", "10.0.0.9"]
    assert devices.addresses(without_mac=True) == ["10.0.0.3", "10.0.0.4"]


def test_at_devices__follow_the_rule_for_flows_unsure_where_only_a_mac_received() -> None:
    ends = [("10.0.0.1", CAM), ("52.1.2.3", CAM), ("52.1.2.3", PLUG), ("10.0.0.2", None), ("0.0.0.0", CAM)]
    ends += [("52.1.2.3", None), ("224.0.0.251", "01:00:5e:00:00:fb"), ("10.0.0.255", "ff:ff:ff:ff:ff:ff")]
    batch = pa.RecordBatch.from_pylist([{"ip": ip, "mac": mac, "sent": sent} for ip, mac in ends for sent in (1, 0)])
    batch = batch.set_column(2, "sent", batch["sent"].cast(pa.bool_()))

    def found(devices: DeviceList) -> list[tuple[Any, ...]]:
        (left,) = _at_devices([batch], devices.site("lab"))
        return [(ends.index((row["ip"], row["mac"])), row["sent"], row["sure"]) for row in left.to_pylist()]

    inside = [(0, True, True), (0, False, True), (3, True, True), (3, False, True)]
    group = [(7, True, True), (7, False, False)]
    devices = DeviceList((Device(name="cam", mac=CAM),))
    assert found(devices) == [*inside, *group], "nothing is known of routers"
    beyond = [(1, True, True), (1, False, False)]
    unspecified = [(4, True, True), (4, False, False)]
    to_all = [(6, True, True), (6, False, False)]
    learned = replace(devices, routers={"lab": frozenset({PLUG}), "elsewhere": frozenset({CAM})})
    assert found(learned) == [*inside[:2], *beyond, *inside[2:], *unspecified, *to_all, *group]


@pytest.mark.spark
def test_read_traffic__tells_sent_from_received_and_counts_whole_seconds(
    spark: SparkSession, settings: Settings, tmp_path: Path
) -> None:
    packets = _sending(
        (CAM, PLUG, 100.0, 50), (CAM, PHONE, 100.999, 50), (CAM, PHONE, 101, 50), (PHONE, CAM, 100.5, 80),
        (PHONE, PHONE, 100.5, 80),
    )  # fmt: skip
    CaptureFile("a.pcap").write(tmp_path, packets)
    devices = DeviceList((Device(name="cam", mac=CAM), Device(name="plug", mac=PLUG)))
    traffic = read_device_traffic(spark, {"": [str(tmp_path)]}, devices, "name", ["cam", "plug"], settings.capture)
    assert _rows(traffic, "device", "second", "sent", "frame_length", "packets", "label") == [
        (CAM, 100, False, 122, 1, 0),
        (CAM, 100, True, 92, 2, 0),
        (CAM, 101, True, 92, 1, 0),
        (PLUG, 100, False, 92, 1, 1),
    ]


@pytest.mark.spark
def test_read_traffic__what_a_listed_router_forwards_is_not_the_routers(
    spark: SparkSession, settings: Settings, tmp_path: Path
) -> None:
    network, clock = Network(), Clock(int(100e9), 0, random.Random(1))
    beyond, router = Host(PLUG, "52.1.2.3", "2001:db8::1"), Host(PLUG, "10.0.0.254", "fd00::fe")
    pairs = [(_HOSTS[CAM], beyond), (_HOSTS[PHONE], beyond), (beyond, _HOSTS[CAM]), (router, beyond)]
    CaptureFile("a.pcap").write(
        tmp_path, [packet for pair in pairs for packet in network.udp(pair, (5000, 6000), [(0, bytes(50))], clock)]
    )
    devices = DeviceList((Device(name="cam", mac=CAM), Device(name="router", mac=PLUG)))
    traffic = read_device_traffic(spark, {"": [str(tmp_path)]}, devices, "name", ["cam", "router"], settings.capture)
    assert Counter(_rows(traffic, "sent", "label", "packets")) == Counter([(True, 0, 1), (False, 0, 1), (True, 1, 1)])


@pytest.mark.spark
def test_read_traffic__a_device_with_an_outside_address_has_what_it_sends_and_receiv(
    spark: SparkSession, settings: Settings, tmp_path: Path
) -> None:
    """Of each site's captures by its own routers: at the office the router of the home is a device."""
    network, clock = Network(), Clock(int(100e9), 0, random.Random(1))
    server = Host(PLUG, "52.1.2.3", "2001:db8::1")
    moved = Host(CAM, "100.64.0.9", "2001:db8:1::9")
    quiet = Host(CAM, "100.64.7.7", "2001:db8:7::7")  # nothing is sent from there
    for site, pairs in (("home", [(moved, server), (server, moved), (server, quiet)]), ("office", [(server, moved)])):
        packets = [packet for pair in pairs for packet in network.udp(pair, (5, 6), [(0, bytes(50))], clock)]
        (tmp_path / site).mkdir()
        CaptureFile("a.pcap").write(tmp_path / site, packets)
    listed = DeviceList((Device(name="cam", mac=CAM), Device(name="router", mac=PLUG)))
    devices = replace(listed, routers={"home": frozenset({PLUG}), "office": frozenset({CAM})})
    paths = {site: [str(tmp_path / site)] for site in ("home", "office")}
    traffic = read_device_traffic(spark, paths, devices, "name", ["cam", "router"], settings.capture)
    rows = _rows(traffic, "capture_file", "sent", "label", "packets")
    assert [(Path(file).parent.name, *rest) for file, *rest in rows] == [
        ("home", False, 0, 1), ("home", True, 0, 1), ("office", True, 1, 1),
    ]  # fmt: skip
    unknown = read_device_traffic(spark, paths, listed, "name", ["cam", "router"], settings.capture)
    assert _rows(unknown, "device") == [], "where nothing is known of routers, networks alone tell"


@pytest.mark.spark
def test_read_traffic__without_a_mac_an_address_identifies_its_only_sender(
    spark: SparkSession, settings: Settings, tmp_path: Path
) -> None:
    both = frozenset({CAM, PLUG, PHONE})
    asked = [(CAM, PHONE, 100.0, 50), (PHONE, CAM, 100.2, 80)]
    CaptureFile("a.pcapng", cooked=both).write(tmp_path, _sending(*asked))
    CaptureFile("b.pcapng", cooked=both).write(tmp_path, _sending(asked[1]))
    borrowed = Network().udp(
        (Host(PLUG, "10.0.0.1", "fd00::1"), _HOSTS[PHONE]),
        (1, 2),
        [(0, bytes(50))],
        Clock(int(100e9), 0, random.Random(1)),
    )
    CaptureFile("c.pcapng", cooked=both).write(tmp_path, [*_sending(*asked), *borrowed])
    devices = [Device(name="cam", mac=CAM, ip="10.0.0.77"), Device(name="plug", mac=PLUG)]

    def found(devices: Iterable[Device]) -> list[tuple[Any, ...]]:
        listed = DeviceList(tuple(devices))
        traffic = read_device_traffic(
            spark, {"": [str(tmp_path)]}, listed, "name", ["cam", "plug", "phone"], settings.capture
        )
        rows = _rows(traffic, "capture_file", "device", "sent", "label")
        return [(Path(file).stem, *rest) for file, *rest in rows]

    seen = [("a", CAM, False, 0), ("a", CAM, True, 0), ("c", CAM, True, 0), ("c", PLUG, True, 1)]
    assert found(devices) == seen
    by_address = found([*devices, Device(name="phone", ip="10.0.0.9")])
    assert [row for row in by_address if row[3] == 2] == [
        (file, "10.0.0.9", sent, 2)
        for file, sent in (("a", False), ("a", True), ("b", True), ("c", False), ("c", True))
    ]
    assert [row for row in by_address if row[3] != 2] == seen
    moved = Device(name="cam", mac=CAM, ip="10.0.0.1")
    assert [row for row in found([moved]) if row[0] == "b"] == [("b", "10.0.0.1", False, 0)]


@pytest.mark.spark
def test_read_traffic__equals_a_simulated_date_counted_packet_by_packet(
    spark: SparkSession, settings: Settings, tmp_path: Path
) -> None:
    write_demo(tmp_path)
    devices = DeviceList.read(tmp_path / "devices.yaml")
    labels = sorted(set(devices.labels("model")))
    captures = str(tmp_path / "captures" / "home" / CAPTURE_DATES[0])
    capture = settings.capture.model_copy(update={"split_bytes": 1 << 20, "task_bytes": 1 << 20, "tunnels": ("gre",)})
    traffic = read_device_traffic(spark, {"": [captures]}, devices, "model", labels, capture)
    label_of = {device.mac[0]: labels.index(device.model) for device in devices.devices}
    expected = _one_by_one(read_packets(captures, settings=capture), label_of)
    assert _as_counter(traffic) == expected
    received = [row for row in expected if row[0].endswith("midnight.pcapng") and not row[3]]
    assert labels.index("vistara-tv") in {row[5] for row in received}, "of the cooked interface"
    assert np.unique(traffic.table["label"].to_numpy()).size > 9


@pytest.mark.spark
@pytest.mark.captures
def test_read_traffic__equals_real_captures_counted_packet_by_packet(
    spark: SparkSession, settings: Settings, captures: Path
) -> None:
    folders = [str(captures / "aalto" / "Withings"), str(captures / "lsif" / "tp-link_LightBulb")]
    devices = DeviceList.read("aalto.yaml", "lsif.yaml")
    labels = ["Withings", "tp-link_LightBulb"]
    label_of = {device.mac[0]: labels.index(device.name) for device in devices.devices if device.name in labels}
    expected = _one_by_one(read_packets(folders, settings=settings.capture), label_of)
    assert {(row[3], row[5]) for row in expected} == {(sent, label) for sent in (True, False) for label in (0, 1)}
    assert _as_counter(read_device_traffic(spark, {"": folders}, devices, "name", labels, settings.capture)) == expected
