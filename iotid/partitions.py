"""Reads and writes partitions atomically, on any pyarrow filesystem.

A partition is a folder ``ROOT/TABLE/key=value/…``. A writer stages its files, then its metadata (``_METADATA.json``),
then its success marker (``_SUCCESS``). Then it replaces the former partition: by a rename (`_Renamed`) or, on object
stores, which cannot rename folders, by a pointer (`_Pointed`). Readers refuse a folder without the marker.
"""

from __future__ import annotations

import errno
import json
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, overload
from urllib.parse import quote, unquote

import iotid
from iotid.errors import AbsentError, DataError, PartitionError, list_nearest, short_repr
from iotid.private import temporary_folder
from iotid.schemas import metadata
from iotid.schemas.metadata import METADATA, Metadata, checked, read_metadata, remedy, step_of
from iotid.storage import (
    check_json,
    folders_in,
    is_file,
    is_object_store,
    local_folder,
    local_path,
    open_filesystem,
    path_exists,
    read_small,
    remove_folder,
    side_name,
    using_root,
    write_bytes,
)  # fmt: skip

if TYPE_CHECKING:
    from pyarrow import fs

MARKER = "_SUCCESS"
ALL_SITES = "all"  # name of the network of all sites
_WORDS = {"site": "site ", "version": "version "}  # before values of key columns that would not be understood alone
VERSION = "version-"  # prefix of folders on an object store: one version of a partition for each run
ABANDONED = timedelta(days=2)  # no run writes a partition for longer


class PartitionKey(dict[str, str]):
    """The key of a partition: key column -> value. Its folders are in the order of `_ORDER`."""

    _ORDER = ("site", "capture_date", "name", "dataset", "version")

    @classmethod
    def of_date(cls, site: str, capture_date: str) -> PartitionKey:
        """Key of splits, flows and census: a site's captures of one date (YYYY-MM-DD)."""
        return cls(site=site, capture_date=capture_date)

    @classmethod
    def named(cls, name: str) -> PartitionKey:
        """Key of datasets, statements about groups, comparisons and descriptions."""
        return cls(name=name)

    @classmethod
    def of_network(cls, name: str, capture_date: str) -> PartitionKey:
        """Key of network: all sites of a network on one date (YYYY-MM-DD)."""
        return cls(capture_date=capture_date, name=name)

    @classmethod
    def of_dataset(cls, dataset: str, version: int | None = None) -> PartitionKey:
        """Key of reports and reproductions; with a model's version, of decisions."""
        return cls(dataset=dataset) if version is None else cls(dataset=dataset, version=str(version))

    @classmethod
    def of_folder(cls, folder: str) -> PartitionKey | None:
        """The key of a folder's path below its table; None if the folder is no partition."""
        parts = [part.partition("=") for part in folder.split("/")]
        if any(name not in cls._ORDER for name, _, _ in parts):
            return None
        return cls({name: unquote(value) for name, _, value in parts})

    @property
    def folder(self) -> str:
        """The partition's path below its table."""
        return "/".join(f"{name}={quote(value, safe='')}" for name, value in self.ordered)

    @property
    def ordered(self) -> list[tuple[str, str]]:
        """(column, value), in the order of the folders."""
        return sorted(self.items(), key=lambda item: self._ORDER.index(item[0]))

    @property
    def title(self) -> str:
        """The key in words, as in "site home, 2026-01-31"."""
        return ", ".join(f"{_WORDS.get(column, '')}{value}" for column, value in self.ordered)

    @property
    def site(self) -> str:
        return self["site"]

    @property
    def capture_date(self) -> str:
        return self["capture_date"]


M = TypeVar("M", bound=metadata.Common)


@dataclass(frozen=True)
class Partition(Generic[M]):
    """A complete partition: its URI (for Spark, pyarrow, Petastorm), its key, and its metadata, typed by its table.

    Reading a missing field of the metadata raises a DataError that names the file and the remedy.
    """

    uri: str
    key: PartitionKey
    metadata: M

    def __repr__(self) -> str:
        return f"Partition({self.metadata.get('table')}: {self.uri})"  # metadata may have thousands of lines


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
        write_bytes(self.filesystem, f"{self.path}/{name}", content)

    def add_folder(self, folder: str | Path) -> None:
        """Copy the files of a local folder into the partition."""
        from pyarrow import fs

        fs.copy_files(
            str(folder), self.path, source_filesystem=fs.LocalFileSystem(), destination_filesystem=self.filesystem
        )


