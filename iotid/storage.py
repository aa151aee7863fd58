"""Partitions that are written whole or not at all, on any pyarrow filesystem.

A partition is a folder ``ROOT/TABLE/key=value/…``. Its files come first, then its metadata (``_METADATA.json``), then
its success marker (``_SUCCESS``), then it takes the place of the one before, in a way that the filesystem bears: by a
rename (`_Renamed`) or, on object stores, by a pointer (`_Pointed`). Readers refuse a folder without the marker.
"""

from __future__ import annotations

import errno
import json
import os
import re
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, unquote_to_bytes

import iotid
from iotid.errors import DataError, PartitionError, UserError, cut, shown
from iotid.inputs import MOST_BYTES, parse_json
from iotid.messages import NO_CREDENTIALS, holds_credentials, redacted_location
from iotid.private import temporary_folder
from iotid.schemas import typed
from iotid.schemas.metadata import METADATA, Metadata, read_metadata, remedy, step_of

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from pyarrow import fs

MARKER = "_SUCCESS"
_ATTEMPT = "_attempt-"  # how files begin that are still being written, or that a worker died over
_VERSION = "version-"  # how the folders of an object store begin that hold a partition as one run made it
_ABANDONED = timedelta(days=2)  # no run is at work on a version for as long
_OBJECT_STORES = ("s3", "gcs", "abfs")  # pyarrow's names of filesystems that rename no folder
_KEY_ORDER = ("site", "capture_date", "name", "dataset", "version")  # of the folders, however a caller orders the keys


@dataclass(frozen=True)
class Partition:
    """A whole partition: where it lies (for Spark, pyarrow, Petastorm) and what its metadata says."""

    uri: str
    keys: dict[str, str]
    metadata: Metadata


@dataclass
class Staged:
    """A partition being written. Write files below ``uri`` (or ``path`` on ``filesystem``), then fill ``metadata``."""

    uri: str
    path: str
    filesystem: fs.FileSystem
    metadata: dict[str, Any] = field(default_factory=dict)

    def write_json(self, name: str, content: Any) -> None:
        self.write_text(name, json.dumps(content, indent=2, sort_keys=True) + "\n")

    def write_text(self, name: str, text: str) -> None:
        self.write_bytes(name, text.encode())

    def write_bytes(self, name: str, content: bytes) -> None:
        _write_bytes(self.filesystem, f"{self.path}/{name}", content)

    def add_folder(self, folder: str | Path) -> None:
        """Copy the files of a folder of this machine into the partition."""
        from pyarrow import fs

        fs.copy_files(
            str(folder), self.path, source_filesystem=fs.LocalFileSystem(), destination_filesystem=self.filesystem
        )


