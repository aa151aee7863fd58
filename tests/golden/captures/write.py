"""write.py: write the hostile captures of this folder again. Finds of `make fuzz` are laid beside them as FIND.bin.

Each holds one thing that a reader may crash, hang or swell on; `tests/capture/test_fuzz.py` checks what must hold.
"""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

_HEADER = struct.pack("<IHHIIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
_ETHERNET = bytes(12) + b"\x08\x00"


def _record(frame: bytes, seconds: int = 1, captured: int | None = None) -> bytes:
    size = len(frame) if captured is None else captured
    return struct.pack("<IIII", seconds, 0, size, size) + frame


def _ip(payload: bytes, protocol: int, fragment: int = 0) -> bytes:
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(payload), 1, fragment, 64, protocol, 0)
    return head + bytes([10, 0, 0, 1, 10, 0, 0, 2]) + payload


def _udp(payload: bytes, port: int = 53) -> bytes:
    return struct.pack(">HHHH", 40000, port, 8 + len(payload), 0) + payload


def _block(kind: int, body: bytes, length: int | None = None) -> bytes:
    size = 12 + len(body) if length is None else length
    return struct.pack("<II", kind, size) + body + struct.pack("<I", size)


_SECTION = _block(0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1))
_INTERFACE = _block(1, struct.pack("<HHI", 1, 0, 0))
_PLAIN = _ETHERNET + _ip(_udp(b"abcd"), 17)


def _enhanced(frame: bytes, interface: int = 0, captured: int | None = None) -> bytes:
    size = len(frame) if captured is None else captured
    head = struct.pack("<IIIII", interface, 0, 1, size, size)
    return _block(6, head + frame + bytes(-len(frame) % 4))


def _in_tunnels(depth: int) -> bytes:
    packet = _ip(_udp(b""), 17)
    for _ in range(depth):
        packet = _ip(b"\0\0\x08\0" + packet, 47)
    return _ETHERNET + packet


def cases() -> dict[str, bytes]:
    inner = _HEADER + _record(_PLAIN) * 6
    ipv6 = struct.pack(">IHBB", 6 << 28, 800, 0, 64) + bytes(32)
    return {
        "record_claims_4_gb": _HEADER + _record(_PLAIN) + _record(b"", captured=2**32 - 1) + _record(_PLAIN) * 4,
        "captures_inside_a_packet": _HEADER + (_record(_ETHERNET + _ip(_udp(inner), 17)) + _record(_PLAIN)) * 4,
        "zeros_after_a_crash": _HEADER + _record(_PLAIN) + bytes(3000) + _record(_PLAIN) * 4,
        "block_of_length_0": _SECTION + _INTERFACE + _enhanced(_PLAIN) + _block(6, b"", 0) + _enhanced(_PLAIN) * 4,
        "options_without_end": _SECTION + _block(1, struct.pack("<HHI", 1, 0, 0) + bytes(400)) + _enhanced(_PLAIN),
        "option_longer_than_its_block": _SECTION + _block(1, struct.pack("<HHIHH", 1, 0, 0, 9, 65535)),
        "interfaces_only": _SECTION + _INTERFACE * 300,
        "interface_never_described": _SECTION + _enhanced(_PLAIN, interface=7) * 3,
        "sections_in_both_orders": (_SECTION + _INTERFACE + _enhanced(_PLAIN)) * 2
        + struct.pack(">III", 0x0A0D0D0A, 28, 0x1A2B3C4D) + struct.pack(">HHqI", 1, 0, -1, 28),
        "tunnels_50_deep": _HEADER + _record(_in_tunnels(50)) * 2,
        "ipv6_extension_headers_all_the_way": _HEADER + _record(bytes(12) + b"\x86\xdd" + ipv6 + bytes(800)) * 2,
        "vlan_tags_all_the_way": _HEADER + _record(bytes(12) + b"\x81\0\0\1" * 300) * 2,
        "mpls_labels_without_a_bottom": _HEADER + _record(bytes(12) + b"\x88\x47" + bytes(400)) * 2,
        "fragments_without_a_first": _HEADER + _record(_ETHERNET + _ip(b"12345678", 17, fragment=9)) * 40,
        "gzip_of_many_zeros": gzip.compress(_HEADER + bytes(1 << 15), mtime=0),
        "gzip_cut_off": gzip.compress(_HEADER + _record(_PLAIN) * 50, mtime=0)[:-20],
    }  # fmt: skip


if __name__ == "__main__":
    for name, data in cases().items():
        Path(__file__).with_name(f"{name}.bin").write_bytes(data)
