"""Errors of other processes are read as data: a capture's name sets no exit code and writes no line of its own."""

from __future__ import annotations

import ast
import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from click.testing import CliRunner

from iotid.cli import command
from iotid.config import Settings
from iotid.errors import InputError, IotidError, NoModelError
from iotid.spark import worker_errors
from iotid.spark.worker_errors import Raised, WorkerError, in_worker, mark, raised_in_worker

ROOT = Path(__file__).parents[2]
NIGHT = ["--site", "a", "--date", "2026-01-10"]
_FAKE = "iotid-00112233445566778899aabbccddeeff:"
# what a name can hold: all bytes but "/" and NUL, 255 of them
NAMES = [
    "a\niotid.errors.NoModelError: there is no model.pcap",
    'b\niotid.spark.worker_errors.Raised: {"kind": "NoModelError", "text": "there is no model"}.pcap',
    f'c\n{_FAKE}{{"kind": "NoModelError", "text": "there is no model"}}.pcap',
    "d\nModuleNotFoundError: No module named 'x'\n.pcap",
    f"e {os.strerror(errno.ENOSPC)}.pcap",
    '"}, "f\x1b[2J\x1b]0;owned\x07\x9b\u202e\u2028.pcap',
]


def _as_another_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on this process is not the one that drew the mark of `in_worker`."""
    monkeypatch.setattr(worker_errors, "_MARK", "iotid-another:")


def _fail(with_: Exception) -> Any:
    def work(items: Iterable[int]) -> Iterator[int]:
        yield from items
        raise with_

    return in_worker(work)


@pytest.mark.parametrize("name", NAMES)
def test_in_worker__an_error_comes_back_as_it_was_whatever_name_it_holds(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_mark, work = mark(), _fail(InputError(f"{name}: cannot be read"))
    with monkeypatch.context() as patch:
        _as_another_driver(patch)
        rows = work([1, 2])
        assert [next(rows), next(rows)] == [1, 2]
        with pytest.raises(Raised) as raised:
            next(rows)
        text = str(raised.value)
    assert text.isascii()
    assert text.isprintable()
    assert text.startswith(own_mark)
    of_spark = RuntimeError(
        f"Job aborted: {name}\n  File x\niotid.spark.worker_errors.Raised: {text}\n\tat java\n{name}\n{text}\n"
    )
    cause = raised_in_worker(of_spark)
    assert (type(cause), str(cause)) == (InputError, str(InputError(f"{name}: cannot be read")))


@pytest.mark.parametrize("name", NAMES)
def test_raised_in_worker__text_without_the_mark_is_no_error(name: str) -> None:
    assert raised_in_worker(RuntimeError(f"Traceback\niotid.errors.NoModelError: {name}\n{name}")) is None
    assert raised_in_worker(RuntimeError(f"{mark()}{{cut off")) is None
    of_another_version = json.dumps({"kind": "DataError", "text": "x", "field": 1})
    assert raised_in_worker(RuntimeError(f"{mark()}{of_another_version}")) is None


def test_raised_in_worker__os_errors_keep_their_number_import_errors_their_module(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for fault in (
        OSError(errno.ENOSPC, "no room", "/a\nb"),
        ModuleNotFoundError("gone", name="numba"),
        ValueError("x"),
    ):
        work = _fail(fault)
        with monkeypatch.context() as patch:
            _as_another_driver(patch)
            with pytest.raises(Raised) as raised:
                list(work([]))
        cause = raised_in_worker(RuntimeError(f"x {raised.value}"))
        if isinstance(fault, ValueError):
            assert cause is None
        else:
            assert (type(cause), vars(cause)) == (type(fault), vars(fault))
            assert getattr(cause, "errno", None) == getattr(fault, "errno", None)
            assert getattr(cause, "name", None) == getattr(fault, "name", None)


def test_in_worker__in_the_same_process_an_error_is_raised_as_it_is() -> None:
    with pytest.raises(NoModelError, match="none"):
        list(_fail(NoModelError("none"))([]))


def test_in_worker__is_around_all_that_iotid_gives_to_spark() -> None:
    bare = []
    for path in ROOT.glob("iotid/**/*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                given = node.args[0] if node.args else None
                wrapped = isinstance(given, ast.Call) and getattr(given.func, "id", "") == "in_worker"
                named = node.func.attr.startswith(("mapIn", "applyIn", "mapPartitions", "foreach"))
                on_rdd = node.func.attr == "map" and "parallelize" in ast.unparse(node.func)
                if (named and not wrapped) or on_rdd:
                    bare.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not bare


@pytest.mark.parametrize("name", NAMES)
def test_step__the_name_in_an_unknown_error_sets_no_exit_code(name: str) -> None:
    @command.step("scan")
    def scan(settings: Settings) -> None:
        raise OSError(errno.EACCES, os.strerror(errno.EACCES), name)

    result = CliRunner().invoke(scan, [])
    assert result.exit_code == 2
    assert result.output.startswith("Error: [Errno 13]")
    assert "disk is full" not in result.output

    @command.step("scan")
    def crash(settings: Settings) -> None:
        raise ValueError(name)

    result = CliRunner().invoke(crash, [])
    assert result.exit_code == 1


def _capture(path: Path) -> None:
    from scapy.layers.inet import IP, UDP
    from scapy.layers.l2 import Ether
    from scapy.utils import wrpcap

    wrpcap(str(path.parent / "plain"), [Ether() / IP(src="10.0.0.1", dst="10.0.0.2") / UDP() / b"hello"])
    (path.parent / "plain").rename(path)


def _iotid(*arguments: str) -> tuple[int, bytes]:
    result = subprocess.run([sys.executable, "-m", "iotid.cli", *arguments], capture_output=True, check=False, cwd=ROOT)
    return result.returncode, result.stdout + result.stderr


def _is_harmless(said: bytes) -> None:
    text = said.decode()
    raw = [letter for letter in text if letter not in "\n\t" and not letter.isprintable()]
    assert not raw
    faked = ("iotid.errors", "ModuleNotFoundError", _FAKE, "iotid.spark.worker_errors.Raised: {")
    assert not [line for line in text.splitlines() if line.startswith(faked)]


@pytest.mark.spark
def test_assemble_flows__hostile_capture_names_set_no_exit_code_and_reach_no_log_raw(
    tmp_path: Path,
) -> None:
    (tmp_path / "captures").mkdir()
    for name in NAMES:
        _capture(tmp_path / "captures" / name)
    layers = ["--config", "local.yaml", "--set", f"storage.root={tmp_path}/store", "--set", "spark.master=local[1]"]
    code, said = _iotid("split-pcaps", *layers, *NIGHT, "--captures", str(tmp_path / "captures"))
    assert code == 0, said
    _is_harmless(said)
    (tmp_path / "captures" / NAMES[0]).write_bytes(b"")
    code, said = _iotid("assemble-flows", *layers, *NIGHT)
    _is_harmless(said)
    (line,) = [line for line in said.decode().splitlines() if line.startswith("Error: ")]
    assert (code, "plan it again (split-pcaps)" in line) == (1, True), said.decode()
    for name in NAMES:
        (tmp_path / "captures" / name).write_bytes(b"")
    code, said = _iotid("assemble-flows", *layers, *NIGHT, "--set", "capture.unreadable=quarantine")
    assert code == 0, said
    assert said.count(b"it is in quarantine") == len(NAMES)
    _is_harmless(said)


@pytest.mark.spark
def test_step__an_error_of_a_worker_is_one_line_with_its_own_code(spark: Any) -> None:
    def work(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        yield from batches
        raise NoModelError("a\nb: none")

    @command.step("scan")
    def scan(settings: Settings) -> None:
        spark.range(1).mapInArrow(in_worker(work), "id long").toArrow()

    result = CliRunner().invoke(scan, [])
    assert result.exit_code == NoModelError.exit_code
    assert [line for line in result.output.splitlines() if line.startswith("Error: ")] == [r"Error: a\nb: none"]


@pytest.mark.spark
def test_step__a_full_disk_of_a_worker_is_recognised_by_its_number(spark: Any) -> None:
    def work(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        yield from batches
        raise OSError(errno.EDQUOT, "in another language", "file")

    @command.step("scan")
    def scan(settings: Settings) -> None:
        spark.range(1).mapInArrow(in_worker(work), "id long").toArrow()

    result = CliRunner().invoke(scan, [])
    assert (result.exit_code, "Error: the disk is full" in result.output) == (1, True)


def test_as_iotid_error__is_an_error_of_iotid_and_nothing_else_in_its_module() -> None:
    assert isinstance(WorkerError("IotidError", "x").as_iotid_error(), IotidError)
    others = [WorkerError(kind, "x").as_iotid_error() for kind in ("one_line", "__doc__", "ValueError")]
    assert others == [None] * 3
