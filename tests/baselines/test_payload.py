"""Names and cipher suites from packets written field by field, cut anywhere, and from noise."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from iotid.baselines.payload import cipher_suites, dns_query, payload_of


def ip(protocol: int, segment: bytes, *, version: int = 4, fragment: int = 0) -> bytes:
    """An IP packet without addresses, as kept in ``first_bytes``."""
    if version == 6:
        return struct.pack(">IHBB", 6 << 28, len(segment), protocol, 64) + bytes(32) + segment
    return struct.pack(">BBHHHBBH", 0x46, 0, 24 + len(segment), 7, fragment, 64, protocol, 0) + bytes(12) + segment


def udp(payload: bytes, **changes: int) -> bytes:
    return ip(17, struct.pack(">HHHH", 50000, 53, 8 + len(payload), 0) + payload, **changes)


def tcp(payload: bytes, **changes: int) -> bytes:
    return ip(6, struct.pack(">HHIIBBHHH", 50000, 443, 1, 2, 0x80, 24, 100, 0, 0) + bytes(12) + payload, **changes)


def query(*labels: bytes, flags: int = 0x0100, questions: int = 1) -> bytes:
    name = b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
    return struct.pack(">HHHHHH", 9, flags, questions, 0, 0, 0) + name + b"\0\1\0\1"


def client_hello(suites: bytes, session: bytes = b"s" * 32, kind: int = 1) -> bytes:
    body = b"\3\3" + b"r" * 32 + bytes([len(session)]) + session + struct.pack(">H", len(suites)) + suites + b"\1\0"
    handshake = bytes([kind]) + len(body).to_bytes(3) + body
    return b"\x16\3\1" + struct.pack(">H", len(handshake)) + handshake


@pytest.mark.parametrize("version", [4, 6])
def test_dns_query__is_the_name_in_lower_case(version: int) -> None:
    assert dns_query(udp(query(b"Api", b"example", b"com"), version=version)) == "api.example.com"


@pytest.mark.parametrize(
    "packet",
    [
        udp(query(b"api", flags=0x8180)),
        udp(query(b"api", questions=0)),
        udp(query()),
        udp(query(b"x" * 70)),
        udp(query(b"api")[:12] + b"\xc0\x0c\0\1\0\1"),
        udp(query(b"api"), fragment=9),
        tcp(query(b"api")),
        b"",
    ],
    ids=["response", "no question", "root", "long label", "pointer", "fragment", "TCP", "nothing"],
)
def test_dns_query__is_none_for_other_packets(packet: bytes) -> None:
    assert dns_query(packet) is None


def test_dns_query__a_cut_name_is_none() -> None:
    packet = udp(query(b"api", b"example"))
    ends = len(packet) - 4  # type and class
    assert [size for size in range(len(packet) + 1) if dns_query(packet[:size])] == list(range(ends, len(packet) + 1))


@pytest.mark.parametrize("session", [b"", b"s" * 32])
def test_cipher_suites__are_in_their_order_and_without_grease(session: bytes) -> None:
    suites = b"\x1a\x1a\xc0\x2c\x00\x9c\x0a\x0a"
    assert cipher_suites(tcp(client_hello(suites, session))) == "c02c009c"
    assert cipher_suites(tcp(client_hello(suites, session), version=6)) == "c02c009c"


def test_cipher_suites__a_cut_list_is_as_long_as_kept() -> None:
    packet = tcp(client_hello(b"\xc0\x2c\x00\x9c\x00\x35"))
    start = packet.index(b"\xc0\x2c\x00\x9c")
    assert [cipher_suites(packet[: start + kept]) for kept in range(6)] == [
        None, None, "c02c", "c02c", "c02c009c", "c02c009c"
    ]  # fmt: skip


def test_cipher_suites__is_none_for_other_packets() -> None:
    assert cipher_suites(tcp(client_hello(b"\xc0\x2c", kind=2))) is None
    assert cipher_suites(tcp(b"GET / HTTP/1.1" + b" " * 99)) is None
    assert cipher_suites(udp(client_hello(b"\xc0\x2c"))) is None


@hypothesis_settings(max_examples=300, deadline=None)
@given(
    noise=st.binary(max_size=250),
    start=st.sampled_from([b"", udp(query(b"api"))[:44], tcp(client_hello(b"\0\1"))[:90]]),
    change=st.tuples(st.integers(0, 90), st.integers(0, 255)),
)
def test_payload__any_bytes_are_read_without_error(noise: bytes, start: bytes, change: tuple[int, int]) -> None:
    packet = bytearray(start + noise)
    if change[0] < len(packet):
        packet[change[0]] = change[1]
    whole = bytes(packet)
    name, suites = dns_query(whole), cipher_suites(whole)
    assert name is None or len(name) < len(whole)
    assert suites is None or len(suites) < 2 * len(whole)
    assert all(payload_of(whole, protocol) in whole for protocol in (1, 6, 17))
