"""Which device a flow tells of."""

from __future__ import annotations

import ipaddress
import random

import numpy as np
import pyarrow as pa
import pytest

from iotid.census.devices import GROUP_MAC, NO_HOST, OUTSIDE, Networks, name_devices
from iotid.config import load_settings
from iotid.errors import SettingError

DEFAULT = load_settings().census.inside
CAMERA, GATEWAY = "02:00:00:00:00:0a", "02:00:00:00:00:01"


def named(
    client: tuple[str, str | None], server: tuple[str, str | None], inside: tuple[str, ...] = DEFAULT
) -> tuple[str | None, str | None, str | None]:
    columns = [pa.array([value], pa.string()) for value in (*client, *server)]
    device, address, reason = name_devices(*columns, Networks(inside))
    return device[0].as_py(), address[0].as_py(), reason[0].as_py()


def test_networks__contain_the_addresses_that_ipaddress_says_they_contain() -> None:
    rng = random.Random(3)
    texts = ["10.0.0.0/8", "192.168.7.0/24", "203.0.113.9/32", "0.0.0.0/0", "fc00::/7", "2001:db8:1::/48", "::1/128"]
    edges = [str(ip_network[end]) for ip_network in map(ipaddress.ip_network, texts) for end in (0, -1)]
    random_v4 = [str(ipaddress.IPv4Address(rng.getrandbits(32))) for _ in range(200)]
    random_v6 = [str(ipaddress.IPv6Address(rng.getrandbits(128))) for _ in range(200)]
    near = ["11.0.0.0", "9.255.255.255", "192.168.8.0", "192.168.6.255", "2001:db8:2::", "fe00::", "::2"]
    addresses = [*edges, *random_v4, *random_v6, *near] * 2
    for chosen in ([texts[0]], texts[:3], texts[4:], [texts[3]], [*texts[:3], *texts[4:]], []):
        networks = [ipaddress.ip_network(text) for text in chosen]
        expected = [any(ipaddress.ip_address(address) in network for network in networks) for address in addresses]
        assert Networks(chosen).contain(pa.array(addresses)).tolist() == expected


def test_networks__null_and_text_that_is_no_address_lie_in_none() -> None:
    column = pa.chunked_array([[None, "10.0.0.1"], ["", "10.0.0", "fe80::1%eth0", "10.0.0.1"]], pa.string())
    assert Networks(["0.0.0.0/0", "::/0"]).contain(column).tolist() == [False, True, False, False, False, True]


@pytest.mark.parametrize("text", ["10.0.0.0/33", "10.0.0.1/8", "home"])
def test_networks__what_is_no_network_is_a_setting_error_that_names_the_setting(text: str) -> None:
    with pytest.raises(SettingError, match=r"census\.inside: .*" + text.split("/", maxsplit=1)[0]):
        Networks([text])


def test_name_devices__the_client_inside_is_the_device_even_where_the_server_is_inside_too() -> None:
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
    assert named(("52.1.2.3", GATEWAY), ("192.168.1.255", everybody)) == (None, None, GROUP_MAC)
    assert named(("52.1.2.3", GATEWAY), ("192.168.1.9", "01:00:5e:00:00:fb")) == (None, None, GROUP_MAC)


def test_name_devices__unspecified_multicast_and_broadcast_addresses_are_none_even_where_called_inside() -> None:
    everything = ("0.0.0.0/0", "::/0")
    pairs = [("0.0.0.0", "255.255.255.255"), ("224.0.0.1", "239.255.255.250"), ("::", "ff02::16")]
    for client, server in pairs:
        assert named((client, CAMERA), (server, None), everything) == (None, None, NO_HOST)


def test_name_devices__of_many_rows_each_gets_its_own() -> None:
    rng = np.random.default_rng(5)
    ips = np.array(["192.168.1.5", "10.0.0.1", "52.1.2.3", "0.0.0.0", "255.255.255.255", "fe80::5", "2001:db8::1"])
    macs = np.array([CAMERA, GATEWAY, "ff:ff:ff:ff:ff:ff", None])
    columns = [pa.array(rng.choice(values, 300), pa.string()) for values in (ips, macs, ips, macs)]
    together = name_devices(*columns, Networks(DEFAULT))
    for row, (client_ip, client_mac, server_ip, server_mac) in enumerate(
        zip(*map(pa.Array.to_pylist, columns), strict=True)
    ):
        alone = named((client_ip, client_mac), (server_ip, server_mac))
        assert tuple(column[row].as_py() for column in together) == alone
        assert (alone[0] is None) == (alone[1] is None) == (alone[2] is not None)
