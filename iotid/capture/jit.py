"""Where compiled kernels are kept, so that a worker loads them in milliseconds instead of compiling for seconds.

Numba's own cache has three gaps that matter here: it does not notice a change in a helper of another file, it knows no
good place for a package inside a zip (spark-submit --py-files) or for a user without a home, and two workers that
store code of different processors under one name can load each other's. So each folder here is named by what made the
code: the sources of all kernels, the processor and Numba's options. Workers may start at once: files of one folder are
all alike, and Numba moves them into place whole.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numba
from llvmlite import binding  # type: ignore[import-untyped]

P = ParamSpec("P")
R = TypeVar("R")

_options: Any = numba.config


def kernel(function: Callable[P, R]) -> Callable[P, R]:
    """``numba.njit`` with a cache in the first safe place: beside the module, the user's cache, a temporary folder.

    NUMBA_CACHE_DIR, where set, wins. Without any place the kernel is compiled anew in each process.
    """
    if _options.DISABLE_JIT:
        return function
    if _options.CACHE_DIR or _folder(function.__module__) is None:
        return numba.njit(nogil=True, forceinline=True, cache=bool(_options.CACHE_DIR))(function)
    before = _options.CACHE_LOCATOR_CLASSES
    _options.CACHE_LOCATOR_CLASSES = f"{__name__}.{KernelFolder.__name__}"
    try:
        return numba.njit(nogil=True, forceinline=True, cache=True)(function)
    finally:
        _options.CACHE_LOCATOR_CLASSES = before


class KernelFolder:
    """Numba's cache locator protocol (``NUMBA_CACHE_LOCATOR_CLASSES``) for iotid's kernels."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._folder = _folder(function.__module__)
        self._line = function.__code__.co_firstlineno

    @classmethod
    def from_function(cls, function: Callable[..., Any], _source_path: str) -> KernelFolder:
        return cls(function)

    def ensure_cache_path(self) -> None:
        Path(self.get_cache_path()).mkdir(parents=True, exist_ok=True)

    def get_cache_path(self) -> str:
        return str(self._folder)

    def get_source_stamp(self) -> str:
        return Path(self.get_cache_path()).name

    def get_disambiguator(self) -> str:
        return str(self._line)


@functools.cache
def _folder(module: str) -> Path | None:
    """The folder for the kernels of a module, or None where no place is both writable and ours alone."""
    package = module.rpartition(".")[0]
    name = f"kernels-{_made_of(package)}"
    return next((place / name for place in _places(package) if _is_ours(place)), None)


def _places(package: str) -> Iterator[Path]:
    beside = files(package)
    if isinstance(beside, Path):  # not inside a zip
        yield beside / "__pycache__"
    with contextlib.suppress(RuntimeError):  # a user without a home
        yield Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "iotid"
    yield Path(tempfile.gettempdir()) / f"iotid-{os.getuid() if hasattr(os, 'getuid') else 'user'}"


def _is_ours(place: Path) -> bool:
    """Make the folder; say whether this user owns it and no stranger may write there: it will hold code that is run."""
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = place.stat()
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError:
        return False
    return not hasattr(os, "getuid") or (status.st_uid == os.getuid() and not status.st_mode & 0o002)


def _made_of(package: str) -> str:
    """Sixteen hexadecimal digits of the package's kernels, the processor and the options that code depends on."""
    digest = hashlib.sha256()
    for source in sorted(files(package).iterdir(), key=lambda entry: entry.name):
        text = source.read_bytes() if source.name.endswith(".py") else b""
        if b"import kernel" in text:
            digest.update(text)
    processor = (binding.get_host_cpu_name(), binding.get_host_cpu_features().flatten())
    digest.update(repr((numba.__version__, processor, _options.BOUNDSCHECK, _options.OPT)).encode())
    return digest.hexdigest()[:16]
