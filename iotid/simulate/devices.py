"""The simulated device models and their traffic patterns; all vendors are fictitious.

Some models are similar on purpose: camera and doorbell, plug and bulb; DNS, NTP and discovery are the same for all.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from iotid.simulate.frames import Stack


@dataclass(frozen=True)
class TrafficPattern:
    """A type of conversation. Turns are payload bytes, positive from the device, negative from its peer."""

    share: float  # weight among the model's patterns
    transport: str  # tcp, tls (tcp that opens with a TLS handshake), udp or group (udp to everyone, unanswered)
    port: int
    turns: tuple[int, ...]
    repeats: tuple[int, int] = (1, 1)  # minimum and maximum number of repetitions of the turns
    spread: int = 0  # maximum bytes by which a turn is longer
    peer: str = "cloud"  # cloud (the vendor's), shared (by all), gateway or hub
    pause_s: float = 0.2  # between turns


@dataclass(frozen=True)
class DeviceModel:
    """A device model."""

    name: str
    vendor: str
    type: str
    host: str  # name of the vendor's server
    certificate: int  # bytes of that server's certificates
    stack: Stack
    server: Stack
    patterns: tuple[TrafficPattern, ...]
    flows: tuple[int, int]  # minimum and maximum conversations per date, without DNS, NTP and discovery
    ipv6: float = 0.0  # share of conversations over IPv6
    wired: bool = False


LINUX = Stack(True, 64240, 502, 128)
OLD_LINUX = Stack(True, 29200, 229, 128)
LWIP = Stack(False, 5744, 5744, 1)
RTOS = Stack(False, 2920, 2920, 1)
EMBEDDED = Stack(False, 8192, 8192, 1)
BSD = Stack(True, 65535, 2058, 64)
PROXY = Stack(True, 65160, 509, 128)  # load balancers in front of several vendors' servers
PLAIN_SERVER = Stack(False, 62643, 62643, 4)
FARM = Stack(True, 26847, 106, 256)

# traffic common to several models
_UPDATE_CHECK = TrafficPattern(0.6, "tls", 443, (214, -1172), (1, 1), 9, "shared")
_PORTAL_CHECK = TrafficPattern(0.5, "tcp", 80, (138, -204), peer="shared")

DEVICE_MODELS = {
    model.name: model
    for model in (
        DeviceModel(
            "lumora-cam", "Lumora", "camera", "relay.lumora.example", 3120, OLD_LINUX, PROXY,
            (
                TrafficPattern(4, "tls", 443, (90, -74), (1, 4), 6),
                TrafficPattern(1.2, "tls", 443, (4140, -46), (1, 4), 900, pause_s=0.05),
                TrafficPattern(1.5, "udp", 10001, (1012, 1012, -60), (3, 12), 200, pause_s=0.03),
                _UPDATE_CHECK,
            ),
            (90, 120), ipv6=0.1,
        ),
        DeviceModel(
            "lumora-bell", "Lumora", "doorbell", "relay.lumora.example", 3120, OLD_LINUX, PROXY,
            (
                TrafficPattern(4, "tls", 443, (94, -74), (1, 4), 8),
                TrafficPattern(0.8, "tls", 443, (2860, -46), (1, 3), 900, pause_s=0.05),
                TrafficPattern(1, "udp", 5060, (412, -388, 268), (1, 2), 12),
                TrafficPattern(0.8, "udp", 10001, (984, 984, -60), (2, 8), 200, pause_s=0.03),
                _UPDATE_CHECK,
            ),
            (80, 110), ipv6=0.1,
        ),
        DeviceModel(
            "voltano-plug", "Voltano", "plug", "mqtt.voltano.example", 2214, LWIP, FARM,
            (
                TrafficPattern(4, "tcp", 1883, (66, -4, 118, -4), (1, 3), 4),
                TrafficPattern(1.5, "tcp", 1883, (66, -4, 203), (1, 2), 16),  # the power meter's reading
                TrafficPattern(1, "group", 6667, (188,), spread=2),
                _PORTAL_CHECK,
            ),
            (90, 120),
        ),
        DeviceModel(
            "voltano-bulb", "Voltano", "bulb", "mqtt.voltano.example", 2214, LWIP, FARM,
            (
                TrafficPattern(4, "tcp", 1883, (66, -4, 124, -4), (1, 3), 5),
                TrafficPattern(1, "group", 6667, (191,), spread=2),
                _PORTAL_CHECK,
            ),
            (85, 115),
        ),
        DeviceModel(
            "hearth-hub", "Hearth", "hub", "bridge.hearth.example", 2688, LINUX, PROXY,
            (
                TrafficPattern(3, "tls", 443, (322, -540), (1, 3), 60),
                TrafficPattern(2, "tls", 8883, (74, -42, 31, -31), (1, 2), 3),
                TrafficPattern(1, "udp", 5683, (24, -58), (1, 3), 12, "shared"),
                _UPDATE_CHECK,
            ),
            (100, 130), ipv6=0.3, wired=True,
        ),
        DeviceModel(
            "hearth-thermostat", "Hearth", "thermostat", "bridge.hearth.example", 2688, EMBEDDED, PLAIN_SERVER,
            (
                TrafficPattern(3, "tls", 443, (245, -118), (1, 2), 10),
                TrafficPattern(1.5, "tcp", 8080, (61, -97), (1, 2), 3, "hub"),
                _PORTAL_CHECK,
            ),
            (85, 110),
        ),
        DeviceModel(
            "sonorel-speaker", "Sonorel", "speaker", "play.sonorel.example", 4022, BSD, PROXY,
            (
                TrafficPattern(2, "tls", 443, (480, -2900), (1, 3), 300),
                TrafficPattern(1.5, "tls", 4070, (122, -5600, -5600), (1, 2), 700, pause_s=0.05),
                TrafficPattern(1, "group", 5568, (126, 126), (2, 8), 0, pause_s=0.02),
                _UPDATE_CHECK,
            ),
            (85, 115), ipv6=0.4,
        ),
        DeviceModel(
            "pondera-scale", "Pondera", "scale", "weigh.pondera.example", 1840, RTOS, PLAIN_SERVER,
            (
                TrafficPattern(3, "tcp", 80, (436, -162), (1, 1), 5),
                TrafficPattern(1, "tcp", 80, (982, -162), (1, 1), 40),
                _PORTAL_CHECK,
            ),
            (60, 80),
        ),
        DeviceModel(
            "inkwell-printer", "Inkwell", "printer", "ink.inkwell.example", 2950, EMBEDDED, FARM,
            (
                TrafficPattern(2, "tls", 443, (1210, -389), (1, 2), 30),
                TrafficPattern(1.5, "udp", 161, (44, -47), (1, 4), 2, "gateway"),
                TrafficPattern(1, "tcp", 5222, (167, -139), (1, 3), 4),
                _PORTAL_CHECK,
            ),
            (80, 105), ipv6=0.1, wired=True,
        ),
        DeviceModel(
            "vistara-tv", "Vistara", "television", "app.vistara.example", 3517, LINUX, PROXY,
            (
                TrafficPattern(2, "tls", 443, (642, -4400), (1, 3), 500),
                TrafficPattern(1, "tls", 443, (338, -14000), (1, 2), 2000, pause_s=0.05),
                TrafficPattern(1.5, "udp", 443, (1250, -1250, 88, -360), (1, 3), 0),
                TrafficPattern(0.5, "tcp", 80, (201, -1390), (1, 1), 50, "shared"),
                _UPDATE_CHECK,
            ),
            (95, 125), ipv6=0.4, wired=True,
        ),
        DeviceModel(
            "rovero-vacuum", "Rovero", "vacuum cleaner", "map.rovero.example", 2410, OLD_LINUX, FARM,
            (
                TrafficPattern(2.5, "udp", 8053, (32, -32, 112, -80), (1, 4), 16),
                TrafficPattern(1.5, "tls", 443, (1730, -210), (1, 2), 200),
                _UPDATE_CHECK,
            ),
            (80, 105),
        ),
        DeviceModel(
            "aeris-sensor", "Aeris", "air sensor", "air.aeris.example", 2040, RTOS, FARM,
            (
                TrafficPattern(4, "tcp", 8086, (291, -27), (1, 2), 8),
                TrafficPattern(1, "udp", 5683, (51, -4), (1, 2), 6),
                _PORTAL_CHECK,
            ),
            (75, 100),
        ),
        DeviceModel(
            "frostine-fridge", "Frostine", "refrigerator", "cool.frostine.example", 1536,
            Stack(False, 11680, 11423, 2), Stack(False, 18761, 18504, 3),
            (
                TrafficPattern(3, "tcp", 7547, (733, -1107, 19), (1, 3), 3),
                TrafficPattern(1, "udp", 47808, (17, -21), (1, 3), 1),
            ),
            (60, 80),
        ),
    )
}  # fmt: skip


def handshake(model: DeviceModel, rng: random.Random) -> tuple[int, ...]:
    """Turns of a TLS handshake: in full with the certificates, or resumed."""
    hello = 176 + len(model.host)
    return (hello, -model.certificate, 126, -51) if rng.random() < 0.6 else (hello + 192, -147, 51)


def conversation_turns(pattern: TrafficPattern, rng: random.Random) -> list[int]:
    """The turns of one conversation of this pattern, each longer by up to the pattern's spread."""
    turns = pattern.turns * rng.randint(*pattern.repeats)
    return [turn + rng.randint(0, pattern.spread) * (1 if turn > 0 else -1) for turn in turns]
