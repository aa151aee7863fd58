"""What only Linux has is not needed: the same paths run with those names taken away."""

from __future__ import annotations

import builtins
import importlib
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from iotid import config
from iotid.capture import find_captures, split_captures
from iotid.capture.threads import cores, in_threads
from iotid.flows import from_captures

_LINUX = (
    "sched_getaffinity", "sched_setaffinity", "posix_fadvise", "posix_fallocate", "sendfile", "splice", "memfd_create",
    "pidfd_open", "eventfd", "copy_file_range", "getrandom", "process_cpu_count",
)  # fmt: skip


def test_cores__are_those_that_the_process_may_use_or_else_all(monkeypatch: pytest.MonkeyPatch) -> None:
    if hasattr(os, "sched_getaffinity"):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: {4, 7, 9})
        assert cores() == 3
        monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert cores() == 5
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cores() == 1
    assert in_threads(lambda item: item + 1, [1, 2], 2) == [2, 3]


def test_captures__are_planned_and_read_without_what_only_linux_has(
    tmp_path: Path, make: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, capture_settings: config.Capture
) -> None:
    path = tmp_path / "a.pcap"
    path.write_bytes(make.pcap([make.ethernet(make.ipv4(make.tcp(bytes(50), sequence=i))) for i in range(900)]))
    for name in _LINUX:
        monkeypatch.delattr(os, name, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    small = capture_settings.model_copy(update={"split_bytes": 8192, "task_bytes": 8192})
    assert len(split_captures(find_captures([str(path)]).captures, small).splits) > 5
    assert from_captures(path, capture=small)["client_packets"].to_pylist() == [900]


def test_kernels__are_kept_without_file_locks() -> None:
    code = (
        "import sys\n"
        "for name in ('fcntl', 'resource', 'grp', 'spwd', 'ossaudiodev', 'termios'): sys.modules[name] = None\n"
        "import os; del os.sched_getaffinity\n"
        "from iotid.capture import jit; assert jit.fcntl is None\n"
        "import iotid.capture.reader, iotid.flows.local, iotid.storage, iotid.tracking.versions, iotid.cli.command\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_modules__import_nothing_that_only_linux_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """All but those of Spark, whose own workers fork as Spark sees fit."""
    asked: set[str] = set()
    real = builtins.__import__

    def watched(name: str, *rest: Any, **named: Any) -> Any:
        asked.add(name.partition(".")[0])
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", watched)
    for module in ("iotid.storage", "iotid.cli.command", "iotid.capture.splits.files", "iotid.capture.threads"):
        importlib.reload(importlib.import_module(module))
    assert not asked & {"fcntl", "resource", "epoll", "spwd", "ossaudiodev"}
