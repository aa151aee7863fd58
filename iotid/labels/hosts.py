"""What a flow's device is called: its MAC where the capture shows one, else its address.

Whose flow it is says `iotid.labels.owner`; here stands why a flow has no device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from iotid.arrow import one_chunk
from iotid.labels.owner import CLIENT, NOBODY, SERVER, Site, is_host, is_shown, owner_side

if TYPE_CHECKING:
    import pyarrow as pa

OUTSIDE = "outside"  # a host's address is there, but none of the site
NO_HOST = "no_host_address"  # both sides are multicast, broadcast or unspecified
GROUP_MAC = "group_mac"  # the only address inside stands beside a MAC of many receivers: a subnet's broadcast
UNANSWERED = "unanswered"  # sent to a device that did not answer: the sender alone decides what it looks like
REASONS = (OUTSIDE, NO_HOST, GROUP_MAC, UNANSWERED)

READ = (
    "client_ip", "client_mac", "client_packets", "server_ip", "server_mac", "server_packets", "answered",
)  # fmt: skip
"""Columns of FLOWS that `name_devices` reads."""


def name_devices(flows: pa.Table | pa.RecordBatch, site: Site) -> tuple[pa.Array, pa.Array, pa.Array]:
    """Of each flow: its device (null: none), the device's address, and why there is no device (null: there is one).

    A flow that its device did not open has one only where that answered. A MAC that is null or all zeros (loopback)
    was not shown.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    client_ip, client_mac, server_ip, server_mac = (
        one_chunk(flows.column(name)).cast(pa.string())
        for name in ("client_ip", "client_mac", "server_ip", "server_mac")
    )
    side_N = owner_side(flows, site)
    answered_N = one_chunk(flows.column("answered")).to_numpy(zero_copy_only=False)
    is_unanswered_N = (side_N == SERVER) & ~answered_N
    side_N = np.where(is_unanswered_N, NOBODY, side_N)
    is_client, is_owned = pa.array(side_N == CLIENT), pa.array(side_N != NOBODY)
    address = pc.if_else(is_owned, pc.if_else(is_client, client_ip, server_ip), None)
    mac = pc.if_else(is_client, client_mac, server_mac)
    device = pc.if_else(is_owned, pc.if_else(pa.array(is_shown(mac)), mac, address), None)
    inside_N, host_N = (np.zeros(len(side_N), np.bool_) for _ in range(2))
    for ip in (client_ip, server_ip):
        is_host_N = is_host(ip)
        host_N |= is_host_N
        inside_N |= is_host_N & site.networks.contain(ip)
    reason = np.select([is_unanswered_N, inside_N, host_N], [UNANSWERED, GROUP_MAC, OUTSIDE], NO_HOST)
    return device, address, pc.if_else(is_owned, None, pa.array(reason, pa.string()))
