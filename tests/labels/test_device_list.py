"""Device lists: what is read of them, what is refused, and which device a flow belongs to."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iotid.config import conf_dir, load_settings
from iotid.errors import LabelError
from iotid.labels import Device, DeviceList
from iotid.labels.device_list import _path_regex
from iotid.labels.hosts import name_devices
from iotid.labels.owner import Networks, Site

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


def _bomb(levels: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, levels)]
    return "notes:\n  " + "\n  ".join(lines)


_LONG = "x" * 10**5


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("d.yaml", _bomb(9) + "\ndevices: []"),
        ("d.yaml", f"{_bomb(4)}\ndevices:\n  - {{name: x, mac: *a3}}"),
        ("d.yaml", "devices: " + "[" * 10**5),
        ("d.yaml", f"devices:\n  - {{name: x, mac: {_LONG}}}"),
        ("d.yaml", f"devices:\n  - {{name: x, ip: {_LONG}}}"),
        ("d.yaml", f"devices:\n  - {{name: x, path: {_LONG}}}"),
        ("d.yaml", f"devices:\n  - {{name: x, mac: '{CAM}', valid_from: {_LONG}}}"),
        ("d.yaml", f"devices:\n  - {{name: x, mac: '{CAM}', {_LONG}: 1}}"),
        ("d.yaml", f"devices:\n  - {{name: {_LONG}}}"),
        ("d.yaml", f"devices:\n  - {{name: [{'a,' * 10**4}], mac: '{CAM}'}}"),
        ("d.yaml", f"devices:\n  - {{{', '.join(f'k{n}: 1' for n in range(3000))}}}"),
        ("d.yaml", f"devices:\n  - {{name: x{_LONG}, mac: '{CAM}'}}\n  - {{name: y{_LONG}, mac: '{CAM}'}}"),
        ("d.yaml", f"devices: []\n{_LONG}: 1"),
        ("d.csv", f"device,mac\nx,{_LONG}\n"),
        ("d.csv", f"device,mac\n{_LONG},y\n"),
        ("d.csv", f"device,mac\nx,{'y' * 10**6}\n"),
        ("d.csv", f"device,mac\nx,{CAM},{_LONG}\n"),
        ("d.csv", f"device,{_LONG}\nx,{CAM}\n"),
        ("d.csv", f"device,mac,{_LONG},{_LONG}\nx,{CAM},1,2\n"),
        ("d.csv", f"device,mac,{','.join(f'c{n}' for n in range(20_000))}\nx,{CAM}\n"),
        ("d.csv", '"' * 10**5),
    ],
    ids=range(21),
)
def test_read__what_takes_memory_or_is_long_is_one_short_line(tmp_path: Path, name: str, text: str) -> None:
    path = _write(tmp_path, text, name)
    with pytest.raises(LabelError) as raised:
        DeviceList.read(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < len(str(path)) + 1000


def test_read__a_mac_may_have_any_number_of_entries_that_are_told_apart(tmp_path: Path) -> None:
    alike = "".join(f"x,{CAM},*/{n}/*\n" for n in range(4000))
    other = "".join(f"y{n},{CAM},*/y{n}/*\n" for n in range(4000))
    assert len(DeviceList.read(_write(tmp_path, f"device,mac,path\n{alike}{other}", "d.csv")).devices) == 8000


@given(
    st.lists(
        st.tuples(
            st.sampled_from("ab"), st.lists(st.sampled_from(["/p", "/q", "/r"]), max_size=2), st.integers(1, 6),
            st.integers(1, 6),
        ),
        max_size=5,
    )
)  # fmt: skip
def test_device_list__two_entries_of_a_mac_clash_where_comparing_all_pairs_says_so(entries: list[Any]) -> None:
    devices = [
        Device(name=name, mac=CAM, path=paths, valid_from=f"2024-01-0{start}", valid_to=f"2024-01-0{start + days}")
        for name, paths, start, days in entries
        if start + days < 10
    ]
    clash = any(
        one.name != other.name
        and one.valid_from < other.valid_to
        and other.valid_from < one.valid_to
        and not (one.path and other.path and not set(one.path) & set(other.path))
        for number, one in enumerate(devices)
        for other in devices[number + 1 :]
    )
    with pytest.raises(LabelError, match="is listed for") if clash else nullcontext():
        DeviceList(tuple(devices))


def test_match__brackets_without_end_are_themselves_and_cost_no_more_than_their_number() -> None:
    pattern = f"*/a[b]{'[' * 4000}"
    assert len(re.findall(r"\\\[|\[", _path_regex(pattern))) < 50_000
    for path, fits in ((f"/x/a[b]{'[' * 4000}", True), (f"/x/ab{'[' * 4000}", True), ("/x/ab", False)):
        assert bool(re.compile(_path_regex(pattern)).fullmatch(path)) is fits


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
        ("d.csv", "", "`device` or `name`"),
        ("d.yaml", f"devices:\n  - {{name: x, mac: '{CAM}', valid_from: 2024}}", "'2024' is no date"),
        ("d.yaml", f"devices:\n  - {{name: ' ', mac: '{CAM}'}}", "name: String should have at least 1"),
        ("d.csv", f"device,mac\nx,{CAM},\ny,{CAM},{PLUG}\n", f"line 3 (y): '{PLUG}' is in no column that the header"),
        ("d.csv", f"device,mac,\nx,{CAM},left over\n", "line 2 (x): 'left over' is in no column"),
        ("d.csv", f"device,mac,mac\nx,{CAM},{PLUG}\n", "line 1: columns 2 and 3 are both called 'mac'"),
        ("d.csv", f"device,Notes,mac,notes\nx,a,{CAM},b\n", "line 1: columns 2 and 4 are both called 'notes'"),
        ("d.csv", f"device,path\nx,*/x/*\n\ndevice,path\n{CAM},*/y/*\n", "line 4 is the header of line 1 once more"),
        ("d.csv", f'device,mac\nx,{CAM}\n"y,{PLUG}\nz,{HUE}\n', "line 3: is not valid CSV"),
        ("d.csv", f"device,macs\nx,{CAM}\n", "line 1: unknown column 'macs'; did you mean mac?"),
        ("d.csv", "device,IP Address,mac\nx,10.0.0.1,\n", "line 1: unknown column 'ip address'; did you mean ip?"),
        ("d.csv", f"device,mac,vender\nx,{CAM},Acme\n", "line 1: unknown column 'vender'; did you mean vendor?"),
        ("d.csv", f"device,mac,valid_form\nx,{CAM},2024-01-01\n", "did you mean valid_from?"),
        ("d.csv", f"nmae,mac\nx,{CAM}\n", "did you mean name?"),
    ],
)
def test_read__fault_is_one_line_that_names_file_and_rule(tmp_path: Path, name: str, text: str, told: str) -> None:
    path = _write(tmp_path, text, name)
    with pytest.raises(LabelError) as raised:
        DeviceList.read(path)
    assert str(path) in str(raised.value)
    assert told in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (f"devices:\n- {{name: x, mac: '{CAM}'}}\ndevices:\n- {{name: y, mac: '{PLUG}'}}\n", ("line 1", "line 3")),
        (f"devices:\n- name: x\n  mac: {CAM}\n  ip: 10.0.0.1\n  mac: {PLUG}\n", ("line 3", "line 5")),
        (f"devices:\n- {{name: x, mac: '{CAM}'}}\n---\ndevices:\n- {{name: y, mac: '{PLUG}'}}\n", ("line 1", "line 3")),
    ],
)
def test_read__what_yaml_would_cut_is_refused_with_both_lines(
    tmp_path: Path, text: str, lines: tuple[str, str]
) -> None:
    with pytest.raises(LabelError, match=rf"not valid YAML \(.*{lines[0]}.*{lines[1]}\)"):
        DeviceList.read(_write(tmp_path, text))


def test_read__a_file_of_ones_own_comes_before_a_list_of_conf_that_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(DeviceList.read("aalto.yaml").devices) > 1
    _write(tmp_path, f"devices:\n  - {{name: Cam, mac: '{CAM}'}}\n", "aalto.yaml")
    assert [device.name for device in DeviceList.read("aalto.yaml").devices] == ["Cam"]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_read__csv_as_spreadsheets_write_it(tmp_path: Path, separator: str, mark: str, end: str) -> None:
    rows = [
        ["Device", " MAC", "ip", "vendor", ""],
        ["Cam", f'"{CAM};{PLUG}"', "", '"Acme; Sons, ""Ltd"""', ""],
        ["", "", "", "", ""],
        ["Hub", "", "10.0.0.1", "null", ""],
        ["", " ", "", "", ""],
        ["", "", "", "", "", "", ""],
        ["Plug", HUE],
    ]
    path = tmp_path / "devices.csv"
    path.write_bytes((mark + end.join(separator.join(row) for row in rows) + end * 2).encode())
    cam, hub, plug = DeviceList.read(path).devices
    assert (cam.name, cam.mac, cam.ip, cam.vendor) == ("Cam", (CAM, PLUG), (), 'Acme; Sons, "Ltd"')
    assert (hub.name, hub.mac, hub.ip, hub.vendor) == ("Hub", (), ("10.0.0.1",), "")
    assert (plug.name, plug.mac) == ("Plug", (HUE,))


