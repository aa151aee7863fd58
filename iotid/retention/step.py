"""Deletes old partitions and leftovers, or says what it would delete."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from iotid.errors import UserError
from iotid.retention.leftovers import Leftover, delete_leftovers, find_leftovers
from iotid.retention.plan import Choice, Selection, choose
from iotid.storage import open_filesystem, path_exists, using_root

if TYPE_CHECKING:
    from iotid import config
    from iotid.partitions import Store

_log = logging.getLogger(__name__)
_STAGED = "a run is writing it"


@dataclass(frozen=True)
class Pruned:
    """What was deleted, or would be: partitions with their bytes, and leftovers; and old partitions that are kept."""

    deleted: tuple[tuple[Choice, int], ...]
    kept: tuple[Choice, ...]
    leftovers: tuple[Leftover, ...]

    @property
    def num_bytes(self) -> int:
        return sum(size for _, size in self.deleted) + sum(each.num_bytes for each in self.leftovers)


def prune(store: Store, selection: Selection, *, apply: bool) -> Pruned:
    """Delete the selected partitions that no later step needs, and all leftovers; unless ``apply``, only list them.

    Later tables come first: a census goes before its flows, so a run that is interrupted leaves nothing that lacks what
    it was made from.

    Raises:
        UserError: there is no such storage root.
        DataError: the metadata of a dataset is damaged, so what it was made from is not known.
    """
    if not path_exists(*open_filesystem(store.root)):
        raise UserError(f"storage.root: {store.root} does not exist; name the folder of the tables")
    deleted, kept = [], []
    for choice in reversed(choose(store, selection)):
        needed = choice.needed or _STAGED * store.is_staged(choice.table, choice.key)
        if needed:
            kept.append(choice._replace(needed=needed))
            continue
        deleted.append((choice, _size(store, choice)))
        if apply:
            store.delete(choice.table, choice.key)
            _log.info("deleted %s", store.uri(choice.table, choice.key))
    leftovers = find_leftovers(store)
    if apply:
        delete_leftovers(store, leftovers)
    return Pruned(tuple(reversed(deleted)), tuple(reversed(kept)), tuple(leftovers))


def datasets_of_models(tracking: config.Tracking, storage_root: str) -> frozenset[str]:
    """Names of the datasets that the champion and the challenger were trained on; none if there is no registry.

    Raises:
        UserError: ``tracking.uri`` names a database that does not exist.
        ServerError: the registry cannot be reached, so they are not known.
    """
    from iotid.tracking.versions import CHALLENGER, CHAMPION, Registry

    registry = Registry(tracking, storage_root)
    found = (registry.find_version(alias) for alias in (CHAMPION, CHALLENGER))
    return frozenset(version.tags["dataset"] for version in found if version and "dataset" in version.tags)


def _size(store: Store, choice: Choice) -> int:
    from pyarrow import fs

    filesystem, path = open_filesystem(store.uri(choice.table, choice.key))
    with using_root(store.root):
        found = filesystem.get_file_info(fs.FileSelector(path, recursive=True, allow_not_found=True))
    return sum(info.size or 0 for info in found if info.is_file)
