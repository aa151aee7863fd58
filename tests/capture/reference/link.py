"""Reference for decode.link and decode.network.

Of each link type: a frame in; an EtherType (or "by version", "other"), where its data start, and both addresses out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .wire import Below, RejectError, be, le
from .wireless import avs, ieee_802_11, ieee_802_11_swapped, ppi, prism, radiotap, sized, subframe

_FAMILIES = {2: 0x0800, 10: 0x86DD, 24: 0x86DD, 28: 0x86DD, 30: 0x86DD}

_VLANS = (0x8100, 0x88A8, 0x9100, 0x9200, 0x9300)


# bytes between the EtherType of a tag and the next one
_TAGS = dict.fromkeys(_VLANS, 2) | {
    0x8926: 4, 0x892F: 4, 0xF1C1: 4, 0x893F: 6, 0x8909: 6, 0x8988: 6, 0xDADA: 6,
}  # fmt: skip

_BRIDGES = {0x88E7: 4, 0x6558: 0, 0x8903: 2}  # bytes between the EtherType and an Ethernet header

NO_IP = {
    0x0806, 0x8035, 0x88CC, 0x888E, 0x88C7, 0x8863, 0x0842, 0x9000, 0x2000, 0x2003, 0x8808, 0x8809, 0x8902, 0x88E3,
    0x88F5, 0x88F6, 0x8940, 0x88FB, 0x22EA, 0x22F0, 0x22F4, 0x88F7, 0x890D, 0x893A, 0x887B, 0x88E1, 0x8912,
    *range(0x6000, 0x6008), 0x809B, 0x80F3, 0x8137, 0x8138, 0x8204, 0x8102, 0x8899, 0x886F, 0x88D9, 0x8819, 0x8892,
    0x88A4, 0x88AB, 0x88B8, 0x88B9, 0x88BA, 0x88CD, 0x88A2, 0x889A, 0x8906, 0x8914, 0x8915, 0x88F8, 0x88CA, 0x88D8,
    0x88DC,
}  # fmt: skip


def below_ip(frame: bytes, link: int | str) -> tuple[int, int, dict[str, Any]]:
    """4 or 6, where the IP header starts, VLAN and MACs."""
    link, start = unwrapped(frame, link)
    if link not in _LINKS:
        raise RejectError(f"unknown_link_type_{link}")
    kind, at, source, destination, *rest = _LINKS[link](frame[start:])
    vlan = rest[0] if rest else None
    at += start
    while kind not in (0x0800, 0x86DD):
        if kind in _TAGS:
            size = _TAGS[kind]
            following = be(frame, at + size, 2)
            if kind in _VLANS or (kind == 0xDADA and frame[at + 2] & 0x20):
                vlan = be(frame, at + size - 2, 2) % 4096 or vlan
            kind, at = following, at + size + 2
        elif kind in _BRIDGES:
            at += _BRIDGES[kind]
            kind, _, source, destination = _ethernet(frame[at:])
            at += 14
        elif kind == 0x88E5:
            be(frame, at, 6)
            if frame[at] & 0x0C:  # encrypted, or changed in another way
                raise RejectError("unknown_ether_type_0x88e5")
            at += 14 if frame[at] & 0x20 else 6
            kind, at = be(frame, at, 2), at + 2
        elif kind in (0x8847, 0x8848):
            kind, at = "by version" if be(frame, at, 4) & 0x100 else kind, at + 4
        elif kind == 0x8864:
            be(frame, at, 6)
            kind, at = _ppp(frame, at + 6)
        elif kind == 0x880B:
            kind, at = _ppp(frame, at)
        elif kind == "by version":
            kind = {4: 0x0800, 6: 0x86DD}.get(be(frame, at, 1) >> 4, "other")
        elif _is_llc(kind) and len(frame) >= at + 8 and frame[at : at + 6] in _SNAP:
            kind, at = be(frame, at + 6, 2), at + 8
        elif isinstance(kind, int) and kind > 1500 and kind not in NO_IP:
            raise RejectError(f"unknown_ether_type_0x{kind:04x}")
        else:
            raise RejectError("not_ip")
    columns = {"vlan": vlan, "source_mac": source, "destination_mac": destination}
    return 4 if kind == 0x0800 else 6, at, columns


def _is_llc(kind: int | str) -> bool:
    return isinstance(kind, int) and (kind <= 1500 or kind == 0x8870)


_SNAP = (b"\xaa\xaa\3\0\0\0", b"\xaa\xaa\3\0\0\xf8")


def _without_header(kind: int | str) -> Callable[[bytes], Below]:
    return lambda _frame: (kind, 0, None, None)


def _ethernet(frame: bytes) -> Below:
    return be(frame, 12, 2), 14, frame[6:12], frame[:6]


def _cooked(frame: bytes) -> Below:
    return be(frame, 14, 2), 16, frame[6:12] if be(frame, 4, 2) == 6 else None, None


def _cooked_2(frame: bytes) -> Below:
    be(frame, 0, 20)
    return be(frame, 0, 2), 20, frame[12:18] if frame[11] == 6 else None, None


def _null(frame: bytes) -> Below:
    return _FAMILIES.get(min(be(frame, 0, 4), le(frame, 0, 4)), "other"), 4, None, None


def _hdlc(frame: bytes) -> Below:
    be(frame, 0, 4)
    return be(frame, 2, 2), 4, None, None


def _ppp_or_hdlc(frame: bytes) -> Below:
    be(frame, 0, 4)
    return _hdlc(frame) if frame[0] in (0x0F, 0x8F) else (*_ppp(frame, 0), None, None)


def _ppp(frame: bytes, at: int) -> tuple[int | str, int]:
    if frame[at : at + 2] == b"\xff\x03":
        at += 2
    if at + 2 > len(frame):
        return "other", at
    size = 1 if frame[at] & 1 else 2
    protocol = be(frame, at, size)
    return {0x21: 0x0800, 0x57: 0x86DD, 0x281: 0x8847, 0x283: 0x8847}.get(protocol, "other"), at + size


def _nflog(frame: bytes) -> Below:
    """Attributes as in https://www.tcpdump.org/linktypes/LINKTYPE_NFLOG.html, each aligned to 4 bytes."""
    be(frame, 0, 4)
    source, at = None, 4
    while True:
        # types are below 256, but for two flags on top: the byte order is the one in which this one is
        read = min(le, be, key=lambda order: order(frame, at + 2, 2) & 0x3FFF)
        size, attribute = read(frame, at, 2), read(frame, at + 2, 2) & 0x3FFF
        if size < 4:
            raise RejectError("not_ip")
        if attribute == 9:
            return _FAMILIES.get(frame[0], "other"), at + 4, source, None
        if attribute == 8 and size >= 16 and be(frame, at + 4, 2) == 6:
            be(frame, at, 16)
            source = frame[at + 8 : at + 14]
        at += size + -size % 4


