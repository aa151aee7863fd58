"""Partitions that are written whole or not at all, on any pyarrow filesystem.

A partition is a folder ``ROOT/TABLE/key=value/…``. Its files come first, then its metadata (``_METADATA.json``), then
its success marker (``_SUCCESS``). Then it replaces the one before: by a rename (`_Renamed`) or, on object stores, which
rename no folder, by a pointer (`_Pointed`). Readers refuse a folder without the marker.
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
from iotid.errors import DataError, PartitionError, short_repr
from iotid.private import temporary_folder
from iotid.schemas import metadata
from iotid.schemas.metadata import METADATA, Metadata, checked, read_metadata, remedy, step_of
from iotid.storage import (
    folders_in,
    is_file,
    is_object_store,
    json_of,
    local_folder,
    local_path,
    open_filesystem,
    path_exists,
    read_small,
    remove_folder,
    using_root,
    write_bytes,
)  # fmt: skip

if TYPE_CHECKING:
    from pyarrow import fs

MARKER = "_SUCCESS"
_VERSION = "version-"  # how the folders of an object store begin that hold a partition as one run made it
_ABANDONED = timedelta(days=2)  # no run is at work on a version for as long


class PartitionKey(dict[str, str]):
    """Which partition of a table: the values of its key columns. Folders are in the order of `_ORDER`."""

    _ORDER = ("site", "capture_date", "name", "dataset", "version")

    @classmethod
    def of_date(cls, site: str, capture_date: str) -> PartitionKey:
        """Of splits, flows and census: a site's captures of one date (YYYY-MM-DD)."""
        return cls(site=site, capture_date=capture_date)

    @classmethod
    def named(cls, name: str) -> PartitionKey:
        """Of datasets, comparisons and descriptions."""
        return cls(name=name)

    @classmethod
    def of_dataset(cls, dataset: str, version: int | None = None) -> PartitionKey:
        """Of reports and reproductions, and with the version of a model, of decisions."""
        return cls(dataset=dataset) if version is None else cls(dataset=dataset, version=str(version))

    @classmethod
    def of_folder(cls, folder: str) -> PartitionKey | None:
        """The key of a folder's path below its table; None: the folder is no partition."""
        parts = [part.partition("=") for part in folder.split("/")]
        if any(name not in cls._ORDER for name, _, _ in parts):
            return None
        return cls({name: unquote(value) for name, _, value in parts})

    @property
    def folder(self) -> str:
        """The partition's path below its table."""
        ordered = sorted(self.items(), key=lambda item: self._ORDER.index(item[0]))
        return "/".join(f"{name}={quote(value, safe='')}" for name, value in ordered)

    @property
    def site(self) -> str:
        return self["site"]

    @property
    def capture_date(self) -> str:
        return self["capture_date"]


M = TypeVar("M", bound=metadata.Common)


@dataclass(frozen=True)
class Partition(Generic[M]):
    """A whole partition: where it is (for Spark, pyarrow, Petastorm) and its metadata, typed by its table.

    A field that is asked for and missing is a DataError that names the file and the remedy.
    """

    uri: str
    key: PartitionKey
    metadata: M


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

    def uri(self, table: str, key: PartitionKey) -> str:
        """The folder of the partition, whether it is there or not; a path for local roots."""
        return f"{self.root}/{self._relative(table, key)}"

    def exists(self, table: str, key: PartitionKey) -> bool:
        with using_root(self.root):
            return self._places.find(self._relative(table, key)) is not None

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
    def open(self, table: str, key: PartitionKey) -> Partition[metadata.Common]: ...

    def open(self, table: str, key: PartitionKey) -> Partition[Any]:
        """The whole partition.

        Raises:
            PartitionError: it is absent or has no success marker.
        """
        relative = self._relative(table, key)
        with using_root(self.root):
            place = self._places.find(relative)
            if place is None and is_file(self._fs, self._base):
                raise NotADirectoryError(errno.ENOTDIR, "it is a file", self._base)
        if place is None:
            step = step_of(table)
            remedy_of = f"run iotid {step} first" if step else "run the step that writes it first"
            raise PartitionError(f"{table}: no whole partition at {self.root}/{relative}; {remedy_of}")
        uri = f"{self.root}/{place}"
        return Partition(uri, key, open_metadata(self._fs, f"{self._base}/{place}", table, uri))

    def read_json(self, partition: Partition, name: str, kind: Any = Any) -> Any:
        """The content of a JSON file of the partition, which is of type ``kind`` (`typed`).

        Raises:
            DataError: it is not.
        """
        table = partition.metadata["table"]
        return json_of(self.read_bytes(partition, name), kind, f"{partition.uri}/{name}", remedy(table))

    def read_bytes(self, partition: Partition, name: str) -> bytes:
        """The content of a small file of the partition.

        Raises:
            DataError: it is no file, or large.
            FileNotFoundError: it is absent.
        """
        path = f"{self._base}{partition.uri.removeprefix(self.root)}/{name}"
        return read_small(self._fs, path, f"{partition.uri}/{name}")

    def partitions(self, table: str) -> list[PartitionKey]:
        """Keys of every whole partition of the table, sorted."""
        from pyarrow import fs

        found = []
        selector = fs.FileSelector(f"{self._base}/{table}", recursive=True, allow_not_found=True)
        with using_root(self.root):
            infos = self._fs.get_file_info(selector)
        for info in infos:
            if info.base_name == MARKER:
                key = PartitionKey.of_folder(info.path.removeprefix(f"{self._base}/{table}/").rpartition("/")[0])
                if key is not None:
                    found.append(key)
        return sorted(found, key=lambda key: tuple(key.values()))

    def working_folder(self, *parts: str) -> Path:
        """A folder of this machine for files that are no table: below a local root, else in a private temporary one."""
        return local_folder(self._base if self._fs.type_name == "local" else str(temporary_folder()), *parts)

    @contextmanager
    def write(self, table: str, key: PartitionKey, schema_version: int = 1) -> Iterator[Staged]:
        """Stage a partition; on a clean exit it replaces the former one whole, on an exception nothing changes.

        Raises:
            UserError: nothing can be written below the root.
            PartitionError: another run has begun to write the partition since, and has taken this one's files away.
        """
        relative = self._relative(table, key)
        with using_root(self.root):
            place = self._places.begin(relative)
        path = f"{self._base}/{place}"
        staged = Staged(f"{self.root}/{place}", path, self._fs)
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
                f"{table}: another run has begun to write {self.root}/{relative} since; this run stops; wait "
                "for the other, and start one run of a step at a time"
            ) from fault
        except BaseException:
            remove_folder(self._fs, path)
            raise
        self._places.commit(relative, place)

    def _relative(self, table: str, key: PartitionKey) -> str:
        return f"{table}/{key.folder}"


