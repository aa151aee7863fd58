"""Reads and writes files and Parquet tables on any pyarrow filesystem: local folders, HDFS, object stores."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote_to_bytes

from iotid.errors import DataError, UserError, shorten
from iotid.inputs import MOST_BYTES, parse_json
from iotid.messages import NO_CREDENTIALS, holds_credentials, redacted_location
from iotid.schemas import typed

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from pyarrow import fs

# of tables beside a partition's rows. Spark and pyarrow hide files that begin with an underscore, but not DuckDB, whose
# pattern for all rows of a table is **/*.parquet
SIDE_SUFFIX = ".pq"
_ATTEMPT = "_attempt-"  # prefix of incomplete files: still being written, or left by a failed task
_MOST_REMOVALS = 20  # of one folder, in which other runs write files meanwhile
_OBJECT_STORES = ("s3", "gcs", "abfs")  # pyarrow's names of filesystems that cannot rename folders


def read_small(filesystem: fs.FileSystem, path: str, shown_as: str) -> bytes:
    """The content of a file; ``shown_as``: its name in errors.

    Raises:
        DataError: it is no file, or has more than MOST_BYTES.
        FileNotFoundError: it does not exist.
    """
    from pyarrow import fs

    info = filesystem.get_file_info(path)
    if info.type == fs.FileType.NotFound:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    if not info.is_file:
        raise DataError(f"{shown_as}: is no file; write it again")
    if info.size > MOST_BYTES:
        raise DataError(f"{shown_as}: must have at most {MOST_BYTES:,} bytes, got {info.size:,}; write it again")
    with filesystem.open_input_file(path) as file:
        return bytes(file.read(info.size))


def check_json(content: bytes, kind: Any, shown_as: str, what_to_do: str) -> Any:
    """Parse the JSON of a stored file; raises a DataError if it is not of type ``kind`` (`schemas.typed`)."""
    try:
        found = parse_json(content)
        typed.check(kind, found)
    except ValueError as fault:
        raise DataError(f"{shown_as}: {shorten(str(fault), 400)}; {what_to_do}") from None
    return found


@contextmanager
def translate_read_errors(shown_as: str, what_to_do: str) -> Iterator[None]:
    """Turn pyarrow's errors about a damaged table into a DataError.

    ``shown_as``: the table's name in the error; ``what_to_do``: the remedy.
    """
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, KeyError, TypeError, ValueError, OSError) as fault:
        if isinstance(fault, OSError) and fault.errno is not None:  # a fault of the filesystem, not of the content
            raise
        why = shorten((str(fault).splitlines() or [type(fault).__name__])[0], 400)
        raise DataError(f"{shown_as}: is not as iotid wrote it ({why}); {what_to_do}") from None


def read_table(location: str, schema: pa.Schema, what_to_do: str) -> pa.Table:
    """Read a Parquet file, or a folder of Parquet files, with the columns of ``schema``.

    Raises:
        DataError: it is no table, lacks a column, or a column has another type or unexpected nulls.
    """
    import pyarrow.parquet as pq

    with translate_read_errors(location, what_to_do):
        return as_schema(pq.read_table(location, columns=schema.names, partitioning=None), schema)


def as_schema(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table cast to ``schema``; raises a KeyError or ValueError that names the column that does not fit."""
    import pyarrow as pa

    columns = []
    for wanted in schema:
        column = table[wanted.name]
        try:
            columns.append(column.cast(wanted.type))
        except pa.ArrowException:
            raise ValueError(f"{wanted.name} is {column.type}, must be {wanted.type}") from None
    for wanted, column in zip(schema, columns, strict=True):
        if column.null_count and not wanted.nullable:
            raise ValueError(f"{wanted.name} must hold no null, but has {column.null_count:,}")
    return pa.table(columns, schema=schema)


def local_path(location: str) -> str | None:
    """The local path of a path or file: URI; None for any other URI."""
    if not location.startswith("file:/"):
        return None if "://" in location else location
    host, path = re.fullmatch(r"file:(?://([^/]*))?(/.*)", location, re.DOTALL).groups()  # type: ignore[union-attr]
    return os.fsdecode(unquote_to_bytes(os.fsencode(path))) if host in (None, "", "localhost") else None


def text_of(path: str) -> str:
    """A local path for tables and logs: unchanged if it is UTF-8, else as a file: URI."""
    if not re.search("[\udc80-\udcff]", path):  # how Python represents such bytes
        return path
    absolute = str(Path(path).absolute())
    return "file://" + re.sub("[%?#\udc80-\udcff]", lambda found: quote(os.fsencode(found[0])), absolute)


def local_folder(root: str, *parts: str) -> Path:
    """A writable local folder, created if it does not exist.

    Raises:
        UserError: it cannot be created or written.
    """
    folder = Path(root, *parts)
    with using_root(root):
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
    return folder


@contextmanager
def using_root(root: str) -> Iterator[None]:
    """Turn an OSError, except for a full disk, into a UserError about storage.root."""
    try:
        yield
    except OSError as fault:
        if fault.errno in (errno.ENOSPC, errno.EDQUOT):  # reported elsewhere, with another remedy
            raise
        why = fault.strerror if fault.filename else str(fault)
        raise UserError(
            f"storage.root: {text_of(root)} cannot be used ({why}); name a folder in which you may read and write"
        ) from None


def open_filesystem(location: str) -> tuple[fs.FileSystem, str]:
    """(filesystem of a local folder or URI, path of the location on it).

    Raises:
        UserError: the URI's scheme is unknown, its filesystem cannot be reached, or a local folder's name is not UTF-8.
    """
    path = local_path(location)
    if path is not None and (text_of(path) != path or "\0" in path):
        raise UserError(f"storage.root: {path!r} must be UTF-8, as other programs read it, too; name another folder")
    if path is None and "?" in location and not holds_credentials(location):
        raise UserError(
            f"storage.root: {location!r} must not end in options; an object store's endpoint, region and keys come "
            "from the environment of every machine (AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID, …)"
        )
    try:
        return filesystem_of(location)
    except ValueError as fault:
        raise UserError(f"storage.root: {fault}") from None