def test_read__csv_passes_over_columns_that_are_like_none_that_is_absent(tmp_path: Path) -> None:
    header = "mac,device,full_name,types,type,connection,captures,flows,notes,source,room,ssid,os,port"
    path = _write(tmp_path, f"{header}\n{CAM},Cam,a,b,c,d,1,2,e,f,g,h,i,j\n", "devices.csv")
    assert DeviceList.read(path).devices[0].type == "c"


@pytest.mark.parametrize(
    "text",
    [
        "02:ab:cd:ef:00:01", "02-AB-CD-EF-00-01", "02ab.cdef.0001", "02ab-cdef-0001", "02abcdef0001", "02ABCD-EF0001",
        "2:ab:cd:ef:0:1", " 02abcdef0001 ", "02.ab.cd.ef.00.01",
    ],
)  # fmt: skip
def test_read__macs_as_people_and_switches_write_them(tmp_path: Path, text: str) -> None:
    assert Device(name="x", mac=text).mac == ("02:ab:cd:ef:00:01",)
    in_yaml = _write(tmp_path, f"devices: [{{name: x, mac: {text}}}]")
    in_csv = _write(tmp_path, f"name,mac\nx,{text}\n", "devices.csv")
    for path in (in_yaml, in_csv):
        assert DeviceList.read(path).devices[0].mac == ("02:ab:cd:ef:00:01",)


