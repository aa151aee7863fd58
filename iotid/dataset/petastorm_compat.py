"""Petastorm 0.13.1 on NumPy 2 and on a pyarrow that no longer has its filesystems and Parquet reader.

Petastorm's modules are loaded with a custom ``__import__``: ``numpy``, ``pyarrow`` and its modules also have the old
names there, and are unchanged for other modules. The stored schema of a dataset is a pickle; it is loaded by an
unpickler that admits only the names in iotid's own schemas.
"""

from __future__ import annotations

import builtins
import importlib
import io
import pickle
import sys
from collections.abc import Mapping, Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

SCHEMA_KEY = b"dataset-toolkit.unischema.v1"  # Petastorm's names in the metadata of `_common_metadata`
ROW_GROUPS_KEY = b"dataset-toolkit.num_row_groups_per_file.v1"
COMMON_METADATA = "_common_metadata"

_PACKAGE = "petastorm"
_ADMITTED = {
    ("petastorm.unischema", "Unischema"),
    ("petastorm.unischema", "UnischemaField"),
    ("collections", "OrderedDict"),
    ("numpy", "int32"),
}


class PetastormFiles:
    """A dataset's folder, as ``/``, with the filesystem interface that Petastorm uses.

    Petastorm's own filesystems support neither local paths with ``#``, ``?`` or ``;`` nor object stores; this one
    supports whatever the partition's filesystem does.
    """

    def __init__(self, files: fs.FileSystem) -> None:
        self._files = files

    def open(self, path: str, mode: str = "rb") -> IO[bytes]:
        return self._files.open_output_stream(path) if mode == "wb" else self._files.open_input_file(path)

    def exists(self, path: str) -> bool:
        return self._files.get_file_info(path.lstrip("/")).type != fs.FileType.NotFound

    def names(self, path: str) -> list[str]:
        """Names of the folder's own files, sorted."""
        found = self._files.get_file_info(fs.FileSelector(path.lstrip("/")))
        return sorted(info.base_name for info in found if info.is_file)


class _Piece:
    """One row group of a Parquet file, or the whole file, as pyarrow 14's ``ParquetDatasetPiece``."""

    def __init__(
        self, path: str, open_file_func: Any, row_group: int | None = None, partition_keys: Sequence[Any] = ()
    ) -> None:
        self.path = path
        self.row_group = row_group
        self.partition_keys = partition_keys
        self._open = open_file_func

    def get_metadata(self) -> pq.FileMetaData:
        with self._open(self.path) as file:
            return pq.read_metadata(file)

    def read(self, columns: Any = None, partitions: Any = None, **_: Any) -> pa.Table:
        with self._open(self.path) as file:
            parquet = pq.ParquetFile(file)
            columns = None if columns is None else [name for name in parquet.schema_arrow.names if name in columns]
            if self.row_group is None:
                return parquet.read(columns=columns)
            return parquet.read_row_group(self.row_group, columns=columns)


class _Dataset:
    """A folder of Parquet files, as pyarrow 14's legacy ``ParquetDataset``: only what Petastorm uses."""

    def __init__(self, path: str, filesystem: PetastormFiles, **_: Any) -> None:
        self.paths = path
        self.fs = filesystem
        self.partitions = None  # a split is one flat folder
        self.metadata = None
        names = filesystem.names(path)
        self.pieces = [_Piece(f"{path}/{name}", filesystem.open) for name in names if not name.startswith(("_", "."))]
        self.common_metadata = None
        if COMMON_METADATA in names:
            self.common_metadata = _Piece(f"{path}/{COMMON_METADATA}", filesystem.open).get_metadata()


class _NoFilesystem:
    """Stands for a filesystem that pyarrow no longer has; cannot be instantiated."""

    def __init__(self, *_: Any, **__: Any) -> None:
        raise NotImplementedError("iotid hands Petastorm the filesystem of the dataset's partition")


class _Extended(ModuleType):
    """A module with additional names."""

    def __init__(self, module: ModuleType, names: Mapping[str, Any]) -> None:
        super().__init__(module.__name__, module.__doc__)
        self.__dict__.update(names)
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


_parquet = _Extended(pq, {"ParquetDataset": _Dataset, "ParquetDatasetPiece": _Piece})
_arrow = _Extended(pa, {"parquet": _parquet, "LocalFileSystem": _NoFilesystem, "localfs": None})
_REPLACED: Mapping[str, ModuleType] = {
    "numpy": _Extended(np, {"string_": np.bytes_, "unicode_": np.str_}),
    "pyarrow": _arrow,
    "pyarrow.parquet": _parquet,
    "pyarrow.filesystem": _Extended(pa, {"LocalFileSystem": _NoFilesystem}),
    "pyarrow.hdfs": _Extended(pa, {"HadoopFileSystem": _NoFilesystem}),
    "pyarrow.lib": _Extended(pa.lib, {"ArrowIOError": OSError}),
    "distutils.version": _Extended(builtins, {"LooseVersion": None}),  # compared only where pyarrow.hdfs connects
}


def _import(name: str, given: Any = None, local: Any = None, names: Sequence[str] = (), level: int = 0) -> Any:
    """``__import__`` of Petastorm's modules."""
    if level == 0 and name in _REPLACED:
        return _REPLACED[name] if names else _REPLACED.get(name.partition(".")[0], _REPLACED[name])
    return builtins.__import__(name, given, local, names, level)


class _Loader(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        module.__dict__["__builtins__"] = {**vars(builtins), "__import__": _import}
        super().exec_module(module)


class _Finder:
    """Finds only Petastorm's modules."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name.partition(".")[0] != _PACKAGE:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


def petastorm(module: str) -> Any:
    """Import a module of Petastorm (``reader`` for ``petastorm.reader``) that works with the installed packages."""
    if _Finder not in sys.meta_path:
        for name in [name for name in sys.modules if name.partition(".")[0] == _PACKAGE]:
            del sys.modules[name]  # left by an earlier import that failed without the names above
        sys.meta_path.insert(0, _Finder)
        importlib.import_module("petastorm.etl.legacy").restricted_loads = load_schema  # type: ignore[attr-defined]
    return importlib.import_module(f"{_PACKAGE}.{module}")


class _SchemaUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ADMITTED:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed in a dataset's schema")
        return super().find_class(module, name)


def load_schema(pickled: bytes) -> Any:
    """Load a dataset's stored schema, a Petastorm ``Unischema``.

    Raises:
        pickle.UnpicklingError: it is no schema of int32 fields; nothing else in the pickle is called.
    """
    known = petastorm("unischema").Unischema  # first, so that the unpickler finds it loaded by `petastorm`
    try:
        schema = _SchemaUnpickler(io.BytesIO(pickled)).load()
        fields = dict(schema.fields)
        fits = all(field.numpy_dtype is np.int32 and field.codec is None for field in fields.values())
    except pickle.UnpicklingError:
        raise
    except Exception as fault:  # noqa: BLE001 - a broken pickle raises nearly anything
        raise pickle.UnpicklingError(f"it is no schema ({type(fault).__name__}: {fault})") from None
    if not fits or type(schema) is not known:
        raise pickle.UnpicklingError("it has fields that are not int32")
    return schema