def filesystem_of(location: str) -> tuple[fs.FileSystem, str]:
    """(filesystem of a path or URI, path of the location on it).

    Raises:
        ValueError: the URI has credentials or an unknown scheme, or its filesystem cannot be reached.
    """
    from pyarrow import fs

    path = local_path(location)
    if path is not None:
        return fs.LocalFileSystem(), path
    if holds_credentials(location):
        raise ValueError(f"{redacted_location(location)}: {NO_CREDENTIALS}")
    try:
        return fs.FileSystem.from_uri(location)
    except Exception as fault:  # noqa: BLE001 - pyarrow raises many types for one mistake
        raise ValueError(f"{location}: is not a path or URI that can be opened ({fault})") from None


def is_object_store(filesystem: fs.FileSystem) -> bool:
    """Whether it is an object store, which cannot rename folders."""
    return filesystem.type_name in _OBJECT_STORES


def visible_files(filesystem: fs.FileSystem, folder: str) -> list[str]:
    """Sorted names of the folder's files, without those that begin with _ or .; empty if the folder does not exist."""
    from pyarrow import fs

    found = filesystem.get_file_info(fs.FileSelector(folder, allow_not_found=True))
    return sorted(info.base_name for info in found if info.is_file and not info.base_name.startswith(("_", ".")))


class OutputFile:
    """A Parquet file of a staged partition, written by a worker and renamed to its final name when it is complete.

    Without rows there is no file. Each attempt at a task writes its own file; all have the same content, so it does not
    matter which is renamed last.
    """

    def __init__(self, folder: str, name: str, attempt: int, schema: pa.Schema, group_rows: int) -> None:
        self._filesystem, base = open_filesystem(folder)
        self._path, self._attempt = f"{base}/{name}", f"{base}/{_ATTEMPT}{attempt}-{name}"
        self._schema = schema
        self._group_rows = group_rows
        self._writer: pq.ParquetWriter | None = None
        self._waiting: list[pa.Table] = []

    def write(self, table: pa.Table) -> None:
        self._waiting.append(table)
        if sum(map(len, self._waiting)) >= self._group_rows:
            self._write_groups(whole=False)

    def close(self, *, whole: bool) -> None:
        """Close the file; unless it is ``whole``, it never gets its final name."""
        if whole and self._waiting:
            self._write_groups(whole=True)
        if self._writer is not None:
            self._writer.close()
            if whole:
                self._filesystem.move(self._attempt, self._path)

    def _write_groups(self, *, whole: bool) -> None:
        """Write waiting rows as row groups; unless ``whole``, keep an incomplete group waiting."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        waiting = pa.concat_tables(self._waiting)
        rows = len(waiting) if whole else len(waiting) // self._group_rows * self._group_rows
        if rows:
            if self._writer is None:
                self._writer = pq.ParquetWriter(self._attempt, self._schema, filesystem=self._filesystem)
            self._writer.write_table(waiting.slice(0, rows), row_group_size=self._group_rows)
        self._waiting = [waiting.slice(rows)]


def remove_failed_task_files(filesystem: fs.FileSystem, folder: str) -> None:
    """Delete the files that failed attempts at an `OutputFile` left in the folder."""
    from pyarrow import fs

    for info in filesystem.get_file_info(fs.FileSelector(folder, allow_not_found=True)):
        if info.base_name.startswith(_ATTEMPT):
            filesystem.delete_file(info.path)


def rows_in_footers(filesystem: fs.FileSystem, folder: str) -> int:
    """Number of rows by the footers of the folder's Parquet files, without hidden ones."""
    import pyarrow.parquet as pq

    paths = [f"{folder}/{name}" for name in visible_files(filesystem, folder)]
    return sum(pq.read_metadata(path, filesystem=filesystem).num_rows for path in paths)


def write_bytes(filesystem: fs.FileSystem, path: str, content: bytes) -> None:
    with filesystem.open_output_stream(path) as file:
        file.write(content)


def folders_in(filesystem: fs.FileSystem, path: str) -> list[str]:
    """Sorted names of the folders in a folder; empty if it does not exist."""
    from pyarrow import fs

    found = filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True))
    return sorted(info.base_name for info in found if info.type == fs.FileType.Directory)


def path_exists(filesystem: fs.FileSystem, path: str) -> bool:
    from pyarrow import fs

    return filesystem.get_file_info(path).type != fs.FileType.NotFound


def is_file(filesystem: fs.FileSystem, path: str) -> bool:
    from pyarrow import fs

    return filesystem.get_file_info(path).type == fs.FileType.File


def side_name(filesystem: fs.FileSystem, folder: str, name: str) -> str:
    """The name of the side file ``name`` in a partition's folder: earlier versions called it ``*.parquet``."""
    former = f"{name.removesuffix(SIDE_SUFFIX)}.parquet"
    return former if name.endswith(SIDE_SUFFIX) and is_file(filesystem, f"{folder}/{former}") else name


def remove_folder(filesystem: fs.FileSystem, path: str) -> None:
    """Delete the folder if it exists, also if another run writes into it, or deletes from it, meanwhile."""
    for attempt in range(1, _MOST_REMOVALS + 1):
        try:
            if path_exists(filesystem, path):
                filesystem.delete_dir(path)
            return
        except OSError as fault:
            if fault.errno not in (errno.ENOTEMPTY, errno.ENOENT) or attempt == _MOST_REMOVALS:
                raise
