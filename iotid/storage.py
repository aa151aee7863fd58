"""Partitions that are written whole or not at all, on any pyarrow filesystem.

A partition is a folder ``ROOT/TABLE/key=value/…``. It is staged under ``ROOT/_staging``, then gets its metadata
(``_METADATA.json``), then its success marker (``_SUCCESS``), then is moved into place. Readers refuse a folder without
the marker. A run that died between the two renames of a replacement is healed by the next one that looks.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

import iotid
from iotid.errors import PartitionError, UserError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from pyarrow import fs

MARKER = "_SUCCESS"
METADATA = "_METADATA.json"
_ATTEMPT = "_attempt-"  # how files begin that are still being written, or that a worker died over
_KEY_ORDER = ("site", "capture_date", "name", "dataset", "version")  # of the folders, however a caller orders the keys


@dataclass(frozen=True)
class Partition:
    """A whole partition: where it lies (for Spark, pyarrow, Petastorm) and what its metadata says."""

    uri: str
    keys: dict[str, str]
    metadata: dict[str, Any]


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
        _write_text(self.filesystem, f"{self.path}/{name}", text)

    def add_folder(self, folder: str | Path) -> None:
        """Copy the files of a folder of this machine into the partition."""
        from pyarrow import fs

        fs.copy_files(
            str(folder), self.path, source_filesystem=fs.LocalFileSystem(), destination_filesystem=self.filesystem
        )


class Store:
    """The tables below one root, a local folder or any URI that ``pyarrow.fs`` knows."""

    def __init__(self, root: str) -> None:
        self.root = root.rstrip("/")
        self._fs, self._base = open_filesystem(self.root)

    def uri(self, table: str, keys: Mapping[str, str]) -> str:
        """Where the partition lies, or would lie; a path for local roots."""
        return f"{self.root}/{self._relative(table, keys)}"

    def exists(self, table: str, keys: Mapping[str, str]) -> bool:
        relative = self._relative(table, keys)
        return self._is_file(f"{self._base}/{relative}/{MARKER}") or self._heal(relative)

    def open(self, table: str, keys: Mapping[str, str]) -> Partition:
        """The whole partition.

        Raises:
            PartitionError: it is absent or has no success marker.
        """
        relative = self._relative(table, keys)
        if not self.exists(table, keys):
            step = {"flows": "assemble-flows", "splits": "split-pcaps", "datasets": "write-dataset"}.get(table)
            remedy = f"run iotid {step} first" if step else "run the step that writes it first"
            raise PartitionError(f"{table}: no whole partition at {self.root}/{relative}; {remedy}")
        with self._fs.open_input_file(f"{self._base}/{relative}/{METADATA}") as file:
            metadata = json.loads(file.read())
        return Partition(f"{self.root}/{relative}", dict(keys), metadata)

    def read_json(self, partition: Partition, name: str) -> Any:
        with self._fs.open_input_file(f"{self._base}{partition.uri.removeprefix(self.root)}/{name}") as file:
            return json.loads(file.read())

    def partitions(self, table: str) -> list[dict[str, str]]:
        """Keys of every whole partition of the table, sorted."""
        from pyarrow import fs

        found = []
        selector = fs.FileSelector(f"{self._base}/{table}", recursive=True, allow_not_found=True)
        for info in self._fs.get_file_info(selector):
            if info.base_name == MARKER:
                parts = info.path.removeprefix(f"{self._base}/{table}/").split("/")[:-1]
                if all("=" in part for part in parts):
                    found.append({name: unquote(value) for name, value in (part.split("=", 1) for part in parts)})
        return sorted(found, key=lambda keys: tuple(keys.values()))

    def working_folder(self, *parts: str) -> Path:
        """A folder of this machine for files that are no table: below a local root, else below the temporary folder."""
        local = self._fs.type_name == "local"
        folder = Path(self._base if local else f"{tempfile.gettempdir()}/iotid", *parts)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @contextmanager
    def write(self, table: str, keys: Mapping[str, str], schema_version: int = 1) -> Iterator[Staged]:
        """Stage a partition; on a clean exit it replaces the former one whole, on an exception nothing changes."""
        relative = self._relative(table, keys)
        staging = f"{self._base}/_staging/{relative}"
        self._heal(relative)  # or else a failure now would leave nothing of what a run before had made
        self._remove(staging)
        self._fs.create_dir(staging, recursive=True)
        staged = Staged(f"{self.root}/_staging/{relative}", staging, self._fs)
        try:
            yield staged
        except BaseException:
            self._remove(staging)
            raise
        metadata = {
            "table": table,
            "keys": dict(keys),
            "schema_version": schema_version,
            "code_version": iotid.__version__,
            **staged.metadata,
        }
        staged.write_json(METADATA, metadata)
        _write_text(self._fs, f"{staging}/{MARKER}", "")
        self._move_into_place(relative)

    def _move_into_place(self, relative: str) -> None:
        target, staging, trash = (f"{self._base}/{place}{relative}" for place in ("", "_staging/", "_trash/"))
        self._remove(trash)
        for folder in (target, trash):
            self._fs.create_dir(folder.rsplit("/", 1)[0], recursive=True)
        if self._exists(target):
            self._fs.move(target, trash)
        self._fs.move(staging, target)
        self._remove(trash)

    def _heal(self, relative: str) -> bool:
        """Finish the move of a run that died after its marker was written; say whether there was one."""
        if not self._is_file(f"{self._base}/_staging/{relative}/{MARKER}"):
            return False
        self._move_into_place(relative)
        return True

    def _relative(self, table: str, keys: Mapping[str, str]) -> str:
        ordered = sorted(keys.items(), key=lambda item: _KEY_ORDER.index(item[0]))
        return "/".join([table, *(f"{name}={quote(str(value), safe='')}" for name, value in ordered)])

    def _exists(self, path: str) -> bool:
        from pyarrow import fs

        return self._fs.get_file_info(path).type != fs.FileType.NotFound

    def _is_file(self, path: str) -> bool:
        from pyarrow import fs

        return self._fs.get_file_info(path).type == fs.FileType.File

    def _remove(self, path: str) -> None:
        if self._exists(path):
            self._fs.delete_dir(path)


def open_filesystem(location: str) -> tuple[fs.FileSystem, str]:
    """The filesystem of a local folder or a URI, and the path of the location on it.

    Raises:
        UserError: the URI's kind is unknown, or its filesystem cannot be reached.
    """
    from pyarrow import fs

    if "://" not in location:
        return fs.LocalFileSystem(), location
    try:
        return fs.FileSystem.from_uri(location)
    except Exception as fault:  # noqa: BLE001 - pyarrow raises many kinds for one mistake
        raise UserError(f"storage.root: {location!r} is not a folder or URI that can be opened ({fault})") from None


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
    from pyarrow import fs

    found = filesystem.get_file_info(fs.FileSelector(folder, allow_not_found=True))
    return sum(
        pq.read_metadata(info.path, filesystem=filesystem).num_rows
        for info in found
        if info.is_file and not info.base_name.startswith(("_", "."))
    )


def _write_text(filesystem: fs.FileSystem, path: str, text: str) -> None:
    with filesystem.open_output_stream(path) as file:
        file.write(text.encode())
