"""What a flow's device is called: its MAC where the capture shows one, else its address.

Whose flow it is says `iotid.labels.owner`; here stands why a flow has no device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from iotid.labels.owner import CLIENT, NOBODY, SERVER, Networks, is_host, owner_side

if TYPE_CHECKING:
    import pyarrow as pa

OUTSIDE = "outside"  # a host's address is there, but none inside the networks of the setting
NO_HOST = "no_host_address"  # both sides are multicast, broadcast or unspecified
GROUP_MAC = "group_mac"  # the only address inside stands beside a MAC of many receivers: a subnet's broadcast
UNANSWERED = "unanswered"  # sent to a device that did not answer: the sender alone decides what it looks like
REASONS = (OUTSIDE, NO_HOST, GROUP_MAC, UNANSWERED)

_NO_MAC = "00:00:00:00:00:00"


def name_devices(
    client_ip: pa.Array,
    client_mac: pa.Array,
    server_ip: pa.Array,
    server_mac: pa.Array,
    inside: Networks,
    *,
    answered_by: pa.Array | None = None,
) -> tuple[pa.Array, pa.Array, pa.Array]:
    """Of each flow: its device (null: none), the device's address, and why there is no device (null: there is one).

    All columns are text of N flows; MACs may be null, which like all zeros (loopback) means that none was shown.
    With ``answered_by``, the column server_packets, a flow that its device did not open has one only where that
    answered.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    names = ["client_ip", "client_mac", "server_ip", "server_mac"]
    side_N = owner_side(pa.table([client_ip, client_mac, server_ip, server_mac], names), inside)
    is_unanswered_N = np.zeros(len(side_N), np.bool_)
    if answered_by is not None:
        is_unanswered_N = (side_N == SERVER) & (answered_by.to_numpy(zero_copy_only=False) == 0)
        side_N = np.where(is_unanswered_N, NOBODY, side_N)
    is_client, is_owned = pa.array(side_N == CLIENT), pa.array(side_N != NOBODY)
    address = pc.if_else(is_owned, pc.if_else(is_client, client_ip, server_ip), None)
    mac = pc.if_else(is_client, client_mac, server_mac)
    shown = pc.if_else(pc.fill_null(pc.equal(mac, _NO_MAC), True), pa.scalar(None, pa.string()), mac)
    device = pc.if_else(is_owned, pc.coalesce(shown, address), None)
    hosts = [is_host(ip) for ip in (client_ip, server_ip)]
    inside_N = np.logical_or(
        *(host_N & inside.contain(ip) for host_N, ip in zip(hosts, (client_ip, server_ip), strict=True))
    )
    reason = np.select([is_unanswered_N, inside_N, np.logical_or(*hosts)], [UNANSWERED, GROUP_MAC, OUTSIDE], NO_HOST)
    return device, address, pc.if_else(is_owned, None, pa.array(reason, pa.string()))
