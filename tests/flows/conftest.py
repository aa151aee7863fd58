"""Hand-made packets for tests of flows: rows of schemas.PACKETS and the same as Packets."""

from __future__ import annotations

import random
import struct
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from iotid.capture.packets import Packets

sys.path.insert(0, str(Path(__file__).parent))  # for flow_cutting.py

_DTYPES = {
    "file_index": np.int32, "offset": np.int64, "timestamp_us": np.int64, "link_type": np.int32,
    "frame_length": np.int32, "captured_length": np.int32, "packet_length": np.int32, "payload_length": np.int32,
    "ip_version": np.uint8, "protocol": np.uint8, "vlan": np.int32, "src_mac": np.int64, "dst_mac": np.int64,
    "src_ip_hi": np.uint64, "src_ip_lo": np.uint64, "dst_ip_hi": np.uint64, "dst_ip_lo": np.uint64,
    "src_port": np.int32, "dst_port": np.int32, "tcp_flags": np.uint8, "tcp_window": np.int32,
    "tcp_sequence": np.int64,
}  # fmt: skip


_FIN, _SYN, _RST, _PUSH, _ACK = 1, 2, 4, 8, 16
_FLAGS = [_SYN, _SYN, _SYN | _ACK, _ACK, _ACK, _PUSH | _ACK, _FIN | _ACK, _FIN | _ACK, _RST, _RST | _ACK, _SYN | _RST]
_OPTIONS = [  # MSS, window scale, SACK permitted, NOP, end, two timestamps; then lengths that are wrong
    b"\2\4\5\xb4", b"\3\3\7", b"\4\2", b"\1", b"\0", b"\x08\x0a\0\0\0\1\0\0\0\0", b"\x08\x0a\0\0\3\xe8\0\0\0\0",
    b"\5\0", b"\2\1", b"\xfe\x28",
]  # fmt: skip
_START = datetime(2024, 2, 29, 23, 59, 50, tzinfo=UTC)


@pytest.fixture(scope="session")
def random_rows() -> Callable[[int, int, list[str]], list[dict[str, Any]]]:
    """A few endpoints that reuse their ports, in captures whose times overlap and run backwards now and then."""

    def make(seed: int, count: int, paths: list[str]) -> list[dict[str, Any]]:
        dice = random.Random(seed)
        addresses = ["10.0.0.1", "10.0.0.2", "192.168.7.255", "fe80::1", "2001:db8::a:0:0:1", "0.0.0.0", "::"]
        addresses = addresses[: dice.choice([2, 3, 5, 7])]
        pauses = dice.choice([[0, 1, 2], [0, 0, 1, 9, 11], [0, 3, 10, 10.000001, 40], [0, 30, 60, 60.000001, 90]])
        macs = dice.choice([1, 2, 3, 4])
        clock = dict.fromkeys(paths, 0.0)
        rows = []
        for number in range(count):
            path = dice.choice(paths[: 1 + seed % len(paths)])
            clock[path] += dice.choice(pauses)
            source = dice.choice(addresses)
            target = dice.choice([address for address in addresses if (":" in address) == (":" in source)])
            tcp = dice.random() < 0.85
            mac = {True: f"02:00:00:00:00:0{dice.randint(1, macs)}", False: None}
            late = max(0.0, clock[path] - dice.choice([0, 0, 0, 0, 5]))
            rows.append({
                "capture_file": path, "offset": 24 + 100 * number, "timestamp": _START + timedelta(seconds=late),
                "link_type": 1, "frame_length": 74 + number, "captured_length": 74, "packet_length": 60 + number,
                "vlan": dice.choice([None, None, None, 0, 7]), "protocol": 6 if tcp else 17,
                "source_mac": mac[dice.random() < 0.7], "destination_mac": mac[dice.random() < 0.5],
                "source_ip": source, "source_port": dice.choice([80, 1000]),
                "destination_ip": target, "destination_port": dice.choice([80, 1000]),
                "payload_length": dice.randrange(1500), "tcp_flags": dice.choice(_FLAGS) if tcp else 0,
                "tcp_window": dice.randrange(65536) if tcp else 0,
                "tcp_sequence": dice.choice([0, 1, 1, 2, 2**32 - 1]) if tcp else None,
            })  # fmt: skip
        for row in rows:
            row["data"] = row["payload"] = dice.randbytes(dice.choice([0, 3, 9, 40]))
            row["header"] = _random_header(dice, ":" in row["source_ip"])
            row["tcp_options"] = b"".join(dice.choices(_OPTIONS, k=dice.choice([0, 0, 1, 2, 3])))
        return rows

    return make


def _random_header(dice: random.Random, is_ipv6: bool) -> dict[str, Any]:
    """As `reference.header_of`."""
    near = dice.choice([0, 1, 9, 10, 1000, 1001, 65535])
    return {
        "ttl": dice.choice([0, 1, 64, 255]), "dscp": dice.randrange(64),
        "dont_fragment": 1 if is_ipv6 else dice.randrange(2), "identification": None if is_ipv6 else near,
        "options": dice.choice([0, 1, 2**31 - 1]), "mss": dice.choice([0, 1460, 65535]),
        "window_scale": dice.choice([0, 1, 256]),
        "timestamp": dice.choice([None, 0, 100, 300, 2**31, 2**32 - 1]),
    }  # fmt: skip


