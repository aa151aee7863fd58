"""Device lists: clashes of entries, labels, the hash of the content."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iotid.errors import LabelError
from iotid.labels import Device, DeviceList

from .device_lists import CAM, HUE


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


def test_devices__one_mac_of_two_devices_is_refused_unless_distinguished() -> None:
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


def test_labels__a_device_without_type_is_named_where_types_are_the_labels() -> None:
    devices = DeviceList((Device(name="x", mac=CAM),), "list.yaml")
    with pytest.raises(LabelError, match=r"list\.yaml: x has no type"):
        devices.labels("type")


def test_hash__tells_the_content_and_not_the_file() -> None:
    one, same, other = (
        DeviceList((Device(name=name, mac=CAM),), source) for name, source in (("x", "a"), ("x", "b"), ("y", "a"))
    )
    assert one.hash == same.hash != other.hash
