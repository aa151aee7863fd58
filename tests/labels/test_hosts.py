"""Which device a flow tells of."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from iotid.config import load_settings
from iotid.labels.hosts import NO_HOST, OUTSIDE, ROUTER, UNANSWERED, name_devices
from iotid.labels.owner import Networks, Site

DEFAULT = load_settings().census.inside
CAMERA, GATEWAY = "02:00:00:00:00:0a", "02:00:00:00:00:01"


def table(*columns: pa.Array, answered: pa.Array) -> pa.Table:
    """Flows in which a server with a group's MAC sent nothing."""
    client_ip, client_mac, server_ip, server_mac = columns
    sent = [int(mac is None or mac[1] in "02468ace") for mac in server_mac.to_pylist()]
    names = ["client_ip", "client_mac", "server_ip", "server_mac", "client_packets", "server_packets", "answered"]
    ones = pa.array([1] * len(sent))
    return pa.table([client_ip, client_mac, server_ip, server_mac, ones, pa.array(sent), answered], names)


def named(
    client: tuple[str, str | None],
    server: tuple[str, str | None],
    inside: tuple[str, ...] = DEFAULT,
    answered: bool = True,
) -> tuple[str | None, str | None, str | None]:
    columns = [pa.array([value], pa.string()) for value in (*client, *server)]
    found = name_devices(table(*columns, answered=pa.array([answered])), Site(Networks(inside)))
    return found.device[0].as_py(), found.address[0].as_py(), found.reason[0].as_py()


def left_out(
    client: tuple[str, str | None, int], server: tuple[str, str | None, int], answered: bool = True
) -> tuple[str | None, str, str]:
    """MAC and address under which a flow is left out of a site whose router is known, and why; ends with packets."""
    names = ["client_ip", "client_mac", "client_packets", "server_ip", "server_mac", "server_packets", "answered"]
    values = (*client, *server, answered)
    flows = pa.table([pa.array([value], pa.string() if value is None else None) for value in values], names)
    found = name_devices(flows, Site(Networks(DEFAULT), frozenset({GATEWAY})))
    assert found.device.null_count == found.address.null_count == 1
    return found.mac[0].as_py(), found.ip[0].as_py(), found.reason[0].as_py()


def test_name_devices__the_client_inside_is_the_device_even_if_the_server_is_inside() -> None:
    assert named(("192.168.1.5", CAMERA), ("52.1.2.3", GATEWAY)) == (CAMERA, "192.168.1.5", None)
    assert named(("192.168.1.5", CAMERA), ("192.168.1.1", GATEWAY)) == (CAMERA, "192.168.1.5", None)


def test_name_devices__the_server_inside_is_the_device_of_a_client_outside() -> None:
    assert named(("52.1.2.3", GATEWAY), ("192.168.1.5", CAMERA)) == (CAMERA, "192.168.1.5", None)


def test_name_devices__a_gateways_mac_beside_an_address_outside_is_no_device() -> None:
    assert named(("198.51.100.7", GATEWAY), ("52.1.2.3", "02:00:00:00:00:02")) == (None, None, OUTSIDE)


def test_name_devices__without_a_mac_the_address_is_the_device() -> None:
    assert named(("10.1.1.1", None), ("52.1.2.3", None)) == ("10.1.1.1", "10.1.1.1", None)
    assert named(("fe80::1", "00:00:00:00:00:00"), ("ff02::fb", None)) == ("fe80::1", "fe80::1", None)


def test_name_devices__a_device_that_sends_to_many_is_one_but_the_many_are_not() -> None:
    everybody = "ff:ff:ff:ff:ff:ff"
    assert named(("192.168.1.5", CAMERA), ("192.168.1.255", everybody))[0] == CAMERA
    assert named(("52.1.2.3", GATEWAY), ("192.168.1.255", everybody)) == (None, None, OUTSIDE)
    assert named(("52.1.2.3", GATEWAY), ("192.168.1.9", "01:00:5e:00:00:fb")) == (None, None, OUTSIDE)


def test_name_devices__unspecified_multicast_and_broadcast_addresses_are_no_devices() -> None:
    everything = ("0.0.0.0/0", "::/0")
    pairs = [("0.0.0.0", "255.255.255.255"), ("224.0.0.1", "239.255.255.250"), ("::", "ff02::16")]
    for client, server in pairs:
        assert named((client, CAMERA), (server, None), everything) == (None, None, NO_HOST)


STRANGER, OWN, OTHER = ("52.1.2.3", GATEWAY), ("192.168.1.5", CAMERA), ("192.168.1.6", "02:00:00:00:00:0b")