def _words_of(header: dict[str, Any]) -> bytes:
    number, tick = header["identification"], header["timestamp"]
    word = header["ttl"] | header["dscp"] << 8 | header["dont_fragment"] << 14 | header["window_scale"] << 15
    word |= header["mss"] << 24 | (0 if number is None else number + 1) << 40 | (tick is not None) << 57
    return struct.pack("<qq", word, header["options"] | (tick or 0) << 31)


@pytest.fixture(scope="session")
def packets_of() -> Callable[..., Packets]:
    """Rows of schemas.PACKETS, and the paths of their captures, to Packets; of ``data``, so many bytes are kept.

    ``header_fields``: with the words of each row's ``header``.
    """

    def number(mac: str | None) -> int:
        return int(mac.replace(":", ""), 16) if mac else -1

    def columns(row: dict[str, Any], paths: list[str]) -> dict[str, int]:
        source, target = ip_address(row["source_ip"]), ip_address(row["destination_ip"])
        same = ("offset", "link_type", "frame_length", "captured_length", "packet_length", "payload_length",
                "protocol", "tcp_flags", "tcp_window")  # fmt: skip
        return {
            **{name: row[name] for name in same},
            "file_index": paths.index(row["capture_file"]),
            "timestamp_us": int(np.datetime64(row["timestamp"].replace(tzinfo=None), "us").astype(np.int64)),
            "ip_version": source.version,
            "vlan": -1 if row["vlan"] is None else row["vlan"],
            "tcp_sequence": -1 if row.get("tcp_sequence") is None else row["tcp_sequence"],
            "src_mac": number(row["source_mac"]), "dst_mac": number(row["destination_mac"]),
            "src_ip_hi": int(source) >> 64, "src_ip_lo": int(source) & (2**64 - 1),
            "dst_ip_hi": int(target) >> 64, "dst_ip_lo": int(target) & (2**64 - 1),
            "src_port": row["source_port"], "dst_port": row["destination_port"],
        }  # fmt: skip

    def build(
        rows: list[dict[str, Any]], paths: list[str], keep_bytes: int = 0, header_fields: bool = False
    ) -> Packets:
        made = [columns(row, paths) for row in rows]
        words = -(-keep_bytes // 8)
        kept = b"".join(
            (_words_of(row["header"]) if header_fields else b"")
            + (row["data"][:keep_bytes].ljust(8 * words, b"\0") if keep_bytes else b"")
            for row in rows
        )
        words += 2 * header_fields
        arrays = {name: np.array([row[name] for row in made], dtype) for name, dtype in _DTYPES.items()}
        return Packets(**arrays, first_words=np.frombuffer(kept, np.int64).reshape(len(rows), words).copy())

    return build


@pytest.fixture(scope="session")
def write_pcap() -> Callable[[Path, list[dict[str, Any]]], None]:
    """Rows of schemas.PACKETS, IPv4 with TCP or UDP, and their ``payload``, to a classic pcap; offsets are not kept."""

    def frame(row: dict[str, Any]) -> bytes:
        ports = struct.pack(">HH", row["source_port"], row["destination_port"])
        ip = row.get("header", {"ttl": 64, "dscp": 0, "dont_fragment": 0, "identification": 0})
        if row["protocol"] == 6:
            options = row.get("tcp_options", b"")
            options += bytes(-len(options) % 4)
            above = ports + struct.pack(
                ">IIBBHHH", row.get("tcp_sequence") or 0, 0, (5 + len(options) // 4) << 4, row["tcp_flags"],
                row["tcp_window"], 0, 0,
            ) + options  # fmt: skip
        else:
            above = ports + struct.pack(">HH", 8, 0)
        above += row.get("payload", b"")
        addresses = ip_address(row["source_ip"]).packed + ip_address(row["destination_ip"]).packed
        number, fragment = ip["identification"] or 0, ip["dont_fragment"] << 14
        header = struct.pack(
            ">BBHHHBBH", 0x45, ip["dscp"] << 2, 20 + len(above), number, fragment, ip["ttl"], row["protocol"], 0
        )
        macs = [bytes.fromhex((row[f"{end}_mac"] or "").replace(":", "")) for end in ("destination", "source")]
        return b"".join(mac or bytes(6) for mac in macs) + b"\x08\x00" + header + addresses + above

    def write(path: Path, rows: list[dict[str, Any]]) -> None:
        records = [struct.pack("<IHHIIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)]
        for row in rows:
            us = int(np.datetime64(row["timestamp"].replace(tzinfo=None), "us").astype(np.int64))
            data = frame(row)
            records.append(struct.pack("<IIII", us // 1_000_000, us % 1_000_000, len(data), len(data)) + data)
        path.write_bytes(b"".join(records))

    return write
