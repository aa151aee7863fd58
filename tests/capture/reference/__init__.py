"""Reference implementation of the capture engine, slow and obvious: a whole file in, packets and reasons out.

Plain Python over bytes, no windows, no arrays, nothing shared with the code. The modules mirror those of iotid.capture.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from .containers import Pcap, Pcapng
from .decoder import give_ports, read_packet
from .frames import frames_of
from .internet import Packet
from .tunnels import innermost
from .wire import RejectError


def read_capture(
    data: bytes,
    *,
    max_packet_bytes: int = 1 << 20,
    duplicate_window_us: int = 0,
    duplicate_records: int = 512,
    fragment_window_us: int = 30_000_000,
    fragment_records: int = 4096,
    tunnels: tuple[str, ...] = (),
    max_tunnels: int = 4,
    keep_bytes: int | None = None,
) -> tuple[list[dict[str, Any]], dict[str, tuple[int, int, int]]]:
    """Packets of IP flows (as schemas.PACKETS, addresses as bytes), and packets, bytes and first offset by reason.

    With ``keep_bytes`` each packet has ``first_bytes``, too: from the IP header on, addresses zeroed, zero-padded.
    """
    reader = Pcapng(data, max_packet_bytes) if data[:4] == b"\x0a\x0d\x0d\x0a" else Pcap(data, max_packet_bytes)
    packets: list[dict[str, Any]] = []
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    offsets: dict[str, int] = {}
    earlier: list[tuple[int, Packet | None]] = []  # of each record, with its time
    for record in (frame for whole in reader.records() for frame in frames_of(whole)):
        reason, time = record["reason"], record["timestamp"]
        packet = None
        try:
            if reason is None:
                packet = read_packet(record["frame"], record["frame_length"], record["link"])
                packet = innermost(packet, tunnels, max_tunnels)
                if packet.is_later():
                    give_ports(packet, time, _last(earlier, fragment_records), fragment_window_us)
                reason = "flow"
        except RejectError as reject:
            packet = None
            reason = str(reject)
        if packet is not None and duplicate_window_us > 0:
            near = [
                other for then, other in _last(earlier, duplicate_records) if abs(then - time) <= duplicate_window_us
            ]
            if any(other is not None and other.content() == packet.content() for other in near):
                reason = "duplicate"
        if reason not in ("skipped_bytes", "truncated_record"):
            earlier.append((time, packet))
        counts[reason] += reason != "skipped_bytes"
        sizes[reason] += record["frame_length"]
        offsets.setdefault(reason, record["offset"])
        if reason == "flow" and packet is not None:
            packets.append(packet.columns | _columns_of(record))
            if keep_bytes is not None:
                packets[-1]["first_bytes"] = packet.nameless[:keep_bytes].ljust(keep_bytes, b"\0")
    return packets, {reason: (counts[reason], sizes[reason], offset) for reason, offset in offsets.items()}


def _last(items: list[Any], most: int) -> list[Any]:
    return items[max(len(items) - most, 0) :]


def _columns_of(record: dict[str, Any]) -> dict[str, Any]:
    columns = {name: record[name] for name in ("offset", "timestamp", "link_type", "frame_length")}
    return columns | {"captured_length": len(record["frame"])}
