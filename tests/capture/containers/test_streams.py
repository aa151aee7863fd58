"""Streams: compressed files, bounds of what they expand to, and files of other filesystems."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from iotid import config
from iotid.capture import counters, read_packets
from iotid.capture.containers import compression as decompressors
from iotid.capture.containers import streams
from iotid.capture.containers.files import uri_of
from iotid.capture.containers.streams import open_stream
from iotid.capture.splits.discovery import find_captures
from iotid.errors import DataError, InputError, StaleError

Read = Callable[..., tuple[list[dict[str, Any]], dict[str, tuple[int, int]]]]


_COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "two gzip members, padded": lambda data: gzip.compress(data[:100]) + gzip.compress(data[100:]) + bytes(600),
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zstd": lambda data: pa.compress(data, "zstd", asbytes=True),
}


@pytest.mark.parametrize("chunk_bytes", [4096, 1 << 20])
@pytest.mark.parametrize("compression", _COMPRESSIONS)
def test_compression__is_detected_by_magic_and_changes_nothing(
    compression: str, chunk_bytes: int, read: Read, make: SimpleNamespace, frames: list[bytes]
) -> None:
    for data in (make.pcap(frames * 300), make.pcapng(frames * 300), make.pcap(frames)[:-3], make.pcap([])):
        packed = _COMPRESSIONS[compression](data)
        assert read(packed, chunk_bytes=chunk_bytes) == read(data, chunk_bytes=chunk_bytes)


@pytest.mark.parametrize("compression", ["gzip", "bz2", "xz", "zstd"])
def test_compression__a_broken_file_gives_what_is_before_the_fault(
    compression: str, read: Read, make: SimpleNamespace
) -> None:
    import random

    dice = random.Random(1)
    packets = [make.ethernet(make.ipv4(make.udp(dice.randbytes(700)), 17)) for _ in range(3000)]
    packed = _COMPRESSIONS[compression](make.pcap(packets))
    rows, counted = read(packed[: len(packed) // 2])
    assert len(rows) > 800
    assert "broken_compression" in counted
    with pytest.raises(DataError, match=r"truncated_record|broken_compression"):
        read(packed[: len(packed) // 2], strict=True)
    damaged = bytearray(packed)
    damaged[len(packed) // 2 : len(packed) // 2 + 40] = bytes(40)
    rows, counted = read(bytes(damaged))
    assert len(rows) <= 3000


@pytest.mark.parametrize(
    "changes", [{"max_expansion": 1}, {"max_expanded_bytes": 1 << 16}], ids=["by ratio", "by total"]
)
@pytest.mark.parametrize("compression", ["gzip", "bz2", "xz", "zstd"])
def test_compression__a_file_that_expands_beyond_the_bound_is_one_line_with_its_name(
    compression: str,
    changes: dict[str, int],
    tmp_path: Path,
    make: SimpleNamespace,
    frames: list[bytes],
    capture_settings: config.Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(streams, "_ANY_EXPANSION", 1 << 15)
    data = make.pcap(frames * 10)
    (tmp_path / "bomb.pcap").write_bytes(_COMPRESSIONS[compression](data + bytes(1 << 24)))
    (tmp_path / "whole.pcap").write_bytes(_COMPRESSIONS[compression](make.pcap(frames[1:] * 10)))
    settings = capture_settings.model_copy(update={**changes, "chunk_bytes": 4096})
    with pytest.raises(InputError, match=rf"bomb\.pcap: its [\d,]+ bytes expand .* capture\.{next(iter(changes))};"):
        read_packets(str(tmp_path), settings=settings)
    found = read_packets(str(tmp_path), settings=settings.model_copy(update={"unreadable": "quarantine"}))
    rows = counters(found).to_pylist()
    assert [(Path(row["capture_file"]).name, row["reason"], row["packets"]) for row in rows] == [
        ("bomb.pcap", "flow", 120),
        ("bomb.pcap", "unreadable", 0),
        ("whole.pcap", "flow", 110),
    ]


@pytest.mark.parametrize("compression", ["gzip", "bz2", "xz", "zstd"])
def test_compression__empty_or_tiny_members_cost_no_more_than_their_bytes(
    compression: str, read: Read, make: SimpleNamespace, frames: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = 0

    def count(kind: Any) -> Any:
        class Counting:
            def __init__(self, *of: Any, **more: Any) -> None:
                self._inner = kind(*of, **more)

            def __getattr__(self, name: str) -> Any:
                return getattr(self._inner, name)

            def decompress(self, data: bytes, size: int) -> bytes:
                nonlocal given
                given += len(data)
                found: bytes = self._inner.decompress(data, size)
                return found

        return Counting

    for module, name in ((decompressors, "_Inflate"), (bz2, "BZ2Decompressor"), (lzma, "LZMADecompressor")):
        monkeypatch.setattr(module, name, count(getattr(module, name)))
    pack, data = _COMPRESSIONS[compression], make.pcap(frames * 20)
    padding = b"" if compression == "zstd" else bytes(2)
    by_byte = (padding + pack(b"")).join(pack(data[at : at + 1]) for at in range(len(data)))
    packed = pack(b"") * 20_000 + by_byte + pack(b"") * 20_000
    assert read(packed) == read(data)
    assert given < 100 * len(packed)  # twice: to detect its format, and to read it


@pytest.mark.parametrize(
    ("location", "inner", "uri"),
    [
        ("s3://bucket/night", "bucket/night/a b.pcap", "s3://bucket/night/a%20b.pcap"),
        ("s3://bucket/night?region=eu", "bucket/night/a.pcap", "s3://bucket/night/a.pcap?region=eu"),
        ("hdfs://host:8020/night", "/night/a.pcap", "hdfs://host:8020/night/a.pcap"),
        ("file:///night", "/night/a.pcap", "/night/a.pcap"),
        ("/night", "/night/a.pcap", "/night/a.pcap"),
    ],
)
def test_uri_of__names_a_file_found_below_a_location(location: str, inner: str, uri: str) -> None:
    assert uri_of(location, inner) == uri


def test_fetched_files__read_as_local_ones(
    tmp_path: Path,
    make: SimpleNamespace,
    frames: list[bytes],
    capture_settings: config.Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from pyarrow import fs

    from iotid.capture.containers import streams

    (tmp_path / "a.pcap").write_bytes(make.pcap(frames * 100))
    local = read_packets(str(tmp_path / "a.pcap"), settings=capture_settings.model_copy(update={"chunk_bytes": 4096}))
    elsewhere = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())
    monkeypatch.setattr(streams, "filesystem_of", lambda path: (elsewhere, Path(path).name))
    fetched = read_packets(str(tmp_path / "a.pcap"), settings=capture_settings.model_copy(update={"chunk_bytes": 4096}))
    assert fetched.equals(local)


def test_fetched_windows__of_one_block_take_one_request() -> None:
    from iotid.capture.containers.streams import _Fetched

    data, requests = bytes(range(250)), []

    class Remote:
        def read_at(self, size: int, position: int) -> bytes:
            requests.append((position, size))
            return data[position : position + size]

    stream = _Fetched(Remote(), len(data), 100)
    wanted = [(0, 40), (30, 40), (60, 60), (60, 120), (175, 10), (180, 90), (250, 10)]
    assert [stream.window(*each).tobytes() for each in wanted] == [data[at : at + size] for at, size in wanted]
    assert requests == [(0, 100), (60, 100), (60, 120), (175, 75)]


def test_local_file__that_is_cut_off_while_it_is_read_is_stale(
    tmp_path: Path, make: SimpleNamespace, capture_settings: config.Capture
) -> None:
    path = tmp_path / "a.pcap"
    path.write_bytes(make.pcap([bytes(1000)] * 1000))
    [capture] = find_captures([str(path)]).captures
    with open_stream(capture, capture_settings) as stream:
        first = stream.window(0, 100)
        assert (first.tobytes(), first.flags.writeable) == (path.read_bytes()[:100], False)
        os.truncate(path, 900_000)
        with pytest.raises(StaleError, match=f"a.pcap: ends at byte 900000 and had {capture.file_bytes} bytes"):
            stream.window(100, capture.file_bytes)
