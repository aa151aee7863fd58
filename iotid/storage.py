"""Files on any filesystem that pyarrow knows: this machine's folders, HDFS, object stores; tables read and written."""

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

_ATTEMPT = "_attempt-"  # how files begin that are still being written, or that a worker died over
_OBJECT_STORES = ("s3", "gcs", "abfs")  # pyarrow's names of filesystems that rename no folder


def read_small(filesystem: fs.FileSystem, path: str, shown_as: str) -> bytes:
    """The content of a file that is read whole.

    Raises:
        DataError: it is no file, or has more than MOST_BYTES.
        FileNotFoundError: it is absent.
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


def json_of(content: bytes, kind: Any, shown_as: str, what_to_do: str) -> Any:
    """The JSON of a stored file, which is of type ``kind`` (`typed`); raises a DataError where it is not."""
    try:
        found = parse_json(content)
        typed.check(kind, found)
    except ValueError as fault:
        raise DataError(f"{shown_as}: {shorten(str(fault), 400)}; {what_to_do}") from None
    return found


@contextmanager
def reading(shown_as: str, what_to_do: str) -> Iterator[None]:
    """Whatever pyarrow says of a table that is not as iotid wrote it becomes one DataError.

    The table is ``shown_as``; ``what_to_do`` about it.
    """
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, KeyError, TypeError, ValueError, OSError) as fault:
        if isinstance(fault, OSError) and fault.errno is not None:  # the filesystem's, not the content's
            raise
        why = shorten((str(fault).splitlines() or [type(fault).__name__])[0], 400)
        raise DataError(f"{shown_as}: is not as iotid wrote it ({why}); {what_to_do}") from None


def read_table(location: str, schema: pa.Schema, what_to_do: str) -> pa.Table:
    """The Parquet file, or folder of them, in the columns of ``schema``.

    Raises:
        DataError: it is no table, lacks a column, or has one of another type, or nulls where there may be none.
    """
    import pyarrow.parquet as pq

    with reading(location, what_to_do):
        return as_schema(pq.read_table(location, columns=schema.names, partitioning=None), schema)


def as_schema(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table in the columns of ``schema``; raises a KeyError or ValueError that names a column which is not so."""
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
    """The path of a location on this machine, be it a path or a file: URI; None: the URI of another place."""
    if not location.startswith("file:/"):
        return None if "://" in location else location
    host, path = re.fullmatch(r"file:(?://([^/]*))?(/.*)", location, re.DOTALL).groups()  # type: ignore[union-attr]
    return os.fsdecode(unquote_to_bytes(os.fsencode(path))) if host in (None, "", "localhost") else None


def text_of(path: str) -> str:
    """A path of this machine as tables and logs hold it: as its file: URI where its bytes are no UTF-8, else itself."""
    if not re.search("[\udc80-\udcff]", path):  # how Python represents such bytes
        return path
    absolute = str(Path(path).absolute())
    return "file://" + re.sub("[%?#\udc80-\udcff]", lambda found: quote(os.fsencode(found[0])), absolute)


def local_folder(root: str, *parts: str) -> Path:
    """A folder of this machine that can be written, made where it is absent.

    Raises:
        UserError: it cannot.
    """
    folder = Path(root, *parts)
    with using_root(root):
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
    return folder


@contextmanager
def using_root(root: str) -> Iterator[None]:
    """A refusal of the filesystem is the root's fault."""
    try:
        yield
    except OSError as fault:
        if fault.errno in (errno.ENOSPC, errno.EDQUOT):  # a full disk has a remedy of its own
            raise
        why = fault.strerror if fault.filename else str(fault)
        raise UserError(
            f"storage.root: {text_of(root)} cannot be used ({why}); name a folder in which you may read and write"
        ) from None


