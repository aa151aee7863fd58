"""Devices that persons named label flows beside the device list, which wins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from iotid.errors import LabelError
from iotid.labels import Device, DeviceList
from iotid.labels.group_names import Statement
from iotid.labels.grouped_devices import state
from iotid.labels.named_devices import NamedDevices, read_named_devices
from iotid.partitions import PartitionKey, Store

FlowTable = Callable[[Sequence[dict[str, Any]]], pa.Table]
G, H = "g0123456789", "gabcdefabcd"
MAC, OTHER, LOCAL = "50:c7:bf:00:00:01", "50:c7:bf:00:00:02", "02:00:00:00:00:03"
ADDRESS, SECOND = "10.0.0.7", "10.0.0.8"
DAYS = ("2026-01-01", "2026-01-02", "2026-01-03")


@pytest.fixture
def store(tmp_path: Any, write_grouped_census: Callable, grouped_row: Callable) -> Store:
    """G has one device of each sort on the first date, and the MAC on the second; H has another MAC on the second."""
    made = Store(str(tmp_path))
    write_grouped_census(made, "a", 1, *(grouped_row(device, G) for device in (MAC, LOCAL, ADDRESS)))
    write_grouped_census(made, "a", 2, grouped_row(MAC, G), grouped_row(OTHER, H))
    return made


def _say(store: Store, group: str, model: str, action: str = "name", **more: Any) -> None:
    state(store, Statement(group, action, "anna", model=model, **more))


def _named(store: Store, site: str = "a", days: Sequence[str] = DAYS) -> NamedDevices:
    return read_named_devices(store, [PartitionKey.of_date(site, day) for day in days])


def _models(devices: DeviceList, flows: pa.Table, day: str, site: str = "a") -> list[str | None]:
    number_N, _, _ = devices.resolve_named(flows, site, day)
    return [devices.entries[number].model if number >= 0 else None for number in number_N.tolist()]


@pytest.fixture
def flows(flow_table: FlowTable) -> pa.Table:
    """A flow of each device, in turn of: a fixed MAC, one that may change, an address, and that address with a MAC."""
    outside = {"server_ip": "52.1.2.3"}
    return flow_table(
        [
            {"client_ip": "10.0.0.1", "client_mac": MAC, **outside},
            {"client_ip": "10.0.0.2", "client_mac": LOCAL, **outside},
            {"client_ip": ADDRESS, "client_mac": None, **outside},
            {"client_ip": ADDRESS, "client_mac": OTHER, **outside},
        ]
    )


def test_named__a_fixed_mac_is_named_always_others_on_dates_of_the_group(store: Store, flows: pa.Table) -> None:
    _say(store, G, "Cam 2", vendor="Acme", type="camera")
    devices = DeviceList(()).with_named(_named(store))
    assert _models(devices, flows, DAYS[0]) == ["Cam 2", "Cam 2", "Cam 2", None]
    assert _models(devices, flows, DAYS[1]) == ["Cam 2", None, None, None]
    assert _models(devices, flows, DAYS[2]) == ["Cam 2", None, None, None]
    assert _models(devices, flows, DAYS[0], site="b") == [None] * 4
    assert devices.describe("model") == {"Cam 2": {"vendor": "Acme", "type": "camera", "model": "Cam 2"}}
    assert devices.labels("name") == (f"Cam 2 {LOCAL} of a", f"Cam 2 {ADDRESS} of a", f"Cam 2 {MAC}")
    assert devices.source == "devices and the names of groups (iotid name)"


def test_named__the_side_that_owns_the_flow_is_the_device(store: Store, flow_table: FlowTable) -> None:
    _say(store, G, "Cam 2")
    devices = DeviceList(()).with_named(_named(store))
    to_camera = {"server_ip": "10.0.0.1", "server_mac": MAC}
    asked = flow_table(
        [{"client_ip": "52.1.2.3", "client_mac": OTHER, **to_camera}, {"client_ip": "10.0.0.9", **to_camera}]
    )
    assert _models(devices, asked, DAYS[0]) == ["Cam 2", None], "the other flow is the client's"


def test_named__a_member_of_a_later_census_is_named_though_nobody_repeats_it(
    store: Store, flows: pa.Table, write_grouped_census: Callable, grouped_row: Callable
) -> None:
    _say(store, G, "Cam 2")
    write_grouped_census(store, "a", 3, grouped_row(ADDRESS, G))
    write_grouped_census(store, "b", 3, grouped_row(LOCAL, G))
    assert _models(DeviceList(()).with_named(_named(store)), flows, DAYS[2]) == ["Cam 2", None, "Cam 2", None]
    elsewhere = DeviceList(()).with_named(_named(store, "b"))
    assert _models(elsewhere, flows, DAYS[2], "b") == [None, "Cam 2", None, None], "the same group at another site"


def test_named__members_stay_named_after_the_census_knows_them(
    store: Store, flows: pa.Table, write_grouped_census: Callable, grouped_row: Callable
) -> None:
    _say(store, G, "Cam 2")
    write_grouped_census(store, "a", 1, grouped_row(ADDRESS, None, status="known"))
    assert _models(DeviceList(()).with_named(_named(store)), flows, DAYS[0]) == ["Cam 2", "Cam 2", "Cam 2", None]


def test_named__what_is_rejected_or_to_be_split_has_no_label(store: Store, flows: pa.Table) -> None:
    for action in ("reject", "split"):
        _say(store, G, "Cam 2")
        _say(store, G, "", action)
        assert not _named(store)
        with pytest.raises(LabelError, match=r"--labels: there is no device list, and .* none has a name; give a list"):
            DeviceList((), "").with_named(_named(store))
    _say(store, G, "Cam 2")
    _say(store, G, "", "reject", dates=DAYS[1:2])
    devices = DeviceList(()).with_named(_named(store))
    assert _models(devices, flows, DAYS[1]) == [None] * 4
    assert _models(devices, flows, DAYS[0])[0] == "Cam 2"


def test_named__a_mac_of_two_names_has_each_on_its_dates_and_none_on_others(
    store: Store, flows: pa.Table, write_grouped_census: Callable, grouped_row: Callable
) -> None:
    _say(store, G, "Cam 2")
    write_grouped_census(store, "a", 2, grouped_row(MAC, H))
    _say(store, H, "Plug")
    devices = DeviceList(()).with_named(_named(store))
    assert [_models(devices, flows, day)[0] for day in DAYS] == ["Cam 2", "Plug", None]
    _, several_N, _ = devices.resolve_named(flows, "a", DAYS[2])
    assert several_N.tolist() == [True, False, False, False], "a conflict, not an unlisted host"


def test_named__a_device_list_wins_and_what_it_overrules_is_known(store: Store, flows: pa.Table) -> None:
    _say(store, G, "Cam 2", vendor="Else")
    listed = (Device(name="plug", vendor="Volt", mac=MAC), Device(name="Cam 2", vendor="Acme", mac=OTHER))
    devices = DeviceList(listed).with_named(_named(store))
    assert _models(devices, flows, DAYS[0]) == ["plug", "Cam 2", "Cam 2", "Cam 2"]
    number_N, several_N, overruled_N = devices.resolve_named(flows, "a", DAYS[0])
    assert not several_N.any()
    assert [devices.entries[number].mac for number in overruled_N.tolist() if number >= 0] == [(MAC,)]
    assert devices.describe("model")["Cam 2"]["vendor"] == "Acme"
    assert np.array_equal(devices.resolve(flows, "a")[0], [0, -1, -1, 1])
    twice = (Device(name="x", ip=ADDRESS), Device(name="y", ip=ADDRESS))
    ambiguous = DeviceList(twice).with_named(_named(store))
    number_N, several_N, _ = ambiguous.resolve_named(flows, "a", DAYS[0])
    assert (number_N[2], several_N[2]) == (-1, True), "nor does a person decide between entries of the list"


def test_named__pseudonyms_label_nothing(
    store: Store, flows: pa.Table, write_grouped_census: Callable, grouped_row: Callable
) -> None:
    write_grouped_census(store, "c", 1, grouped_row(LOCAL, G), key_fingerprint="0123")
    _say(store, G, "Cam 2")
    named = _named(store, "c")
    assert (named.named, named.pseudonyms) == ((), {("c", DAYS[0])})
    with pytest.raises(LabelError, match="their censuses have pseudonyms, which label no flows"):
        DeviceList((), "").with_named(named)
    assert _models(DeviceList(()).with_named(_named(store)), flows, DAYS[0])[1] == "Cam 2"


def test_named__hash_depends_on_what_persons_said_and_not_without(store: Store) -> None:
    listed = DeviceList((Device(name="plug", mac=OTHER),))
    hashes = [listed.hash, listed.with_named(_named(store)).hash]
    for model in ("Cam 2", "Cam 3"):
        _say(store, G, model)
        hashes.append(listed.with_named(_named(store)).hash)
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 3
    assert listed.with_named(_named(store)).hash == hashes[-1]


def test_named__a_name_without_the_attribute_of_the_label_says_how_to_give_it(store: Store) -> None:
    _say(store, G, "Cam 2")
    devices = DeviceList((Device(name="plug", mac=OTHER, type="plug"),)).with_named(_named(store))
    with pytest.raises(LabelError, match=rf"Cam 2 has no type, .* iotid name {G} --model … --type …"):
        devices.labels("type")


def test_named__an_odd_identifier_of_a_census_is_no_error(
    tmp_path: Any, flow_table: FlowTable, write_grouped_census: Callable, grouped_row: Callable
) -> None:
    store, odd = Store(str(tmp_path)), "01:00:5e:00:00:01"
    write_grouped_census(store, "a", 1, grouped_row(odd, G))
    _say(store, G, "Cam 2")
    devices = DeviceList(()).with_named(_named(store))
    assert _models(devices, flow_table([{"client_ip": "10.0.0.1", "client_mac": odd}]), DAYS[0]) == ["Cam 2"]
    assert devices.hash
