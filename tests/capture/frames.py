"""Frames for tests: the same packet of UDP behind every link layer, tag, radio and tunnel that is read.

Each case is a name, a link type and a frame. The tests compare what iotid makes of it with
the reference implementation and, where it is installed, with tshark.
"""

from __future__ import annotations

import struct
from itertools import product
from types import SimpleNamespace

Case = tuple[str, int, bytes]

PORTS = (40001, 40002)  # of no protocol that another program dissects
STATION, ROUTER, ACCESS_POINT, MESH = (bytes([2, 0, 0, 0, 9, last]) for last in (1, 2, 3, 4))
_LLC_4, _LLC_6 = b"\xaa\xaa\3\0\0\0\x08\0", b"\xaa\xaa\3\0\0\0\x86\xdd"


def packets(make: SimpleNamespace) -> tuple[bytes, bytes]:
    """The packet over IPv4 and IPv6: 9 bytes of payload."""
    udp = make.udp(b"x" * 9, PORTS)
    return make.ipv4(udp, 17), make.ipv6(udp, 17)


def by_link(make: SimpleNamespace) -> list[Case]:
    """One frame or more for every link type that is read, but for those of radios."""
    v4, v6 = packets(make)
    mac = make.mac_a + b"\0\0"
    ethernet = make.ethernet(v4)
    macs = ethernet[:12]
    address = b"\0\6\0\0" + mac
    pppoe = struct.pack(">BBHH", 0x11, 0, 1, 2 + len(v4)) + b"\x00\x21" + v4
    return [
        ("ethernet", 1, ethernet),
        ("ethernet, IPv6", 1, make.ethernet(v6, 0x86DD)),
        ("802.3 with SNAP", 1, make.ethernet(_LLC_4 + v4, 8 + len(v4))),
        ("802.3 with SNAP, bridged", 1, make.ethernet(b"\xaa\xaa\3\0\0\xf8\x08\0" + v4, 8 + len(v4))),
        ("jumbo LLC", 1, make.ethernet(_LLC_4 + v4, 0x8870)),
        ("MPLS, two labels", 1, make.ethernet(b"\0\1\0\x40" + b"\0\2\1\x40" + v6, 0x8847)),
        ("MPLS, multicast", 1, make.ethernet(b"\0\2\1\x40" + v4, 0x8848)),
        ("MPLS link", 219, b"\0\1\0\x40" + b"\0\2\1\x40" + v4),
        ("PPPoE", 1, make.ethernet(pppoe, 0x8864)),
        ("PPPoE link", 51, pppoe),
        ("cooked", 113, struct.pack(">HHH", 0, 1, 6) + mac + b"\x08\0" + v4),
        ("cooked 2", 276, struct.pack(">HHIHBB", 0x86DD, 0, 3, 1, 4, 6) + mac + v6),
        *((f"raw {link}", link, v6) for link in (12, 14, 101)),
        ("IPv4 link", 228, v4),
        ("IPv6 link", 229, v6),
        ("null, little-endian", 0, struct.pack("<I", 2) + v4),
        ("null, big-endian", 0, struct.pack(">I", 30) + v6),
        ("loop", 108, struct.pack(">I", 24) + v6),
        ("PPP", 9, b"\xff\3\x00\x57" + v6),
        ("PPP, compressed protocol", 9, b"\x21" + v4),
        ("PPP-HDLC", 50, b"\xff\3\x00\x21" + v4),
        ("PPP-HDLC that is C-HDLC", 50, b"\x0f\0\x08\0" + v4),
        ("C-HDLC", 104, b"\x0f\0\x86\xdd" + v6),
        ("PPP with direction, received", 204, b"\0\xff\3\x00\x21" + v4),
        ("PPP with direction, sent", 204, b"\1\x00\x57" + v6),
        ("PPP of pppd", 166, b"\1\3\x00\x21" + v4),
        ("C-HDLC with direction", 205, b"\1\x0f\0\x08\0" + v4),
        ("SLIP", 8, bytes(16) + v4),
        ("PKTAP, Ethernet", 258, pktap(1, ethernet)),
        ("PKTAP, raw", 258, pktap(12, v6)),
        ("PKTAP, null", 258, pktap(0, b"\x1e\0\0\0" + v6)),
        ("PKTAP of Darwin", 149, pktap(1, ethernet, size=156)),
        ("pflog, OpenBSD", 117, pflog(2, 61, v4)),
        ("pflog, OpenBSD, longer", 117, pflog(24, 100, v6)),
        ("pflog, FreeBSD", 117, pflog(28, 64, v6)),
        ("enc, little-endian", 109, struct.pack("<I", 2) + bytes(8) + v4),
        ("enc, big-endian", 109, struct.pack(">I", 24) + bytes(8) + v6),
        ("IPoIB", 242, bytes(40) + b"\x08\0\0\0" + v4),
        ("IPoIB, IPv6", 242, bytes(40) + b"\x86\xdd\0\0" + v6),
        ("frame relay, NLPID", 107, b"\x18\x41\x03\xcc" + v4),
        ("frame relay, NLPID, IPv6", 107, b"\x18\x41\x03\x8e" + v6),
        ("frame relay, SNAP", 107, b"\x18\x41\x03\0\x80\0\0\0\x08\0" + v4),
        ("frame relay, bridged", 107, b"\x18\x41\x03\0\x80\0\x80\xc2\0\7" + ethernet),
        ("frame relay, Cisco", 107, b"\x18\x41\x08\0" + v4),
        ("frame relay, address of 4 bytes", 107, b"\x18\x40\x40\x41\x03\xcc" + v4),
        ("frame relay with direction", 206, b"\1\x18\x41\x08\0" + v4),
        ("DSA, Broadcom", 281, macs + b"\x20\0\0\5" + b"\x08\0" + v4),
        ("DSA, Broadcom, in front", 282, b"\x20\0\0\5" + ethernet),
        ("DSA, Marvell", 284, macs + b"\xc0\x28\0\0" + b"\x08\0" + v4),
        ("DSA, Marvell, with an EtherType", 285, macs + b"\xda\xda\0\0\xc0\x28\0\0" + b"\x86\xdd" + v6),
        ("DSA with an EtherType on Ethernet", 1, macs + b"\xda\xda\0\0\xc0\x28\0\0" + b"\x08\0" + v4),
        ("LLC", 100, _LLC_4 + v4),
        ("netANALYZER", 240, bytes(4) + ethernet + bytes(4)),
        ("netfilter's log", 239, nflog(2, [(1, bytes(4)), (10, b"ssh\0\0"), (9, v4)])),
        ("netfilter's log, big-endian", 239, nflog(10, [(1, bytes(4)), (8, address), (9, v6)], ">")),
        ("netfilter's log, nested and in network order", 239, nflog(2, [(0x8001, bytes(4)), (0x4009, v4)])),
        ("mPacket", 274, b"\x55" * 7 + b"\xd5" + ethernet + bytes(4)),
    ]


