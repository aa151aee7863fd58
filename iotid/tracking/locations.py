"""Where the artifacts of an SQLite tracking store are, and how they follow a storage root that was copied or moved.

MLflow stores absolute artifact locations, and resolves a relative one against the working folder. So the copy of a
storage root would write its artifacts into the original: its store is refused until `relocate` has rewritten them.
"""

from __future__ import annotations

import re
import shlex
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from urllib.parse import quote, unquote

from iotid.errors import UserError
from iotid.storage import local_path

ARTIFACTS = "mlflow-artifacts"  # folder of the artifacts, beside the database
_COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
_LOCK_S = 30.0  # how long to wait for another process's transaction


@dataclass(frozen=True)
class Relocation:
    """What `relocate` did, or would do. ``folders``: former artifact folders; ``changed``: records by table."""

    database: Path
    folders: tuple[str, ...]
    changed: dict[str, int]
    backup: Path | None = None

    @property
    def sentence(self) -> str:
        here = self.database.parent / ARTIFACTS
        if not self.changed:
            return f"{self.database}: all artifact locations are below {here}; nothing to do"
        counts = ", ".join(f"{count:,} of {table}" for table, count in self.changed.items())
        done = (
            f"changed; the former database is {self.backup}" if self.backup else "dry run, add --apply to change them"
        )
        return f"{self.database}: artifact locations {', '.join(self.folders)} -> {here} ({counts}): {done}"


def database_of(uri: str) -> Path | None:
    """The database file of an SQLite tracking URI; None for any other URI."""
    match = re.match(r"sqlite(?:\+\w+)?:///([^?]+)", uri)
    return Path(unquote(match[1])) if match else None


@cache  # it is asked for every call of a client; an error is not kept
def check_locations(uri: str) -> None:
    """Refuse a store that was copied or moved: its artifacts would be written to, or read from, another place.

    Raises:
        UserError: an artifact location is in another folder ``mlflow-artifacts`` than that beside the database.
    """
    database = database_of(uri)
    if database is None or not database.is_file():
        return
    try:
        with closing(_connect(database, "ro")) as connection:
            strays = sorted({folder for _, _, _, folder, _ in _strays(connection, database)})
    except sqlite3.Error:  # MLflow reports what is wrong with the file
        return
    if strays:
        root = database.absolute().parent
        raise UserError(
            f"tracking store {database}: its artifacts are in {strays[0]}, not in {root / ARTIFACTS}: the storage root "
            f"was copied or moved; run iotid relocate --apply --set {shlex.quote(f'storage.root={root}')}"
        )


def relocate(uri: str, *, apply: bool) -> Relocation:
    """Make the artifact locations of the SQLite store ``uri`` those beside its database. Idempotent.

    Changes all records in one transaction, after a copy of the database; unless ``apply``, it changes nothing.

    Raises:
        UserError: it is no SQLite store, there is none, it is damaged, or its artifacts were not copied with it.
    """
    database = database_of(uri)
    if database is None:
        raise UserError(
            f"tracking.uri: must be null or name an SQLite file, got {uri}; the artifacts of a tracking server do not "
            "depend on where storage.root is"
        )
    if not database.is_file():
        raise UserError(f"tracking store {database}: does not exist; name its root with --set storage.root=FOLDER")
    try:
        return _relocate(database.absolute(), apply=apply)
    except sqlite3.Error as fault:
        raise UserError(f"tracking store {database}: cannot be changed ({fault}); nothing was changed") from None


def _relocate(database: Path, *, apply: bool) -> Relocation:
    here = database.parent / ARTIFACTS
    with closing(_connect(database, "rw")) as connection:
        if apply:
            connection.execute("BEGIN IMMEDIATE")
        strays = list(_strays(connection, database))
        counts = Counter[tuple[str, str]]()
        for table, column, _, _, records in strays:
            counts[table, column] += records
        changed = {table: max(counts[each] for each in counts if each[0] == table) for table, _ in counts}
        found = Relocation(database, tuple(sorted({folder for _, _, _, folder, _ in strays})), changed)
        if not strays or not apply:
            return found
        if not here.is_dir():
            raise UserError(f"{here}: is missing; copy this folder with the database, then run iotid relocate again")
        backup = database.with_name(f"{database.stem}.{datetime.now(UTC):%Y%m%dT%H%M%S}.before-relocate.db")
        with closing(_connect(database, "ro")) as former, closing(sqlite3.connect(backup)) as copy:
            former.backup(copy)
        for table, column, location, _, _ in strays:
            moved = _moved(location, here)
            connection.execute(f'UPDATE "{table}" SET "{column}" = ? WHERE "{column}" = ?', (moved, location))
        connection.commit()
    return replace(found, backup=backup)


def _strays(connection: sqlite3.Connection, database: Path) -> Iterator[tuple[str, str, str, str, int]]:
    """(table, column, location, its artifact folder, number of records) of each location in another artifact folder.

    Locations of other kinds (on servers, or of experiments that iotid did not create) are the user's own.
    """
    here, is_here = (database.parent / ARTIFACTS).resolve(), {}
    for table, column in _COLUMNS:
        counted = f'SELECT "{column}", count(*) FROM "{table}" WHERE "{column}" IS NOT NULL GROUP BY 1 ORDER BY 1'
        for location, records in connection.execute(counted).fetchall():
            path = local_path(location)
            folder = None if path is None else _artifact_folder(path)
            if folder is None:
                continue
            if folder not in is_here:
                is_here[folder] = Path(folder).resolve() == here  # a link at the former place leads here
            if not is_here[folder]:
                yield table, column, location, folder, records


def _artifact_folder(location: str) -> str | None:
    """The location up to its last component ``mlflow-artifacts``; None if it has none."""
    match = re.match(rf"(/.*/{ARTIFACTS}|/{ARTIFACTS})(?:/|$)", location, re.DOTALL)
    return match[1] if match else None


def _moved(location: str, here: Path) -> str:
    """The location in the folder ``here``, written as before: as a file: URI or a path."""
    folder = _artifact_folder(location.removeprefix("file://")) if location.startswith("file://") else None
    if folder is not None:
        return here.as_uri() + location.removeprefix("file://").removeprefix(folder)
    folder = _artifact_folder(location)
    return f"{here}{location.removeprefix(folder or '')}"


def _connect(database: Path, mode: str) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{quote(str(database.absolute()))}?mode={mode}", uri=True, timeout=_LOCK_S)
