"""Runs in place of pyspark.daemon on one machine: the process that Spark's Python workers are forked from.

Spark puts archives on the path of its workers, pyspark.zip and the jar of its core. CPython 3.11 reads an archive's
directory again for every package loaded from it, 0.1 s of each task. This daemon drops archives that only repeat an
installed folder; the workers' other costs are in `iotid.spark.worker_start`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from iotid.spark.worker_start import freezing_modules


def without_copies(path: Sequence[str]) -> list[str]:
    """The path without archives inside a ``pyspark`` folder that is itself on the path: they add nothing to it."""
    entries = [Path(entry).resolve() for entry in path]
    installed = {(entry / "pyspark").resolve() for entry in entries}
    pairs = zip(path, entries, strict=True)
    return [name for name, entry in pairs if entry.is_dir() or installed.isdisjoint(entry.parents)]


def main() -> None:
    sys.path[:] = without_copies(sys.path)
    sys.path_importer_cache.clear()
    from pyspark import daemon

    daemon.worker = freezing_modules(daemon.worker)  # type: ignore[assignment]  # a function of the same signature
    daemon.manager()


if __name__ == "__main__":
    main()
