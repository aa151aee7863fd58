"""Captures are found by content, in natural order."""

from __future__ import annotations

import gzip
from pathlib import Path
from types import SimpleNamespace

import pytest

from iotid.capture import find_captures, read_packets
from iotid.errors import InputError


@pytest.fixture(scope="module")
def frames(make: SimpleNamespace) -> list[bytes]:
    """Twelve packets, all different."""
    return [make.ethernet(make.ipv4(make.tcp(bytes(range(i)), window=i, ports=(1000 + i, 443)))) for i in range(12)]


def _paths(location: str) -> list[str]:
    return [capture.path for capture in find_captures([location]).captures]


def test_find_captures__detects_by_content_sorts_and_ignores_the_rest(
    tmp_path: Path, make: SimpleNamespace, frames: list[bytes]
) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "name.txt").write_bytes(gzip.compress(make.pcapng(frames)))
    (tmp_path / "a.capture").write_bytes(make.pcap(frames))
    (tmp_path / "no.pcap").write_bytes(b"not a capture at all, whatever its name says")
    (tmp_path / "empty.pcap").write_bytes(b"")
    assert _paths(str(tmp_path)) == [f"{tmp_path}/a.capture", f"{tmp_path}/b/name.txt"]
    assert _paths(tmp_path.as_uri()) == _paths(str(tmp_path))


def test_find_captures__takes_numbers_in_names_by_value_as_rotation_writes_them(
    tmp_path: Path, make: SimpleNamespace, frames: list[bytes]
) -> None:
    rotated = ["night.pcap", *(f"night.pcap{i}" for i in range(1, 12)), "night2.pcap", "night10.pcap", "night010.pcap"]
    for name in rotated:
        (tmp_path / name).write_bytes(make.pcap(frames[:1]))
    ordered = [Path(path).name for path in _paths(str(tmp_path))]
    assert ordered == ["night2.pcap", "night010.pcap", "night10.pcap", *rotated[:12]]
    read = read_packets([f"{tmp_path}/night10.pcap", f"{tmp_path}/night2.pcap", f"{tmp_path}/night10.pcap"])
    assert [Path(path).name for path in read["capture_file"].to_pylist()] == ["night2.pcap", "night10.pcap"]


def test_find_captures__says_what_is_wrong_with_a_location(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        _paths(str(tmp_path / "absent"))
    with pytest.raises(InputError, match="holds no capture"):
        _paths(str(tmp_path))
    with pytest.raises(InputError, match="is not a path or URI"):
        _paths("nonsense://host/path")
