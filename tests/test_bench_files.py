"""The input files of benchmarks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import scapy.all as scapy

from iotid.capture import counters, read_packets

_BENCH = Path(__file__).parent / "bench" / "bench_files.py"
_ETHERNET = bytes(12)


def _two_packets(bench: ModuleType) -> Any:
    """A UDP packet of IPv4, one of IPv6, a second apart."""
    header = b"\x45\0\0\x28" + bytes(4) + b"@\x11\0\0"
    four = _ETHERNET + b"\x08\0" + header + bytes([10, 0, 0, 1, 192, 168, 0, 2]) + bytes(20)
    header = b"\x60" + bytes(4) + b"\x08\x11@"
    six = _ETHERNET + b"\x86\xdd" + header + b"\x20\1" + bytes(14) + b"\xfe\x80" + bytes(14) + bytes(8)
    times = np.array([1_700_000_000_000_000, 1_700_000_001_000_000])
    return bench._lay_out([four, six], times, np.array([len(four), len(six)]), 1)


def test_write_copies__more_than_255_have_distinct_addresses(
    tmp_path: Path, module_at: Callable[[Path], ModuleType]
) -> None:
    bench = module_at(_BENCH)
    merged = _two_packets(bench)
    one = len(merged.data) - 24
    bench.write_copies(merged, tmp_path / "copies", 24 + 600 * one, new_flows=True)
    table = read_packets(str(tmp_path / "copies"))
    assert table.num_rows == 1200
    ends = set(zip(table["source_ip"].to_pylist(), table["destination_ip"].to_pylist(), strict=True))
    assert len(ends) == 1200


@pytest.mark.parametrize("files", [1, 3, 7])
def test_write_files__have_the_packets_of_one_in_order_and_equal_sizes(
    tmp_path: Path, module_at: Callable[[Path], ModuleType], files: int
) -> None:
    bench = module_at(_BENCH)
    merged = _two_packets(bench)
    bench.write_copies(merged, tmp_path / "one", 5000, new_flows=True)
    (tmp_path / "many").mkdir()
    paths = bench.write_files(merged, tmp_path / "many", 5000, files)
    assert [path.name for path in paths] == [f"{number:05}.pcap" for number in range(files)]
    assert all(5000 // files <= path.stat().st_size < 5000 // files + 100 for path in paths)
    of_one, of_many = (read_packets(str(tmp_path / name)) for name in ("one", "many"))
    columns = ["timestamp", "source_ip", "source_port", "frame_length"]
    count = min(len(of_one), len(of_many))
    assert count > 45
    assert of_many.select(columns).slice(0, count).equals(of_one.select(columns).slice(0, count))
    assert counters(of_many)["reason"].unique().to_pylist() == ["flow"]


@pytest.mark.parametrize("mean", [200, 700])
def test_lengthen__gives_whole_packets_of_that_mean_that_tools_accept(
    tmp_path: Path, module_at: Callable[[Path], ModuleType], mean: int
) -> None:
    bench = module_at(_BENCH)
    shark = scapy.Ether() / scapy.IP(src="10.0.0.1", dst="10.0.0.2")
    frames = [
        bytes(shark / scapy.TCP(sport=1, dport=2, seq=9, flags="PA") / (b"a" * 100)),
        bytes(shark / scapy.UDP(sport=3, dport=4) / (b"b" * 30)),
        bytes(scapy.Ether() / scapy.IPv6(src="fd00::1", dst="fd00::2") / scapy.UDP(sport=5, dport=6) / (b"c" * 5)),
        bytes(scapy.Ether() / scapy.ARP(psrc="10.0.0.1", pdst="10.0.0.2")),
        bytes(scapy.Ether() / scapy.IP(src="10.0.0.3", dst="10.0.0.2", flags="MF") / scapy.UDP() / (b"d" * 64)),
        bytes(shark / scapy.TCP(sport=7, dport=8, flags="A")) + bytes(6),  # padding of the Ethernet frame
    ]
    times = 1_700_000_000_000_000 + np.arange(len(frames)) * 1000
    longer = bench.lengthen(bench._lay_out(frames, times, np.array([len(frame) for frame in frames]), 1), mean)
    bench.write_copies(longer, tmp_path / "longer.pcap", 0, new_flows=False)
    table = read_packets(str(tmp_path / "longer.pcap"))
    assert table["source_port"].to_pylist() == [1, 3, 5, 7], "neither ARP nor fragments"
    assert np.mean(table["frame_length"].to_pylist()) == pytest.approx(mean, abs=1)
    assert counters(table)["reason"].to_pylist() == ["flow"]
    for packet, old in zip(scapy.rdpcap(str(tmp_path / "longer.pcap")), (frames[i] for i in (0, 1, 2, 5)), strict=True):
        network = packet[1]
        assert len(packet) == 14 + (network.len if packet.haslayer(scapy.IP) else 40 + network.plen)
        if packet.haslayer(scapy.UDP):
            assert packet[scapy.UDP].len == len(packet[scapy.UDP])
        if packet.haslayer(scapy.IP):
            given = network.chksum
            del network.chksum
            assert scapy.IP(bytes(network)).chksum == given
        assert bytes(packet)[54:58] == old[54:58] or len(old) == 60
    with pytest.raises(SystemExit, match="--packet-bytes: frames have"):
        bench.lengthen(longer, 100)
