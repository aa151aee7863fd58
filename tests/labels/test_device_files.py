"""What is read of YAML and CSV device lists, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from iotid.config import conf_dir
from iotid.errors import LabelError
from iotid.labels import Device, DeviceList

from .device_lists import CAM, HUE, PLUG, write_list


def test_read__yaml_entry_has_defaults_and_macs_in_one_form(tmp_path: Path) -> None:
    path = write_list(
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
        write_list(tmp_path, f"devices:\n  - {{name: {name}, mac: '{mac}'}}\n", f"{name}.yaml")
        for name, mac in (("Hue", HUE), ("Cam", CAM))
    )
    assert [device.name for device in DeviceList.read(one, other).devices] == ["Hue", "Cam"]
    again = write_list(tmp_path, f"devices:\n  - {{name: Plug, mac: '{CAM}'}}\n", "again.yaml")
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
    path = write_list(tmp_path, text, name)
    with pytest.raises(LabelError) as raised:
        DeviceList.read(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < len(str(path)) + 1000


def test_read__a_mac_may_have_any_number_of_entries_that_are_told_apart(tmp_path: Path) -> None:
    alike = "".join(f"x,{CAM},*/{n}/*\n" for n in range(4000))
    other = "".join(f"y{n},{CAM},*/y{n}/*\n" for n in range(4000))
    assert len(DeviceList.read(write_list(tmp_path, f"device,mac,path\n{alike}{other}", "d.csv")).devices) == 8000


def test_read__csv_passes_over_other_columns_and_takes_a_device_type_as_the_model(tmp_path: Path) -> None:
    path = write_list(
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
    ("name", "text", "expected"),
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
        ("d.csv", f"device,path\nx,*/x/*\n\ndevice,path\n{CAM},*/y/*\n", "line 4 repeats the header of line 1"),
        ("d.csv", f'device,mac\nx,{CAM}\n"y,{PLUG}\nz,{HUE}\n', "line 3: is not valid CSV"),
        ("d.csv", f"device,macs\nx,{CAM}\n", "line 1: unknown column 'macs'; did you mean mac?"),
        ("d.csv", "device,IP Address,mac\nx,10.0.0.1,\n", "line 1: unknown column 'ip address'; did you mean ip?"),
        ("d.csv", f"device,mac,vender\nx,{CAM},Acme\n", "line 1: unknown column 'vender'; did you mean vendor?"),
        ("d.csv", f"device,mac,valid_form\nx,{CAM},2024-01-01\n", "did you mean valid_from?"),
        ("d.csv", f"nmae,mac\nx,{CAM}\n", "did you mean name?"),
    ],
)
def test_read__fault_is_one_line_that_names_file_and_rule(tmp_path: Path, name: str, text: str, expected: str) -> None:
    path = write_list(tmp_path, text, name)
    with pytest.raises(LabelError) as raised:
        DeviceList.read(path)
    assert str(path) in str(raised.value)
    assert expected in str(raised.value)
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
        DeviceList.read(write_list(tmp_path, text))


def test_read__a_file_of_ones_own_comes_before_a_list_of_conf_that_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(DeviceList.read("aalto.yaml").devices) > 1
    write_list(tmp_path, f"devices:\n  - {{name: Cam, mac: '{CAM}'}}\n", "aalto.yaml")
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
    path = write_list(tmp_path, f"{header}\n{CAM},Cam,a,b,c,d,1,2,e,f,g,h,i,j\n", "devices.csv")
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
    in_yaml = write_list(tmp_path, f"devices: [{{name: x, mac: {text}}}]")
    in_csv = write_list(tmp_path, f"name,mac\nx,{text}\n", "devices.csv")
    for path in (in_yaml, in_csv):
        assert DeviceList.read(path).devices[0].mac == ("02:ab:cd:ef:00:01",)


def test_read__a_mac_of_digits_alone_is_no_number(tmp_path: Path) -> None:
    path = write_list(tmp_path, "devices: [{name: 1e3, mac: 021234567890}, {name: 0x1F, mac: [02123456e890]}]")
    one, other = DeviceList.read(path).devices
    assert (one.name, one.mac) == ("1e3", ("02:12:34:56:78:90",))
    assert (other.name, other.mac) == ("0x1F", ("02:12:34:56:e8:90",))


@pytest.mark.parametrize(
    ("key", "value", "expected"),
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
        ("ip", "0.0.0.7", "no device can have"),
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
def test_devices__what_can_never_match_is_refused(key: str, value: str, expected: str) -> None:
    with pytest.raises(ValueError, match=re.escape(expected)):
        Device.model_validate({"name": "x", key: [value]})


def test_read__missing_file_is_named() -> None:
    with pytest.raises(LabelError, match=r"no/such\.yaml: cannot be read"):
        DeviceList.read("no/such.yaml")


@pytest.mark.parametrize(
    ("file", "names", "models"),
    [
        ("aalto", 31, 27),
        ("lsif", 22, 22),
        ("tmc18", 23, 22),
        ("sosr19", 24, 24),
        ("iot23", 3, 3),
        ("cic_iot_2022", 40, 31),
        ("ucl", 10, 10),
    ],
)
def test_conf__list_of_a_public_dataset_parses(file: str, names: int, models: int) -> None:
    devices = DeviceList.read(f"{file}.yaml")
    assert len(set(devices.labels("name"))) == len(devices.devices) == names
    assert len(set(devices.labels("model"))) == models
    assert all(device.vendor and device.type for device in devices.devices)


def test_conf__every_list_has_a_test() -> None:
    expected = {"aalto", "lsif", "tmc18", "sosr19", "iot23", "cic_iot_2022", "ucl"}
    assert {path.stem for path in (conf_dir() / "datasets").glob("*.yaml")} == expected
