"""Classes of ports and application protocols by port, for baselines that use them as features."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ICMP, TCP, UDP, ICMPV6 = 1, 6, 17, 58  # IANA protocol numbers

APPLICATIONS = {
    "http": ((TCP, 80),),
    "https": ((TCP, 443),),
    "dhcp": ((UDP, 67), (UDP, 68)),
    "ssdp": ((UDP, 1900),),
    "dns": ((UDP, 53),),
    "mdns": ((UDP, 5353),),
    "ntp": ((UDP, 123),),
}
"""Name -> IP protocols and IANA's ports."""


def is_application(name: str, protocol_P: NDArray[np.int64], *ports_P: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(P,) whether one of the given ports is the application's."""
    return np.logical_or.reduce(
        [(protocol_P == protocol) & (port_P == known) for protocol, known in APPLICATIONS[name] for port_P in ports_P]
    )


def port_class(protocol_P: NDArray[np.int64], port_P: NDArray[np.int64]) -> NDArray[np.int64]:
    """(P,) 0: no port (neither TCP nor UDP), 1: system, 2: user, 3: dynamic port (RFC 6335)."""
    return np.where(np.isin(protocol_P, (TCP, UDP)), 1 + np.digitize(port_P, (1024, 49152)), 0)
