"""Captures that are one stream cut into files: what spans the cut is read as if there were none."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from iotid import config
from iotid.capture import read_packets, read_splits
from iotid.capture.counters import Counters
from iotid.capture.packets import to_arrow
from iotid.capture.splits.discovery import find_captures
from iotid.capture.splits.plan import last_splits, splits_before
from iotid.errors import StaleError

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


@pytest.mark.parametrize("window_us", [0, 3000])
def test_files__of_any_number_of_records_give_the_same_packets(
    window_us: int, tmp_path: Path, make: SimpleNamespace, capture_settings: config.Capture
) -> None:
    """A first fragment may be many files back: only records count."""
    frames = _traffic(make, random.Random(7))
    (tmp_path / "whole").write_bytes(make.pcap(frames))
    changes = {"duplicate_window_us": window_us, "fragment_records": 20, "duplicate_records": 12}
    expected = _read([str(tmp_path / "whole")], capture_settings, **changes)
    dice = random.Random(3)
    for each in (1, 2, 5, 19):
        folder = tmp_path / str(each)
        folder.mkdir()
        cuts = sorted({*range(each, len(frames), each), *dice.sample(range(1, len(frames)), 3)})
        paths = _write_cut(folder, frames, cuts, make.pcap)
        assert _read(paths, capture_settings, **changes).equals(expected), each
        assert _read_side_by_side(paths, capture_settings.model_copy(update=changes)).equals(expected), each


def _read_side_by_side(paths: list[str], settings: config.Capture) -> pa.Table:
    """As workers do that read one file each."""
    captures, *_ = find_captures(paths)
    last_of = last_splits(captures)
    tables = [
        to_arrow(packets, paths)
        for capture in captures
        for packets in read_splits([capture], settings, Counters(), splits_before(last_of, capture, settings))
    ]
    return pa.concat_tables(tables).drop(_CUT_COLUMNS).replace_schema_metadata(None)


def test_files__that_stand_alone_show_no_fragments_of_others(
    tmp_path: Path, make: SimpleNamespace, capture_settings: config.Capture
) -> None:
    first, later = (make.ethernet(make.ipv4(make.udp(bytes(16)), 17, fragment=word)) for word in (0x2000, 0x0003))
    captures, *_ = find_captures(_write_cut(tmp_path, [first, later], [1], make.pcap))
    for before, expected in ((None, 1), ([], 2)):
        found = sum(len(packets) for packets in read_splits(captures, capture_settings, Counters(), before))
        assert found == expected


def test_splits_before__go_back_until_their_records_suffice(
    tmp_path: Path, make: SimpleNamespace, capture_settings: config.Capture
) -> None:
    paths = _write_cut(tmp_path, [make.ethernet(make.ipv4(make.udp()))] * 6, [2, 3, 4, 5], make.pcap)
    captures, *_ = find_captures(paths)
    settings = capture_settings.model_copy(update={"fragment_records": 3, "duplicate_records": 2})
    last_of = last_splits(
        replace(capture, records=count) for capture, count in zip(captures, (2, 1, 1, 1, 1), strict=True)
    )
    assert [split.file_index for split in splits_before(last_of, captures[4], settings)] == [3, 2, 1]
    assert [split.file_index for split in splits_before(last_of, captures[1], settings)] == [0]
    assert splits_before(last_of, captures[0], settings) == []
    walked = last_of | {3: replace(last_of[3], warm_up=last_of[3].start + 1)}
    assert [split.file_index for split in splits_before(walked, captures[4], settings)] == [3]


def test_files__windows_smaller_than_what_is_remembered_change_nothing(
    tmp_path: Path, make: SimpleNamespace, capture_settings: config.Capture
) -> None:
    frames = _traffic(make, random.Random(8))
    paths = _write_cut(tmp_path, frames, [len(frames) // 2], make.pcap)
    expected = _read(paths, capture_settings)
    assert _read(paths, capture_settings, chunk_bytes=4096).equals(expected)


def test_files__behind_one_in_quarantine_are_read_all_the_same(
    tmp_path: Path, make: SimpleNamespace, capture_settings: config.Capture
) -> None:
    frames = [make.ethernet(make.ipv4(make.udp(), 17, identification=i)) for i in range(6)]
    paths = _write_cut(tmp_path, frames, [2, 4], make.pcap)
    captures, *_ = find_captures(paths)
    Path(paths[1]).unlink()
    settings = capture_settings.model_copy(update={"duplicate_window_us": 1000, "unreadable": "quarantine"})
    last_of = last_splits(captures)
    for of_one_worker in (captures, captures[2:]):
        counted = Counters()
        before = splits_before(last_of, of_one_worker[0], settings)
        found = sum(len(packets) for packets in read_splits(of_one_worker, settings, counted, before))
        assert found == sum(capture.path != paths[1] for capture in of_one_worker) * 2
        assert set(counted.unreadable) == {capture.path for capture in of_one_worker} & {paths[1]}
    fails = settings.model_copy(update={"unreadable": "fail"})
    with pytest.raises(StaleError, match="was deleted"):
        list(read_splits(captures[2:], fails, Counters(), splits_before(last_of, captures[2], fails)))
