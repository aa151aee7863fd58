"""Which files are read: each once under whatever names, names of any bytes, nothing that would block."""

from __future__ import annotations

import bz2
import errno
import gzip
import logging
import lzma
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from pyarrow import fs

from iotid import config
from iotid.capture import counters, find_captures, first_day, read_packets, read_splits, split_captures
from iotid.capture.containers import streams
from iotid.capture.counters import Counters
from iotid.capture.file_split import FileSplit
from iotid.capture.splits import files
from iotid.capture.splits.discovery import count_same_start
from iotid.capture.splits.write import write_splits
from iotid.cli.split_pcaps import main as split_pcaps
from iotid.errors import InputError, StaleError
from iotid.flows import from_captures
from iotid.partitions import PartitionKey, Store

KEY = PartitionKey.of_date("a", "2026-01-10")
_gzip = partial(gzip.compress, mtime=0)
DAY_US = 86_400_000_000
START_US = 1_700_000_000_000_000


@pytest.fixture
def write(tmp_path: Path, make: SimpleNamespace) -> Callable[..., Path]:
    """Write a capture of packets that are numbered, a second apart, and of as many bytes each."""

    def to(name: str, numbers: Any = range(5), pack: Callable[[bytes], bytes] = bytes, start: int = START_US) -> Path:
        frames = [
            (start + i * 1_000_000, make.ethernet(make.ipv4(make.tcp(bytes(9), sequence=i), identification=i)))
            for i in numbers
        ]
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pack(make.pcap(frames)))
        return path

    return to


def _split(path: Path, settings: config.Capture) -> list[FileSplit]:
    return split_captures(find_captures([str(path)]).captures, settings).splits


def _paths(location: str) -> list[str]:
    return [capture.path for capture in find_captures([location]).captures]


def _lenient(settings: config.Capture) -> config.Capture:
    return settings.model_copy(update={"unreadable": "quarantine"})


def _link(path: Path, kind: str) -> list[str]:
    """Locations that name the capture at the path in two ways."""
    folder = path.parent
    if kind == "link":
        (folder / "latest.pcap").symlink_to("a.pcap")
    elif kind == "link that sorts first":
        (folder / "0.pcap").symlink_to(path)
    elif kind == "link to a link":
        (folder / "1.pcap").symlink_to("0.pcap")
        (folder / "0.pcap").symlink_to("a.pcap")
    elif kind == "hard link":
        (folder / "b.pcap").hardlink_to(path)
    elif kind == "linked folder":
        (folder / "inner").mkdir()
        path.rename(folder / "inner" / "a.pcap")
        (folder / "0").symlink_to("inner")
    elif kind == "linked folder elsewhere":
        return [str(folder), str(_moved(folder).parent / "elsewhere")]
    return {
        "spelling": [f"{folder}/./a.pcap", f"{folder}//a.pcap"],
        "dots": [f"{folder}/../{folder.name}/a.pcap", str(path)],
        "uri": [path.as_uri(), str(path)],
        "uri of this host": [f"file://localhost{path}", f"file:{path}"],
        "given twice": [str(path), str(folder)],
    }.get(kind, [str(folder)])


def _moved(folder: Path) -> Path:
    folder.rename(folder.parent / "elsewhere")
    folder.symlink_to(folder.parent / "elsewhere")
    return folder


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(
    "kind",
    [
        "link", "link that sorts first", "hard link", "linked folder", "linked folder elsewhere", "spelling", "dots",
        "uri", "uri of this host", "given twice",
    ],
)  # fmt: skip
def test_files__of_two_names_are_read_once_under_the_real_one(
    kind: str, reverse: bool, write: Callable[..., Path], tmp_path: Path
) -> None:
    locations = _link(write("night/a.pcap"), kind)
    found = find_captures(locations[::-1] if reverse else locations)
    assert [os.path.realpath(capture.path) for capture in found.captures] == [
        os.path.realpath(next(tmp_path.rglob("a.pcap")))
    ]
    assert Path(found.captures[0].path).name == "a.pcap"
    assert not Path(found.captures[0].path).is_symlink()
    assert (found.same, found.ignored) == (1, 0)
    assert from_captures(locations)["client_packets"].to_pylist() == [5]


