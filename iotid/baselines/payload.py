"""Words in the first bytes of a packet: the name of a DNS query, the cipher suites of a TLS ClientHello.

A packet is given from its IP header on and may be cut anywhere; nothing is read past its end.
"""

from __future__ import annotations

from iotid.baselines.ports import TCP, UDP

_DNS_HEADER = 12  # RFC 1035, section 4.1.1
_MAX_LABEL = 63
_HANDSHAKE, _CLIENT_HELLO = 22, 1  # RFC 8446, section 5.1 and 4
_SESSION_ID = 5 + 4 + 2 + 32  # its offset: record, handshake, version and random


def payload_of(packet: bytes, protocol: int) -> bytes:
    """What follows the header of TCP or UDP; empty for other protocols and later fragments. IPv6: without extension
    headers (RFC 8200)."""
    if len(packet) < 20:
        return b""
    version = packet[0] >> 4
    if version == 4 and packet[9] == protocol and not int.from_bytes(packet[6:8]) & 0x1FFF:
        start = (packet[0] & 15) * 4
    elif version == 6 and packet[6] == protocol:
        start = 40
    else:
        return b""
    if protocol == UDP:
        return packet[start + 8 :]
    if protocol == TCP and len(packet) > start + 12:
        return packet[start + (packet[start + 12] >> 4) * 4 :]
    return b""


def dns_query(packet: bytes) -> str | None:
    """The first name that a UDP packet asks for, in lower case; None if it asks for none, or the name is cut."""
    payload = payload_of(packet, UDP)
    if len(payload) <= _DNS_HEADER or payload[2] & 0x80 or payload[4:6] == b"\0\0":  # a response, or no question
        return None
    labels, at = [], _DNS_HEADER
    while at < len(payload) and (size := payload[at]):
        if size > _MAX_LABEL or at + 1 + size > len(payload):
            return None
        labels.append(payload[at + 1 : at + 1 + size].decode("latin-1").lower())
        at += 1 + size
    return ".".join(labels) if labels and at < len(payload) else None


def cipher_suites(packet: bytes) -> str | None:
    """The suites that a ClientHello offers, as hexadecimal digits, in its order and as far as they are kept.

    Without GREASE (RFC 8701), which is random; None for other packets.
    """
    payload = payload_of(packet, TCP)
    if len(payload) <= _SESSION_ID or payload[0] != _HANDSHAKE or payload[1] != 3 or payload[5] != _CLIENT_HELLO:
        return None
    start = _SESSION_ID + 1 + payload[_SESSION_ID]
    size = int.from_bytes(payload[start : start + 2])
    offered = payload[start + 2 : start + 2 + size]
    suites = [offered[at : at + 2] for at in range(0, len(offered) - 1, 2)]
    return "".join(each.hex() for each in suites if each[0] != each[1] or each[0] & 15 != 10) or None
