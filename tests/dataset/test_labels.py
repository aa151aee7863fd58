"""Device lists: what is read of them, what is refused, and which device a flow belongs to."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iotid.census.devices import name_devices
from iotid.config import conf_dir, load_settings
from iotid.dataset import Device, DeviceList
from iotid.errors import LabelError
from iotid.labels.owner import Networks

FlowTable = Callable[[Sequence[dict[str, Any]]], pa.Table]

HUE = "00:17:88:24:76:ff"
CAM = "aa:bb:cc:dd:ee:01"
PLUG = "aa:bb:cc:dd:ee:02"
PHONE = "aa:bb:cc:dd:ee:09"


def _write(folder: Path, text: str, name: str = "devices.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def _names(devices: DeviceList, flows: pa.Table) -> list[str | None]:
    return [devices.devices[number].name if number >= 0 else None for number in devices.match(flows)]


def test_read__yaml_entry_has_defaults_and_macs_in_one_form(tmp_path: Path) -> None:
    path = _write(
        tmp_path,
        "notes: of no consequence\ndevices:\n"
        "  - {name: Hue, mac: 00-17-88-24-76-FF, vendor: Philips, type: hub}\n"
        "  - {name: Cam, model: C1, mac: [AA:BB:CC:DD:EE:01, 10:11:12:13:14:15], ip: '2001:DB8::0:1',\n"
        "     valid_to: null}\n",
    )
    hue, cam = DeviceList.read(path).devices
    assert (hue.model, hue.mac, hue.vendor, hue.type) == ("Hue", (HUE,), "Philips", "hub")
    assert (cam.model, cam.mac, cam.ip) == ("C1", (CAM, "10:11:12:13:14:15"), ("2001:db8::1",))


def test_read__several_lists_are_one_and_contradict_each_other_with_both_names(tmp_path: Path) -> None:
    one, other = (
        _write(tmp_path, f"devices:\n  - {{name: {name}, mac: '{mac}'}}\n", f"{name}.yaml")
        for name, mac in (("Hue", HUE), ("Cam", CAM))
    )
    assert [device.name for device in DeviceList.read(one, other).devices] == ["Hue", "Cam"]
    again = _write(tmp_path, f"devices:\n  - {{name: Plug, mac: '{CAM}'}}\n", "again.yaml")
    with pytest.raises(LabelError, match=rf"{other}, {again}: MAC {CAM} is listed for Cam and for Plug"):
        DeviceList.read(other, again)


def test_read__csv_passes_over_other_columns_and_takes_a_device_type_as_the_model(tmp_path: Path) -> None:
    path = _write(
        tmp_path,
        "mac,device,full_name,vendor,type,device_type_27,flows\n"
        f'{CAM},Cam1,"A camera, indoors",Acme,camera,Cam,12\n{PLUG},Plug,,,,,\n'
        f"{CAM.replace(':', '-').upper()},Cam1,again,Acme,camera,Cam,1\n\n",
        "devices.csv",
    )
    devices = DeviceList.read(path)
    assert [(device.name, device.model, device.mac) for device in devices.devices] == [
        ("Cam1", "Cam", (CAM,)),
        ("Plug", "Plug", (PLUG,)),
        ("Cam1", "Cam", (CAM,)),
    ]
    assert devices.describe("model")["Cam"] == {"vendor": "Acme", "type": "camera", "model": "Cam"}


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("d.yaml", "devices: []", "holds no devices"),
        ("d.yaml", "- name: x", "under the key `devices:`"),
        ("d.yaml", "devices: {a: [", "not valid YAML"),
        ("d.yaml", "device:\n  - name: x", "under the key `devices:`"),
        ("d.yaml", f"devices:\n  - {{name: x, macs: '{CAM}'}}", "device 1 (x): unknown key 'macs'; did you mean mac?"),
        ("d.yaml", "devices:\n  - {name: x, mac: 00:11:22}", "'00:11:22' is not a MAC"),
        ("d.yaml", "devices:\n  - {name: x, ip: 10.0.0.300}", "does not appear to be an IPv4 or IPv6 address"),
        ("d.yaml", "devices:\n  - {name: x}", "has no mac, ip or path"),
        ("d.yaml", f"devices:\n  - {{mac: '{CAM}'}}", "name is missing"),
        ("d.yaml", f"devices:\n  - {{name: x, mac: '{CAM}', valid_from: soon}}", "valid_from"),
        ("d.yaml", f"devices:\n  - {{name: x, mac: '{CAM}', valid_from: 2024-02-02, valid_to: 2024-02-01}}", "before"),
        ("d.yaml", f"extra: 1\ndevices:\n  - {{name: x, mac: '{CAM}'}}", "unknown key 'extra'"),
        ("d.csv", "vendor,mac\nAcme,aa\n", "`device` or `name`"),
        ("d.csv", f"device,mac\nx,{CAM}\n,{PLUG}\n", "line 3 (no name): name is missing"),
        ("d.csv", "device,mac\n", "holds no devices"),
    ],
)
def test_read__fault_is_one_line_that_names_file_and_rule(tmp_path: Path, name: str, text: str, told: str) -> None:
    path = _write(tmp_path, text, name)
    with pytest.raises(LabelError) as raised:
        DeviceList.read(path)
    assert str(path) in str(raised.value)
    assert told in str(raised.value)
    assert "\n" not in str(raised.value)


def test_read__missing_file_is_named() -> None:
    with pytest.raises(LabelError, match=r"no/such\.yaml: cannot be read"):
        DeviceList.read("no/such.yaml")


def test_devices__one_mac_of_two_devices_is_refused_unless_something_tells_them_apart() -> None:
    def both(**of_each: tuple[Any, Any]) -> DeviceList:
        entries = [{"name": f"{number}", "mac": HUE} for number in (1, 2)]
        for key, values in of_each.items():
            for entry, value in zip(entries, values, strict=True):
                entry[key] = value
        return DeviceList(tuple(Device(**entry) for entry in entries), "list.yaml")

    for refused in (
        {},
        {"path": ("*/a/*", ())},
        {"path": ("*/a/*", "*/a/*")},
        {"valid_from": ("2024-01-01", "2024-02-01")},
    ):
        with pytest.raises(LabelError, match=rf"list\.yaml: MAC {HUE} is listed for 1 and for 2"):
            both(**refused)
    assert both(path=("*/a/*", "*/b/*"))
    assert both(valid_from=("2020-01-01", "2024-02-01"), valid_to=("2024-01-31", "2030-01-01"))
    assert both(name=("same", "same"))


def test_match__stronger_evidence_wins(flow_table: FlowTable) -> None:
    devices = DeviceList(
        (
            Device(name="path", path="*/Hue/*"),
            Device(name="hue", mac=HUE),
            Device(name="cam", mac=CAM),
            Device(name="address", ip="10.0.0.9"),
            Device(name="server", ip="10.0.0.8"),
        )
    )
    outside = "192.0.2.7"
    flows = flow_table(
        [
            {"capture_file": "/x/Hue/a.pcap", "client_mac": CAM, "client_ip": "10.0.0.9"},
            {"client_mac": CAM, "server_mac": HUE, "client_ip": "10.0.0.9"},
            {"client_mac": PLUG, "client_ip": "10.0.0.9"},
            {"client_ip": "10.0.0.9", "server_ip": "10.0.0.8"},
            {"client_ip": outside, "server_ip": "10.0.0.8"},
            {"client_ip": outside, "client_mac": CAM, "server_ip": "10.0.0.8", "server_mac": HUE},
            {"client_mac": PLUG},
        ]
    )
    assert _names(devices, flows) == ["path", "cam", "address", "address", "server", "hue", None]


_ROUTER, _CAM, _PHONE, _INTERNET = (
    ("192.168.1.1", PLUG),
    ("192.168.1.5", CAM),
    ("192.168.1.7", PHONE),
    ("52.1.2.3", PLUG),
)
_WHOSE = [
    (_CAM, _INTERNET, "cam"),
    (_PHONE, _INTERNET, None),
    (_INTERNET, _CAM, "cam"),
    (_ROUTER, _INTERNET, "router"),
    (_PHONE, _ROUTER, None),
    (_PHONE, _CAM, None),
    (_CAM, _ROUTER, "cam"),
    (_CAM, ("224.0.0.251", "01:00:5e:00:00:fb"), "cam"),
    (("0.0.0.0", CAM), ("255.255.255.255", "ff:ff:ff:ff:ff:ff"), None),
    (_INTERNET, _INTERNET, None),
    (_INTERNET, ("192.168.1.255", "ff:ff:ff:ff:ff:ff"), None),
]  # what a client's flow to a server is; the router's MAC is beside every address of the Internet


@pytest.mark.parametrize("identify", ["mac", "ip"])
def test_match__a_flow_is_the_clients_inside_else_the_servers_as_the_census_says(
    identify: str, flow_table: FlowTable
) -> None:
    listed = {"cam": _CAM, "router": _ROUTER}
    place = {"ip": 0, "mac": 1}[identify]
    devices = DeviceList(tuple(Device(name=name, **{identify: end[place]}) for name, end in listed.items()))
    flows = flow_table(
        [
            {"client_ip": client[0], "client_mac": client[1], "server_ip": server[0], "server_mac": server[1]}
            for client, server, _ in _WHOSE
        ]
    )
    assert _names(devices, flows) == [name for _, _, name in _WHOSE]
    columns = [flows[name].combine_chunks() for name in ("client_ip", "client_mac", "server_ip", "server_mac")]
    in_census, _, _ = name_devices(*columns, Networks(devices.inside))
    name_of = {end[1]: name for name, end in listed.items()}
    assert [name_of.get(mac) for mac in in_census.to_pylist()] == [name for _, _, name in _WHOSE]


def test_match__the_sites_networks_are_the_lists_and_make_it_another_list(
    flow_table: FlowTable, tmp_path: Path
) -> None:
    path = _write(tmp_path, f"devices:\n  - {{name: cam, mac: '{CAM}'}}\n")
    flows = flow_table([{"client_ip": "203.0.113.9", "client_mac": CAM}])
    usual, public = DeviceList.read(path), DeviceList.read(path, inside=["203.0.113.0/24"])
    assert (_names(usual, flows), _names(public, flows)) == ([None], ["cam"])
    assert usual.inside == load_settings().census.inside
    assert usual.hash != public.hash


def test_match__shared_mac_is_decided_by_path_and_is_a_conflict_elsewhere(flow_table: FlowTable) -> None:
    devices = DeviceList.read(conf_dir() / "datasets" / "aalto.yaml")
    flows = flow_table(
        [
            {"capture_file": "/captures/aalto/HueBridge/Setup-1.pcap", "client_mac": HUE},
            {
                "capture_file": "HueSwitch/Setup-1.pcap",
                "client_ip": "192.0.2.7",
                "server_ip": "10.0.0.2",
                "server_mac": HUE,
            },
            {"capture_file": "/captures/elsewhere.pcap", "client_mac": HUE},
            {"capture_file": "/captures/elsewhere.pcap", "client_mac": PLUG},
        ]
    )
    assert _names(devices, flows) == ["HueBridge", "HueSwitch", None, None]
    assert devices.resolve(flows)[1].tolist() == [False, False, True, False]


def test_match__pattern_of_two_devices_leaves_the_choice_to_their_macs(flow_table: FlowTable) -> None:
    devices = DeviceList((Device(name="cam", mac=CAM, path="lab/*"), Device(name="plug", mac=PLUG, path="lab/*")))
    flows = flow_table(
        [{"capture_file": "/x/lab/a.pcap", "client_mac": PLUG}, {"capture_file": "/x/lab/a.pcap"}, {"client_mac": CAM}]
    )
    assert _names(devices, flows) == ["plug", None, "cam"]
    assert devices.resolve(flows)[1].tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("pattern", "path", "fits"),
    [
        ("*/Hue/*", "s3://bucket/Hue/a.pcap", True),
        ("*/Hue/*", "Hue/a.pcap", True),
        ("Hue/a.pcap", "/data/Hue/a.pcap", True),
        ("a.pcap", "/data/Hue/ba.pcap", False),
        ("/Hue/*", "/data/Hue/a.pcap", False),
        ("*/Somfy-0[1-6]/*", "/d/Somfy-04/x.pcap", True),
        ("*/hue/*", "/data/Hue/a.pcap", False),
    ],
)
def test_match__path_patterns_are_shell_globs_that_also_fit_the_end(
    flow_table: FlowTable, pattern: str, path: str, fits: bool
) -> None:
    devices = DeviceList((Device(name="x", path=pattern),))
    assert (_names(devices, flow_table([{"capture_file": path}])) == ["x"]) is fits


def test_match__validity_holds_for_the_first_packet_and_dates_are_whole_days(flow_table: FlowTable) -> None:
    devices = DeviceList(
        (
            Device(name="old", mac=CAM, valid_to="2024-01-31"),
            Device(name="new", mac=CAM, valid_from="2024-02-01", valid_to="2024-03-01T12:00:00"),
        )
    )
    times = [(2020, 1, 1), (2024, 1, 31, 23, 59, 59, 999999), (2024, 2, 1), (2024, 3, 1, 11, 59, 59), (2024, 3, 1, 12)]
    flows = flow_table([{"client_mac": CAM, "first_seen": datetime(*time, tzinfo=UTC)} for time in times])
    assert _names(devices, flows) == ["old", "old", "new", "new", None]


def _slow_match(devices: DeviceList, flow: dict[str, Any]) -> int:
    """One flow at a time, in the words of the rule."""
    left = [n for n, d in enumerate(devices.devices) if d.valid_from <= flow["first_seen"] < d.valid_to]
    found = False
    columns = {"capture_file": "path"}
    for end in ("server", "client"):
        address = ip_address(flow[f"{end}_ip"])
        if any(address in ip_network(inside) for inside in devices.inside):
            columns = {"capture_file": "path", f"{end}_mac": "mac", f"{end}_ip": "ip"}
    for column, key in columns.items():
        value = flow[column]

        def fits(number: int, key: str = key, value: str | None = value) -> bool:
            listed = getattr(devices.devices[number], key)
            if key == "path":
                return any(
                    fnmatch.fnmatchcase("/" + str(value), p) or fnmatch.fnmatchcase("/" + str(value), "*/" + p)
                    for p in listed
                )
            return value in listed

        named = [number for number in left if fits(number)]
        if named:
            left, found = named, True
    return min(left) if found and len({devices.devices[number].name for number in left}) == 1 else -1


_MACS = [HUE, CAM, PLUG]
_IPS = ["10.0.0.1", "10.0.0.2"]
_PATHS = ["a/x.pcap", "b/x.pcap", "b/y.pcap"]
_DAYS = ["2024-03-01", "2024-03-02", "2024-03-03"]


@st.composite
def _entries(draw: st.DrawFn) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "name": draw(st.sampled_from(["one", "two", "three"])),
        "mac": draw(st.lists(st.sampled_from(_MACS), max_size=2)),
        "ip": draw(st.lists(st.sampled_from(_IPS), max_size=1)),
        "path": draw(st.lists(st.sampled_from(["a/*", "*/b/*", "x.pcap", "b/y.pcap"]), min_size=1, max_size=2)),
    }
    since, until = draw(st.tuples(st.sampled_from(_DAYS), st.sampled_from(_DAYS)))
    return {**entry, "valid_from": min(since, until), "valid_to": max(since, until)}


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_match__equals_its_slow_twin(flow_table: FlowTable, data: st.DataObject) -> None:
    entries = data.draw(st.lists(_entries(), min_size=1, max_size=5))
    try:
        devices = DeviceList(tuple(Device(**entry) for entry in entries))
    except LabelError:
        return
    rows = data.draw(
        st.lists(
            st.fixed_dictionaries(
                {
                    "capture_file": st.sampled_from(_PATHS),
                    "client_mac": st.sampled_from([*_MACS, None]),
                    "server_mac": st.sampled_from([*_MACS, None]),
                    "client_ip": st.sampled_from([*_IPS, "10.9.9.9", "52.1.2.3"]),
                    "server_ip": st.sampled_from([*_IPS, "10.9.9.9", "52.1.2.3"]),
                    "first_seen": st.datetimes(datetime(2024, 2, 28), datetime(2024, 3, 5)).map(
                        lambda time: time.replace(tzinfo=UTC)
                    ),
                }
            ),
            max_size=12,
        )
    )
    flows = flow_table(rows)
    assert devices.match(flows).tolist() == [_slow_match(devices, row) for row in flows.to_pylist()]
    batches = flows.to_batches(max_chunksize=3)
    matched = [devices.match(batch) for batch in batches]
    assert np.concatenate([np.empty(0, np.int32), *matched]).tolist() == devices.match(flows).tolist()


def test_labels__a_device_without_type_is_named_where_types_are_the_labels() -> None:
    devices = DeviceList((Device(name="x", mac=CAM),), "list.yaml")
    with pytest.raises(LabelError, match=r"list\.yaml: x has no type"):
        devices.labels("type")


def test_hash__tells_the_content_and_not_the_file() -> None:
    one, same, other = (
        DeviceList((Device(name=name, mac=CAM),), source) for name, source in (("x", "a"), ("x", "b"), ("y", "a"))
    )
    assert one.hash == same.hash != other.hash


@pytest.mark.parametrize(
    ("file", "names", "models"),
    [
        ("aalto", 31, 27),
        ("lsif", 22, 22),
        ("tmc18", 23, 22),
        ("sosr19", 24, 24),
        ("iot23", 3, 3),
        ("cic_iot_2022", 40, 31),
    ],
)
def test_conf__list_of_a_public_dataset_parses(file: str, names: int, models: int) -> None:
    devices = DeviceList.read(f"{file}.yaml")
    assert len(set(devices.labels("name"))) == len(devices.devices) == names
    assert len(set(devices.labels("model"))) == models
    assert all(device.vendor and device.type for device in devices.devices)


def test_conf__every_list_has_a_test() -> None:
    told = {"aalto", "lsif", "tmc18", "sosr19", "iot23", "cic_iot_2022"}
    assert {path.stem for path in (conf_dir() / "datasets").glob("*.yaml")} == told
