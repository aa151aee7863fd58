"""Reference for decode.tunnels: the data above IP or UDP in; link type and start of the frame inside out."""

from __future__ import annotations

from collections.abc import Callable

from .decoder import read_packet
from .internet import Packet
from .wire import RejectError, be

_Inside = tuple[int | str, int]

_LINK_OF_TYPE = {0x0800: 228, 0x86DD: 229, 0x6558: 1, 0x880B: 9, 0x8847: 219}  # EtherType to link type


def innermost(packet: Packet, wanted: tuple[str, ...], most: int) -> Packet:
    """The packet inside its outermost ``most`` tunnels, as far as there is a packet of IP inside."""
    for _ in range(most):
        try:
            link, at = _inside(packet, wanted)
            inner = read_packet(packet.above[at:], packet.wire_above - at, link)
        except RejectError:
            break
        if inner.columns["vlan"] is None:
            inner.columns["vlan"] = packet.columns["vlan"]
        packet = inner
    return packet


def _inside(packet: Packet, wanted: tuple[str, ...]) -> _Inside:
    protocol, source, target = (packet.columns[name] for name in ("protocol", "source_port", "destination_port"))
    for name, (carrier, to, either, read) in _TUNNELS:
        named = protocol == carrier and (carrier != 17 or target in to or target in either or source in either)
        if named and name in wanted and not packet.is_fragment():
            above = 8 if carrier == 17 else 0
            link, at = read(packet.above[above:])
            return link, above + at
    raise RejectError("no tunnel")


def _sound(is_sound: bool) -> None:
    if not is_sound:
        raise RejectError("no tunnel")


def _link_of_type(ether_type: int) -> int:
    _sound(ether_type in _LINK_OF_TYPE)
    return _LINK_OF_TYPE[ether_type]


def _gre(data: bytes) -> _Inside:
    """RFC 2784, 2890 (key, sequence number), 2637 (version 1: acknowledgement); draft-foschiano-erspan."""
    flags, kind = be(data, 0, 2), be(data, 2, 2)
    checksum, routing, key, sequence = (bool(flags & bit) for bit in (0x8000, 0x4000, 0x2000, 0x1000))
    version = flags & 7
    _sound(version < 2 and not routing)
    acknowledgement = version == 1 and bool(flags & 0x80)
    at = 4 + 4 * (checksum + key + sequence + acknowledgement)
    if kind == 0x88BE:
        return 1, at + 8 if sequence else at
    if kind == 0x22EB:
        return 1, at + (20 if be(data, at + 11, 1) & 1 else 12)
    return _link_of_type(kind), at


def _vxlan(data: bytes) -> _Inside:
    """RFC 7348: the flag I is set."""
    _sound(bool(be(data, 0, 8) >> 56 & 0x08))
    return 1, 8


def _vxlan_gpe(data: bytes) -> _Inside:
    """draft-ietf-nvo3-vxlan-gpe: without the flag P it is Ethernet."""
    be(data, 0, 8)
    following = data[3] if data[0] & 0x04 else 3
    _sound(following in (1, 2, 3))
    return {1: 228, 2: 229, 3: 1}[following], 8


def _geneve(data: bytes) -> _Inside:
    """RFC 8926: version 0, the options' length in words."""
    be(data, 0, 8)
    _sound(data[0] >> 6 == 0)
    return _link_of_type(be(data, 2, 2)), 8 + data[0] % 64 * 4


def _gtp_u(data: bytes) -> _Inside:
    """3GPP TS 29.281, 5.1 and 5.2: version 1, no GTP', G-PDU; extension headers in words, the next one's type last."""
    be(data, 0, 8)
    _sound(data[0] >> 4 == 3 and data[1] == 255)
    at = 8
    if data[0] & 7:
        at = 12
        following = be(data, 11, 1) if data[0] & 4 else 0
        while following:
            size = be(data, at, 1) * 4
            _sound(size > 0)
            following, at = be(data, at + size - 1, 1), at + size
    return 101, at


def _capwap(data: bytes) -> _Inside:
    """RFC 5415, 4.3: HLEN in words, WBID, the flags T (native), F (fragment), K (keep-alive)."""
    be(data, 0, 8)
    size, binding, native = (data[1] >> 3) * 4, data[2] >> 1 & 31, data[2] & 1
    _sound(data[0] == 0 and size >= 8 and data[3] & 0x88 == 0)
    _sound(not native or binding == 1)
    if not native:
        return 1, size
    # Cisco's frames come with swapped bytes: there is only one version of the protocol, 0
    swapped = size + 2 <= len(data) and data[size] & 3 != 0 and data[size + 1] & 3 == 0
    return "swapped 802.11" if swapped else 105, size


def _tzsp(data: bytes) -> _Inside:
    """Version 1, a received packet; tags 0 (padding) and 1 (end) stand alone, others have a length."""
    _sound(be(data, 0, 2) == 0x0100 and be(data, 2, 2) in (1, 18))
    at = 4
    while be(data, at, 1) != 1:
        at += 1 if data[at] == 0 else 2 + be(data, at + 1, 1)
    return {1: 1, 18: 105}[data[3]], at + 1


# setting, protocol, destination ports, ports of either side
_TUNNELS: list[tuple[str, tuple[int, tuple[int, ...], tuple[int, ...], Callable[[bytes], _Inside]]]] = [
    ("gre", (47, (), (), _gre)),
    ("ip_in_ip", (4, (), (), lambda _: (228, 0))),
    ("6in4", (41, (), (), lambda _: (229, 0))),
    ("vxlan", (17, (4789, 8472), (), _vxlan)),
    ("vxlan", (17, (4790,), (), _vxlan_gpe)),
    ("geneve", (17, (6081,), (), _geneve)),
    ("gtp_u", (17, (), (2152,), _gtp_u)),
    ("capwap", (17, (), (5247,), _capwap)),
    ("tzsp", (17, (37008,), (), _tzsp)),
]
