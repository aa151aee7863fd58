"""The input files of benchmarks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np

from iotid.capture import read_packets


def test_write_copies__more_than_255_have_distinct_addresses(
    tmp_path: Path, module_at: Callable[[Path], ModuleType]
) -> None:
    bench = module_at(Path(__file__).parent / "bench" / "bench_files.py")
    macs = bytes(12)
    header = b"\x45\0\0\x28" + bytes(4) + b"@\x11\0\0"
    four = macs + b"\x08\0" + header + bytes([10, 0, 0, 1, 192, 168, 0, 2]) + bytes(20)
    header = b"\x60" + bytes(4) + b"\x08\x11@"
    six = macs + b"\x86\xdd" + header + b"\x20\1" + bytes(14) + b"\xfe\x80" + bytes(14) + bytes(8)
    times = np.array([1_700_000_000_000_000, 1_700_000_001_000_000])
    merged = bench._lay_out([four, six], times, np.array([len(four), len(six)]), 1)
    one = len(merged.data) - 24
    bench.write_copies(merged, tmp_path / "copies", 24 + 600 * one, new_flows=True)
    table = read_packets(str(tmp_path / "copies"))
    assert table.num_rows == 1200
    ends = set(zip(table["source_ip"].to_pylist(), table["destination_ip"].to_pylist(), strict=True))
    assert len(ends) == 1200