def open_filesystem(location: str) -> tuple[fs.FileSystem, str]:
    """The filesystem of a local folder or a URI, and the path of the location on it.

    Raises:
        UserError: the URI's kind is unknown, its filesystem cannot be reached, or a local folder's name is no UTF-8.
    """
    path = local_path(location)
    if path is not None and (text_of(path) != path or "\0" in path):
        raise UserError(f"storage.root: {path!r} must be UTF-8, for other programs read it too; name another folder")
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
    """The filesystem of a path or URI, and the path of the location on it.

    Raises:
        ValueError: a URI holds credentials, is of no known kind, or its filesystem cannot be reached.
    """
    from pyarrow import fs

    path = local_path(location)
    if path is not None:
        return fs.LocalFileSystem(), path
    if holds_credentials(location):
        raise ValueError(f"{redacted_location(location)}: {NO_CREDENTIALS}")
    try:
        return fs.FileSystem.from_uri(location)
    except Exception as fault:  # noqa: BLE001 - pyarrow raises many kinds for one mistake
        raise ValueError(f"{location}: is not a path or URI that can be opened ({fault})") from None


def is_object_store(filesystem: fs.FileSystem) -> bool:
    """Whether it holds objects by name, and renames no folder."""
    return filesystem.type_name in _OBJECT_STORES


def shown_files(filesystem: fs.FileSystem, folder: str) -> list[str]:
    """Names of the folder's files, but for those that their first character hides; none where it is absent."""
    from pyarrow import fs

    found = filesystem.get_file_info(fs.FileSelector(folder, allow_not_found=True))
    return sorted(info.base_name for info in found if info.is_file and not info.base_name.startswith(("_", ".")))


class OutputFile:
    """A Parquet file of a staged partition, written by a worker; it gets its name when it is whole.

    There is none where no row is written. Each attempt at a task writes a file of its own, all with the same content,
    so whichever is named last is right.
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
        """End the file; without ``whole`` it never gets its name."""
        if whole and self._waiting:
            self._write_groups(whole=True)
        if self._writer is not None:
            self._writer.close()
            if whole:
                self._filesystem.move(self._attempt, self._path)

    def _write_groups(self, *, whole: bool) -> None:
        """Write what waits, group by group; without ``whole`` less than a group goes on waiting."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        waiting = pa.concat_tables(self._waiting)
        rows = len(waiting) if whole else len(waiting) // self._group_rows * self._group_rows
        if rows:
            if self._writer is None:
                self._writer = pq.ParquetWriter(self._attempt, self._schema, filesystem=self._filesystem)
            self._writer.write_table(waiting.slice(0, rows), row_group_size=self._group_rows)
        self._waiting = [waiting.slice(rows)]


def remove_attempts(filesystem: fs.FileSystem, folder: str) -> None:
    """Remove what attempts at a `OutputFile` of the folder left that failed."""
    from pyarrow import fs

    for info in filesystem.get_file_info(fs.FileSelector(folder, allow_not_found=True)):
        if info.base_name.startswith(_ATTEMPT):
            filesystem.delete_file(info.path)


def rows_promised(filesystem: fs.FileSystem, folder: str) -> int:
    """Rows that the footers of the folder's Parquet files promise, but for those whose names hide them."""
    import pyarrow.parquet as pq

    paths = [f"{folder}/{name}" for name in shown_files(filesystem, folder)]
    return sum(pq.read_metadata(path, filesystem=filesystem).num_rows for path in paths)


def write_bytes(filesystem: fs.FileSystem, path: str, content: bytes) -> None:
    with filesystem.open_output_stream(path) as file:
        file.write(content)


def folders_in(filesystem: fs.FileSystem, path: str) -> list[str]:
    """Names of the folders in a folder, which may be absent."""
    from pyarrow import fs

    found = filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True))
    return sorted(info.base_name for info in found if info.type == fs.FileType.Directory)


def path_exists(filesystem: fs.FileSystem, path: str) -> bool:
    from pyarrow import fs

    return filesystem.get_file_info(path).type != fs.FileType.NotFound


def is_file(filesystem: fs.FileSystem, path: str) -> bool:
    from pyarrow import fs

    return filesystem.get_file_info(path).type == fs.FileType.File


def remove_folder(filesystem: fs.FileSystem, path: str) -> None:
    if path_exists(filesystem, path):
        filesystem.delete_dir(path)
