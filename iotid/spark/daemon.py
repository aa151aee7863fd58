"""Replaces pyspark.daemon, from which Spark forks its Python workers, when Spark runs on one machine.

Spark adds archives to its workers' path: pyspark.zip and the jar of its core. CPython 3.11 reads an archive's directory
again for every package loaded from it, 0.1 s per task. This daemon removes archives that duplicate an installed folder;
`iotid.spark.worker_start` reduces the other costs of workers.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from iotid.spark.worker_start import freezing_modules


def without_copies(path: Sequence[str]) -> list[str]:
    """The path without archives inside a ``pyspark`` package that is importable from the path without them."""
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