def test_read__a_mac_of_digits_alone_is_no_number(tmp_path: Path) -> None:
    path = _write(tmp_path, "devices: [{name: 1e3, mac: 021234567890}, {name: 0x1F, mac: [02123456e890]}]")
    one, other = DeviceList.read(path).devices
    assert (one.name, one.mac) == ("1e3", ("02:12:34:56:78:90",))
    assert (other.name, other.mac) == ("0x1F", ("02:12:34:56:e8:90",))


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("mac", "ff:ff:ff:ff:ff:ff", "no single device"),
        ("mac", "01:00:5e:00:00:fb", "no single device"),
        ("mac", "33-33-00-00-00-01", "no single device"),
        ("mac", "0000.0000.0000", "no single device"),
        ("mac", "21234567890", "is not a MAC"),
        ("mac", "2.12346E+10", "is not a MAC"),
        ("mac", "02:ab:cd:ff:fe:ef:00:01", "is not a MAC"),
        ("mac", "02ab:cdef:00:01", "is not a MAC"),
        ("mac", "02::cd:ef:00:01", "is not a MAC"),
        ("ip", "224.0.0.251", "no single device"),
        ("ip", "ff02::fb%eth0", "no single device"),
        ("ip", "255.255.255.255", "no single device"),
        ("ip", "0.0.0.0", "no single device"),
        ("ip", "0.0.0.7", "no device keeps"),
        ("ip", "::", "no single device"),
        ("ip", "::ffff:224.0.0.1", "no single device"),
        ("ip", "192.168.1.0/24", "does not appear to be"),
        ("ip", "3232235777", "does not appear to be"),
        ("path", "", "fits no file"),
        ("path", "*/Hue/", "fits no file"),
        ("path", "*//Hue/*", "fits no file"),
        ("path", "./Hue/*", "none holds ."),
        ("path", "../Hue/*", "none holds .."),
        ("path", "~/Hue/*", "none holds ~"),
        ("path", "C:\\Hue\\*", "none holds \\"),
    ],
)
def test_devices__what_can_never_match_is_refused(key: str, value: str, told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(told)):
        Device.model_validate({"name": "x", key: [value]})