def pktap(inner: int, frame: bytes, size: int = 108) -> bytes:
    return struct.pack("<III24sII", size, 1, inner, b"en0", 2, 2).ljust(size, b"\0") + frame


def pflog(family: int, size: int, packet: bytes) -> bytes:
    return (bytes([size, family, 0, 0]) + b"em0").ljust(size + -size % 4, b"\0") + packet


def nflog(family: int, attributes: list[tuple[int, bytes]], order: str = "<") -> bytes:
    found = struct.pack(">BBH", family, 0, 0)
    for kind, value in attributes:
        found += struct.pack(order + "HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)
    return found


TAGS = {  # name: EtherType and tag
    "802.1Q": b"\x81\0\0\7",
    "802.1ad": b"\x88\xa8\0\7",
    "0x9100": b"\x91\0\0\7",
    "0x9200": b"\x92\0\0\7",
    "0x9300": b"\x93\0\0\7",
    "VN-Tag": b"\x89\x26\x80\x01\x00\x02",
    "E-Tag": b"\x89\x3f\xe0\x00\x00\x01\x00\x00",
    "Cisco MetaData": b"\x89\x09\1\1\0\1\0\x64",
    "TTag": b"\x89\x88\0\1\2\3\4\5",
    "HSR": b"\x89\x2f\x00\x40\x00\x05",
    "R-TAG": b"\xf1\xc1\0\0\0\5",
    "MACsec": b"\x88\xe5\0\0\0\0\0\1",
    "MACsec with its channel": b"\x88\xe5\x20\0\0\0\0\1" + STATION + b"\0\1",
}
OUTER = STATION + ROUTER  # MACs in front of a header of Ethernet's own
BRIDGES = {  # name: what is between the outer MACs and the Ethernet header inside
    "802.1ah": b"\x88\xe7\0\0\0\x2a",
    "802.1ah behind its VLAN": b"\x88\xa8\0\7\x88\xe7\0\0\0\x2a",
    "bridged Ethernet": b"\x65\x58",
    "FabricPath": b"\x89\x03\0\x40",
}


def by_tag(make: SimpleNamespace) -> list[Case]:
    """Every tag, every two of them, and Ethernet in Ethernet."""
    found = []
    for version, packet in zip((4, 6), packets(make), strict=True):
        ethernet = make.ethernet(packet, 0x0800 if version == 4 else 0x86DD)
        macs, rest = ethernet[:12], ethernet[12:]
        named = [(name, macs + tag + rest) for name, tag in TAGS.items()]
        named += [(f"{a} and {b}", macs + TAGS[a] + TAGS[b] + rest) for a, b in product(TAGS, TAGS) if version == 4]
        named += [(name, OUTER + between + ethernet) for name, between in BRIDGES.items()]
        named += [("PRP's trailer", ethernet + b"\0\1\xa0\x32\x88\xfb"), ("PPP", macs + b"\x88\x0b\0\x21" + rest[2:])][
            : 1 if version == 6 else 2
        ]
        found += [(f"{name}, IPv{version}", 1, frame) for name, frame in named]
    return found


def radiotap(fields: int, data: bytes = b"", more: tuple[int, ...] = ()) -> bytes:
    words = [fields | (1 << 31 if more else 0), *more]
    size = 4 + 4 * len(words) + len(data)
    return struct.pack(f"<BBH{len(words)}I", 0, 0, size, *words) + data


def radios(frame: bytes) -> list[Case]:
    """The frame behind each radio's header."""
    return [
        ("802.11", 105, frame),
        ("prism", 119, struct.pack("<II", 0x44, 144).ljust(144, b"\0") + frame),
        ("AVS", 163, struct.pack(">II", 0x80211001, 64).ljust(64, b"\0") + frame),
        ("PPI", 192, struct.pack("<BBHI", 0, 0, 8, 105) + frame),
        ("radiotap, no field", 127, radiotap(0) + frame),
        ("radiotap, flags", 127, radiotap(2, b"\0") + frame),
        ("radiotap, time and flags", 127, radiotap(3, bytes(8) + b"\0") + frame),
        ("radiotap, time, two words of fields", 127, radiotap(3, bytes(4 + 8) + b"\0", (0,)) + frame),
        ("PKTAP, radiotap", 258, pktap(127, radiotap(0) + frame)),
    ]


def data(
    body: bytes, *, to_system: bool = False, from_system: bool = False, qos: int | None = None, order: bool = False
) -> bytes:
    """A data frame of a station, access point or mesh."""
    control = (0x88 if qos is not None else 0x08) | (to_system | 2 * from_system | 0x80 * order) << 8
    head = struct.pack("<HH", control, 0) + ACCESS_POINT + STATION + ROUTER + b"\x10\0"
    head += MESH * (to_system and from_system)
    return head + (b"" if qos is None else struct.pack("<H", qos)) + bytes(4 * order) + body


def subframe(body: bytes, last: bool = False, source: bytes = STATION, control: bytes = b"") -> bytes:
    whole = ROUTER + source + struct.pack(">H", len(body)) + control + body
    return whole + bytes(0 if last else -len(whole) % 4)


def mesh_control(addresses: int) -> bytes:
    return struct.pack("<BBI", addresses, 31, 77) + b"".join((ACCESS_POINT, MESH)[:addresses])


def by_radio(make: SimpleNamespace) -> list[Case]:
    """802.11 data frames with every field that may be there, one packet each."""
    v4, v6 = packets(make)
    found = []
    for to_system, from_system, qos, order in product((False, True), (False, True), (None, 0), (False, True)):
        if order and qos is None:
            continue
        frame = data(_LLC_4 + v4, to_system=to_system, from_system=from_system, qos=qos, order=order)
        name = f"to {to_system:d}, from {from_system:d}, QoS {qos}, HT {order:d}"
        found += [(f"{radio}: {name}", link, whole) for radio, link, whole in radios(frame)]
    for to_system, addresses in product((False, True), (0, 1, 2)):
        frame = data(mesh_control(addresses) + _LLC_6 + v6, to_system=to_system, from_system=True, qos=0x100)
        found += [(f"{radio}: mesh, {addresses}", link, whole) for radio, link, whole in radios(frame)]
    padded = data(_LLC_4 + v4, qos=0)
    padded = padded[:26] + bytes(2) + padded[26:]
    mesh = data(mesh_control(0) + _LLC_4 + v4, to_system=True, from_system=True, qos=0x100, order=True)
    assert len(mesh[: -len(_LLC_4 + v4) - 6]) % 4 == 0
    return [
        *found,
        ("radiotap, padded", 127, radiotap(2, b"\x20") + padded),
        ("radiotap, time, padded", 127, radiotap(3, bytes(8) + b"\x20") + padded),
        ("radiotap, two words, time, padded", 127, radiotap(3, bytes(4 + 8) + b"\x20", (0,)) + padded),
        ("radiotap, padded mesh", 127, radiotap(2, b"\x20") + mesh),
        ("one subframe", 105, data(subframe(_LLC_4 + v4, last=True), qos=0x80)),
    ]


def aggregates(make: SimpleNamespace) -> list[Case]:
    """A-MSDUs of two packets: of IPv4, then of IPv6."""
    v4, v6 = packets(make)
    found = []
    for to_system, from_system in product((False, True), (False, True)):
        frame = data(
            subframe(_LLC_4 + v4) + subframe(_LLC_6 + v6, last=True, source=MESH),
            to_system=to_system,
            from_system=from_system,
            qos=0x80,
        )
        name = f"to {to_system:d}, from {from_system:d}"
        found += [(f"{radio}: {name}", link, whole) for radio, link, whole in radios(frame)]
    for addresses in (0, 2):
        control = mesh_control(addresses)
        body = subframe(_LLC_4 + v4, control=control) + subframe(_LLC_6 + v6, last=True, control=control)
        frame = data(body, to_system=True, from_system=True, qos=0x180)
        found += [(f"{radio}: mesh, {addresses}", link, whole) for radio, link, whole in radios(frame)]
    with_check = data(subframe(_LLC_4 + v4) + subframe(_LLC_6 + v6), qos=0x80) + b"\1\2\3\4"
    return [*found, ("with a check sequence", 105, with_check)]


def by_tunnel(make: SimpleNamespace) -> list[tuple[str, str, bytes]]:
    """Name, tunnel and packet of IP that carries it, with every optional field and each of them alone."""
    v4, v6 = packets(make)
    ethernet, tagged = make.ethernet(v4), make.mac_b + make.mac_a + TAGS["VN-Tag"] + TAGS["802.1Q"] + b"\x86\xdd" + v6
    found = [
        ("IP in IP", "ip_in_ip", make.ipv4(v4, 4)),
        ("IPv4 in IPv6", "ip_in_ip", make.ipv6(v4, 4)),
        ("6in4", "6in4", make.ipv4(v6, 41)),
        ("IPv6 in IPv6", "6in4", make.ipv6(v6, 41)),
    ]
    inside = [
        (0x0800, v4),
        (0x86DD, v6),
        (0x6558, ethernet),
        (0x880B, b"\xff\3\0\x57" + v6),
        (0x8847, b"\0\2\1\x40" + v4),
    ]
    for version, checksum, key, sequence, acknowledgement in product((0, 1), *[(0, 1)] * 4):
        if acknowledgement and not version:
            continue
        flags = checksum << 15 | key << 13 | sequence << 12 | acknowledgement << 7 | version
        fields = bytes(4 * (checksum + key + sequence + acknowledgement))
        for kind, frame in inside:
            gre = struct.pack(">HH", flags, kind) + fields + frame
            found.append((f"GRE {flags:04x} {kind:04x}", "gre", make.ipv4(gre, 47)))
    for frame in (ethernet, tagged):
        found += [
            ("ERSPAN 1", "gre", make.ipv4(b"\0\0\x88\xbe" + frame, 47)),
            ("ERSPAN 2", "gre", make.ipv4(b"\x10\0\x88\xbe\0\0\0\1" + b"\x10\0\0\1\0\0\0\0" + frame, 47)),
            ("ERSPAN 3", "gre", make.ipv4(b"\x10\0\x22\xeb\0\0\0\1" + b"\x20" + bytes(11) + frame, 47)),
            (
                "ERSPAN 3, sub-header",
                "gre",
                make.ipv4(b"\x10\0\x22\xeb\0\0\0\1\x20" + bytes(10) + b"\1" + bytes(8) + frame, 47),
            ),
        ]
    udp = {
        "VXLAN": ("vxlan", 4789, b"\x08\0\0\0\0\0\7\0" + ethernet),
        "VXLAN of old Linux": ("vxlan", 8472, b"\x08\0\0\0\0\0\7\0" + ethernet),
        "VXLAN-GPE, Ethernet": ("vxlan", 4790, b"\x0c\0\0\3\0\0\7\0" + ethernet),
        "VXLAN-GPE, no type": ("vxlan", 4790, b"\x08\0\0\0\0\0\7\0" + ethernet),
        "VXLAN-GPE, IPv4": ("vxlan", 4790, b"\x0c\0\0\1\0\0\7\0" + v4),
        "VXLAN-GPE, IPv6": ("vxlan", 4790, b"\x0c\0\0\2\0\0\7\0" + v6),
        "Geneve": ("geneve", 6081, b"\0\0\x65\x58\0\0\7\0" + ethernet),
        "Geneve, options": ("geneve", 6081, b"\3\0\x86\xdd\0\0\7\0" + bytes(12) + v6),
        "GTP-U": ("gtp_u", 2152, b"\x30\xff\0\0\0\0\0\1" + v4),
        "GTP-U, sequence number": ("gtp_u", 2152, b"\x32\xff\0\0\0\0\0\1" + bytes(4) + v6),
        "GTP-U, N-PDU number": ("gtp_u", 2152, b"\x31\xff\0\0\0\0\0\1" + bytes(4) + v6),
        "GTP-U, extensions": ("gtp_u", 2152, b"\x34\xff\0\0\0\0\0\1\0\0\0\x85\1\0\0\xc0\2\0\0\0\0\0\0\0" + v4),
        "CAPWAP": ("capwap", 5247, b"\0\x10\2\0\0\0\0\0" + ethernet),
        "CAPWAP, longer header": ("capwap", 5247, b"\0\x20\2\0" + bytes(12) + ethernet),
        "CAPWAP, 802.11": ("capwap", 5247, b"\0\x10\3\0\0\0\0\0" + data(_LLC_4 + v4, to_system=True)),
        "CAPWAP, 802.11 swapped": ("capwap", 5247, b"\0\x10\3\0\0\0\0\0" + _swapped(data(_LLC_4 + v4, to_system=True))),
        "CAPWAP, 802.11 swapped, QoS": (
            "capwap",
            5247,
            b"\0\x10\3\0\0\0\0\0" + _swapped(data(_LLC_4 + v4, to_system=True, qos=1)),
        ),
        "TZSP": ("tzsp", 37008, b"\1\0\0\1\1" + ethernet),
        "TZSP, tags": ("tzsp", 37008, b"\1\0\0\1\0\0\x0a\1\x7f\1" + ethernet),
        "TZSP, 802.11": ("tzsp", 37008, b"\1\0\0\x12\1" + data(_LLC_6 + v6, to_system=True)),
    }
    for name, (tunnel, port, payload) in udp.items():
        found.append((name, tunnel, make.ipv4(make.udp(payload, (40000, port)), 17)))
    for name in ("GTP-U", "CAPWAP"):
        tunnel, port, payload = udp[name]
        found.append((f"{name}, answer", tunnel, make.ipv6(make.udp(payload, (port, 40000)), 17)))
    return found


def _swapped(frame: bytes) -> bytes:
    """As Cisco's access points send it: the bytes of its fields of two bytes exchanged."""
    out = bytearray(frame)
    for at in (0, 2, 22) + ((24,) if frame[0] & 0x80 else ()):
        out[at : at + 2] = out[at : at + 2][::-1]
    return bytes(out)
