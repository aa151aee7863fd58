"""Makes the tasks of a Python worker start 0.2 s sooner.

After each task pyspark collects garbage among all objects, including those of torch and pandas: freezing excludes
loaded modules. Before each task it makes every cached zip importer read its directory again: removed from the cache, an
importer is created only if something is imported from its file.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from functools import cache
from socket import socket
from zipimport import zipimporter


def freezing_modules(task: Callable[[socket, bool], int]) -> Callable[[socket, bool], int]:
    """Wrap a task of pyspark's daemon to exclude the modules that it loaded from garbage collection."""

    def run(connection: socket, authenticated: bool) -> int:
        known = len(sys.modules)
        code = task(connection, authenticated)
        if len(sys.modules) > known:
            gc.collect()
            gc.freeze()
        return code

    return run


def prepare_next_task() -> None:
    """Call this within a task; also effective with pyspark's own daemon, as on a cluster."""
    for path, importer in list(sys.path_importer_cache.items()):
        if isinstance(importer, zipimporter):
            del sys.path_importer_cache[path]
    _freeze_once()


@cache
def _freeze_once() -> None:
    gc.freeze()
