"""Files from elsewhere: read or refused immediately with one line; strict JSON."""

from __future__ import annotations

import os
import shlex
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from click.testing import CliRunner

from iotid.cli import steps
from iotid.errors import InputError, IotidError, short_repr
from iotid.inputs import locations_of, parse_json, parse_object, read_file


@pytest.fixture(params=["pipe", "socket", "device", "folder", "too large"])
def no_file(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A path on which a reader must neither block nor use much memory."""
    monkeypatch.chdir(tmp_path)  # a socket's path may have 108 bytes
    path = Path("odd")
    with socket.socket(socket.AF_UNIX) as listening:
        if request.param == "pipe":
            os.mkfifo(path)
        elif request.param == "socket":
            listening.bind(str(path))
        elif request.param == "device":
            path.symlink_to("/dev/zero")
        elif request.param == "folder":
            path.mkdir()
        else:
            with path.open("wb") as file:
                file.truncate(1 << 40)
        yield path.absolute()


def _run(words: str) -> str:
    result = CliRunner().invoke(steps, shlex.split(words))
    assert result.exit_code == 2, result.output
    assert result.output.count("\n") == 1, result.output
    return result.output


@pytest.mark.parametrize(
    ("command", "field"),
    [
        ("write-dataset --site a --date 2026-01-01 --dataset x --labels {}", "odd: cannot be read ("),
        ("compare --site a --date 2026-01-01 --name x --labels {}", "odd: cannot be read ("),
        ("promote --dataset x --config {}", "odd: cannot be read ("),
        (
            "take-census --site a --date 2026-01-01 --set census.pseudonyms=true --set census.key_file={}",
            "census.key_file: cannot be read (",
        ),
    ],
)
def test_commands__non_file_or_huge_file_is_a_one_line_error_at_once(no_file: Path, command: str, field: str) -> None:
    assert field in _run(f"{command.format(no_file)} --set storage.root={no_file.parent}/root")


def test_split_pcaps__non_file_is_an_immediate_one_line_error_also_in_a_folder(no_file: Path) -> None:
    command = f"split-pcaps --site a --date 2026-01-01 --set storage.root={no_file.parent}/root --captures"
    for captures in (no_file, no_file.parent):
        assert "holds no capture" in (result := _run(f"{command} {captures}")) or "and no file" in result


def test_tracking__database_that_is_a_pipe_is_an_immediate_one_line_error(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "odd")
    assert "is not a file" in _run(
        f"rollback --set storage.root={tmp_path} --set tracking.uri=sqlite:///{tmp_path}/odd"
    )


def test_read_file__reads_up_to_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert read_file(path, 5) == b"12345"
    with pytest.raises(OSError, match="more than 4 bytes"):
        read_file(path, 4)


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, "NaN", "[-Infinity]", '{"a": 1e999}', "{", "", "9" * 5000, b"\xff\xfe\x00", b"\x80", "nul"],
    ids=range(10),
)
def test_parse_json__non_standard_json_is_a_value_error(text: Any) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - any text will do
        parse_json(text)


@pytest.mark.parametrize("text", ["[]", "1", "null", '"a"'])
def test_parse_object__another_value_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match="instead of an object"):
        parse_object(text)
    assert parse_object('{"a": [1, 1.5, null]}') == {"a": [1, 1.5, None]}


def _nested(depth: int) -> Any:
    value: Any = "x" * 1000
    for _ in range(depth):
        value = [value] * 10
    return value


HUGE = {
    "text": "x" * 10**6,
    "number": 1 << 10**6,
    "list of lists": _nested(8),
    "key": {"k" * 10**6: 1},
    "set": set(range(10**5)),
    "lines": "\n" * 500,
    "numbers": [1 << 10**5] * 50,
}


@pytest.mark.parametrize("kind", HUGE)
def test_short_repr__is_short_and_one_line_for_any_value(kind: str) -> None:
    assert 0 < len(short_repr(HUGE[kind])) < 90
    assert "\n" not in short_repr(HUGE[kind])


@pytest.mark.parametrize("value", ["x", "it's", 5, 1.5, None, True, [1, "a"], {"a": 1}, ("a", "b"), "é" * 70])
def test_short_repr__of_a_short_value_is_its_repr(value: Any) -> None:
    assert short_repr(value) == repr(value)


def test_errors__are_one_line_of_bounded_length() -> None:
    result = str(IotidError("a" * 10**6 + "\nfirst\r\nsecond" + "b" * 500 + "; do this"))
    assert len(result) < 5000
    assert "\n" not in result
    assert result.endswith("b; do this")
    assert str(IotidError("short  as it is")) == "short  as it is"


@pytest.mark.parametrize(
    "given",
    [
        "a.pcap",
        Path("a.pcap"),
        ["a.pcap"],
        (Path("a.pcap"),),
        {"a.pcap"},
        iter([Path("a.pcap")]),
        pd.Series(["a.pcap"]),
        pa.array(["a.pcap"]),
    ],
    ids=lambda given: type(given).__name__,
)
def test_locations_of__takes_a_path_or_any_iterable_of_them(given: Any) -> None:
    assert locations_of(given) == ["a.pcap"]


def test_locations_of__takes_folder_entries_uris_and_names_with_a_star(tmp_path: Path) -> None:
    (tmp_path / "a*.pcap").touch()
    with os.scandir(tmp_path) as entries:
        assert locations_of(entries) == [f"{tmp_path}/a*.pcap"]
    assert locations_of(tmp_path / "a*.pcap") == [f"{tmp_path}/a*.pcap"]
    assert locations_of(["s3://bucket/a*", "hdfs:///b"]) == ["s3://bucket/a*", "hdfs:///b"]


@pytest.mark.parametrize(
    ("given", "got"),
    [
        (None, "NoneType"),
        (5, "int"),
        (b"a.pcap", "bytes"),
        ([], "none"),
        ("", "an empty one"),
        (["a.pcap", None], "NoneType"),
        ([["a.pcap"]], "list"),
        ({"a.pcap": 1}, "dict"),
        (pd.DataFrame({"path": ["a.pcap"]}), "DataFrame"),
    ],
)
def test_locations_of__anything_else_is_one_line_that_says_what_to_pass(given: Any, got: str) -> None:
    with pytest.raises(InputError, match=rf"^paths: must be a path or URI .*, got {got}; pass 'a\.pcap', a [^\n]*$"):
        locations_of(given)


def test_locations_of__patterns_are_refused() -> None:
    with pytest.raises(
        InputError, match=r"^paths: 'captures/\*\.pcap' is a pattern; pass the result of glob\.glob, or"
    ):
        locations_of("captures/*.pcap")