def test_files__of_three_names_are_read_once(write: Callable[..., Path], tmp_path: Path) -> None:
    found = find_captures(_link(write("night/a.pcap"), "link to a link"))
    assert [capture.path for capture in found.captures] == [f"{tmp_path}/night/a.pcap"]
    assert found.same == 2


def test_files__links_back_to_their_own_folder_end_and_links_elsewhere_are_followed(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    write("night/a.pcap")
    write("night/deep/b.pcap", range(5, 9))
    write("other/c.pcap", range(9, 12))
    (tmp_path / "night" / "self").symlink_to(".")
    (tmp_path / "night" / "deep" / "up").symlink_to("..")
    assert find_captures([f"{tmp_path}/night"]).same == 0, "they lead to no further names"
    (tmp_path / "night" / "more").symlink_to(tmp_path / "other")
    (tmp_path / "other" / "back").symlink_to(tmp_path / "night")
    (tmp_path / "other" / "same").symlink_to(tmp_path / "other")
    assert _paths(f"{tmp_path}/night") == [
        f"{tmp_path}/night/a.pcap", f"{tmp_path}/night/deep/b.pcap", f"{tmp_path}/night/more/c.pcap"
    ]  # fmt: skip


def test_files__a_location_that_holds_only_captures_of_another_is_no_error(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    path = write("night/a.pcap")
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "b.pcap").symlink_to(path)
    assert find_captures([f"{tmp_path}/links", f"{tmp_path}/night"]).captures[0].path == str(path)


@pytest.mark.parametrize("name", [b"n\xffight.pcap", b"50%\xe9?#.pcap", b"\xc3.pcap", b"sp ace\x80\n.pcap"])
def test_files__whose_names_are_no_utf8_are_read_like_others(
    name: bytes, write: Callable[..., Path], tmp_path: Path, capture_settings: config.Capture
) -> None:
    good = write("night/good.pcap")
    odd = write("night/odd", range(5, 12))
    odd.rename(os.fsdecode(os.fsencode(odd.parent) + b"/" + name))
    table = read_packets(str(good.parent))
    assert table["capture_file"].value_counts().to_pylist()[-1]["counts"] in (5, 7)
    (uri,) = {path for path in table["capture_file"].to_pylist() if path != str(good)}
    assert uri.startswith(f"file://{tmp_path}/night/")
    assert read_packets(uri).num_rows == 7, "the path that is reported for it opens it"
    assert first_day(uri, capture_settings) == "2023-11-14"
    assert from_captures(str(good.parent)).num_rows > 0
    written = write_splits(None, Store(f"{tmp_path}/store"), str(good.parent), *KEY.values(), capture_settings)
    assert set(pq.read_table(written.uri, partitioning=None)["path"].to_pylist()) == {str(good), uri}


def test_files__folders_whose_names_are_no_utf8_are_searched_and_may_be_given(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    write("odd/a.pcap")
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/\xfe\xff")
    (tmp_path / "odd").rename(folder)
    assert _paths(str(tmp_path)) == [f"file://{tmp_path}/%FE%FF/a.pcap"]
    assert _paths(folder) == _paths(str(tmp_path))
    arguments = ["--captures", folder, "--site", "a", "--date", "2026-01-10", "--set", f"storage.root={tmp_path}/store"]
    result = CliRunner().invoke(split_pcaps, arguments)
    assert result.exit_code == 0, result.output
    assert "splits: 1 captures" in result.output


def test_files__no_file_can_have_such_a_name() -> None:
    for location in ("/a\0b", "/a\ud800b"):
        with pytest.raises(InputError, match="no file can have this name"):
            _paths(location)


def test_files__a_pipe_is_named_and_never_waited_for(
    write: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture, capture_settings: config.Capture
) -> None:
    path = write("night/a.pcap")
    pipe = tmp_path / "night" / "live.pcap"
    os.mkfifo(pipe)
    (tmp_path / "night" / "link.pcap").symlink_to(pipe)
    found = find_captures([f"{tmp_path}/night"])
    assert ([capture.path for capture in found.captures], found.ignored) == ([str(path)], 2)
    assert f"{pipe}: is a pipe, a socket or a device, and is skipped" in caplog.text
    for location in (pipe, tmp_path / "night" / "link.pcap"):
        with pytest.raises(InputError, match=r"is a named pipe \(FIFO\) and no file.*write it to a file first"):
            _paths(str(location))
    with pytest.raises(InputError, match="is a device"):
        _paths("/dev/null")
    (planned,) = _split(path, capture_settings)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(InputError, match="is a named pipe"):
        list(read_splits([planned], capture_settings, Counters()))


def test_files__of_an_object_store_are_found_in_all_folders_or_one_by_one(
    write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())
    monkeypatch.setattr(files, "filesystem_of", lambda location: (store, location.removeprefix("s3://")))
    for name in ("a b.pcap", "north/b.pcap", "north/deep/c.pcap"):
        write(f"bucket/night/{name}")
    (tmp_path / "bucket/night/empty").mkdir()
    below = {file.inner: file for file in files.list_files("s3://bucket/night", "fail").files}
    assert {inner: file.path for inner, file in below.items()} == {
        "bucket/night/a b.pcap": "s3://bucket/night/a%20b.pcap",
        "bucket/night/north/b.pcap": "s3://bucket/night/north/b.pcap",
        "bucket/night/north/deep/c.pcap": "s3://bucket/night/north/deep/c.pcap",
    }
    (alone,) = files.list_files("s3://bucket/night/north/b.pcap", "fail").files
    assert alone == below["bucket/night/north/b.pcap"]
    assert len({file.identity for file in below.values()}) == 3
    with pytest.raises(InputError, match="s3://bucket/other: there is no such file or folder"):
        files.list_files("s3://bucket/other", "fail")


def _refuse(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    scandir = os.scandir

    def refused(path: Any) -> Any:
        if str(path) == str(folder):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)


def test_files__a_subfolder_that_cannot_be_read_stops_all_or_is_in_quarantine(
    write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capture_settings: config.Capture
) -> None:
    path = write("night/a.pcap")
    write("night/closed/b.pcap")
    _refuse(monkeypatch, tmp_path / "night" / "closed")
    with pytest.raises(InputError, match=r"night/closed: cannot be read \(Permission denied\)"):
        _paths(f"{tmp_path}/night")
    found = find_captures([f"{tmp_path}/night"], "quarantine")
    assert [capture.path for capture in found.captures] == [str(path)]
    assert list(found.unreadable) == [f"{tmp_path}/night/closed"]
    assert list(read_packets(f"{tmp_path}/night", settings=_lenient(capture_settings))["offset"].to_pylist())
    _refuse(monkeypatch, tmp_path / "night")
    with pytest.raises(InputError, match="night: cannot be read"):
        find_captures([f"{tmp_path}/night"], "quarantine")


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE, None])
def test_open__that_is_refused_is_an_error_or_quarantine_with_its_bytes_and_place(
    number: int | None,
    write: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capture_settings: config.Capture,
) -> None:
    path = write("a.pcap", range(500))
    settings = capture_settings.model_copy(update={"split_bytes": 8192})
    splits = _split(path, settings)

    def refuse(*_: object) -> None:
        raise OSError("AWS Error ACCESS_DENIED") if number is None else OSError(number, os.strerror(number))

    monkeypatch.setattr(streams, "open_file", refuse)
    with pytest.raises(InputError, match=r"a\.pcap: cannot be read \("):
        list(read_splits(splits, settings, Counters()))
    counted = Counters()
    assert list(read_splits(splits[1:3], _lenient(settings), counted)) == []
    size = splits[2].stop - splits[1].start
    assert list(counted) == [(str(path), "unreadable", 0, size, splits[1].start)]
    assert "cannot be read" in counted.unreadable[str(path)]


