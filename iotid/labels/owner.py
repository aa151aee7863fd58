"""The rule which side owns a flow, for labels, traffic windows and the census.

A flow belongs to the client if that is a device of the site, else to the server. An end is a device of the site if its
address is inside the site's networks, or if it sent packets from a MAC that is not a router's: a device may have
another address (the provider's IPv6, another site's, none yet). The gateway does not own the flows that it forwards:
its MAC is at their other end with an Internet address, and is a router's.

Multicast and broadcast addresses, MACs with the group bit, 0.0.0.0 and ``::`` are no device, as they name many
receivers or any host; a MAC that sent packets is one host's whatever its address.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from iotid.arrow import one_chunk
from iotid.errors import SettingError

if TYPE_CHECKING:
    import pyarrow as pa

CLIENT, SERVER, NOBODY = 0, 1, -1
READ = ("client_ip", "client_mac", "client_packets", "server_ip", "server_mac", "server_packets")
"""Columns of FLOWS that `owner_side` reads."""

NO_MAC = "00:00:00:00:00:00"  # of loopback
LOCAL_DIGITS = "2367abef"  # second digit of a locally administered MAC (IEEE 802: bit 1 of the first byte)

# RFC 1112 multicast, RFC 919 limited broadcast, RFC 1122 "this" network, RFC 4291 multicast and unspecified
_NO_HOSTS = ("224.0.0.0/4", "255.255.255.255/32", "0.0.0.0/8", "ff00::/8", "::/128")


class Networks:
    """A set of IPv4 and IPv6 networks; tests whole columns of addresses."""

    def __init__(self, networks: Iterable[str], setting: str = "census.inside") -> None:
        """Raises SettingError where a network is not one, or has host bits set."""
        self._networks: list[tuple[int, np.ndarray, np.ndarray]] = []
        for text in networks:
            try:
                network = ipaddress.ip_network(text)
            except ValueError as fault:
                raise SettingError(f"{setting}: {fault}; write networks as 192.168.0.0/16 or fc00::/7") from None
            base_2 = np.frombuffer(network.network_address.packed.rjust(16, b"\0"), ">u8").astype(np.uint64)
            mask_2 = np.frombuffer(network.netmask.packed.rjust(16, b"\0"), ">u8").astype(np.uint64)
            self._networks.append((network.version, base_2, mask_2))

    def contain(self, addresses: pa.Array | pa.ChunkedArray) -> NDArray[np.bool_]:
        """(N,): whether each address (text) is in one of the networks; only distinct ones are parsed.

        False for null and text that is no address.
        """
        return _test_distinct(addresses, self._contain)

    def _contain(self, addresses: list[str]) -> NDArray[np.bool_]:
        version_D, value_D2 = parse_addresses(addresses)
        inside_D = np.zeros(len(version_D), bool)
        for version, base_2, mask_2 in self._networks:
            inside_D |= (version_D == version) & ((value_D2 & mask_2) == base_2).all(axis=1)
        return inside_D


@dataclass(frozen=True)
class Site:
    """``networks``: the addresses inside; ``routers``: MACs that forward what others send (`iotid.labels.routers`),
    None where they are not known and only addresses inside count."""

    networks: Networks
    routers: frozenset[str] | None = None


def is_host(ip: pa.Array | pa.ChunkedArray) -> NDArray[np.bool_]:
    """(N,): whether the address can be that of one host."""
    return ~Networks(_NO_HOSTS).contain(ip)


def is_shown(mac: pa.Array | pa.ChunkedArray) -> NDArray[np.bool_]:
    """(N,): whether the capture shows a MAC; loopback's zeros do not count."""
    return _test_distinct(mac, lambda macs: np.array([text != NO_MAC for text in macs], bool))


def is_group(mac: pa.Array | pa.ChunkedArray) -> NDArray[np.bool_]:
    """(N,): whether it is a group MAC (multicast or broadcast)."""
    return _test_distinct(mac, _are_groups)


def is_device(
    ip: pa.Array | pa.ChunkedArray, mac: pa.Array | pa.ChunkedArray, sent_N: NDArray[np.bool_], site: Site
) -> NDArray[np.bool_]:
    """(N,): whether the end (text of address and MAC, null: not shown) is one device of the site.

    ``sent_N``: whether the end sent a packet.
    """
    host_N = is_host(ip)
    device_N = host_N & site.networks.contain(ip) & (sent_N | ~is_group(mac))
    if site.routers is not None:
        routers = site.routers
        is_router_N = _test_distinct(mac, lambda macs: np.array([text in routers for text in macs], bool))
        device_N |= sent_N & is_shown(mac) & ~is_router_N
    return device_N


def owner_side(flows: pa.Table | pa.RecordBatch, site: Site) -> NDArray[np.int8]:
    """(N,): the side that owns each flow, CLIENT or SERVER; NOBODY if neither end is a device of the site.

    Reads the address, MAC and number of packets of both ends (FLOWS).
    """
    client_N, server_N = (
        is_device(flows.column(f"{end}_ip"), flows.column(f"{end}_mac"), sent_by(flows, end), site)
        for end in ("client", "server")
    )
    return np.where(client_N, CLIENT, np.where(server_N, SERVER, NOBODY)).astype(np.int8)


def sent_by(flows: pa.Table | pa.RecordBatch, end: str) -> NDArray[np.bool_]:
    """(N,): whether that end, client or server, sent a packet."""
    packets_N: NDArray[np.int64] = flows.column(f"{end}_packets").to_numpy()
    return packets_N > 0


def parse_addresses(addresses: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """IP version int8 (D,), 0 where the text is no address, and the addresses' upper and lower halves uint64 (D, 2)."""
    version_D = np.zeros(len(addresses), np.int8)
    packed = bytearray(16 * len(addresses))
    for row, address in enumerate(addresses):
        try:
            if ":" in address:
                packed[16 * row : 16 * row + 16] = socket.inet_pton(socket.AF_INET6, address)
                version_D[row] = 6
            else:
                packed[16 * row + 12 : 16 * row + 16] = socket.inet_pton(socket.AF_INET, address)
                version_D[row] = 4
        except OSError:
            continue
    return version_D, np.frombuffer(bytes(packed), ">u8").astype(np.uint64).reshape(-1, 2)


def _are_groups(macs: list[str]) -> NDArray[np.bool_]:
    """MACs whose group bit (IEEE 802, lowest bit of the first byte) is set."""
    return np.array([mac[1:2] in tuple("13579bdfBDF") for mac in macs], bool)


def _test_distinct(
    column: pa.Array | pa.ChunkedArray, test: Callable[[list[str]], NDArray[np.bool_]]
) -> NDArray[np.bool_]:
    """(N,): ``test`` of each text, called with the distinct ones; False for null."""
    encoded = one_chunk(column.dictionary_encode())
    result_D = np.append(test(encoded.dictionary.to_pylist()), False)
    result_N: NDArray[np.bool_] = result_D[encoded.indices.fill_null(len(result_D) - 1).to_numpy(zero_copy_only=False)]
    return result_N
