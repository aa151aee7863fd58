"""Frames, conversations and capture files of the simulator.

scapy builds and serialises every header once; each packet is a copy with its own lengths, ports, numbers and checksums,
which is fifty times faster than building it. Payloads that no parser reads are random bytes.
"""

from __future__ import annotations

import gzip
import random
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

ETHERNET = 1  # LINKTYPE_ETHERNET
LINUX_COOKED = 113  # LINKTYPE_LINUX_SLL
FIN, SYN, RST, PSH, ACK = 0x01, 0x02, 0x04, 0x08, 0x10

_ETHERNET_MINIMUM = 60  # bytes without the check sequence (IEEE 802.3, 3.2.7)
_ROUND_TRIP_NS = 30_000_000
_RANDOM_BYTES = random.Random("payload").randbytes(1 << 16)


class Packet(NamedTuple):
    time_ns: int
    frame: bytes  # Ethernet, without the check sequence


@dataclass(frozen=True)
class Host:
    """An end of a conversation as in the capture; for hosts behind the gateway ``mac`` is the gateway's."""

    mac: str
    ipv4: str
    ipv6: str
    vlan: int | None = None
    wired: bool = False  # wired frames are padded to Ethernet's minimum, wireless ones are not


@dataclass(frozen=True)
class Stack:
    """Header fields of a TCP stack; the raw window shrinks by the bytes last received divided by ``scale``."""

    timestamps: bool
    syn_window: int
    window: int
    scale: int


def random_payload(length: int, rng: random.Random) -> bytes:
    start = rng.randrange(len(_RANDOM_BYTES) - length)
    return _RANDOM_BYTES[start : start + length]


def ethernet(source: Host, target: Host, inner: Any) -> bytes:
    """Serialise scapy's layers ``inner`` in an Ethernet frame, tagged if one of the ends is on a VLAN."""
    from scapy.layers.l2 import Dot1Q, Ether

    vlan = source.vlan or target.vlan
    frame = Ether(src=source.mac, dst=target.mac)
    serialised = bytes(frame / Dot1Q(vlan=vlan) / inner if vlan else frame / inner)
    return serialised.ljust(_ETHERNET_MINIMUM, b"\0") if source.wired else serialised


def udp_fragments(source: Host, target: Host, port: int, length: int, rng: random.Random) -> list[bytes]:
    """One UDP datagram with ``length`` bytes of payload, in as many IPv4 fragments as Ethernet needs."""
    from scapy.layers.inet import IP, UDP, fragment

    network = IP(src=source.ipv4, dst=target.ipv4, id=rng.randrange(1, 65536))
    datagram = network / UDP(sport=port, dport=port) / random_payload(length, rng)
    return [ethernet(source, target, part) for part in fragment(datagram, fragsize=1480)]


class Header:
    """Headers from Ethernet to TCP or UDP between two hosts: built by scapy, patched for each packet."""

    def __init__(self, source: Host, target: Host, version: int, transport: Any) -> None:
        """``transport`` is scapy's TCP or UDP layer with the options wanted."""
        from scapy.layers.inet import IP
        from scapy.layers.inet6 import IPv6

        if version == 4:
            network = IP(src=source.ipv4, dst=target.ipv4, flags="DF")
        else:
            network = IPv6(src=source.ipv6, dst=target.ipv6)
        self._ipv4 = version == 4
        self._ip = 18 if source.vlan or target.vlan else 14
        self._transport = self._ip + len(network)
        self._protocol = 6 if type(transport).__name__ == "TCP" else 17
        self._length = self._transport + len(transport)
        self._frame = ethernet(source, target, network / transport)[: self._length]
        self._minimum = _ETHERNET_MINIMUM if source.wired else 0
        addresses = slice(self._ip + 12, self._ip + 20) if self._ipv4 else slice(self._ip + 8, self._ip + 40)
        self._addresses = int.from_bytes(self._frame[addresses])

    def tcp(
        self, ports: tuple[int, int], numbers: tuple[int, int], flags: int, window: int, payload: bytes, *, ident: int
    ) -> bytes:
        """The frame of one segment; ``numbers`` are sequence and acknowledgement, ``ident`` IPv4's identification."""
        frame = bytearray(self._frame + payload)
        struct.pack_into("!HHII", frame, self._transport, *ports, *numbers)
        struct.pack_into("!BHH", frame, self._transport + 13, flags, window, 0)
        return self._sealed(frame, ident, self._transport + 16)

    def udp(self, ports: tuple[int, int], payload: bytes, *, ident: int) -> bytes:
        """The frame of one datagram."""
        frame = bytearray(self._frame + payload)
        struct.pack_into("!HHHH", frame, self._transport, *ports, 8 + len(payload), 0)
        return self._sealed(frame, ident, self._transport + 6)

    def _sealed(self, frame: bytearray, ident: int, checksum_at: int) -> bytes:
        """Fill in lengths and checksums (RFC 1071), and pad the frame."""
        transport_length = len(frame) - self._transport
        if self._ipv4:
            struct.pack_into("!HH", frame, self._ip + 2, len(frame) - self._ip, ident)
            struct.pack_into("!H", frame, self._ip + 10, 0)
            struct.pack_into("!H", frame, self._ip + 10, _checksum(int.from_bytes(frame[self._ip : self._ip + 20])))
        else:
            struct.pack_into("!H", frame, self._ip + 4, transport_length)
        segment = frame[self._transport :] + (b"\0" if transport_length % 2 else b"")
        total = self._addresses + self._protocol + transport_length + int.from_bytes(segment)
        struct.pack_into("!H", frame, checksum_at, _checksum(total) or 0xFFFF)
        return bytes(frame).ljust(self._minimum, b"\0")


