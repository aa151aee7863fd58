"""Writes captures of two simulated sites on two dates, for the demo and the tests.

On the second date one device is new, one is gone, and an unlisted one appears. The same seed gives the same bytes.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from iotid.simulate.devices import DEVICE_MODELS, PROXY, DeviceModel, TrafficPattern, conversation_turns, handshake
from iotid.simulate.frames import (
    CaptureFile,
    Clock,
    Host,
    Network,
    Packet,
    TcpConversation,
    ethernet,
    random_payload,
    udp_fragments,
)

CAPTURE_DATES = ("2026-01-10", "2026-01-11")
_BEGINS_HOUR = 18
_CAPTURE_S = 5 * 3600


@dataclass(frozen=True)
class Device:
    """One device; ``name``: None for an unlisted device; ``capture_dates``: dates on which it is present."""

    model: DeviceModel
    name: str | None
    host: Host
    capture_dates: tuple[str, ...] = CAPTURE_DATES


@dataclass(frozen=True)
class Site:
    name: str
    gateway: Host
    devices: tuple[Device, ...]
    files: tuple[CaptureFile, ...]  # each holds an equal share of the time


def write_demo(folder: Path, seed: int = 1) -> None:
    """Write FOLDER/captures/SITE/DATE/* and the device list FOLDER/devices.yaml, about 20 MB in total."""
    network = Network()
    sites = _sites()
    for site in sites:
        for capture_date in CAPTURE_DATES:
            target = folder / "captures" / site.name / capture_date
            target.mkdir(parents=True, exist_ok=True)
            _write_captures(target, site, capture_date, network, random.Random(f"{seed} {site.name} {capture_date}"))
    devices = [
        {
            "name": device.name,
            "model": device.model.name,
            "vendor": device.model.vendor,
            "type": device.model.type,
            "mac": device.host.mac,
        }
        for site in sites
        for device in site.devices
        if device.name is not None
    ]
    text = yaml.safe_dump({"devices": devices}, sort_keys=False)
    (folder / "devices.yaml").write_text(text, encoding="utf-8")


def _sites() -> tuple[Site, Site]:
    home_models = (
        "lumora-cam", "lumora-bell", "voltano-plug", "voltano-bulb", "hearth-hub", "hearth-thermostat",
        "sonorel-speaker", "pondera-scale", "vistara-tv", "aeris-sensor", "inkwell-printer",
    )  # fmt: skip
    office_models = (
        "lumora-cam", "lumora-bell", "voltano-plug", "voltano-bulb", "hearth-hub", "hearth-thermostat",
        "sonorel-speaker", "inkwell-printer", "vistara-tv", "aeris-sensor", "rovero-vacuum",
    )  # fmt: skip
    home = [_device("home", 1, number, model) for number, model in enumerate(home_models)]
    gone = next(device for device in home if device.model.name == "pondera-scale")
    home[home.index(gone)] = Device(gone.model, gone.name, gone.host, CAPTURE_DATES[:1])
    home.append(_device("home", 1, len(home), "rovero-vacuum", capture_dates=CAPTURE_DATES[1:]))
    office = [_device("office", 2, number, model) for number, model in enumerate(office_models)]
    office.append(_device("office", 2, len(office), "frostine-fridge", listed=False, capture_dates=CAPTURE_DATES[1:]))
    television = home[home_models.index("vistara-tv")].host.mac
    return (
        Site(
            "home",
            _host(1, 1, wired=True),
            tuple(home),
            (
                CaptureFile("evening.pcap"),
                CaptureFile("late.pcap.gz"),
                CaptureFile("midnight.pcapng", cooked=frozenset({television})),
            ),
        ),
        Site(
            "office",
            _host(2, 1, wired=True),
            tuple(office),
            (
                CaptureFile("part-1.pcap", nanoseconds=True),
                CaptureFile("part-2.pcap", byte_order=">", snap_length=96),
                CaptureFile("part-3.pcapng"),
            ),
        ),
    )


def _device(
    site: str,
    network: int,
    number: int,
    model: str,
    *,
    listed: bool = True,
    capture_dates: tuple[str, ...] = CAPTURE_DATES,
) -> Device:
    found = DEVICE_MODELS[model]
    vlan = 20 if site == "office" and found.type == "printer" else None
    host = _host(network, 20 + number, wired=found.wired, vlan=vlan)
    return Device(found, f"{site}-{model}" if listed else None, host, capture_dates)


def _host(network: int, number: int, *, wired: bool = False, vlan: int | None = None) -> Host:
    """A host of a site; MACs that begin with 02 are locally administered, of no vendor."""
    mac = f"02:1d:{network:02x}:00:00:{number:02x}"
    return Host(mac, f"192.168.{network}.{number}", f"fd00:{network}::{number:x}", vlan, wired)


def _write_captures(folder: Path, site: Site, capture_date: str, network: Network, rng: random.Random) -> None:
    begins_ns = int(datetime.fromisoformat(capture_date).replace(hour=_BEGINS_HOUR, tzinfo=UTC).timestamp()) * 10**9
    packets = sorted(_SiteTraffic(site, capture_date, begins_ns, network, rng).packets())
    share_ns = _CAPTURE_S * 10**9 // len(site.files)
    for number, file in enumerate(site.files):
        last = number == len(site.files) - 1
        ends_ns = packets[-1].time_ns + 1 if last else begins_ns + (number + 1) * share_ns
        starts_ns = begins_ns + number * share_ns
        packets_of_file = [packet for packet in packets if starts_ns <= packet.time_ns < ends_ns]
        for index in rng.sample(range(len(packets_of_file) - 4), 20):
            packets_of_file.insert(index + 4, packets_of_file.pop(index))  # captures may be out of order
        short = frozenset(rng.sample(range(len(packets_of_file)), 6)) if file.snap_length < 256 else frozenset()
        file.write(folder, packets_of_file, short)


@functools.cache
def _question_and_answer(name: str, record_type: str, answer: str) -> tuple[bytes, bytes]:
    from scapy.layers.dns import DNS, DNSQR, DNSRR

    question = DNSQR(qname=name, qtype=record_type)
    record = DNSRR(rrname=name, type=record_type, ttl=60, rdata=answer)
    return bytes(DNS(id=0, rd=1, qd=question)), bytes(DNS(id=0, qr=1, rd=1, ra=1, qd=question, an=record))


class _SiteTraffic:
    """The traffic of one site on one date."""

    def __init__(self, site: Site, capture_date: str, begins_ns: int, network: Network, rng: random.Random) -> None:
        self._site, self._begins_ns, self._network, self._rng = site, begins_ns, network, rng
        self._devices = [device for device in site.devices if capture_date in device.capture_dates]
        self._next_port = {device: rng.randrange(32768, 50000) for device in self._devices}

    def packets(self) -> Iterator[Packet]:
        for device in self._devices:
            for _ in range(self._rng.randint(*device.model.flows)):
                pattern = self._rng.choices(
                    device.model.patterns, [pattern.share for pattern in device.model.patterns]
                )[0]
                if pattern.peer != "gateway" and self._rng.random() < 0.5:
                    yield from self._resolve_name(device, pattern)
                yield from self._converse(device, pattern)
            yield from self._chatter(device)
            yield from self._non_ip(device)
        yield from self._gateway()

    def _clock(self, pause_s: float) -> Clock:
        start_s = self._rng.uniform(0, _CAPTURE_S - 120)
        return Clock(self._begins_ns + int(start_s * 1e9), pause_s, self._rng)

    def _port(self, device: Device) -> int:
        self._next_port[device] += self._rng.randint(1, 7)
        return self._next_port[device]

    def _peer(self, device: Device, pattern: TrafficPattern) -> tuple[Host, bool]:
        """The other end, and whether it speaks IPv6."""
        if pattern.peer == "gateway":
            return self._site.gateway, False
        if pattern.peer == "hub":
            hub = next(other.host for other in self._devices if other.model.type == "hub")
            return hub, False
        if pattern.transport == "group":
            return Host("ff:ff:ff:ff:ff:ff", "255.255.255.255", "ff02::1"), False
        net, name = (203, "shared") if pattern.peer == "shared" else (198, device.model.host)
        number = 1 + sum(name.encode()) % 200 + self._rng.randrange(3)
        ipv4 = f"203.0.113.{number}" if net == 203 else f"198.51.100.{number}"
        return Host(self._site.gateway.mac, ipv4, f"2001:db8:{net}::{number:x}", wired=True), True

    def _converse(self, device: Device, pattern: TrafficPattern) -> Iterator[Packet]:
        peer, speaks_ipv6 = self._peer(device, pattern)
        version = 6 if speaks_ipv6 and self._rng.random() < device.model.ipv6 else 4
        turns = conversation_turns(pattern, self._rng)
        clock = self._clock(pattern.pause_s)
        if pattern.transport in ("udp", "group"):
            ports = (self._port(device) if pattern.transport == "udp" else pattern.port, pattern.port)
            messages = [(int(turn < 0), random_payload(abs(turn), self._rng)) for turn in turns]
            yield from self._network.udp((device.host, peer), ports, messages, clock, version)
            return
        if pattern.transport == "tls":
            turns = [*handshake(device.model, self._rng), *turns]
        ending = self._rng.choices(("fin", "reset", "open", "refused"), (80, 10, 8, 2))[0]
        stacks = (device.model.stack, device.model.server if pattern.peer == "cloud" else PROXY)
        ports = (self._port(device), pattern.port)
        connection = TcpConversation(self._network, (device.host, peer), ports, stacks, clock, version=version)
        yield from connection.packets(turns, ending)

    def _resolve_name(self, device: Device, pattern: TrafficPattern) -> Iterator[Packet]:
        name = "time.example" if pattern.peer == "shared" else device.model.host
        address = self._peer(device, pattern)[0]
        record_type, answer = ("AAAA", address.ipv6) if self._rng.random() < device.model.ipv6 else ("A", address.ipv4)
        number = self._rng.randbytes(2)
        messages = [
            (side, number + text[2:]) for side, text in enumerate(_question_and_answer(name, record_type, answer))
        ]
        ends = (device.host, self._site.gateway)
        yield from self._network.udp(ends, (self._port(device), 53), messages, self._clock(0.02))

    def _chatter(self, device: Device) -> Iterator[Packet]:
        """NTP, DHCP and discovery: the same for every model except for names."""
        from scapy.layers.dhcp import BOOTP, DHCP
        from scapy.layers.dns import DNS, DNSRR
        from scapy.layers.ntp import NTP

        host, gateway, rng = device.host, self._site.gateway, self._rng
        clock_server = Host(gateway.mac, "203.0.113.250", "2001:db8:203::250", wired=True)
        for _ in range(rng.randint(6, 14)):
            # by default scapy uses the current time
            moments: dict[str, Any] = dict.fromkeys(("ref", "orig", "recv", "sent"), rng.randrange(2**31))
            messages = [(0, bytes(NTP(mode=3, **moments))), (1, bytes(NTP(mode=4, stratum=2, **moments)))]
            source = rng.choice((123, self._port(device)))
            yield from self._network.udp((host, clock_server), (source, 123), messages, self._clock(0.03))
        everyone = Host("01:00:5e:7f:ff:fa", "239.255.255.250", "ff02::c")
        search = b'M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nMAN: "ssdp:discover"\r\nMX: 3\r\nST: %s\r\n\r\n'
        for _ in range(rng.randint(1, 4)):
            sought = rng.choice((b"ssdp:all", b"upnp:rootdevice"))
            messages = [(0, search % sought)] * rng.randint(1, 3)
            yield from self._network.udp((host, everyone), (self._port(device), 1900), messages, self._clock(1.0))
        service = DNSRR(rrname="_services._dns-sd._udp.local", type="PTR", ttl=120, rdata=f"{device.model.name}.local")
        announced = bytes(DNS(id=0, qr=1, aa=1, qd=[], an=service))
        neighbours = Host("01:00:5e:00:00:fb", "224.0.0.251", "ff02::fb")
        if device.model.ipv6:
            over_ipv6 = Host("33:33:00:00:00:fb", "224.0.0.251", "ff02::fb")
            yield from self._network.udp((host, over_ipv6), (5353, 5353), [(0, announced)] * 2, self._clock(1.0), 6)
        messages = [(0, announced)] * rng.randint(2, 5)
        yield from self._network.udp((host, neighbours), (5353, 5353), messages, self._clock(60.0))
        lease = BOOTP(ciaddr=host.ipv4, chaddr=bytes.fromhex(host.mac.replace(":", "")), xid=rng.getrandbits(32))
        requested = bytes(lease / DHCP(options=[("message-type", "request"), ("hostname", device.model.name), "end"]))
        acknowledged = bytes(lease / DHCP(options=[("message-type", "ack"), ("lease_time", 86400), "end"]))
        yield from self._network.udp((host, gateway), (68, 67), [(0, requested), (1, acknowledged)], self._clock(0.05))

    def _non_ip(self, device: Device) -> Iterator[Packet]:
        """ARP, EAPOL (Wi-Fi key exchange), ping, neighbour discovery and fragments."""
        from scapy.layers.eap import EAPOL
        from scapy.layers.inet import ICMP, IP
        from scapy.layers.inet6 import ICMPv6ND_NS, ICMPv6NDOptSrcLLAddr, IPv6
        from scapy.layers.l2 import ARP

        host, gateway = device.host, self._site.gateway
        request = ethernet(host, gateway, ARP(op=1, hwsrc=host.mac, psrc=host.ipv4, pdst=gateway.ipv4))
        reply = ARP(op=2, hwsrc=gateway.mac, psrc=gateway.ipv4, hwdst=host.mac, pdst=host.ipv4)
        replied = ethernet(gateway, host, reply)
        for _ in range(self._rng.randint(10, 20)):
            yield from self._at_some_time(request, replied)
        if not host.wired:
            yield from self._at_some_time(ethernet(host, gateway, EAPOL(type=3) / random_payload(95, self._rng)))
        ping = ICMP(type=8, id=self._rng.randrange(65536)) / random_payload(56, self._rng)
        pong = ICMP(type=0, id=ping.id) / ping.payload
        there, back = IP(src=gateway.ipv4, dst=host.ipv4), IP(src=host.ipv4, dst=gateway.ipv4)
        yield from self._at_some_time(ethernet(gateway, host, there / ping), ethernet(host, gateway, back / pong))
        if device.model.ipv6:
            network = IPv6(src=host.ipv6, dst=gateway.ipv6, hlim=255)
            solicits = network / ICMPv6ND_NS(tgt=gateway.ipv6) / ICMPv6NDOptSrcLLAddr(lladdr=host.mac)
            yield from self._at_some_time(ethernet(host, gateway, solicits))
        if device.model.type == "hub":
            for _ in range(4):
                length = self._rng.randint(2200, 3600)
                yield from self._at_some_time(*udp_fragments(host, gateway, 514, length, self._rng))

    def _gateway(self) -> Iterator[Packet]:
        """Periodic spanning tree frames and router advertisements."""
        from scapy.layers.inet6 import ICMPv6ND_RA, IPv6
        from scapy.layers.l2 import LLC, STP, Dot3

        gateway = self._site.gateway
        bridge: Any = Dot3(src=gateway.mac, dst="01:80:c2:00:00:00") / LLC(dsap=0x42, ssap=0x42, ctrl=3)
        hello = bytes(bridge / STP(rootmac=gateway.mac, bridgemac=gateway.mac)).ljust(60, b"\0")
        all_nodes = Host("33:33:00:00:00:01", "224.0.0.1", "ff02::1")
        advertised = ethernet(gateway, all_nodes, IPv6(src="fe80::1", dst="ff02::1", hlim=255) / ICMPv6ND_RA())
        for second in range(0, _CAPTURE_S, 60):
            yield Packet(self._begins_ns + second * 10**9, hello)
            if second % 600 == 0:
                yield Packet(self._begins_ns + (second + 7) * 10**9, advertised)

    def _at_some_time(self, *frames: bytes) -> Iterator[Packet]:
        clock = self._clock(0.01)
        for frame in frames:
            yield Packet(clock.within_turn(), frame)
