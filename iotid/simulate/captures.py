"""Captures of two made-up sites on two nights: what the demo and the tests learn from.

Between the nights one device comes, one goes, and one that no list knows appears. Same seed, same bytes.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from iotid.simulate.devices import KINDS, PROXY, Habit, Kind, handshake, said
from iotid.simulate.frames import (
    Clock,
    Container,
    Host,
    Network,
    Packet,
    TcpConversation,
    ethernet,
    random_payload,
    udp_fragments,
)

NIGHTS = ("2026-01-10", "2026-01-11")
_NIGHT_BEGINS_HOUR = 18
_NIGHT_S = 5 * 3600


@dataclass(frozen=True)
class Unit:
    """One device; ``name`` is None where the device list must not know it, ``nights`` are those it is there."""

    kind: Kind
    name: str | None
    host: Host
    nights: tuple[str, ...] = NIGHTS


@dataclass(frozen=True)
class Site:
    name: str
    gateway: Host
    units: tuple[Unit, ...]
    containers: tuple[Container, ...]  # each takes an equal share of the night


def write_demo(folder: Path, seed: int = 1) -> None:
    """Write FOLDER/captures/SITE/DATE/* and the device list FOLDER/devices.yaml, about 20 MB in all."""
    network = Network()
    sites = _sites()
    for site in sites:
        for night in NIGHTS:
            target = folder / "captures" / site.name / night
            target.mkdir(parents=True, exist_ok=True)
            _write_night(target, site, night, network, random.Random(f"{seed} {site.name} {night}"))
    devices = [
        {
            "name": unit.name,
            "model": unit.kind.model,
            "vendor": unit.kind.vendor,
            "type": unit.kind.type,
            "mac": unit.host.mac,
        }
        for site in sites
        for unit in site.units
        if unit.name is not None
    ]
    text = yaml.safe_dump({"devices": devices}, sort_keys=False)
    (folder / "devices.yaml").write_text(text, encoding="utf-8")


def write_units(path: Path, units: Mapping[str, int], night: str = NIGHTS[0], seed: int = 1) -> dict[str, str]:
    """Write one pcap of a made-up night with so many units of each model of KINDS; the model of each MAC.

    The same units have the same addresses on every night.
    """
    models = [model for model, count in units.items() for _ in range(count)]
    members = [_unit("units", 3, number, model) for number, model in enumerate(models)]
    site = Site("units", _host(3, 1, wired=True), tuple(members), (Container(path.name),))
    _write_night(path.parent, site, night, Network(), random.Random(f"{seed} {night}"))
    return {unit.host.mac: unit.kind.model for unit in members}


def _sites() -> tuple[Site, Site]:
    home_models = (
        "lumora-cam", "lumora-bell", "voltano-plug", "voltano-bulb", "hearth-hub", "hearth-thermostat",
        "sonorel-speaker", "pondera-scale", "vistara-tv", "aeris-sensor", "inkwell-printer",
    )  # fmt: skip
    office_models = (
        "lumora-cam", "lumora-bell", "voltano-plug", "voltano-bulb", "hearth-hub", "hearth-thermostat",
        "sonorel-speaker", "inkwell-printer", "vistara-tv", "aeris-sensor", "rovero-vacuum",
    )  # fmt: skip
    home = [_unit("home", 1, number, model) for number, model in enumerate(home_models)]
    gone = next(unit for unit in home if unit.kind.model == "pondera-scale")
    home[home.index(gone)] = Unit(gone.kind, gone.name, gone.host, NIGHTS[:1])
    home.append(_unit("home", 1, len(home), "rovero-vacuum", nights=NIGHTS[1:]))
    office = [_unit("office", 2, number, model) for number, model in enumerate(office_models)]
    office.append(_unit("office", 2, len(office), "frostine-fridge", listed=False, nights=NIGHTS[1:]))
    television = home[home_models.index("vistara-tv")].host.mac
    return (
        Site(
            "home",
            _host(1, 1, wired=True),
            tuple(home),
            (
                Container("evening.pcap"),
                Container("late.pcap.gz"),
                Container("midnight.pcapng", cooked=frozenset({television})),
            ),
        ),
        Site(
            "office",
            _host(2, 1, wired=True),
            tuple(office),
            (
                Container("part-1.pcap", nanoseconds=True),
                Container("part-2.pcap", byte_order=">", snap_length=96),
                Container("part-3.pcapng"),
            ),
        ),
    )


def _unit(
    site: str, network: int, number: int, model: str, *, listed: bool = True, nights: tuple[str, ...] = NIGHTS
) -> Unit:
    kind = KINDS[model]
    vlan = 20 if site == "office" and kind.type == "printer" else None
    host = _host(network, 20 + number, wired=kind.wired, vlan=vlan)
    return Unit(kind, f"{site}-{model}" if listed else None, host, nights)


def _host(network: int, number: int, *, wired: bool = False, vlan: int | None = None) -> Host:
    """A host of a site; 02… are locally administered MACs, which no vendor owns."""
    mac = f"02:1d:{network:02x}:00:00:{number:02x}"
    return Host(mac, f"192.168.{network}.{number}", f"fd00:{network}::{number:x}", vlan, wired)


def _write_night(folder: Path, site: Site, night: str, network: Network, rng: random.Random) -> None:
    begins_ns = int(datetime.fromisoformat(night).replace(hour=_NIGHT_BEGINS_HOUR, tzinfo=UTC).timestamp()) * 10**9
    packets = sorted(_Night(site, night, begins_ns, network, rng).packets())
    share_ns = _NIGHT_S * 10**9 // len(site.containers)
    for number, container in enumerate(site.containers):
        last = number == len(site.containers) - 1
        ends_ns = packets[-1].time_ns + 1 if last else begins_ns + (number + 1) * share_ns
        starts_ns = begins_ns + number * share_ns
        part = [packet for packet in packets if starts_ns <= packet.time_ns < ends_ns]
        for place in rng.sample(range(len(part) - 4), 20):
            part.insert(place + 4, part.pop(place))  # captures are allowed to be out of order
        short = frozenset(rng.sample(range(len(part)), 6)) if container.snap_length < 256 else frozenset()
        container.write(folder, part, short)


@functools.cache
def _question_and_answer(name: str, kind: str, answer: str) -> tuple[bytes, bytes]:
    from scapy.layers.dns import DNS, DNSQR, DNSRR

    question = DNSQR(qname=name, qtype=kind)
    told = DNSRR(rrname=name, type=kind, ttl=60, rdata=answer)
    return bytes(DNS(id=0, rd=1, qd=question)), bytes(DNS(id=0, qr=1, rd=1, ra=1, qd=question, an=told))


class _Night:
    """The traffic of one site in one night."""

    def __init__(self, site: Site, night: str, begins_ns: int, network: Network, rng: random.Random) -> None:
        self._site, self._night, self._begins_ns, self._network, self._rng = site, night, begins_ns, network, rng
        self._units = [unit for unit in site.units if night in unit.nights]
        self._next_port = {unit: rng.randrange(32768, 50000) for unit in self._units}

    def packets(self) -> Iterator[Packet]:
        for unit in self._units:
            for _ in range(self._rng.randint(*unit.kind.flows)):
                habit = self._rng.choices(unit.kind.habits, [habit.share for habit in unit.kind.habits])[0]
                if habit.peer != "gateway" and self._rng.random() < 0.5:
                    yield from self._look_up(unit, habit)
                yield from self._converse(unit, habit)
            yield from self._chatter(unit)
            yield from self._beside_ip(unit)
        yield from self._gateway()

    def _clock(self, pause_s: float) -> Clock:
        start_s = self._rng.uniform(0, _NIGHT_S - 120)
        return Clock(self._begins_ns + int(start_s * 1e9), pause_s, self._rng)

    def _port(self, unit: Unit) -> int:
        self._next_port[unit] += self._rng.randint(1, 7)
        return self._next_port[unit]

    def _peer(self, unit: Unit, habit: Habit) -> tuple[Host, bool]:
        """The other end, and whether it speaks IPv6."""
        if habit.peer == "gateway":
            return self._site.gateway, False
        if habit.peer == "hub":
            hub = next(other.host for other in self._units if other.kind.type == "hub")
            return hub, False
        if habit.transport == "group":
            return Host("ff:ff:ff:ff:ff:ff", "255.255.255.255", "ff02::1"), False
        net, name = (203, "shared") if habit.peer == "shared" else (198, unit.kind.host)
        number = 1 + sum(name.encode()) % 200 + self._rng.randrange(3)
        ipv4 = f"203.0.113.{number}" if net == 203 else f"198.51.100.{number}"
        return Host(self._site.gateway.mac, ipv4, f"2001:db8:{net}::{number:x}", wired=True), True

    def _converse(self, unit: Unit, habit: Habit) -> Iterator[Packet]:
        peer, speaks_ipv6 = self._peer(unit, habit)
        version = 6 if speaks_ipv6 and self._rng.random() < unit.kind.ipv6 else 4
        turns = said(habit, self._rng)
        clock = self._clock(habit.pause_s)
        if habit.transport in ("udp", "group"):
            ports = (self._port(unit) if habit.transport == "udp" else habit.port, habit.port)
            messages = [(int(turn < 0), random_payload(abs(turn), self._rng)) for turn in turns]
            yield from self._network.udp((unit.host, peer), ports, messages, clock, version)
            return
        if habit.transport == "tls":
            turns = [*handshake(unit.kind, self._rng), *turns]
        ending = self._rng.choices(("fin", "reset", "open", "refused"), (80, 10, 8, 2))[0]
        stacks = (unit.kind.stack, unit.kind.server if habit.peer == "cloud" else PROXY)
        ports = (self._port(unit), habit.port)
        connection = TcpConversation(self._network, (unit.host, peer), ports, stacks, clock, version=version)
        yield from connection.packets(turns, ending)

    def _look_up(self, unit: Unit, habit: Habit) -> Iterator[Packet]:
        name = "time.example" if habit.peer == "shared" else unit.kind.host
        address = self._peer(unit, habit)[0]
        kind, answer = ("AAAA", address.ipv6) if self._rng.random() < unit.kind.ipv6 else ("A", address.ipv4)
        number = self._rng.randbytes(2)
        messages = [(side, number + text[2:]) for side, text in enumerate(_question_and_answer(name, kind, answer))]
        ends = (unit.host, self._site.gateway)
        yield from self._network.udp(ends, (self._port(unit), 53), messages, self._clock(0.02))

    def _chatter(self, unit: Unit) -> Iterator[Packet]:
        """Time, lease, discovery: the same from every kind but for a name or two."""
        from scapy.layers.dhcp import BOOTP, DHCP
        from scapy.layers.dns import DNS, DNSRR
        from scapy.layers.ntp import NTP

        host, gateway, rng = unit.host, self._site.gateway, self._rng
        clock_server = Host(gateway.mac, "203.0.113.250", "2001:db8:203::250", wired=True)
        for _ in range(rng.randint(6, 14)):
            # else scapy takes the time of this machine
            moments: dict[str, Any] = dict.fromkeys(("ref", "orig", "recv", "sent"), rng.randrange(2**31))
            messages = [(0, bytes(NTP(mode=3, **moments))), (1, bytes(NTP(mode=4, stratum=2, **moments)))]
            source = rng.choice((123, self._port(unit)))
            yield from self._network.udp((host, clock_server), (source, 123), messages, self._clock(0.03))
        everybody = Host("01:00:5e:7f:ff:fa", "239.255.255.250", "ff02::c")
        search = b'M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nMAN: "ssdp:discover"\r\nMX: 3\r\nST: %s\r\n\r\n'
        for _ in range(rng.randint(1, 4)):
            sought = rng.choice((b"ssdp:all", b"upnp:rootdevice"))
            messages = [(0, search % sought)] * rng.randint(1, 3)
            yield from self._network.udp((host, everybody), (self._port(unit), 1900), messages, self._clock(1.0))
        service = DNSRR(rrname="_services._dns-sd._udp.local", type="PTR", ttl=120, rdata=f"{unit.kind.model}.local")
        announced = bytes(DNS(id=0, qr=1, aa=1, qd=[], an=service))
        neighbours = Host("01:00:5e:00:00:fb", "224.0.0.251", "ff02::fb")
        if unit.kind.ipv6:
            over_ipv6 = Host("33:33:00:00:00:fb", "224.0.0.251", "ff02::fb")
            yield from self._network.udp((host, over_ipv6), (5353, 5353), [(0, announced)] * 2, self._clock(1.0), 6)
        messages = [(0, announced)] * rng.randint(2, 5)
        yield from self._network.udp((host, neighbours), (5353, 5353), messages, self._clock(60.0))
        lease = BOOTP(ciaddr=host.ipv4, chaddr=bytes.fromhex(host.mac.replace(":", "")), xid=rng.getrandbits(32))
        asked = bytes(lease / DHCP(options=[("message-type", "request"), ("hostname", unit.kind.model), "end"]))
        told = bytes(lease / DHCP(options=[("message-type", "ack"), ("lease_time", 86400), "end"]))
        yield from self._network.udp((host, gateway), (68, 67), [(0, asked), (1, told)], self._clock(0.05))

    def _beside_ip(self, unit: Unit) -> Iterator[Packet]:
        """ARP, Wi-Fi's key exchange, ping, neighbour discovery and fragments."""
        from scapy.layers.eap import EAPOL
        from scapy.layers.inet import ICMP, IP
        from scapy.layers.inet6 import ICMPv6ND_NS, ICMPv6NDOptSrcLLAddr, IPv6
        from scapy.layers.l2 import ARP

        host, gateway = unit.host, self._site.gateway
        asks = ethernet(host, gateway, ARP(op=1, hwsrc=host.mac, psrc=host.ipv4, pdst=gateway.ipv4))
        tells = ARP(op=2, hwsrc=gateway.mac, psrc=gateway.ipv4, hwdst=host.mac, pdst=host.ipv4)
        told = ethernet(gateway, host, tells)
        for _ in range(self._rng.randint(10, 20)):
            yield from self._at_some_time(asks, told)
        if not host.wired:
            yield from self._at_some_time(ethernet(host, gateway, EAPOL(type=3) / random_payload(95, self._rng)))
        ping = ICMP(type=8, id=self._rng.randrange(65536)) / random_payload(56, self._rng)
        pong = ICMP(type=0, id=ping.id) / ping.payload
        there, back = IP(src=gateway.ipv4, dst=host.ipv4), IP(src=host.ipv4, dst=gateway.ipv4)
        yield from self._at_some_time(ethernet(gateway, host, there / ping), ethernet(host, gateway, back / pong))
        if unit.kind.ipv6:
            network = IPv6(src=host.ipv6, dst=gateway.ipv6, hlim=255)
            solicits = network / ICMPv6ND_NS(tgt=gateway.ipv6) / ICMPv6NDOptSrcLLAddr(lladdr=host.mac)
            yield from self._at_some_time(ethernet(host, gateway, solicits))
        if unit.kind.type == "hub":
            for _ in range(4):
                length = self._rng.randint(2200, 3600)
                yield from self._at_some_time(*udp_fragments(host, gateway, 514, length, self._rng))

    def _gateway(self) -> Iterator[Packet]:
        """Spanning tree and router advertisements, at their period."""
        from scapy.layers.inet6 import ICMPv6ND_RA, IPv6
        from scapy.layers.l2 import LLC, STP, Dot3

        gateway = self._site.gateway
        bridge: Any = Dot3(src=gateway.mac, dst="01:80:c2:00:00:00") / LLC(dsap=0x42, ssap=0x42, ctrl=3)
        hello = bytes(bridge / STP(rootmac=gateway.mac, bridgemac=gateway.mac)).ljust(60, b"\0")
        all_nodes = Host("33:33:00:00:00:01", "224.0.0.1", "ff02::1")
        advertised = ethernet(gateway, all_nodes, IPv6(src="fe80::1", dst="ff02::1", hlim=255) / ICMPv6ND_RA())
        for second in range(0, _NIGHT_S, 60):
            yield Packet(self._begins_ns + second * 10**9, hello)
            if second % 600 == 0:
                yield Packet(self._begins_ns + (second + 7) * 10**9, advertised)

    def _at_some_time(self, *frames: bytes) -> Iterator[Packet]:
        clock = self._clock(0.01)
        for frame in frames:
            yield Packet(clock.at_once(), frame)