def test_match__addresses_are_those_of_packets_however_they_are_written(flow_table: FlowTable) -> None:
    written = ["fe80::1%eth0", "::ffff:192.168.1.2", "2001:DB8:0:0::1"]
    devices = DeviceList(tuple(Device(name=text, ip=text) for text in written))
    assert [device.ip for device in devices.devices] == [("fe80::1",), ("192.168.1.2",), ("2001:db8::1",)]
    flows = flow_table([{"client_ip": address} for address in ("fe80::1", "192.168.1.2", "2001:db8::1")])
    assert _names(devices, flows) == written


def test_match__letters_are_equal_composed_or_not(flow_table: FlowTable) -> None:
    composed, decomposed = "K\u00fcche", "Ku\u0308che"
    one, other = Device(name=composed, mac=CAM, type=decomposed), Device(name=decomposed, mac=CAM, type=composed)
    assert one == other
    assert DeviceList((one, other)), "one name, so that its MAC may be listed twice"
    for listed in (composed, decomposed):
        devices = DeviceList((Device(name="x", path=f"*/{listed}/*"),))
        flows = flow_table([{"capture_file": f"/d/{stored}/a.pcap"} for stored in (composed, decomposed, "Kuche")])
        assert _names(devices, flows) == ["x", "x", None]


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
            {
                "client_ip": client[0],
                "client_mac": client[1],
                "server_ip": server[0],
                "server_mac": server[1],
                "server_packets": int(server[1] is not None and server[1][1] in "02468ace"),
            }
            for client, server, _ in _WHOSE
        ]
    )
    assert _names(devices, flows) == [name for _, _, name in _WHOSE]
    in_census = name_devices(flows, Site(Networks(devices.inside))).device
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
    by_address = DeviceList((Device(name="cam", ip="203.0.113.9"),))
    assert _names(by_address, flows) == ["cam"], "what the list names is the site's"


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
        ("*/Hue [kitchen]/*", "/data/Hue [kitchen]/a.pcap", True),
        ("*/Hue [kitchen]/*", "/data/Hue k/a.pcap", True),
        ("Hue [kitchen]/*", "/data/Hue [kitchen]/a.pcap", True),
        ("/data/[a]/*", "/data/[a]/x.pcap", True),
        ("/data/[a]/*", "/other/[a]/x.pcap", False),
        ("*/[!a]/*", "/data/[!a]/x.pcap", True),
        ("*/Somfy-0[1-6]/*", "/d/Somfy-07/x.pcap", False),
        ("s3://bucket/*", "s3://bucket/a.pcap", True),
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
                path = "/" + str(value)
                globs = [glob for p in listed for glob in (p, "*/" + p)]
                return any(
                    fnmatch.fnmatchcase(path, g) or fnmatch.fnmatchcase(path, g.replace("[", "[[]")) for g in globs
                )
            return value in listed

        named = [number for number in left if fits(number)]
        if named:
            left, found = named, True
    return min(left) if found and len({devices.devices[number].name for number in left}) == 1 else -1


_MACS = [HUE, CAM, PLUG]
_IPS = ["10.0.0.1", "10.0.0.2"]
_PATHS = ["a/x.pcap", "b/x.pcap", "b/y.pcap", "[b]/y.pcap"]
_DAYS = ["2024-03-01", "2024-03-02", "2024-03-03"]


@st.composite
def _entries(draw: st.DrawFn) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "name": draw(st.sampled_from(["one", "two", "three"])),
        "mac": draw(st.lists(st.sampled_from(_MACS), max_size=2)),
        "ip": draw(st.lists(st.sampled_from(_IPS), max_size=1)),
        "path": draw(
            st.lists(st.sampled_from(["a/*", "*/b/*", "x.pcap", "b/y.pcap", "[b]/*"]), min_size=1, max_size=2)
        ),
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