class Store:
    """The tables below one root, a local folder or any URI that ``pyarrow.fs`` knows."""

    def __init__(self, root: str) -> None:
        self.root = (local_path(root) or root).rstrip("/")
        self._fs, self._base = open_filesystem(self.root)
        kind = _Pointed if is_object_store(self._fs) else _Renamed
        self._places: _Renamed | _Pointed = kind(self._fs, self._base)

    def uri(self, table: str, keys: Mapping[str, str]) -> str:
        """The folder of the partition, whether it is there or not; a path for local roots."""
        return f"{self.root}/{self._relative(table, keys)}"

    def exists(self, table: str, keys: Mapping[str, str]) -> bool:
        with _using(self.root):
            return self._places.find(self._relative(table, keys)) is not None

    def open(self, table: str, keys: Mapping[str, str]) -> Partition:
        """The whole partition.

        Raises:
            PartitionError: it is absent or has no success marker.
        """
        relative = self._relative(table, keys)
        with _using(self.root):
            place = self._places.find(relative)
            if place is None and _is_file(self._fs, self._base):
                raise NotADirectoryError(errno.ENOTDIR, "it is a file", self._base)
        if place is None:
            step = step_of(table)
            remedy_of = f"run iotid {step} first" if step else "run the step that writes it first"
            raise PartitionError(f"{table}: no whole partition at {self.root}/{relative}; {remedy_of}")
        uri = f"{self.root}/{place}"
        return Partition(uri, dict(keys), open_metadata(self._fs, f"{self._base}/{place}", table, uri))

    def read_json(self, partition: Partition, name: str, kind: Any = Any) -> Any:
        """The content of a JSON file of the partition, which is of type ``kind`` (`typed`).

        Raises:
            DataError: it is not.
        """
        table = partition.metadata.table
        return json_of(self.read_bytes(partition, name), kind, f"{partition.uri}/{name}", remedy(table))

    def read_bytes(self, partition: Partition, name: str) -> bytes:
        """The content of a small file of the partition.

        Raises:
            DataError: it is no file, or large.
            FileNotFoundError: it is absent.
        """
        path = f"{self._base}{partition.uri.removeprefix(self.root)}/{name}"
        return read_small(self._fs, path, f"{partition.uri}/{name}")

    def partitions(self, table: str) -> list[dict[str, str]]:
        """Keys of every whole partition of the table, sorted."""
        from pyarrow import fs

        found = []
        selector = fs.FileSelector(f"{self._base}/{table}", recursive=True, allow_not_found=True)
        with _using(self.root):
            infos = self._fs.get_file_info(selector)
        for info in infos:
            if info.base_name == MARKER:
                parts = info.path.removeprefix(f"{self._base}/{table}/").split("/")[:-1]
                if all(part.partition("=")[0] in _KEY_ORDER for part in parts):
                    found.append({name: unquote(value) for name, _, value in (part.partition("=") for part in parts)})
        return sorted(found, key=lambda keys: tuple(keys.values()))

    def working_folder(self, *parts: str) -> Path:
        """A folder of this machine for files that are no table: below a local root, else in a private temporary one."""
        return local_folder(self._base if self._fs.type_name == "local" else str(temporary_folder()), *parts)

    @contextmanager
    def write(self, table: str, keys: Mapping[str, str], schema_version: int = 1) -> Iterator[Staged]:
        """Stage a partition; on a clean exit it replaces the former one whole, on an exception nothing changes.

        Raises:
            UserError: nothing can be written below the root.
            PartitionError: another run has begun to write the partition since, and has taken this one's files away.
        """
        relative = self._relative(table, keys)
        with _using(self.root):
            place = self._places.begin(relative)
        path = f"{self._base}/{place}"
        staged = Staged(f"{self.root}/{place}", path, self._fs)
        metadata = {
            "table": table,
            "keys": dict(keys),
            "schema_version": schema_version,
            "code_version": iotid.__version__,
        }
        try:
            yield staged
            staged.write_json(METADATA, metadata | staged.metadata)
            staged.write_text(MARKER, "")
        except Exception as fault:
            if _exists(self._fs, path):
                self._fs.delete_dir(path)
                raise
            raise PartitionError(
                f"{table}: another run has begun to write {self.root}/{relative} since, and this one gives way; wait "
                "for the other, and start one run of a step at a time"
            ) from fault
        except BaseException:
            _remove(self._fs, path)
            raise
        self._places.commit(relative, place)

    def _relative(self, table: str, keys: Mapping[str, str]) -> str:
        ordered = sorted(keys.items(), key=lambda item: _KEY_ORDER.index(item[0]))
        return "/".join([table, *(f"{name}={quote(str(value), safe='')}" for name, value in ordered)])


