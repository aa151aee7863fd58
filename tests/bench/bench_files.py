"""bench_files.py OUT [--captures DIR] [--small]: write the captures for `capture.py`.

All captures of DIR merged into one file, larger files made of it, and its first 50 kB. It runs as its own process,
because the peak memory of a child process is at least that of its parent.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

_HEADER = np.array([0xA1B2C3D4, 0x00040002, 0, 0, 262144], "<u4").tobytes()
_LINK_BYTES = {1: 14, 113: 16}  # Ethernet, Linux cooked: header bytes, of which the last two are the EtherType
_SMALL, _LARGE, _COLD = 100_000_000, 1_000_000_000, 50_000  # bytes
_LONGEST = 1514  # bytes of a frame
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


def lengthen(merged: Merged, mean_bytes: int) -> Merged:
    """The IP packets, without other frames, their payload lengthened so that frames have ``mean_bytes`` on average.

    Each gets as many more bytes, at the end of the IP packet, up to frames of _LONGEST bytes: so lengths still differ.
    Lengths in the headers of IP, UDP and the record, and IPv4's checksum, are those of the new packet. Fragments and
    truncated packets are left out.

    Raises:
        SystemExit: the frames are longer already, or the mean is out of reach.
    """
    data = merged.data
    link = int(data[20:24].view("<u4")[0])
    frame = np.concatenate([merged.ipv4, merged.ipv6]) - _LINK_BYTES[link]
    is_four = np.arange(len(frame)) < len(merged.ipv4)
    order = np.argsort(frame)
    frame, is_four = frame[order], is_four[order]
    network = frame + _LINK_BYTES[link]
    captured, wire = (data[frame[:, None] + np.arange(at, at + 4)].view("<u4")[:, 0] for at in (-8, -4))
    ip_bytes = np.where(is_four, _big_endian(data, network + 2), _big_endian(data, network + 4) + 40)
    own = _LINK_BYTES[link] + ip_bytes  # without the padding of short Ethernet frames
    fragment = np.where(is_four, _big_endian(data, network + 6) & 0x3FFF, data[network + 6] == 44)
    whole = (captured == wire) & (own <= captured) & (ip_bytes >= 40) & (fragment == 0)
    frame, is_four, network, own = frame[whole], is_four[whole], network[whole], own[whole]
    longer = _lengths(own, mean_bytes)
    added = longer - own
    record = 24 + np.concatenate([[0], np.cumsum(16 + longer)[:-1]])
    made = np.random.default_rng(1).integers(
        0, 256, int(record[-1] + 16 + longer[-1]), np.uint8
    )  # payload, as if encrypted
    made[:24] = data[:24]
    for old, new, size in zip((frame - 16).tolist(), record.tolist(), (16 + own).tolist(), strict=True):
        made[new : new + size] = data[old : old + size]
    for at in (8, 12):
        made[record[:, None] + np.arange(at, at + 4)] = longer.astype("<u4").view(np.uint8).reshape(-1, 4)
    network = record + 16 + _LINK_BYTES[link]
    four, six = network[is_four], network[~is_four]
    before = _big_endian(made, four + 2)
    _put_big_endian(made, four + 2, before + added[is_four])
    # RFC 1624: the one's complement sum changes by the difference of the word
    total = (0xFFFF - _big_endian(made, four + 10)) + (0xFFFF - before) + before + added[is_four]
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    _put_big_endian(made, four + 10, 0xFFFF - total)
    _put_big_endian(made, six + 4, _big_endian(made, six + 4) + added[~is_four])
    udp_of_four = made[four + 9] == 17
    udp_of_six = made[six + 6] == 17
    for transport, more in (
        ((four + 4 * (made[four] & 15))[udp_of_four], added[is_four][udp_of_four]),
        ((six + 40)[udp_of_six], added[~is_four][udp_of_six]),
    ):
        _put_big_endian(made, transport + 4, _big_endian(made, transport + 4) + more)
    seconds = made[record[:, None] + np.arange(4)].view("<u4")[:, 0].astype(np.int64)
    return Merged(made, record, seconds, four, six)


def _lengths(own: Any, mean_bytes: int) -> Any:
    """Lengths with that mean: each as many bytes longer, but not beyond _LONGEST unless it is already."""
    low, high = 0, _LONGEST
    while low < high:
        more = (low + high) // 2
        if np.maximum(own, np.minimum(own + more, _LONGEST)).mean() < mean_bytes:
            low = more + 1
        else:
            high = more
    found = np.maximum(own, np.minimum(own + low, _LONGEST))
    if not 0.99 * mean_bytes < found.mean() < 1.01 * mean_bytes:
        raise SystemExit(
            f"--packet-bytes: frames have {own.mean():.0f} bytes on average and can be lengthened to {_LONGEST}; "
            f"got {mean_bytes}"
        )
    return found


def _big_endian(data: Any, at: Any) -> Any:
    """The 16-bit words at these offsets."""
    return data[at].astype(np.int64) << 8 | data[at + 1]


def _put_big_endian(data: Any, at: Any, words: Any) -> None:
    data[at], data[at + 1] = words >> 8, words & 0xFF


def write_copies(merged: Merged, path: Path, num_bytes: int, *, new_flows: bool) -> None:
    """Write copies until the file has ``num_bytes``, each later than the one before.

    ``new_flows``: each copy has other addresses, and so new flows; else its flows continue.
    """
    with path.open("wb") as file:
        merged.data[:24].tofile(file)
        for data in _copies(merged, new_flows=new_flows):
            left = num_bytes - file.tell()
            data[24 : _next_record(merged, 24 + left) if left > 0 else len(data)].tofile(file)
            if file.tell() >= num_bytes:
                break


def write_files(merged: Merged, folder: Path, num_bytes: int, files: int) -> list[Path]:
    """Write copies with new flows into ``files`` captures of equal size, ``num_bytes`` in all, in order of time."""
    paths = [folder / f"{number:05}.pcap" for number in range(files)]
    copies = _copies(merged, new_flows=True)
    data, start = next(copies), 24
    for path in paths:
        left = num_bytes // files - 24
        with path.open("wb") as file:
            merged.data[:24].tofile(file)
            while left > 0:
                end = _next_record(merged, start + left)
                data[start:end].tofile(file)
                left, start = left - (end - start), end
                if start == len(data):
                    data, start = next(copies), 24
    return paths


def _copies(merged: Merged, *, new_flows: bool) -> Iterator[Any]:
    """Endless copies of the capture, each later than the one before; ``new_flows``: each with other addresses."""
    span = int(merged.seconds.max() - merged.seconds.min()) + _MARGIN_S
    for copy in count():
        data = merged.data.copy()
        seconds = merged.seconds + copy * span
        assert seconds.max() < 1 << 32, "the copies would end after 2106, the last year of pcap"
        data[merged.record[:, None] + np.arange(4)] = seconds.astype("<u4").view(np.uint8).reshape(-1, 4)
        if new_flows:  # two bytes of both addresses: copies up to 65,535 differ
            for start, offsets in ((merged.ipv4, (13, 12)), (merged.ipv6, (9, 10))):
                for offset, changed in zip(offsets, (copy & 0xFF, copy >> 8 & 0xFF), strict=True):
                    for end in (offset, offset + (4 if start is merged.ipv4 else 16)):
                        data[start + end] ^= changed
        yield data


def _next_record(merged: Merged, offset: int) -> int:
    """Where the first record at or past the offset starts; else the end."""
    index = int(np.searchsorted(merged.record, offset))
    return int(merged.record[index]) if index < len(merged.record) else len(merged.data)


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
