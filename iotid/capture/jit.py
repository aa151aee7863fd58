"""A cache of compiled kernels: a worker loads them in milliseconds instead of compiling for seconds.

Numba's own cache has three gaps: it misses changes in a helper of another file, it has no good folder for a package
inside a zip (spark-submit --py-files) or for a user without a home, and workers with different processors can load each
other's code. So each folder here is named by a fingerprint of what the code depends on: the sources of all kernels of
the package, the processor and Numba's options.

Workers may start at the same time on an empty folder. Numba renames each file into the folder, so a reader finds a
complete file or none, and then compiles. But two writers of different signatures of one function would use the same
file name, and the index could map a signature to the other's code; so writers hold a lock file beside the kernel's
files. If the lock is not available, nothing is saved.

The folder is the first of these that this user owns and nobody else can write (`private.ensure_private`):
``__pycache__`` beside the module, ``$XDG_CACHE_HOME/iotid`` or ``~/.cache/iotid``, ``iotid-UID`` in the temporary
folder. NUMBA_CACHE_DIR overrides. Only kernels called from Python are loaded from it; what they call is compiled in.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numba
from llvmlite import binding  # type: ignore[import-untyped]

from iotid.private import ensure_private, user_folder

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]

P = ParamSpec("P")
R = TypeVar("R")

_options: Any = numba.config

# Kernels fill their arguments and create no arrays, so they need no reference counts. Numba would update the count of
# each array at every call of a helper, even an inlined one, which took longer than the decoding itself.
_njit: Any = functools.partial(numba.njit, nogil=True, forceinline=True, _nrt=False)


def kernel(function: Callable[P, R]) -> Callable[P, R]:
    """``numba.njit`` with a cache in the first safe folder: beside the module, the user's cache, a temporary folder.

    NUMBA_CACHE_DIR, if set, has precedence. Without any folder each process compiles the kernel.
    """
    if _options.DISABLE_JIT:
        return function
    if not _options.CACHE_DIR and _folder(function.__module__) is None:
        return _njit(function)
    before = _options.CACHE_LOCATOR_CLASSES
    if not _options.CACHE_DIR:
        _options.CACHE_LOCATOR_CLASSES = f"{__name__}.{KernelFolder.__name__}"
    try:
        return _loading_alone(_saving_under_lock(_njit(cache=True)(function)))
    finally:
        _options.CACHE_LOCATOR_CLASSES = before


def _saving_under_lock(dispatcher: Any) -> Any:
    """Make the kernel take a lock before it saves; on an OSError it saves nothing."""
    files_of = dispatcher._cache._cache_file
    save = files_of.save

    def save_under_lock(key: Any, data: Any) -> None:
        with contextlib.suppress(OSError), Path(f"{files_of._index_path}.lock").open("a") as lock:
            if fcntl is not None:
                fcntl.flock(lock, fcntl.LOCK_EX)
            save(key, data)

    files_of.save = save_under_lock
    return dispatcher


def _loading_alone(dispatcher: Any) -> Any:
    """Make the kernel load from its cache without what Numba needs to compile.

    Numba would first import its implementations of Python and NumPy, and SciPy: 0.3 s. Compiling still does, if the
    cache has no such signature.
    """
    cache = dispatcher._cache
    load = cache._load_overload

    def load_alone(signature: Any, context: Any) -> Any:
        with cache._guard_against_spurious_io_errors():
            return load(signature, context)

    cache.load_overload = load_alone
    return dispatcher


class KernelFolder:
    """Numba's cache locator protocol (``NUMBA_CACHE_LOCATOR_CLASSES``) for iotid's kernels."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._folder = _folder(function.__module__)
        self._line = function.__code__.co_firstlineno

    @classmethod
    def from_function(cls, function: Callable[..., Any], _source_path: str) -> KernelFolder:
        return cls(function)

    def ensure_cache_path(self) -> None:
        """`_folder` has created it."""

    def get_cache_path(self) -> str:
        return str(self._folder)

    def get_source_stamp(self) -> str:
        return Path(self.get_cache_path()).name

    def get_disambiguator(self) -> str:
        return str(self._line)


@functools.cache
def _folder(module: str) -> Path | None:
    """The folder for the kernels of a module; None if none is both writable and private to this user."""
    package = module.rpartition(".")[0]
    name = f"kernels-{_fingerprint('.'.join(package.split('.')[:2]))}"
    folders = (folder / name for folder in _candidates(package) if _is_usable(folder))
    return next((folder for folder in folders if _is_usable(folder)), None)


def _candidates(package: str) -> Iterator[Path]:
    beside = files(package)
    if isinstance(beside, Path):  # not inside a zip
        yield beside / "__pycache__"
    with contextlib.suppress(RuntimeError):  # a user without a home
        yield Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "iotid"
    yield user_folder()


def _is_usable(folder: Path) -> bool:
    """Create the folder; True if only this user can write there, as it will hold code that is run."""
    if not ensure_private(folder):
        return False
    with contextlib.suppress(OSError), tempfile.TemporaryFile(dir=folder):
        return True
    return False


@functools.cache
def _fingerprint(package: str) -> str:
    """Sixteen hexadecimal digits of the kernels of a package and its sub-packages, the processor and the options."""
    digest = hashlib.sha256()
    for text in _sources(files(package)):
        if b".jit import " in text:
            digest.update(text)
    processor = (binding.get_host_cpu_name(), binding.get_host_cpu_features().flatten())
    digest.update(repr((numba.__version__, processor, _options.BOUNDSCHECK, _options.OPT, _njit.keywords)).encode())
    return digest.hexdigest()[:16]


def _sources(folder: Traversable) -> Iterator[bytes]:
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.name.endswith(".py"):
            yield entry.read_bytes()
        elif entry.is_dir() and entry.name != "__pycache__":
            yield from _sources(entry)