def _dsa(size: int, has_vlan: bool) -> Callable[[bytes], Any]:
    """A switch's tag of so many bytes between MACs and EtherType; Marvell's ends with what it made of a VLAN tag."""

    def read(frame: bytes) -> Any:
        be(frame, 0, 14 + size)
        tag = frame[8 + size : 12 + size]
        vlan = be(tag, 2, 2) % 4096 or None if has_vlan and tag[0] & 0x20 else None
        return be(frame, 12 + size, 2), 14 + size, frame[6:12], frame[:6], vlan

    return read


def _ipoib(frame: bytes) -> Below:
    be(frame, 0, 44)
    return be(frame, 40, 2), 44, None, None


def _enc(frame: bytes) -> Below:
    be(frame, 0, 12)
    return _null(frame)[0], 12, None, None


def _pflog(frame: bytes) -> Below:
    be(frame, 0, 4)
    size = frame[0] + -frame[0] % 4
    be(frame, 0, size)
    if size == 0:
        raise RejectError("short")
    return _FAMILIES.get(frame[1], "other"), size, None, None


def _frame_relay(frame: bytes) -> Below:
    """Q.922 (an address of up to 4 bytes, the last one odd), then RFC 2427, or an EtherType (Cisco)."""
    be(frame, 0, 4)
    at = next((i for i in range(1, 4) if frame[i - 1] & 1), 4)
    be(frame, at, 2)
    if frame[at] != 3:
        return be(frame, at, 2), at + 2, None, None
    at += 2 if frame[at + 1] == 0 else 1
    protocol = be(frame, at, 1)
    if protocol != 0x80:
        return {0xCC: 0x0800, 0x8E: 0x86DD}.get(protocol, "other"), at + 1, None, None
    be(frame, at, 6)
    organization, kind = frame[at + 1 : at + 4], be(frame, at + 4, 2)
    if organization == b"\0\x80\xc2" and kind in (1, 7):
        return 0x6558, at + 6, None, None
    return kind if organization == bytes(3) else "other", at + 6, None, None


def unwrapped(frame: bytes, link: int | str) -> tuple[int | str, int]:
    """The link type of what is behind it all, and where that starts."""
    at = 0
    while link in _WRAPPERS:
        found = _WRAPPERS[link](frame[at:])
        if found is None:
            break
        size, link = found
        if at + size > len(frame):
            raise RejectError("short")
        at += size
    return link, at


def _pktap(frame: bytes) -> tuple[int, int | str] | None:
    """Apple's: length, kind, link type; other bytes under its number are none of it."""
    be(frame, 0, 12)
    size = le(frame, 0, 4)
    return sized(size, le(frame, 8, 4)) if 108 <= size <= 1024 else None


def _fixed(size: int, link: int) -> Callable[[bytes], tuple[int, int | str]]:
    return lambda _frame: (size, link)


_WRAPPERS: dict[int | str, Callable[[bytes], tuple[int, int | str] | None]] = {
    119: prism, 127: radiotap, 163: avs, 192: ppi, 258: _pktap, 149: _pktap, 8: _fixed(16, 101),
    166: _fixed(2, 9), 204: _fixed(1, 9), 205: _fixed(1, 104), 206: _fixed(1, 107), 240: _fixed(4, 1),
    274: _fixed(8, 1), 282: _fixed(4, 1),
}  # fmt: skip

_LINKS: dict[int | str, Callable[[bytes], Any]] = {
    0: _null, 1: _ethernet, 9: _ppp_or_hdlc, 50: _ppp_or_hdlc, 104: _hdlc, 108: _null, 113: _cooked, 239: _nflog,
    276: _cooked_2, 105: ieee_802_11, "padded 802.11": lambda frame: ieee_802_11(frame, padded=True),
    "swapped 802.11": ieee_802_11_swapped, "subframe": lambda frame: subframe(frame, False),
    "mesh subframe": lambda frame: subframe(frame, True), 281: _dsa(4, False), 284: _dsa(4, True),
    285: _dsa(8, True), 242: _ipoib, 109: _enc, 117: _pflog, 107: _frame_relay, 100: _without_header(0),
    **dict.fromkeys((12, 14, 101), _without_header("by version")), 228: _without_header(0x0800),
    229: _without_header(0x86DD), 51: _without_header(0x8864), 219: _without_header(0x8847),
}  # fmt: skip