def _checksum(number: int) -> int:
    """Internet checksum: the ones' complement sum of a number's 16-bit words equals the number modulo 65,535."""
    return 0xFFFF - (number % 0xFFFF or 0xFFFF)


@dataclass
class Network:
    """Cache of headers between pairs of hosts."""

    _headers: dict[tuple[Host, Host, int, str], Header] = field(default_factory=dict)

    def header(self, source: Host, target: Host, version: int, transport: str) -> Header:
        """``transport``: udp, or tcp with the options of a `syn` or of later packets, with or without time stamps."""
        key = (source, target, version, transport)
        if key not in self._headers:
            self._headers[key] = Header(source, target, version, _transport(transport, version))
        return self._headers[key]

    def udp(
        self,
        ends: tuple[Host, Host],
        ports: tuple[int, int],
        messages: Sequence[tuple[int, bytes]],
        clock: Clock,
        version: int = 4,
    ) -> Iterator[Packet]:
        """A UDP conversation; ``messages``: (sender: 0 client, 1 server; payload)."""
        headers = (self.header(*ends, version, "udp"), self.header(*ends[::-1], version, "udp"))
        for side, payload in messages:
            between = ports if side == 0 else ports[::-1]
            yield Packet(clock.after_turn(), headers[side].udp(between, payload, ident=clock.rng.randrange(65536)))


def _transport(name: str, version: int) -> Any:
    from scapy.layers.inet import TCP, UDP

    largest = ("MSS", 1460 if version == 4 else 1440)
    options = {
        "syn": [largest],
        "syn timestamps": [largest, ("SAckOK", b""), ("Timestamp", (1, 0)), ("NOP", None), ("WScale", 7)],
        "timestamps": [("NOP", None), ("NOP", None), ("Timestamp", (1, 1))],
        "plain": [],
    }
    return UDP() if name == "udp" else TCP(options=options[name])


@dataclass
class Clock:
    """Time in a conversation: short intervals within a turn, the device's pause between turns."""

    now_ns: int
    pause_s: float
    rng: random.Random

    def after_turn(self) -> int:
        return self._advance(self.pause_s * 1e9 * self.rng.uniform(0.5, 1.5))

    def after_trip(self) -> int:
        return self._advance(_ROUND_TRIP_NS * self.rng.uniform(0.3, 1.2))

    def within_turn(self) -> int:
        return self._advance(self.rng.uniform(20_000, 900_000))

    def _advance(self, step_ns: float) -> int:
        self.now_ns += int(step_ns)
        return self.now_ns


