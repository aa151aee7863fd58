"""bench_files.py OUT [--captures DIR] [--small]: write the captures for `capture.py`.

All captures of DIR merged into one file, larger files made of it, and its first 50 kB. It runs as its own process,
because the peak memory of a child process is at least that of its parent.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

_HEADER = np.array([0xA1B2C3D4, 0x00040002, 0, 0, 262144], "<u4").tobytes()
_LINK_BYTES = {1: 14, 113: 16}  # Ethernet, Linux cooked: header bytes, of which the last two are the EtherType
_SMALL, _LARGE, _COLD = 100_000_000, 1_000_000_000, 50_000  # bytes
_MARGIN_S = 60  # between the last packet of one copy and the first of the next


class Merged(NamedTuple):
    """A classic pcap in memory, with offsets of its records and IP headers."""

    data: Any  # uint8 (bytes,)
    record: Any  # int64 (records,): offset of each record
    seconds: Any  # int64 (records,)
    ipv4: Any  # int64: offset of each IPv4 header
    ipv6: Any


def merge(folder: Path | None) -> Merged:
    """All captures of the folder in one, merged by time like mergecap: each file's own order is kept.

    None: simulated captures.
    """
    if folder is None:
        from iotid.simulate.captures import write_demo

        with tempfile.TemporaryDirectory() as made:
            write_demo(Path(made))
            return merge(Path(made) / "captures")
    columns: dict[int, list[Any]] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        for link, frames, times, lengths in _records(path):
            columns.setdefault(link, []).append((frames, times, np.maximum.accumulate(times), lengths))
    link = max((link for link in columns if link in _LINK_BYTES), key=lambda link: len(columns[link]))
    frames = [frame for part in columns[link] for frame in part[0]]
    times, keys, wires = (np.concatenate([part[i] for part in columns[link]]) for i in (1, 2, 3))
    order = np.argsort(keys, kind="stable")
    return _lay_out([frames[i] for i in order], times[order], wires[order], link)


def _records(path: Path) -> Any:
    """(link type, frames, times in µs, wire lengths) of a capture; nothing if scapy cannot read it."""
    from scapy.error import Scapy_Exception
    from scapy.utils import RawPcapNgReader, RawPcapReader

    try:
        reader: Any = RawPcapReader(str(path))
    except (Scapy_Exception, OSError, EOFError):
        return
    rows: dict[int, list[Any]] = {}
    with reader:
        for frame, meta in reader:
            if isinstance(reader, RawPcapNgReader):
                if meta.tsresol is None or meta.tshigh is None:
                    continue
                time = ((meta.tshigh << 32) | meta.tslow) * 1_000_000 // meta.tsresol
                rows.setdefault(meta.linktype, []).append((frame, time, meta.wirelen))
            else:
                time = meta.sec * 1_000_000 + meta.usec // (1000 if reader.nano else 1)
                rows.setdefault(reader.linktype, []).append((frame, time, meta.wirelen))
    for link, found in rows.items():
        frames, times, wires = zip(*found, strict=True)
        yield link, list(frames), np.array(times, np.int64), np.array(wires, np.int64)


def _lay_out(frames: list[bytes], times: Any, wires: Any, link: int) -> Merged:
    lengths = np.array([len(frame) for frame in frames], np.int64)
    header = np.frombuffer(_HEADER + np.array([link], "<u4").tobytes(), np.uint8)
    record = len(header) + np.concatenate([[0], np.cumsum(16 + lengths)[:-1]])
    fields = np.stack([times // 1_000_000, times % 1_000_000, lengths, wires], 1).astype("<u4").view(np.uint8)
    pieces = [piece for i, frame in enumerate(frames) for piece in (fields[i].tobytes(), frame)]
    data = np.frombuffer(b"".join([header.tobytes(), *pieces]), np.uint8)
    network = record + 16 + _LINK_BYTES[link]
    is_long = lengths >= _LINK_BYTES[link] + 40
    kind = np.zeros(len(record), np.int64)
    kind[is_long] = data[network[is_long] - 2].astype(np.int64) << 8 | data[network[is_long] - 1]
    return Merged(data, record, times // 1_000_000, network[kind == 0x0800], network[kind == 0x86DD])


def write_copies(merged: Merged, path: Path, num_bytes: int, *, new_flows: bool) -> None:
    """Write copies until the file has ``num_bytes``, each later than the one before.

    ``new_flows``: each copy has other addresses, and so new flows; else its flows continue.
    """
    span = int(merged.seconds.max() - merged.seconds.min()) + _MARGIN_S
    with path.open("wb") as file:
        merged.data[:24].tofile(file)
        copy = 0
        while copy == 0 or file.tell() < num_bytes:
            data = merged.data.copy()
            later = (merged.seconds + copy * span).astype("<u4").view(np.uint8).reshape(-1, 4)
            data[merged.record[:, None] + np.arange(4)] = later
            if new_flows:  # two bytes of both addresses: copies up to 65,535 differ
                for start, offsets in ((merged.ipv4, (13, 12)), (merged.ipv6, (9, 10))):
                    for offset, changed in zip(offsets, (copy & 0xFF, copy >> 8 & 0xFF), strict=True):
                        for end in (offset, offset + (4 if start is merged.ipv4 else 16)):
                            data[start + end] ^= changed
            left = num_bytes - file.tell()
            end = merged.record[np.searchsorted(merged.record, left)] if 0 < left < merged.record[-1] else len(data)
            data[24:end].tofile(file)
            copy += 1


def write_head(merged: Merged, path: Path, num_bytes: int) -> None:
    """Write the first records, about ``num_bytes`` of them."""
    end = int(merged.record[np.searchsorted(merged.record, num_bytes)])
    merged.data[:end].tofile(path)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("out", type=Path)
    options.add_argument("--captures", type=Path)
    options.add_argument("--small", action="store_true")
    given = options.parse_args()
    merged = merge(given.captures)
    write_head(merged, given.out / "cold.pcap", _COLD)
    write_copies(merged, given.out / "merged.pcap", 0, new_flows=True)
    for name, size in (("small", _SMALL), ("large", _LARGE)):
        if not (given.small and name == "large"):
            write_copies(merged, given.out / f"{name}.pcap", size, new_flows=True)
            write_copies(merged, given.out / f"{name}_same_flows.pcap", size, new_flows=False)


if __name__ == "__main__":
    main()
