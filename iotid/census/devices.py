"""Which device a flow tells of: pure functions over columns of addresses and MACs.

A device is a MAC where the capture shows one, else an address; always on a side whose ADDRESS is inside one of the
site's own networks. Judging by address first keeps the gateway out of every flow that merely passes through it: its
MAC stands on their other side, but beside an address of the Internet. Labels are learned with the client before the
server, so a flow is evidence about its client where that is inside, else about its server.

No device: multicast and broadcast addresses and MACs with the group bit, which name many receivers, and 0.0.0.0 and
``::``, which every host bears before it has an address (all of a night's DHCP requests share one key, hence one flow).
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from iotid.errors import SettingError

if TYPE_CHECKING:
    import pyarrow as pa

OUTSIDE = "outside"  # a host's address is there, but none inside the networks of the setting
NO_HOST = "no_host_address"  # both sides are multicast, broadcast or unspecified
GROUP_MAC = "group_mac"  # the only address inside stands beside a MAC of many receivers: a subnet's broadcast
REASONS = (OUTSIDE, NO_HOST, GROUP_MAC)

# RFC 1112 multicast, RFC 919 limited broadcast, RFC 1122 "this" network, RFC 4291 multicast and unspecified
_NO_HOSTS = ("224.0.0.0/4", "255.255.255.255/32", "0.0.0.0/8", "ff00::/8", "::/128")
_NO_MAC = "00:00:00:00:00:00"


class Networks:
    """A set of IPv4 and IPv6 networks that tells for whole columns of addresses which lie inside."""

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

    def contain(self, addresses: pa.Array) -> np.ndarray:
        """bool (N,): which of these addresses (text, N) lie inside; only distinct ones are parsed.

        Text that is no address, and null, lie in no network.
        """
        import pyarrow as pa

        encoded = addresses.dictionary_encode()
        if isinstance(encoded, pa.ChunkedArray):
            encoded = encoded.combine_chunks()
        version_D, value_D2 = parse_addresses(encoded.dictionary.to_pylist())
        inside_D = np.zeros(len(version_D) + 1, bool)  # the last one stands for null
        for version, base_2, mask_2 in self._networks:
            inside_D[:-1] |= (version_D == version) & ((value_D2 & mask_2) == base_2).all(axis=1)
        index_N = encoded.indices.fill_null(len(version_D)).to_numpy(zero_copy_only=False)
        return inside_D[index_N]


def name_devices(
    client_ip: pa.Array, client_mac: pa.Array, server_ip: pa.Array, server_mac: pa.Array, inside: Networks
) -> tuple[pa.Array, pa.Array, pa.Array]:
    """Of each flow: its device (null: none), the device's address, and why there is no device (null: there is one).

    All columns are text of N flows; MACs may be null, which like all zeros (loopback) means that none was shown.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    no_hosts = Networks(_NO_HOSTS)
    any_host_N = np.zeros(len(client_ip), bool)
    any_inside_N = np.zeros(len(client_ip), bool)
    device = address = pa.nulls(len(client_ip), pa.string())
    for ip, mac in ((client_ip, client_mac), (server_ip, server_mac)):
        host_N = ~no_hosts.contain(ip)
        inside_N = host_N & inside.contain(ip)
        any_host_N |= host_N
        any_inside_N |= inside_N
        is_device = pa.array(inside_N & ~_is_group(mac))
        shown = pc.if_else(pc.fill_null(pc.equal(mac, _NO_MAC), True), pa.scalar(None, pa.string()), mac)
        device = pc.coalesce(device, pc.if_else(is_device, pc.coalesce(shown, ip), None))
        address = pc.coalesce(address, pc.if_else(is_device, ip, None))
    reason = np.where(any_inside_N, GROUP_MAC, np.where(any_host_N, OUTSIDE, NO_HOST))
    return device, address, pc.if_else(pc.is_null(device), pa.array(reason, pa.string()), None)


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


def _is_group(mac: pa.Array) -> np.ndarray:
    """bool (N,): MACs whose group bit (IEEE 802, lowest bit of the first byte) is set."""
    import pyarrow.compute as pc

    matches = pc.match_substring_regex(mac, "^.[13579bdfBDF]")
    return np.asarray(pc.fill_null(matches, False).to_numpy(zero_copy_only=False))