class _Renamed:
    """Places of partitions where folders can be renamed: staged under ``_staging``, then moved to where they belong.

    A run that died between the two renames of a replacement is healed by the next one that looks. Each run stages in a
    folder of its own, so that the files of two never mix; one that begins takes what others have staged away, be they
    dead or late.
    """

    def __init__(self, filesystem: fs.FileSystem, base: str) -> None:
        self._fs = filesystem
        self._base = base

    def find(self, relative: str) -> str | None:
        """Where the whole partition lies."""
        here = _is_file(self._fs, f"{self._base}/{relative}/{MARKER}")
        return relative if here or self._heal(relative) else None

    def begin(self, relative: str) -> str:
        """A new folder to write a partition to."""
        self._heal(relative)  # or else a failure now would leave nothing of what a run before had made
        _remove(self._fs, f"{self._base}/_staging/{relative}")
        staging = f"_staging/{relative}/{uuid.uuid4().hex}"
        self._fs.create_dir(f"{self._base}/{staging}", recursive=True)
        return staging

    def commit(self, relative: str, staging: str) -> None:
        """Put a partition that has its marker where it belongs."""
        target, source, trash = (f"{self._base}/{place}" for place in (relative, staging, f"_trash/{relative}"))
        _remove(self._fs, trash)
        for folder in (target, trash):
            self._fs.create_dir(folder.rsplit("/", 1)[0], recursive=True)
        if _exists(self._fs, target) and _exists(self._fs, source):
            self._fs.move(target, trash)
        if _exists(self._fs, source):  # else another run that looked has put it there already
            self._fs.move(source, target)
        _remove(self._fs, trash)

    def _heal(self, relative: str) -> bool:
        """Finish the move of a run that died after its marker was written; say whether there was one."""
        staged = [f"_staging/{relative}/{name}" for name in _folders(self._fs, f"{self._base}/_staging/{relative}")]
        whole = [place for place in staged if _is_file(self._fs, f"{self._base}/{place}/{MARKER}")]
        for place in whole:
            self.commit(relative, place)
        return bool(whole)


class _Pointed:
    """Places of partitions on an object store, which renames no folder but replaces one object at once.

    Each run writes a folder ``version-…`` of its own in the partition's; the partition's marker, written last, names
    the one that counts. Of two runs at once the one that ends last stands. What a dead run left is removed by one that
    comes days later, since nothing tells it from one at work.
    """

    def __init__(self, filesystem: fs.FileSystem, base: str) -> None:
        self._fs = filesystem
        self._base = base

    def find(self, relative: str) -> str | None:
        """Where the whole partition lies."""
        if not _is_file(self._fs, f"{self._base}/{relative}/{MARKER}"):
            return None
        marker = f"{self._base}/{relative}/{MARKER}"
        version = read_small(self._fs, marker, marker).decode(errors="replace")
        if not re.fullmatch(rf"{_VERSION}[\w-]+", version, re.ASCII):
            raise DataError(
                f"{marker}: must name a folder {_VERSION}…, got {shown(version)}; write the partition again"
            )
        return f"{relative}/{version}"

    def begin(self, relative: str) -> str:
        """A new folder to write a partition to."""
        version = f"{_VERSION}{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex}"
        self._fs.create_dir(f"{self._base}/{relative}/{version}", recursive=True)
        return f"{relative}/{version}"

    def commit(self, relative: str, place: str) -> None:
        """Make a partition that has its marker the one that counts."""
        before, version = self.find(relative), place.rpartition("/")[2]
        _write_bytes(self._fs, f"{self._base}/{relative}/{MARKER}", version.encode())
        abandoned = f"{_VERSION}{datetime.now(UTC) - _ABANDONED:%Y%m%dT%H%M%S}"
        for name in _folders(self._fs, f"{self._base}/{relative}"):
            if name != version and (f"{relative}/{name}" == before or _VERSION <= name < abandoned):
                self._fs.delete_dir(f"{self._base}/{relative}/{name}")