class _Failing:
    """An open file of a disk that fails."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def read(self, *_: int) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    read_at = read


@pytest.mark.parametrize("pack", [_gzip, lzma.compress, bz2.compress, bytes])
def test_read__a_disk_that_fails_under_an_open_capture_is_no_end_of_it(
    pack: Callable[[bytes], bytes], write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capture_settings: config.Capture,
) -> None:  # fmt: skip
    path = write("a.pcap", range(500), pack)
    (planned,) = _split(path, capture_settings)
    planned = replace(planned, fingerprint="")
    open_file = streams.open_file
    monkeypatch.setattr(streams, "open_file", lambda *where: _Failing(open_file(*where)))
    if pack is bytes:  # what is not mapped, as of an object store
        store = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())
        monkeypatch.setattr(streams, "filesystem_of", lambda _: (store, "a.pcap"))
    with pytest.raises(InputError, match=r"a\.pcap: cannot be read \(Input/output error\)"):
        list(read_splits([planned], capture_settings, Counters()))
    counted = Counters()
    assert list(read_splits([planned], _lenient(capture_settings), counted)) == []
    size = path.stat().st_size
    assert [row[1:4] for row in counted] == [("unreadable", 0, size - planned.start)]


@pytest.mark.parametrize("pack", [bytes, _gzip, lzma.compress])
@pytest.mark.parametrize("change", ["longer", "as long", "longer with the same begin"])
def test_split__of_an_overwritten_capture_is_refused_or_in_quarantine(
    change: str, pack: Any, write: Callable[..., Path], capture_settings: config.Capture
) -> None:
    path = write("ring.pcap", range(100), pack)
    for planned in (_split(path, capture_settings), find_captures([str(path)]).captures):
        write("ring.pcap", range(100), pack)
        assert sum(len(packets) for packets in read_splits(planned, capture_settings, Counters())) == 100
        over = {"longer": range(200, 400), "as long": range(200, 300)}.get(change, [*range(3), *range(200, 400)])
        write("ring.pcap", over, pack)
        with pytest.raises(StaleError, match=r"ring\.pcap: .*plan it again"):
            list(read_splits(planned, capture_settings, Counters()))
        counted = Counters()
        assert list(read_splits(planned, _lenient(capture_settings), counted)) == []
        assert list(counted.unreadable) == [str(path)]


@pytest.mark.parametrize("pack", [bytes, _gzip])
def test_split__of_a_capture_that_only_grew_is_read_to_where_it_was_planned(
    pack: Any, write: Callable[..., Path], capture_settings: config.Capture
) -> None:
    for settings in (capture_settings, capture_settings.model_copy(update={"split_bytes": 8192})):
        path = write("grows.pcap", range(2000), pack)
        planned = _split(path, settings)
        with path.open("ab") as file:  # a member of its own, where it is packed
            file.write(pack(write("more", range(50)).read_bytes()[24:]))
        assert sum(len(packets) for packets in read_splits(planned, settings, Counters())) == 2000


def test_fingerprint__sees_both_ends_of_what_was_planned_and_nothing_behind(tmp_path: Path) -> None:
    def of(content: bytes, size: int) -> str:
        (tmp_path / "f").write_bytes(content)
        with (tmp_path / "f").open("rb") as file:
            return streams.fingerprint_of(file, size)

    content, size = bytes(1 << 18), 1 << 18
    same = of(content, size)
    assert of(content + b"more", size) == same
    assert of(b"x" + content[1:], size) != same
    assert of(content[:-1] + b"x", size) != same
    assert of(content, size - 1) != same
    assert of(b"", 0) == of(b"anything", 0)


@pytest.fixture
def hints(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.WARNING, "iotid")
    return lambda: [record.getMessage() for record in caplog.records if "counted twice" in record.getMessage()]


def test_overlap__of_a_capture_beside_its_packed_copy_is_hinted_at(
    write: Callable[..., Path], tmp_path: Path, hints: Callable[[], list[str]]
) -> None:
    write("night/a.pcap")
    write("night/a.pcap.gz", pack=_gzip)
    write("night/b.pcap", range(5, 9))
    counted = counters(read_packets(f"{tmp_path}/night")).to_pylist()
    assert [Path(row["capture_file"]).name for row in counted if row["reason"] == "overlap"] == ["a.pcap", "a.pcap.gz"]
    assert sum(row["packets"] for row in counted) == 14
    assert len(hints()) == 2
    result = CliRunner().invoke(
        split_pcaps,
        [
            "--captures",
            f"{tmp_path}/night",
            "--site",
            "a",
            "--date",
            "2026-01-10",
            "--set",
            f"storage.root={tmp_path}/s",
        ],
    )
    assert "splits: 3 captures" in result.output
    assert "1 that begin with the packet of another, counted twice" in result.output


def test_count_same_start__counts_equal_first_packets_and_no_empty_capture(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    for name, numbers in (("a", range(5)), ("b", ()), ("c", ()), ("d", range(2)), ("e", range(1, 5)), ("f", range(9))):
        write(f"{name}.pcap", numbers)
    assert count_same_start(find_captures([str(tmp_path)]).captures) == 2


@pytest.mark.parametrize("pack", [bytes, _gzip])
def test_overlap__of_rotated_files_is_hinted_at_whatever_the_splits(
    pack: Any,
    write: Callable[..., Path],
    tmp_path: Path,
    hints: Callable[[], list[str]],
    capture_settings: config.Capture,
) -> None:
    write("night/eth0.pcap0", range(300), pack)
    second = write("night/eth0.pcap1", range(250, 500), pack)
    found = []
    for split_bytes in (4096, 1 << 28):
        settings = capture_settings.model_copy(update={"split_bytes": split_bytes, "chunk_bytes": 4096})
        counted = counters(from_captures(f"{tmp_path}/night", capture=settings)).to_pylist()
        found.append([row for row in counted if row["reason"] == "overlap"])
    assert found[0] == found[1]
    record = (len(write("one", range(1)).read_bytes())) - 24
    assert [(Path(row["capture_file"]).name, row["first_offset"]) for row in found[0]] == [
        ("eth0.pcap0", 24 + 250 * record)
    ]
    assert len(hints()) == 2
    second.unlink()
    write("night/eth0.pcap1", range(300, 500), pack)
    write("night/eth1.pcap0", range(1000, 1500), pack, start=START_US - 900 * 1_000_000)  # at the same time, of others
    assert not any(row["reason"] == "overlap" for row in counters(read_packets(f"{tmp_path}/night")).to_pylist())


def test_split_pcaps__says_what_is_in_quarantine_and_what_is_the_same(
    write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write("night/a.pcap").parent
    (folder / "gone.pcap").symlink_to("nowhere")
    (folder / "again.pcap").symlink_to("a.pcap")
    arguments = ["--site", "a", "--date", "2026-01-10", "--set", f"storage.root={tmp_path}/store"]
    arguments += ["--set", "capture.unreadable=quarantine"]
    result = CliRunner().invoke(split_pcaps, ["--captures", str(folder), *arguments])
    assert result.exit_code == 0, result.output
    assert f"quarantine: {folder}/gone.pcap: cannot be read (No such file" in result.stdout
    assert "1 captures" in result.stdout
    assert "(1 more in quarantine, not read, 1 further names of the same captures)" in result.stdout


def test_first_day__of_a_clock_that_was_set_late_is_the_day_after_that(
    write: Callable[..., Path],
    tmp_path: Path,
    make: SimpleNamespace,
    caplog: pytest.LogCaptureFixture,
    capture_settings: config.Capture,
) -> None:
    path = tmp_path / "late.pcap"
    unset = [(DAY_US // 2 + i, make.ethernet(bytes(99))) for i in range(3000)]
    path.write_bytes(make.pcap([*unset, (START_US, bytes(60)), (START_US - 9 * DAY_US, bytes(60))]))
    assert first_day(str(path), capture_settings) == "2023-11-14"
    assert "begins on 1970-01-01" in caplog.text
    assert "give --date" in caplog.text
    caplog.clear()
    path.write_bytes(make.pcap(unset[:3]))
    assert first_day(str(path), capture_settings) == "1970-01-01"
    assert "so its clock was not set" in caplog.text
    caplog.clear()
    write("set.pcap", start=START_US + DAY_US)
    assert first_day(str(tmp_path), capture_settings) == "2023-11-15"
    assert "late.pcap: begins on 1970-01-01" in caplog.text
    path.write_bytes(make.pcapng([(253_402_300_900_000_000, bytes(60)), (START_US, bytes(60))]))
    assert first_day(str(path), capture_settings) == "2023-11-14", "no calendar has the first one's day"


def test_first_day__skips_what_is_in_quarantine(
    write: Callable[..., Path], tmp_path: Path, capture_settings: config.Capture
) -> None:
    write("a.pcap")
    (tmp_path / "gone.pcap").symlink_to("nowhere")
    with pytest.raises(InputError, match=r"gone\.pcap: cannot be read"):
        first_day(str(tmp_path), capture_settings)
    assert first_day(str(tmp_path), _lenient(capture_settings)) == "2023-11-14"
