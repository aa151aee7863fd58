"""Which device a flow belongs to."""

from __future__ import annotations

import fnmatch
import re
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

from iotid.config import conf_dir, load_settings
from iotid.errors import LabelError
from iotid.labels import Device, DeviceList
from iotid.labels.device_list import _path_regex
from iotid.labels.hosts import name_devices
from iotid.labels.owner import Networks, Site

from .device_lists import CAM, HUE, PHONE, PLUG, matched_names, write_list

FlowTable = Callable[[Sequence[dict[str, Any]]], pa.Table]


def test_match__brackets_without_end_are_literal_and_cost_no_more_than_their_number() -> None:
    pattern = f"*/a[b]{'[' * 4000}"
    assert len(re.findall(r"\\\[|\[", _path_regex(pattern))) < 50_000
    for path, fits in ((f"/x/a[b]{'[' * 4000}", True), (f"/x/ab{'[' * 4000}", True), ("/x/ab", False)):
        assert bool(re.compile(_path_regex(pattern)).fullmatch(path)) is fits


def test_match__addresses_are_those_of_packets_however_they_are_written(flow_table: FlowTable) -> None:
    written = ["fe80::1%eth0", "::ffff:192.168.1.2", "2001:DB8:0:0::1"]
    devices = DeviceList(tuple(Device(name=text, ip=text) for text in written))
    assert [device.ip for device in devices.devices] == [("fe80::1",), ("192.168.1.2",), ("2001:db8::1",)]
    flows = flow_table([{"client_ip": address} for address in ("fe80::1", "192.168.1.2", "2001:db8::1")])
    assert matched_names(devices, flows) == written


def test_match__letters_are_equal_composed_or_not(flow_table: FlowTable) -> None:
    composed, decomposed = "K\u00fcche", "Ku\u0308che"
    one, other = Device(name=composed, mac=CAM, type=decomposed), Device(name=decomposed, mac=CAM, type=composed)
    assert one == other
    assert DeviceList((one, other)), "one name, so that its MAC may be listed twice"
    for listed in (composed, decomposed):
        devices = DeviceList((Device(name="x", path=f"*/{listed}/*"),))
        flows = flow_table([{"capture_file": f"/d/{stored}/a.pcap"} for stored in (composed, decomposed, "Kuche")])
        assert matched_names(devices, flows) == ["x", "x", None]


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
    assert matched_names(devices, flows) == ["path", "cam", "address", "address", "server", "hue", None]


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
    assert matched_names(devices, flows) == [name for _, _, name in _WHOSE]
    in_census = name_devices(flows, Site(Networks(devices.inside))).device
    name_of = {end[1]: name for name, end in listed.items()}
    assert [name_of.get(mac) for mac in in_census.to_pylist()] == [name for _, _, name in _WHOSE]


def test_match__the_sites_networks_are_the_lists_and_make_it_another_list(
    flow_table: FlowTable, tmp_path: Path
) -> None:
    path = write_list(tmp_path, f"devices:\n  - {{name: cam, mac: '{CAM}'}}\n")
    flows = flow_table([{"client_ip": "203.0.113.9", "client_mac": CAM}])
    usual, public = DeviceList.read(path), DeviceList.read(path, inside=["203.0.113.0/24"])
    assert (matched_names(usual, flows), matched_names(public, flows)) == ([None], ["cam"])
    assert usual.inside == load_settings().census.inside
    assert usual.hash != public.hash
    by_address = DeviceList((Device(name="cam", ip="203.0.113.9"),))
    assert matched_names(by_address, flows) == ["cam"], "what the list names is the site's"


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
    assert matched_names(devices, flows) == ["HueBridge", "HueSwitch", None, None]
    assert devices.resolve(flows)[1].tolist() == [False, False, True, False]


def test_match__pattern_of_two_devices_leaves_the_choice_to_their_macs(flow_table: FlowTable) -> None:
    devices = DeviceList((Device(name="cam", mac=CAM, path="lab/*"), Device(name="plug", mac=PLUG, path="lab/*")))
    flows = flow_table(
        [{"capture_file": "/x/lab/a.pcap", "client_mac": PLUG}, {"capture_file": "/x/lab/a.pcap"}, {"client_mac": CAM}]
    )
    assert matched_names(devices, flows) == ["plug", None, "cam"]
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
    assert (matched_names(devices, flow_table([{"capture_file": path}])) == ["x"]) is fits


def test_match__validity_holds_for_the_first_packet_and_dates_are_whole_days(flow_table: FlowTable) -> None:
    devices = DeviceList(
        (
            Device(name="old", mac=CAM, valid_to="2024-01-31"),
            Device(name="new", mac=CAM, valid_from="2024-02-01", valid_to="2024-03-01T12:00:00"),
        )
    )
    times = [(2020, 1, 1), (2024, 1, 31, 23, 59, 59, 999999), (2024, 2, 1), (2024, 3, 1, 11, 59, 59), (2024, 3, 1, 12)]
    flows = flow_table([{"client_mac": CAM, "first_seen": datetime(*time, tzinfo=UTC)} for time in times])
    assert matched_names(devices, flows) == ["old", "old", "new", "new", None]


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
def test_match__equals_its_slow_reference(flow_table: FlowTable, data: st.DataObject) -> None:
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
