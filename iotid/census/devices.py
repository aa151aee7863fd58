"""What a flow's device is called in the census: its MAC where the capture shows one, else its address.

Whose flow it is says `iotid.labels.owner`; here stands why a flow has no device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from iotid.labels.owner import CLIENT, NOBODY, Networks, is_host, owner_side

if TYPE_CHECKING:
    import pyarrow as pa

OUTSIDE = "outside"  # a host's address is there, but none inside the networks of the setting
NO_HOST = "no_host_address"  # both sides are multicast, broadcast or unspecified
GROUP_MAC = "group_mac"  # the only address inside stands beside a MAC of many receivers: a subnet's broadcast
REASONS = (OUTSIDE, NO_HOST, GROUP_MAC)

_NO_MAC = "00:00:00:00:00:00"


def name_devices(
    client_ip: pa.Array, client_mac: pa.Array, server_ip: pa.Array, server_mac: pa.Array, inside: Networks
) -> tuple[pa.Array, pa.Array, pa.Array]:
    """Of each flow: its device (null: none), the device's address, and why there is no device (null: there is one).

    All columns are text of N flows; MACs may be null, which like all zeros (loopback) means that none was shown.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    names = ["client_ip", "client_mac", "server_ip", "server_mac"]
    side_N = owner_side(pa.table([client_ip, client_mac, server_ip, server_mac], names), inside)
    is_client, is_owned = pa.array(side_N == CLIENT), pa.array(side_N != NOBODY)
    address = pc.if_else(is_owned, pc.if_else(is_client, client_ip, server_ip), None)
    mac = pc.if_else(is_client, client_mac, server_mac)
    shown = pc.if_else(pc.fill_null(pc.equal(mac, _NO_MAC), True), pa.scalar(None, pa.string()), mac)
    device = pc.if_else(is_owned, pc.coalesce(shown, address), None)
    hosts = [is_host(ip) for ip in (client_ip, server_ip)]
    inside_N = np.logical_or(
        *(host_N & inside.contain(ip) for host_N, ip in zip(hosts, (client_ip, server_ip), strict=True))
    )
    reason = np.where(inside_N, GROUP_MAC, np.where(np.logical_or(*hosts), OUTSIDE, NO_HOST))
    return device, address, pc.if_else(is_owned, None, pa.array(reason, pa.string()))
