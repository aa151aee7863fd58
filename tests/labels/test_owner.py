"""Whose flow it is."""

from __future__ import annotations

import ipaddress
import random

import pyarrow as pa
import pytest

from iotid.errors import SettingError
from iotid.labels.owner import CLIENT, NOBODY, SERVER, Networks, Site, owner_side

CAM, ROUTER, GROUP = "02:00:00:00:00:0a", "02:00:00:00:00:01", "01:00:5e:00:00:fb"


def test_owner_side__is_the_client_inside_else_the_server_in_any_column_encoding() -> None:
    rows = [
        ("192.168.1.5", CAM, "52.1.2.3", ROUTER, CLIENT),
        ("192.168.1.5", None, "192.168.1.1", ROUTER, CLIENT),
        ("52.1.2.3", ROUTER, "192.168.1.5", CAM, SERVER),
        ("52.1.2.3", ROUTER, "52.1.2.4", CAM, NOBODY),
        ("192.168.1.9", GROUP, "192.168.1.5", CAM, SERVER),
        ("0.0.0.0", CAM, "255.255.255.255", None, NOBODY),
        ("-", None, "192.168.1.5", None, SERVER),
    ]
    names = ["client_ip", "client_mac", "server_ip", "server_mac", "client_packets", "server_packets"]
    columns = [pa.array(column, pa.string()) for column in list(zip(*rows, strict=True))[:4]]
    packets = [pa.array([int(row[place] != GROUP) for row in rows]) for place in (1, 3)]
    plain = pa.table([*columns, *packets], names)
    encoded = pa.RecordBatch.from_arrays([*(column.dictionary_encode() for column in columns), *packets], names)
    chunked = pa.concat_tables([plain.slice(0, 3), plain.slice(3)])
    everything = Site(Networks(["192.168.0.0/16", "0.0.0.0/8", "255.255.255.255/32"]))
    for flows in (plain, encoded, chunked):
        assert owner_side(flows, everything).tolist() == [row[-1] for row in rows]
    assert len(owner_side(plain.slice(0, 0), everything)) == 0


@pytest.mark.parametrize(
    "address", ["100.64.0.9", "203.0.113.9", "2001:db8:7::9", "0.0.0.0", "0.1.2.3", "255.255.255.255", "::", "ff02::1"]
)
@pytest.mark.parametrize("mac", [CAM, GROUP])
def test_owner_side__whoever_sends_and_is_no_router_is_a_device_whatever_its_address(address: str, mac: str) -> None:
    def side(routers: frozenset[str] | None, packets: tuple[int, int] = (1, 0), turn: bool = False) -> int:
        ends = [("52.1.2.3", ROUTER, packets[1]), (address, mac, packets[0])]
        client, server = ends if turn else ends[::-1]
        names = ["client_ip", "client_mac", "client_packets", "server_ip", "server_mac", "server_packets"]
        flows = pa.table([[value] for value in (*client, *server)], names)
        return int(owner_side(flows, Site(Networks(["192.168.0.0/16"]), routers))[0])

    assert side(frozenset({ROUTER})) == CLIENT
    assert side(frozenset({ROUTER}), (1, 1), turn=True) == SERVER
    assert side(frozenset({ROUTER}), (0, 1), turn=True) == NOBODY, "it sent nothing"
    assert side(frozenset({ROUTER, mac})) == NOBODY
    assert side(None) == NOBODY, "nothing is known of routers"


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
