"""Identifies the device of a flow by MAC, or by address if the capture shows none; or why it has no device.

Which side owns a flow: `iotid.labels.owner`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from iotid.arrow import one_chunk
from iotid.labels.owner import CLIENT, NOBODY, SERVER, Site, is_device, is_group, is_host, is_shown, owner_side, sent_by

if TYPE_CHECKING:
    import pyarrow as pa

UNANSWERED = "unanswered"  # sent to a device that did not answer: the sender alone determines the content
ROUTER = "router"  # forwarded by a router from an outside address
OUTSIDE = "outside"  # sent from an outside address; no MAC shows whether by a device of the site
NO_HOST = "no_host_address"  # sent from an address that no single host has; no MAC is shown
REASONS = (ROUTER, OUTSIDE, NO_HOST, UNANSWERED)

UNSPECIFIED = ("0.0.0.0", "::")  # source address of hosts that have none yet

READ = (
    "client_ip", "client_mac", "client_packets", "server_ip", "server_mac", "server_packets", "answered",
)  # fmt: skip
"""Columns of FLOWS that `name_devices` reads."""


class Named(NamedTuple):
    """For each flow (N,): MAC (null: not shown) and address of its device, and null; or, if the flow has no device, of
    the end that is reported as left out, and the reason."""

    mac: pa.Array
    ip: pa.Array
    reason: pa.Array

    @property
    def device(self) -> pa.Array:
        """(N,): MAC of the flow's device, or its address if no MAC is shown; null if the flow has no device."""
        import pyarrow.compute as pc

        return pc.if_else(pc.is_null(self.reason), pc.coalesce(self.mac, self.ip), None)

    @property
    def address(self) -> pa.Array:
        """(N,): address of the flow's device; null if the flow has no device."""
        import pyarrow.compute as pc

        return pc.if_else(pc.is_null(self.reason), self.ip, None)


def name_devices(flows: pa.Table | pa.RecordBatch, site: Site) -> Named:
    """The device of each flow, or the end that is left out.

    A flow that the device did not open belongs to it only if it answered. The end left out is the one that did not
    answer or only refused, if it could be a device of the site; else the sender. A MAC that is null or all zeros
    (loopback) counts as not shown.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    ips, macs = (
        [one_chunk(flows.column(f"{end}_{name}")).cast(pa.string()) for end in ("client", "server")]
        for name in ("ip", "mac")
    )
    sent = [sent_by(flows, end) for end in ("client", "server")]
    owner_N, answered_N = owner_side(flows, site), one_chunk(flows.column("answered")).to_numpy(zero_copy_only=False)
    client_asked_N, server_asked_N = (
        ~sent_N & ~is_group(mac) & is_device(ip, mac, np.ones_like(sent_N), site)
        for ip, mac, sent_N in zip(ips, macs, sent, strict=True)
    )
    nobody_N, unanswered_N = owner_N == NOBODY, (owner_N == SERVER) & ~answered_N
    asked_N = unanswered_N | (nobody_N & (client_asked_N | server_asked_N))
    side_N = np.select(
        [~nobody_N, server_asked_N, client_asked_N, sent[CLIENT]], [owner_N, SERVER, CLIENT, CLIENT], SERVER
    )
    is_client = pa.array(side_N == CLIENT)
    ip, mac = (pc.if_else(is_client, *ends) for ends in (ips, macs))
    shown_N = is_shown(mac)
    sender_N = np.select([shown_N & (site.routers is not None), is_host(ip)], [ROUTER, OUTSIDE], NO_HOST)
    reason = pa.array(np.where(asked_N, UNANSWERED, sender_N), pa.string())
    is_owned = pa.array(~nobody_N & ~unanswered_N)
    return Named(pc.if_else(pa.array(shown_N), mac, None), ip, pc.if_else(is_owned, None, reason))
