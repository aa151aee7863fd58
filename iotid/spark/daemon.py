"""Where Spark's Python workers come from on one machine: run in place of pyspark.daemon, which it is but for two costs.

Spark puts archives on the path of its workers, pyspark.zip and the jar of its core, and has every task look for new
modules. CPython 3.11 then reads each archive's directory again for every package loaded from it: 0.1 s of each task.
After each task Spark has all objects looked at for garbage, those of torch and pandas among them: another 0.1 s.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from socket import socket


def without_copies(path: Sequence[str]) -> list[str]:
    """The path without archives within a ``pyspark`` that is itself on it, as a folder: they add nothing to it."""
    entries = [Path(entry).resolve() for entry in path]
    installed = {(entry / "pyspark").resolve() for entry in entries}
    pairs = zip(path, entries, strict=True)
    return [name for name, entry in pairs if entry.is_dir() or installed.isdisjoint(entry.parents)]


def keeping_modules(task: Callable[[socket, bool], int]) -> Callable[[socket, bool], int]:
    """The task, after which modules that it loaded are no longer looked at for garbage: they stay."""

    def do(connection: socket, authenticated: bool) -> int:
        known = len(sys.modules)
        code = task(connection, authenticated)
        if len(sys.modules) > known:
            gc.collect()
            gc.freeze()
        return code

    return do


def main() -> None:
    sys.path[:] = without_copies(sys.path)
    sys.path_importer_cache.clear()
    from pyspark import daemon

    daemon.worker = keeping_modules(daemon.worker)  # type: ignore[assignment]  # a function of the same signature
    daemon.manager()


if __name__ == "__main__":
    main()