def test_name_devices__flows_of_a_stranger_are_a_devices_only_if_it_answered() -> None:
    assert named(STRANGER, OWN, answered=False) == (None, None, UNANSWERED)
    assert named(("52.1.2.3", None), ("192.168.1.5", None), answered=False) == (None, None, UNANSWERED)
    assert named(STRANGER, OWN, answered=True) == (CAMERA, "192.168.1.5", None)


def test_name_devices__what_a_device_sent_is_its_own_whether_it_was_answered_or_not() -> None:
    for server in (STRANGER, OTHER, ("192.168.1.255", "ff:ff:ff:ff:ff:ff")):
        assert named(OWN, server, answered=False) == (CAMERA, "192.168.1.5", None)


def test_name_devices__a_flow_of_no_device_keeps_its_reason_where_nobody_answered() -> None:
    everybody = ("192.168.1.255", "ff:ff:ff:ff:ff:ff")
    assert named(STRANGER, everybody, answered=False) == (None, None, OUTSIDE)
    assert named(STRANGER, ("198.51.100.7", GATEWAY), answered=False) == (None, None, OUTSIDE)
    assert named(("0.0.0.0", CAMERA), ("224.0.0.1", None), answered=False) == (None, None, NO_HOST)


def test_name_devices__of_many_rows_each_gets_its_own() -> None:
    rng = np.random.default_rng(5)
    ips = np.array(["192.168.1.5", "10.0.0.1", "52.1.2.3", "0.0.0.0", "255.255.255.255", "fe80::5", "2001:db8::1"])
    macs = np.array([CAMERA, GATEWAY, "ff:ff:ff:ff:ff:ff", None])
    columns = [pa.array(rng.choice(values, 300), pa.string()) for values in (ips, macs, ips, macs)]
    answers = pa.array(rng.integers(0, 2, 300).astype(bool))
    together = name_devices(table(*columns, answered=answers), Site(Networks(DEFAULT)))
    for row, (client_ip, client_mac, server_ip, server_mac, answered) in enumerate(
        zip(*map(pa.Array.to_pylist, [*columns, answers]), strict=True)
    ):
        alone = named((client_ip, client_mac), (server_ip, server_mac), answered=answered)
        assert (together.device[row].as_py(), together.address[row].as_py(), together.reason[row].as_py()) == alone
        assert (alone[0] is None) == (alone[1] is None) == (alone[2] is not None)


def test_name_devices__what_is_left_out_is_listed_under_who_was_asked_else_who_sent() -> None:
    router, silent = ("52.1.2.3", GATEWAY, 2), ("203.0.113.9", CAMERA, 0)
    assert left_out(router, silent, answered=False) == (CAMERA, "203.0.113.9", UNANSWERED)
    assert left_out(silent, router) == (CAMERA, "203.0.113.9", UNANSWERED), "a refusal by whom it never asked"
    assert left_out(router, ("192.168.1.5", CAMERA, 1), answered=False) == (CAMERA, "192.168.1.5", UNANSWERED)
    assert left_out(router, ("192.168.1.5", None, 0), answered=False) == (None, "192.168.1.5", UNANSWERED)
    for many in (("192.168.1.255", "ff:ff:ff:ff:ff:ff", 0), ("239.1.1.1", "01:00:5e:01:01:01", 0)):
        assert left_out(router, many, answered=False) == (GATEWAY, "52.1.2.3", ROUTER)
    assert left_out(("198.51.100.7", GATEWAY, 1), router) == (GATEWAY, "198.51.100.7", ROUTER)
    assert left_out(("0.0.0.0", GATEWAY, 1), ("255.255.255.255", None, 0)) == (GATEWAY, "0.0.0.0", ROUTER)
    assert left_out(("52.1.2.3", None, 1), ("52.1.2.4", None, 1)) == (None, "52.1.2.3", OUTSIDE)
    assert left_out(("52.1.2.3", None, 0), ("52.1.2.4", "00:00:00:00:00:00", 1)) == (None, "52.1.2.4", OUTSIDE)
    assert left_out(("0.0.0.0", None, 1), ("255.255.255.255", None, 0)) == (None, "0.0.0.0", NO_HOST)


def test_name_devices__a_device_is_listed_under_its_own_mac_and_address() -> None:
    columns = [pa.array([value], pa.string()) for value in (*OWN, *STRANGER)]
    found = name_devices(table(*columns, answered=pa.array([True])), Site(Networks(DEFAULT)))
    assert [column.to_pylist() for column in found] == [[CAMERA], ["192.168.1.5"], [None]]