class Store:
    """The tables below one root, a local folder or any URI that ``pyarrow.fs`` knows."""

    def __init__(self, root: str) -> None:
        self.root = (local_path(root) or root).rstrip("/")
        self._fs, self._base = open_filesystem(self.root)
        layout = _Pointed if is_object_store(self._fs) else _Renamed
        self._layout: _Renamed | _Pointed = layout(self._fs, self._base)

    def __repr__(self) -> str:
        return f"Store({self.root!r})"

    def uri(self, table: str, key: PartitionKey) -> str:
        """URI of the partition's folder, whether or not it exists; a path for local roots."""
        return f"{self.root}/{self._relative(table, key)}"

    def link(self, source: tuple[str, PartitionKey], target: tuple[str, PartitionKey], file: str) -> str | None:
        """Relative address of a file of one partition from the files of another, for pages; each: table and key.

        None on an object store: the address would name a version, which is deleted when the partition is replaced.
        """
        if isinstance(self._layout, _Pointed):
            return None
        up = "../" * len(self._relative(*source).split("/"))
        return up + quote(f"{self._relative(*target)}/{file}", safe="/=")

    def exists(self, table: str, key: PartitionKey) -> bool:
        with using_root(self.root):
            return self._layout.find(self._relative(table, key)) is not None

    @overload
    def open(self, table: Literal["splits"], key: PartitionKey) -> Partition[metadata.Splits]: ...
    @overload
    def open(self, table: Literal["flows"], key: PartitionKey) -> Partition[metadata.Flows]: ...
    @overload
    def open(self, table: Literal["datasets"], key: PartitionKey) -> Partition[metadata.Datasets]: ...
    @overload
    def open(self, table: Literal["reports"], key: PartitionKey) -> Partition[metadata.Reports]: ...
    @overload
    def open(self, table: Literal["decisions"], key: PartitionKey) -> Partition[metadata.Decisions]: ...
    @overload
    def open(self, table: Literal["census"], key: PartitionKey) -> Partition[metadata.Census]: ...
    @overload
    def open(self, table: Literal["network"], key: PartitionKey) -> Partition[metadata.Network]: ...
    @overload
    def open(self, table: Literal["group_names"], key: PartitionKey) -> Partition[metadata.GroupNames]: ...
    @overload
    def open(self, table: str, key: PartitionKey) -> Partition[metadata.Common]: ...

    def open(self, table: str, key: PartitionKey) -> Partition[Any]:
        """Open a complete partition.

        Raises:
            AbsentError: it does not exist or has no success marker.
        """
        relative = self._relative(table, key)
        with using_root(self.root):
            folder = self._layout.find(relative)
            if folder is None and is_file(self._fs, self._base):
                raise NotADirectoryError(errno.ENOTDIR, "it is a file", self._base)
        if folder is None:
            step = f"iotid {step_of(table)}" if step_of(table) else "the step that writes it"
            raise AbsentError(
                f"{table}: no completed data for {key.title} in {self.root}; {self._alternatives(table, key)}; "
                f"run {step} first"
            )
        uri = f"{self.root}/{folder}"
        return Partition(uri, key, open_metadata(self._fs, f"{self._base}/{folder}", table, uri))

    def _alternatives(self, table: str, key: PartitionKey) -> str:
        """What the table has instead of an absent key, for the first column whose value is missing."""
        keys, owner, known, value = self.partitions(table), "it", set[str](), ""
        for column, value in key.ordered:
            known = {other[column] for other in keys if column in other}
            if value not in known:
                break
            keys, owner = [other for other in keys if other.get(column) == value], f"{_WORDS.get(column, '')}{value}"
        if not known:
            return f"{owner} has none yet"
        return f"{owner} has data for {_WORDS.get(column, '')}{list_nearest(value, known)}"

    def read_json(self, partition: Partition, name: str, kind: Any = Any) -> Any:
        """The content of a JSON file of the partition.

        Raises:
            DataError: it is not of type ``kind`` (`schemas.typed`).
        """
        table = partition.metadata["table"]
        return check_json(self.read_bytes(partition, name), kind, f"{partition.uri}/{name}", remedy(table))

    def read_bytes(self, partition: Partition, name: str) -> bytes:
        """The content of a small file of the partition.

        Raises:
            DataError: it is no file, or too large.
            FileNotFoundError: it does not exist.
        """
        folder = f"{self._base}{partition.uri.removeprefix(self.root)}"
        stored = side_name(self._fs, folder, name)
        return read_small(self._fs, f"{folder}/{stored}", f"{partition.uri}/{stored}")

    def partitions(self, table: str) -> list[PartitionKey]:
        """Keys of all complete partitions of the table, sorted."""
        return [key for key, _ in self.written(table)]

    def written(self, table: str) -> list[tuple[PartitionKey, int]]:
        """(key, when it was written, in µs since 1970) of all complete partitions of the table, sorted by key."""
        from pyarrow import fs

        found = []
        selector = fs.FileSelector(f"{self._base}/{table}", recursive=True, allow_not_found=True)
        with using_root(self.root):
            infos = self._fs.get_file_info(selector)
        for info in infos:
            if info.base_name == MARKER:
                key = PartitionKey.of_folder(info.path.removeprefix(f"{self._base}/{table}/").rpartition("/")[0])
                if key is not None:
                    found.append((key, (info.mtime_ns or 0) // 1000))
        return sorted(found, key=lambda each: tuple(each[0].values()))

    def delete(self, table: str, key: PartitionKey) -> None:
        """Delete a partition if it exists: at every moment it is complete or absent."""
        with using_root(self.root):
            self._layout.delete(self._relative(table, key))

    def is_staged(self, table: str, key: PartitionKey) -> bool:
        """Whether a run writes the partition now, or died doing so lately."""
        with using_root(self.root):
            return self._layout.is_staged(self._relative(table, key))

    def working_folder(self, *parts: str) -> Path:
        """A local folder for files that are no table: below a local root, else in a private temporary folder."""
        return local_folder(self._base if self._fs.type_name == "local" else str(temporary_folder()), *parts)

    @contextmanager
    def write(self, table: str, key: PartitionKey, schema_version: int = 1) -> Iterator[Staged]:
        """Stage a partition, which replaces the former one on a clean exit; on an exception nothing changes.

        Raises:
            UserError: nothing can be written below the root.
            PartitionError: another run began to write the partition meanwhile and deleted this run's files.
        """
        relative = self._relative(table, key)
        with using_root(self.root):
            folder = self._layout.begin(relative)
        path = f"{self._base}/{folder}"
        staged = Staged(f"{self.root}/{folder}", path, self._fs)
        common = {
            "table": table,
            "keys": dict(key),
            "schema_version": schema_version,
            "code_version": iotid.__version__,
        }
        try:
            yield staged
            staged.write_json(METADATA, checked(table, common | staged.metadata))
            staged.write_text(MARKER, "")
        except Exception as fault:
            if path_exists(self._fs, path):
                self._fs.delete_dir(path)
                raise
            raise PartitionError(
                f"{table}: another run has begun to write {self.root}/{relative} meanwhile, so this run stops; wait "
                "for the other, and start one run of a step at a time"
            ) from fault
        except BaseException:
            remove_folder(self._fs, path)
            raise
        self._layout.commit(relative, folder)

    def _relative(self, table: str, key: PartitionKey) -> str:
        return f"{table}/{key.folder}"


class _Renamed:
    """Folders of partitions on filesystems that can rename folders: staged under ``_staging``, then renamed.

    If a run died between the two renames of a replacement, the next reader or writer completes it. Each run stages in
    its own folder, so that files of two runs never mix; a new run deletes what other runs, dead or slow, have staged.
    """

    def __init__(self, filesystem: fs.FileSystem, base: str) -> None:
        self._fs = filesystem
        self._base = base

    def find(self, relative: str) -> str | None:
        """The folder of the complete partition; None if there is none."""
        here = is_file(self._fs, f"{self._base}/{relative}/{MARKER}")
        return relative if here or self._recover(relative) else None

    def begin(self, relative: str) -> str:
        """Create a folder to write a partition to."""
        self._recover(relative)  # else the next line would delete the result of an earlier run
        remove_folder(self._fs, f"{self._base}/_staging/{relative}")
        staging = f"_staging/{relative}/{uuid.uuid4().hex}"
        self._fs.create_dir(f"{self._base}/{staging}", recursive=True)
        return staging

    def commit(self, relative: str, staging: str) -> None:
        """Move a staged partition that has its marker to its folder."""
        target, source, trash = (f"{self._base}/{folder}" for folder in (relative, staging, f"_trash/{relative}"))
        remove_folder(self._fs, trash)
        for folder in (target, trash):
            self._fs.create_dir(folder.rsplit("/", 1)[0], recursive=True)
        if path_exists(self._fs, target) and path_exists(self._fs, source):
            self._fs.move(target, trash)
        if path_exists(self._fs, source):  # else another run has already moved it
            self._fs.move(source, target)
        remove_folder(self._fs, trash)

    def delete(self, relative: str) -> None:
        """Move the partition away, then delete it."""
        if path_exists(self._fs, f"{self._base}/{relative}"):
            away = f"{self._base}/_trash/{relative}/{uuid.uuid4().hex}"
            self._fs.create_dir(away.rpartition("/")[0], recursive=True)
            self._fs.move(f"{self._base}/{relative}", away)
            remove_folder(self._fs, away)

    def is_staged(self, relative: str) -> bool:
        """Whether there are staged files."""
        return bool(folders_in(self._fs, f"{self._base}/_staging/{relative}"))

    def _recover(self, relative: str) -> bool:
        """Finish the replacement of a run that died after it wrote its marker; return whether there was one."""
        staged = [f"_staging/{relative}/{name}" for name in folders_in(self._fs, f"{self._base}/_staging/{relative}")]
        complete = [folder for folder in staged if is_file(self._fs, f"{self._base}/{folder}/{MARKER}")]
        for folder in complete:
            self.commit(relative, folder)
        return bool(complete)


class _Pointed:
    """Folders of partitions on an object store, which cannot rename folders but replaces an object atomically.

    Each run writes its own folder ``version-…`` in the partition's; the partition's marker, written last, names the
    current version. Of two concurrent runs, the one that ends last wins. The files of a dead run are deleted days
    later, because a dead run cannot be distinguished from a running one.
    """

    def __init__(self, filesystem: fs.FileSystem, base: str) -> None:
        self._fs = filesystem
        self._base = base

    def find(self, relative: str) -> str | None:
        """The folder of the complete partition; None if there is none."""
        if not is_file(self._fs, f"{self._base}/{relative}/{MARKER}"):
            return None
        marker = f"{self._base}/{relative}/{MARKER}"
        version = read_small(self._fs, marker, marker).decode(errors="replace")
        if not re.fullmatch(rf"{VERSION}[\w-]+", version, re.ASCII):
            raise DataError(
                f"{marker}: must name a folder {VERSION}…, got {short_repr(version)}; write the partition again"
            )
        return f"{relative}/{version}"

    def begin(self, relative: str) -> str:
        """Create a folder to write a partition to."""
        version = f"{VERSION}{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex}"
        self._fs.create_dir(f"{self._base}/{relative}/{version}", recursive=True)
        return f"{relative}/{version}"

    def commit(self, relative: str, folder: str) -> None:
        """Make a version that has its marker the current one."""
        before, version = self.find(relative), folder.rpartition("/")[2]
        write_bytes(self._fs, f"{self._base}/{relative}/{MARKER}", version.encode())
        abandoned = f"{VERSION}{datetime.now(UTC) - ABANDONED:%Y%m%dT%H%M%S}"
        for name in folders_in(self._fs, f"{self._base}/{relative}"):
            if name != version and (f"{relative}/{name}" == before or VERSION <= name < abandoned):
                self._fs.delete_dir(f"{self._base}/{relative}/{name}")

    def delete(self, relative: str) -> None:
        """Delete the marker, then the versions."""
        marker = f"{self._base}/{relative}/{MARKER}"
        if is_file(self._fs, marker):
            self._fs.delete_file(marker)
        remove_folder(self._fs, f"{self._base}/{relative}")

    def is_staged(self, relative: str) -> bool:
        """Whether there is a version beside the current one that is not abandoned."""
        current, abandoned = self.find(relative), f"{VERSION}{datetime.now(UTC) - ABANDONED:%Y%m%dT%H%M%S}"
        names = folders_in(self._fs, f"{self._base}/{relative}")
        return any(name > abandoned and f"{relative}/{name}" != current for name in names)


def open_metadata(filesystem: fs.FileSystem, folder: str, table: str, shown_as: str) -> Metadata:
    """Read the metadata of the partition in the folder; raises a DataError if it is missing or damaged."""
    try:
        content = read_small(filesystem, f"{folder}/{METADATA}", f"{shown_as}/{METADATA}")
    except FileNotFoundError:
        raise DataError(f"{shown_as}/{METADATA}: is missing; {remedy(table)}") from None
    return read_metadata(content, table, shown_as)