class TcpConversation:
    """A TCP connection from handshake to close, with delayed acknowledgements and occasional retransmissions."""

    def __init__(
        self,
        network: Network,
        ends: tuple[Host, Host],
        ports: tuple[int, int],
        stacks: tuple[Stack, Stack],
        clock: Clock,
        *,
        version: int = 4,
    ) -> None:
        timestamps = stacks[0].timestamps and stacks[1].timestamps
        self._plain = "timestamps" if timestamps else "plain"
        self._syn = "syn timestamps" if timestamps else "syn"
        self._largest = (1448 if timestamps else 1460) - (20 if version == 6 else 0)
        self._network, self._ends, self._version = network, ends, version
        self._ports, self._stacks, self._clock = ports, stacks, clock
        self._next = [clock.rng.getrandbits(32), clock.rng.getrandbits(32)]
        self._unread = [0, 0]

    def packets(self, turns: Sequence[int], ending: str) -> Iterator[Packet]:
        """``turns``: payload bytes, positive from the client, negative from the server.

        ``ending``: fin, reset, open (the capture shows no end) or refused (the server answers the SYN with a RST).
        """
        yield self._packet(self._clock.after_turn(), 0, SYN)
        if ending == "refused":
            yield self._packet(self._clock.after_trip(), 1, RST | ACK)
            return
        yield self._packet(self._clock.after_trip(), 1, SYN | ACK)
        yield self._packet(self._clock.within_turn(), 0, ACK)
        for turn in turns:
            yield from self._turn(0 if turn > 0 else 1, abs(turn))
        if ending == "reset":
            yield self._packet(self._clock.after_turn(), 0, RST | ACK)
        elif ending == "fin":
            yield self._packet(self._clock.after_turn(), 0, FIN | ACK)
            yield self._packet(self._clock.after_trip(), 1, FIN | ACK)
            yield self._packet(self._clock.within_turn(), 0, ACK)

    def _turn(self, side: int, length: int) -> Iterator[Packet]:
        rng = self._clock.rng
        moment = self._clock.after_turn()
        segments = 0
        while length:
            size = min(length, self._largest)
            length -= size
            sent = self._packet(moment, side, ACK if length else PSH | ACK, random_payload(size, rng))
            yield sent
            if rng.random() < 0.01:
                yield Packet(self._clock.after_trip(), sent.frame)
            self._unread[1 - side] = size
            segments += 1
            moment = self._clock.within_turn()
            if segments % 2 == 0 or (not length and rng.random() < 0.6):
                yield self._packet(self._clock.within_turn(), 1 - side, ACK)
        self._unread[side] = 0

    def _packet(self, moment: int, side: int, flags: int, payload: bytes = b"") -> Packet:
        stack = self._stacks[side]
        header = self._network.header(
            self._ends[side], self._ends[1 - side], self._version, self._syn if flags & SYN else self._plain
        )
        window = stack.syn_window if flags & SYN else max(0, stack.window - self._unread[side] // stack.scale)
        numbers = (self._next[side], self._next[1 - side] if flags & ACK else 0)
        ports = self._ports if side == 0 else self._ports[::-1]
        self._next[side] = (self._next[side] + len(payload) + bool(flags & (SYN | FIN))) % 2**32
        frame = header.tcp(ports, numbers, flags, window, payload, ident=self._clock.rng.randrange(65536))
        return Packet(moment, frame)


@dataclass(frozen=True)
class CaptureFile:
    """Name and format of a capture file; ``cooked``: MACs of hosts captured on a second, Linux cooked interface."""

    name: str
    byte_order: str = "<"
    nanoseconds: bool = False
    snap_length: int = 262144
    cooked: frozenset[str] = frozenset()

    def write(self, folder: Path, packets: Sequence[Packet], short: frozenset[int] = frozenset()) -> None:
        """Write the packets in this order; those with an index in ``short`` are truncated to 30 bytes."""
        write = self._pcapng if ".pcapng" in self.name else self._pcap
        lengths = [30 if number in short else self.snap_length for number in range(len(packets))]
        content = b"".join(write(packets, lengths))
        if self.name.endswith(".gz"):
            content = gzip.compress(content, compresslevel=6, mtime=0)
        (folder / self.name).write_bytes(content)

    def _pcap(self, packets: Sequence[Packet], lengths: Sequence[int]) -> Iterator[bytes]:
        magic = 0xA1B23C4D if self.nanoseconds else 0xA1B2C3D4
        yield struct.pack(f"{self.byte_order}IHHiIII", magic, 2, 4, 0, 0, self.snap_length, ETHERNET)
        record = struct.Struct(f"{self.byte_order}IIII")
        for (time_ns, frame), limit in zip(packets, lengths, strict=True):
            seconds, rest = divmod(time_ns, 10**9)
            captured = frame[:limit]
            yield record.pack(seconds, rest if self.nanoseconds else rest // 1000, len(captured), len(frame)) + captured

    def _pcapng(self, packets: Sequence[Packet], lengths: Sequence[int]) -> Iterator[bytes]:
        """Section header, an Ethernet interface in µs, a Linux cooked one in ns, enhanced packet blocks."""
        order = self.byte_order
        yield self._block(0x0A0D0D0A, struct.pack(f"{order}IHHq", 0x1A2B3C4D, 1, 0, -1))
        yield self._block(1, struct.pack(f"{order}HHI", ETHERNET, 0, self.snap_length))
        resolution = struct.pack(f"{order}HHB3xHH", 9, 1, 9, 0, 0)  # if_tsresol: 10^-9 s, then the end of options
        yield self._block(1, struct.pack(f"{order}HHI", LINUX_COOKED, 0, self.snap_length) + resolution)
        cooked = {bytes.fromhex(mac.replace(":", "")) for mac in self.cooked}
        for (time_ns, ethernet_frame), limit in zip(packets, lengths, strict=True):
            interface = int(ethernet_frame[6:12] in cooked or ethernet_frame[:6] in cooked)
            frame = _cooked(ethernet_frame, ethernet_frame[6:12] not in cooked) if interface else ethernet_frame
            stamp = time_ns if interface else time_ns // 1000
            captured = frame[:limit]
            fields = (interface, stamp >> 32, stamp & 0xFFFFFFFF, len(captured), len(frame))
            yield self._block(6, struct.pack(f"{order}IIIII", *fields) + captured)

    def _block(self, block_type: int, body: bytes) -> bytes:
        body += b"\0" * (-len(body) % 4)
        length = struct.pack(f"{self.byte_order}I", len(body) + 12)
        return struct.pack(f"{self.byte_order}I", block_type) + length + body + length


def _cooked(frame: bytes, outgoing: bool) -> bytes:
    """The frame in Linux cooked format: without the destination MAC."""
    return struct.pack("!HHH", 4 if outgoing else 0, 1, 6) + frame[6:12] + b"\0\0" + frame[12:]