class _Renamed:
    """Places of partitions where folders can be renamed: staged under ``_staging``, then moved to where they belong.

    A run that died between the two renames of a replacement is completed by the next reader or writer. Each run stages
    in a folder of its own, so that the files of two never mix; a run that begins removes what other runs have staged,
    dead or late.
    """

    def __init__(self, filesystem: fs.FileSystem, base: str) -> None:
        self._fs = filesystem
        self._base = base

    def find(self, relative: str) -> str | None:
        """Where the whole partition lies."""
        here = is_file(self._fs, f"{self._base}/{relative}/{MARKER}")
        return relative if here or self._recover(relative) else None

    def begin(self, relative: str) -> str:
        """A new folder to write a partition to."""
        self._recover(relative)  # or else a failure now would leave nothing of what a run before had made
        remove_folder(self._fs, f"{self._base}/_staging/{relative}")
        staging = f"_staging/{relative}/{uuid.uuid4().hex}"
        self._fs.create_dir(f"{self._base}/{staging}", recursive=True)
        return staging

    def commit(self, relative: str, staging: str) -> None:
        """Put a partition that has its marker where it belongs."""
        target, source, trash = (f"{self._base}/{place}" for place in (relative, staging, f"_trash/{relative}"))
        remove_folder(self._fs, trash)
        for folder in (target, trash):
            self._fs.create_dir(folder.rsplit("/", 1)[0], recursive=True)
        if path_exists(self._fs, target) and path_exists(self._fs, source):
            self._fs.move(target, trash)
        if path_exists(self._fs, source):  # else another run has moved it already
            self._fs.move(source, target)
        remove_folder(self._fs, trash)

    def _recover(self, relative: str) -> bool:
        """Finish the move of a run that died after its marker was written; say whether there was one."""
        staged = [f"_staging/{relative}/{name}" for name in folders_in(self._fs, f"{self._base}/_staging/{relative}")]
        whole = [place for place in staged if is_file(self._fs, f"{self._base}/{place}/{MARKER}")]
        for place in whole:
            self.commit(relative, place)
        return bool(whole)


class _Pointed:
    """Places of partitions on an object store, which renames no folder but replaces an object atomically.

    Each run writes a folder ``version-…`` of its own in the partition's; the partition's marker, written last, names
    the current one. Of two runs at the same time the one that ends last counts. What a dead run left is removed days
    later, because a dead run and a running one look the same.
    """

    def __init__(self, filesystem: fs.FileSystem, base: str) -> None:
        self._fs = filesystem
        self._base = base

    def find(self, relative: str) -> str | None:
        """Where the whole partition lies."""
        if not is_file(self._fs, f"{self._base}/{relative}/{MARKER}"):
            return None
        marker = f"{self._base}/{relative}/{MARKER}"
        version = read_small(self._fs, marker, marker).decode(errors="replace")
        if not re.fullmatch(rf"{_VERSION}[\w-]+", version, re.ASCII):
            raise DataError(
                f"{marker}: must name a folder {_VERSION}…, got {short_repr(version)}; write the partition again"
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
        write_bytes(self._fs, f"{self._base}/{relative}/{MARKER}", version.encode())
        abandoned = f"{_VERSION}{datetime.now(UTC) - _ABANDONED:%Y%m%dT%H%M%S}"
        for name in folders_in(self._fs, f"{self._base}/{relative}"):
            if name != version and (f"{relative}/{name}" == before or _VERSION <= name < abandoned):
                self._fs.delete_dir(f"{self._base}/{relative}/{name}")


def open_metadata(filesystem: fs.FileSystem, folder: str, table: str, shown_as: str) -> Metadata:
    """What the metadata of the partition of ``table`` in the folder says; raises a DataError where it is damaged."""
    try:
        content = read_small(filesystem, f"{folder}/{METADATA}", f"{shown_as}/{METADATA}")
    except FileNotFoundError:
        raise DataError(f"{shown_as}/{METADATA}: is missing; {remedy(table)}") from None
    return read_metadata(content, table, shown_as)
