"""Packets of IP flows as columns: a structure of arrays, and its conversion to an Arrow table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from iotid.schemas import PACKETS

if TYPE_CHECKING:
    import pyarrow as pa

Ints = NDArray[np.int32]
Longs = NDArray[np.int64]
Words = NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Packets:
    """Arrays of one entry per packet, in file order."""

    file_index: Ints
    offset: Longs  # byte of the record in the uncompressed stream
    timestamp_us: Longs  # µs since 1970, floor
    link_type: Ints
    frame_length: Ints  # bytes on the wire
    captured_length: Ints
    packet_length: Ints  # bytes on the wire from the IP header on
    payload_length: Ints  # bytes on the wire above TCP or UDP, else above IP
    ip_version: NDArray[np.uint8]
    protocol: NDArray[np.uint8]
    vlan: Ints  # innermost; -1: none
    src_mac: Longs  # low 48 bits; -1: unknown
    dst_mac: Longs
    src_ip_hi: Words  # 0 for IPv4
    src_ip_lo: Words
    dst_ip_hi: Words
    dst_ip_lo: Words
    src_port: Ints  # 0: none
    dst_port: Ints
    tcp_flags: NDArray[np.uint8]
    tcp_window: Ints
    tcp_sequence: Longs  # -1: unknown; only for flows, not a column of schemas.PACKETS
    # (n, W): HEADER_WORDS if header fields are read, then words_of(keep_bytes): first bytes from the IP header on,
    # addresses zeroed, zero-padded
    first_words: Longs

    def __len__(self) -> int:
        return len(self.offset)

    def take(self, indices: Any) -> Packets:
        """The packets at ``indices``: integers, a mask or a slice."""
        return Packets(*(getattr(self, field.name)[indices] for field in fields(self)))

    @staticmethod
    def empty(count: int = 0, words: int = 0) -> Packets:
        """Uninitialised arrays of ``count`` entries; ``words``: width of ``first_words``."""
        columns: list[Any] = [np.empty(count, kind) for kind in _TYPES]
        columns.append(np.empty((count, words), np.int64))
        return Packets(*columns)

    @staticmethod
    def concat(parts: Sequence[Packets]) -> Packets:
        if not parts:
            return Packets.empty()
        return Packets(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Packets)))


_TYPES = (
    np.int32, np.int64, np.int64, np.int32, np.int32, np.int32, np.int32, np.int32, np.uint8, np.uint8, np.int32,
    np.int64, np.int64, np.uint64, np.uint64, np.uint64, np.uint64, np.int32, np.int32, np.uint8, np.int32, np.int64,
)  # fmt: skip


def words_of(num_bytes: int) -> int:
    """Number of 8-byte words for ``num_bytes`` bytes."""
    return -(-num_bytes // 8)


def to_arrow(packets: Packets, paths: Sequence[str], names: Sequence[str] | None = None) -> pa.Table:
    """A table of schemas.PACKETS, or of its columns ``names``; ``paths[i]`` is the capture of ``file_index`` i."""
    import pyarrow as pa

    computed: dict[str, Callable[[], Any]] = {
        "capture_file": lambda: _file_names(packets.file_index, paths),
        "timestamp": lambda: packets.timestamp_us,
        "source_mac": lambda: mac_text(packets.src_mac),
        "destination_mac": lambda: mac_text(packets.dst_mac),
        "source_ip": lambda: ip_text(packets.src_ip_hi, packets.src_ip_lo, packets.ip_version),
        "destination_ip": lambda: ip_text(packets.dst_ip_hi, packets.dst_ip_lo, packets.ip_version),
        "source_port": lambda: packets.src_port,
        "destination_port": lambda: packets.dst_port,
    }
    whole = PACKETS.arrow_schema()
    schema = whole if names is None else pa.schema([whole.field(name) for name in names])
    columns = []
    for field in schema:
        values = computed[field.name]() if field.name in computed else getattr(packets, field.name)
        if isinstance(values, np.ndarray):
            valid = values >= 0 if field.nullable else None
            values = column_of(values.astype(f"i{field.type.bit_width // 8}"), field.type, valid)
        columns.append(values)
    return pa.table(columns, schema=schema)


def ip_text(hi: Words, lo: Words, version: NDArray[np.uint8]) -> pa.Array:
    """Addresses as Python's ipaddress prints them; each distinct address is printed once."""
    import pyarrow as pa

    is_v4 = version == 4
    v4_text = _texts(lo[is_v4].astype(">u4"), 4, lambda raw: str(IPv4Address(raw)))
    if is_v4.all():
        return v4_text
    pairs = np.stack([hi[~is_v4], lo[~is_v4]], axis=1).astype(">u8")
    v6_text = _texts(pairs, 16, lambda raw: str(IPv6Address(raw)))
    index = np.empty(len(version), np.int64)
    index[is_v4] = np.arange(len(v4_text))
    index[~is_v4] = np.arange(len(v6_text)) + len(v4_text)
    return pa.concat_arrays([v4_text, v6_text]).take(column_of(index, pa.int64()))


def mac_text(mac: Longs) -> pa.Array:
    """MACs as aa:bb:cc:dd:ee:ff, null where unknown (-1)."""
    return _texts(mac.astype(">i8"), 8, lambda raw: raw[2:].hex(":"), mac >= 0)


def _file_names(file_index: Ints, paths: Sequence[str]) -> pa.Array:
    import pyarrow as pa

    if len(file_index) and file_index.min() == file_index.max():  # a chunk of one file, out of thousands of files
        paths, file_index = [paths[file_index[0]]], np.zeros_like(file_index)
    return strings_of(paths).take(column_of(file_index, pa.int32()))


def _texts(
    values: NDArray[Any], width: int, write: Callable[[bytes], str], valid: NDArray[np.bool_] | None = None
) -> pa.Array:
    """``write`` applied to the ``width`` bytes of each valid row of ``values``, once for each distinct row."""
    import pyarrow as pa

    encoded = column_of(values, pa.binary(width), valid).dictionary_encode()
    return strings_of([write(value) for value in encoded.dictionary.to_pylist()]).take(encoded.indices)


def column_of(values: NDArray[Any], kind: pa.DataType, valid: NDArray[np.bool_] | None = None) -> pa.Array:
    """The array's own memory as an Arrow array, null where not ``valid``. (`pyarrow.array` would import pandas.)"""
    import pyarrow as pa

    bits = None if valid is None else pa.py_buffer(np.packbits(valid, bitorder="little"))
    return pa.Array.from_buffers(kind, len(values), [bits, pa.py_buffer(np.ascontiguousarray(values))])


def booleans_of(values: NDArray[np.bool_]) -> pa.Array:
    """The array as an Arrow array of booleans, a bit each."""
    import pyarrow as pa

    bits = pa.py_buffer(np.packbits(values, bitorder="little"))
    return pa.Array.from_buffers(pa.bool_(), len(values), [None, bits])


def strings_of(texts: Sequence[str]) -> pa.Array:
    import pyarrow as pa

    encoded = [text.encode() for text in texts]
    offsets = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
    large = pa.Array.from_buffers(
        pa.large_string(), len(encoded), [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(encoded))]
    )
    return large.cast(pa.string())
