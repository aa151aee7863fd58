"""Reference for decode.decoder and decode.fragments: a frame to its packet, ports of later fragments."""

from __future__ import annotations

from .internet import Packet, read_ip
from .link import below_ip
from .wire import RejectError


def give_ports(packet: Packet, time: int, earlier: list[tuple[int, Packet | None]], window_us: int) -> None:
    """Give a later fragment the ports that only the first one has: the newest first one among the earlier packets."""
    for then, first in reversed(earlier):
        if first is None or first.fragment != (0, True):
            continue
        if first.datagram() == packet.datagram() and abs(then - time) <= window_us:
            packet.columns |= {name: first.columns[name] for name in ("protocol", "source_port", "destination_port")}
            return
    raise RejectError("later_fragment")


def read_packet(frame: bytes, wire: int, link: int | str) -> Packet:
    try:
        version, at, columns = below_ip(frame, link)
        packet = read_ip(frame[at:], wire - at, version)
    except RejectError as reject:
        if str(reject) != "short":
            raise
        raise RejectError("truncated" if len(frame) < wire else "malformed") from None
    packet.columns |= columns
    return packet