def open_metadata(filesystem: fs.FileSystem, folder: str, table: str, shown_as: str) -> Metadata:
    """What the metadata of the partition of ``table`` in the folder says; raises a DataError where it is damaged."""
    try:
        content = read_small(filesystem, f"{folder}/{METADATA}", f"{shown_as}/{METADATA}")
    except FileNotFoundError:
        raise DataError(f"{shown_as}/{METADATA}: is missing; {remedy(table)}") from None
    return read_metadata(content, table, shown_as)


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
        raise DataError(f"{shown_as}: {cut(str(fault), 400)}; {what_to_do}") from None
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
        why = cut((str(fault).splitlines() or [type(fault).__name__])[0], 400)
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
    if not re.search("[\udc80-\udcff]", path):  # how Python stands for such bytes
        return path
    absolute = str(Path(path).absolute())
    return "file://" + re.sub("[%?#\udc80-\udcff]", lambda found: quote(os.fsencode(found[0])), absolute)


def local_folder(root: str, *parts: str) -> Path:
    """A folder of this machine that can be written, made where it is absent.

    Raises:
        UserError: it cannot.
    """
    folder = Path(root, *parts)
    with _using(root):
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
    return folder


@contextmanager
def _using(root: str) -> Iterator[None]:
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
    from pyarrow import fs

    path = local_path(location)
    if path is not None:
        if text_of(path) != path or "\0" in path:
            raise UserError(
                f"storage.root: {path!r} must be UTF-8, for other programs read it too; name another folder"
            )
        return fs.LocalFileSystem(), path
    if holds_credentials(location):
        raise UserError(f"storage.root: {NO_CREDENTIALS}, got {redacted_location(location)}")
    if "?" in location:
        raise UserError(
            f"storage.root: {location!r} must not end in options; an object store's endpoint, region and keys are told "
            "by the environment of every machine (AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID, …)"
        )
    try:
        return fs.FileSystem.from_uri(location)
    except Exception as fault:  # noqa: BLE001 - pyarrow raises many kinds for one mistake
        raise UserError(f"storage.root: {location!r} is not a folder or URI that can be opened ({fault})") from None


def is_object_store(filesystem: fs.FileSystem) -> bool:
    """Whether it holds objects by name, and renames no folder."""
    return filesystem.type_name in _OBJECT_STORES


def shown_files(filesystem: fs.FileSystem, folder: str) -> list[str]:
    """Names of the folder's files, but for those that their first character hides; none where it is absent."""
    from pyarrow import fs

    found = filesystem.get_file_info(fs.FileSelector(folder, allow_not_found=True))
    return sorted(info.base_name for info in found if info.is_file and not info.base_name.startswith(("_", ".")))


class PartFile:
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
    """Remove what attempts at a `PartFile` of the folder left that failed."""
    from pyarrow import fs

    for info in filesystem.get_file_info(fs.FileSelector(folder, allow_not_found=True)):
        if info.base_name.startswith(_ATTEMPT):
            filesystem.delete_file(info.path)


def rows_promised(filesystem: fs.FileSystem, folder: str) -> int:
    """Rows that the footers of the folder's Parquet files promise, but for those whose names hide them."""
    import pyarrow.parquet as pq

    paths = [f"{folder}/{name}" for name in shown_files(filesystem, folder)]
    return sum(pq.read_metadata(path, filesystem=filesystem).num_rows for path in paths)


def _write_bytes(filesystem: fs.FileSystem, path: str, content: bytes) -> None:
    with filesystem.open_output_stream(path) as file:
        file.write(content)


def _folders(filesystem: fs.FileSystem, path: str) -> list[str]:
    """Names of the folders in a folder, which may be absent."""
    from pyarrow import fs

    found = filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True))
    return sorted(info.base_name for info in found if info.type == fs.FileType.Directory)


def _exists(filesystem: fs.FileSystem, path: str) -> bool:
    from pyarrow import fs

    return filesystem.get_file_info(path).type != fs.FileType.NotFound


def _is_file(filesystem: fs.FileSystem, path: str) -> bool:
    from pyarrow import fs

    return filesystem.get_file_info(path).type == fs.FileType.File


def _remove(filesystem: fs.FileSystem, path: str) -> None:
    if _exists(filesystem, path):
        filesystem.delete_dir(path)
