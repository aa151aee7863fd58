"""The simulator's captures: deterministic, readable by scapy, and as various as promised."""

from __future__ import annotations

import hashlib
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from iotid.capture import counters, read_packets
from iotid.simulate.captures import CAPTURE_DATES, write_demo

_GATEWAYS = {"02:1d:01:00:00:01", "02:1d:02:00:00:01"}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    write_demo(folder)
    return folder


@pytest.fixture(scope="module")
def layers(demo: Path) -> Counter[str]:
    """How often scapy's own dissector names each layer, over one date of each site (1,500 packets a file)."""
    from scapy.utils import PcapReader

    counted: Counter[str] = Counter()
    for path in sorted(demo.glob(f"captures/*/{CAPTURE_DATES[0]}/*")):
        with PcapReader(str(path)) as reader:
            for packet in reader.read_all(1500):
                counted.update({layer.__name__ for layer in packet.layers()})
    return counted


def test_write_demo__same_seed_gives_the_same_bytes_and_another_seed_others(demo: Path, tmp_path: Path) -> None:
    write_demo(tmp_path / "again")
    write_demo(tmp_path / "other", seed=2)
    assert _digests(tmp_path / "again") == _digests(demo)
    other = _digests(tmp_path / "other")
    assert other.keys() == _digests(demo).keys()
    assert other["devices.yaml"] == _digests(demo)["devices.yaml"]
    assert other["captures/home/2026-01-10/evening.pcap"] != _digests(demo)["captures/home/2026-01-10/evening.pcap"]


def test_write_demo__files_begin_with_the_magic_of_every_format(demo: Path) -> None:
    magic = {path.name: path.read_bytes()[:4].hex() for path in demo.glob("captures/*/*/*")}
    assert magic == {
        "evening.pcap": "d4c3b2a1",  # µs, little-endian
        "late.pcap.gz": "1f8b0800",  # gzip without a file name
        "midnight.pcapng": "0a0d0d0a",
        "part-1.pcap": "4d3cb2a1",  # ns, little-endian
        "part-2.pcap": "a1b2c3d4",  # µs, big-endian
        "part-3.pcapng": "0a0d0d0a",
    }


def test_write_demo__scapy_finds_every_promised_layer(layers: Counter[str]) -> None:
    assert layers["TCP"] > 2000
    assert layers["UDP"] > 500
    for name in ("IPv6", "ARP", "DNS", "NTPHeader", "DHCP", "ICMP", "STP", "EAPOL", "Dot1Q", "CookedLinux"):
        assert layers[name] >= 3, name


def test_write_demo__one_file_is_cut_at_its_snap_length_some_frames_before_ports(demo: Path) -> None:
    from scapy.utils import RawPcapReader

    with RawPcapReader(str(demo / "captures/office/2026-01-10/part-2.pcap")) as reader:
        captured = [(len(frame), meta.wirelen) for frame, meta in reader]
    assert max(length for length, _ in captured) == 96
    assert sum(length < wire for length, wire in captured) > 500
    assert sum(length == 30 for length, _ in captured) == 6


def test_write_demo__every_file_has_records_out_of_order(demo: Path) -> None:
    from scapy.utils import RawPcapReader

    for path in demo.glob("captures/office/*/part-1.pcap"):
        with RawPcapReader(str(path)) as reader:
            times = [(meta.sec, meta.usec) for _, meta in reader]
        backwards = sum(later < earlier for earlier, later in pairwise(times))
        assert 10 <= backwards <= 20


def test_headers__patched_checksums_and_lengths_equal_those_scapy_computes(demo: Path) -> None:
    from scapy.layers.inet import IP, TCP, UDP
    from scapy.layers.inet6 import IPv6
    from scapy.utils import PcapReader

    with PcapReader(str(demo / "captures/home/2026-01-10/evening.pcap")) as reader:
        packets = [packet for packet in reader.read_all(1500) if TCP in packet or UDP in packet]
    packets = [packet for packet in packets if IP not in packet or not packet[IP].flags.MF]
    assert sum(IPv6 in packet for packet in packets) > 20
    for packet in packets:
        network = packet[IP] if IP in packet else packet[IPv6]
        stored = bytes(network)
        for layer, names in ((IP, ("len", "chksum")), (IPv6, ("plen",)), (TCP, ("chksum",)), (UDP, ("len", "chksum"))):
            if layer in network:
                for name in names:
                    delattr(network[layer], name)
        assert bytes(network) == stored


