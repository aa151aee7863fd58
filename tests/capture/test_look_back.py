"""Captures that are one stream cut into files: what spans the cut is read as if there were none."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from iotid import config
from iotid.capture import read_packets

_CUT_COLUMNS = ["capture_file", "offset"]  # what must differ


def _traffic(make: SimpleNamespace, dice: random.Random) -> list[Any]:
    """Datagrams in fragments, some of them interleaved, some packets twice."""
    frames: list[Any] = []
    waiting: list[bytes] = []
    for number in range(40):
        ports = (1000 + number, 53)
        first = make.ipv4(make.udp(bytes(16), ports), 17, identification=number, fragment=0x2000)
        frames.append(make.ethernet(first))
        waiting += [
            make.ethernet(make.ipv4(bytes(24), 17, identification=number, fragment=at | more << 13))
            for at, more in ((3, 1), (6, 0))
        ]
        while waiting and dice.random() < 0.6:
            frames.append(waiting.pop(dice.randrange(len(waiting))))
        if dice.random() < 0.3:
            frames.append(frames[-1])
    return [(1_500_000_000_000_000 + 700 * i, frame) for i, frame in enumerate(frames)]


def _write_cut(folder: Path, frames: list[Any], cuts: list[int], write: Any) -> list[str]:
    paths = []
    for number, (begin, end) in enumerate(zip([0, *cuts], [*cuts, len(frames)], strict=True)):
        path = folder / f"part-{number:03}"
        path.write_bytes(write(frames[begin:end]))
        paths.append(str(path))
    return paths


def _read(paths: list[str], settings: config.Capture, **changes: Any) -> pa.Table:
    table = read_packets(paths, settings=settings.model_copy(update=changes))
    return table.drop(_CUT_COLUMNS).replace_schema_metadata(None)


@pytest.mark.parametrize("container", ["pcap", "pcapng"])
@pytest.mark.parametrize("window_us", [0, 3000])
def test_files__cut_between_any_two_records_give_the_same_packets(
    container: str, window_us: int, tmp_path: Path, make: SimpleNamespace, capture_settings: config.Capture
) -> None:
    frames = _traffic(make, random.Random(7))
    write = getattr(make, container)
    whole = tmp_path / "whole"
    whole.write_bytes(write(frames))
    changes = {"duplicate_window_us": window_us, "fragment_records": 20, "duplicate_records": 12}
    expected = _read([str(whole)], capture_settings, **changes)
    assert 40 < len(expected) < len(frames) or window_us == 0
    for cut in range(1, len(frames)):
        assert _read(_write_cut(tmp_path, frames, [cut], write), capture_settings, **changes).equals(expected), cut


def test_files__a_fragment_looks_no_further_than_the_file_before(
    tmp_path: Path, make: SimpleNamespace, capture_settings: config.Capture
) -> None:
    first, later = (make.ethernet(make.ipv4(make.udp(bytes(16)), 17, fragment=word)) for word in (0x2000, 0x0003))
    other = make.ethernet(make.ipv4(make.udp(), 17))
    near = _write_cut(tmp_path, [other, first, later], [2], make.pcap)
    assert len(_read(near, capture_settings)) == 3
    far = _write_cut(tmp_path, [first, other, later], [1, 2], make.pcap)
    assert len(_read(far, capture_settings)) == 2


def test_files__windows_smaller_than_what_is_remembered_change_nothing(
    tmp_path: Path, make: SimpleNamespace, capture_settings: config.Capture
) -> None:
    frames = _traffic(make, random.Random(8))
    paths = _write_cut(tmp_path, frames, [len(frames) // 2], make.pcap)
    expected = _read(paths, capture_settings)
    assert _read(paths, capture_settings, chunk_bytes=4096).equals(expected)