def test_write_demo__list_knows_the_units_but_for_the_one_that_must_stay_unknown(demo: Path) -> None:
    listed = yaml.safe_load((demo / "devices.yaml").read_text())["devices"]
    assert len({device["name"] for device in listed}) == len(listed)
    assert len({device["model"] for device in listed}) >= 10
    known = {device["mac"]: device["name"] for device in listed}
    seen = {
        (site, capture_date): _senders(demo, site, capture_date) - _GATEWAYS
        for site in ("home", "office")
        for capture_date in CAPTURE_DATES
    }
    assert {known[mac] for mac in seen["home", CAPTURE_DATES[1]] - seen["home", CAPTURE_DATES[0]]} == {
        "home-rovero-vacuum"
    }
    assert {known[mac] for mac in seen["home", CAPTURE_DATES[0]] - seen["home", CAPTURE_DATES[1]]} == {
        "home-pondera-scale"
    }
    assert seen["office", CAPTURE_DATES[0]] <= known.keys()
    assert len(seen["office", CAPTURE_DATES[1]] - known.keys()) == 1


def test_write_demo__units_have_flows_enough_to_learn_from(demo: Path) -> None:
    for capture_date in CAPTURE_DATES:
        for site in ("home", "office"):
            flows = _flows_by_client(demo, site, capture_date)
            assert 1500 <= sum(flows.values()) <= 3000
            assert min(flows.values()) >= 5
            assert sum(50 <= count <= 250 for count in flows.values()) >= len(flows) - 2


def test_read_packets__accounts_for_every_packet_of_the_demo(demo: Path) -> None:
    paths = [str(path) for path in sorted(demo.glob(f"captures/*/{CAPTURE_DATES[0]}/*"))]
    table = read_packets(paths)
    counted = counters(table).to_pylist()
    by_reason: Counter[str] = Counter()
    for row in counted:
        by_reason[row["reason"]] += row["packets"]
    assert by_reason["flow"] == table.num_rows
    assert sum(by_reason.values()) == sum(_records(Path(path)) for path in paths)
    for reason in ("flow", "not_ip", "truncated"):
        assert by_reason[reason] > 0, reason


def _digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _frames(path: Path) -> Any:
    from scapy.utils import RawPcapReader

    with RawPcapReader(str(path)) as reader:
        yield from reader


def _records(path: Path) -> int:
    return sum(1 for _ in _frames(path))


def _senders(demo: Path, site: str, capture_date: str) -> set[str]:
    """MACs that send, where frames are Ethernet."""
    return {
        frame[6:12].hex(":")
        for path in demo.glob(f"captures/{site}/{capture_date}/*.pcap*")
        if path.suffix != ".pcapng"
        for frame, _ in _frames(path)
    }


def _flows_by_client(demo: Path, site: str, capture_date: str) -> Counter[str]:
    """TCP and UDP flows by MAC of the first sender, over all Ethernet captures of a date."""
    first: dict[tuple[Any, ...], str] = {}
    for path in sorted(demo.glob(f"captures/{site}/{capture_date}/*")):
        for frame, meta in _frames(path):
            start = 18 if frame[12:14] == b"\x81\x00" else 14
            version = {b"\x08\x00": 4, b"\x86\xdd": 6}.get(frame[start - 2 : start])
            if version is None or getattr(meta, "linktype", 1) != 1:
                continue
            protocol, address, size = (start + 9, start + 12, 4) if version == 4 else (start + 6, start + 8, 16)
            if frame[protocol] in (6, 17):
                ports = address + 2 * size
                ends = [
                    (frame[address + size * side :][:size], frame[ports + 2 * side : ports + 2 * side + 2])
                    for side in (0, 1)
                ]
                first.setdefault((frame[protocol], *sorted(ends)), frame[6:12].hex(":"))
    return Counter(mac for mac in first.values() if mac not in _GATEWAYS)
