"""Which partitions are old, and which of these later steps still need. Reads keys, and the metadata of datasets."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import NamedTuple

from iotid.partitions import PartitionKey, Store

SPLITS, FLOWS, CENSUS, NETWORK, DATASETS = "splits", "flows", "census", "network", "datasets"
DATED = (SPLITS, FLOWS, CENSUS, NETWORK)  # tables with a capture date
TABLES = (*DATED, DATASETS)


@dataclass(frozen=True)
class Selection:
    """Partitions of ``tables`` of capture dates before ``before`` (YYYY-MM-DD); of a dataset, all its dates.

    ``sites``: only of these, and nothing of `network`, which has no site; empty: of all. ``network_days``: capture
    dates that take-network-census reads. ``models``: datasets that the champion or the challenger was trained on.
    """

    before: str
    tables: tuple[str, ...] = DATED
    sites: tuple[str, ...] = ()
    network_days: int = 90
    models: frozenset[str] = frozenset()


class Choice(NamedTuple):
    """An old partition. ``needed``: why it is kept; empty: it may be deleted."""

    table: str
    key: PartitionKey
    needed: str = ""

    @property
    def title(self) -> str:
        """What lines of output add it up under: its site, or the name of the network or dataset."""
        return self.key.get("site") or self.key["name"]


def choose(store: Store, selection: Selection) -> list[Choice]:
    """The old partitions of the tables chosen, in the order of tables and keys, each with the reason if it is needed.

    Raises:
        DataError: the metadata of a dataset is damaged, so what it was made from is not known.
    """
    state = _State(store, selection)
    datasets: list[Choice] = []
    if DATASETS in selection.tables:
        datasets = [
            Choice(DATASETS, PartitionKey.named(name), "a model in use was trained on it" * (name in selection.models))
            for name, dates in state.nights.items()
            if _is_old_dataset(dates, selection)
        ]
    for choice in datasets:
        if not choice.needed:  # what it alone was made from is needed no longer
            del state.nights[choice.key["name"]]
    dated = [
        Choice(table, key, state.need(table, key))
        for table in DATED
        if table in selection.tables
        for key in state.keys[table]
        if key.capture_date < selection.before and (not selection.sites or key.get("site") in selection.sites)
    ]
    return dated + datasets


def _is_old_dataset(dates: Collection[PartitionKey], selection: Selection) -> bool:
    return bool(dates) and all(
        key.capture_date < selection.before and (not selection.sites or key.site in selection.sites) for key in dates
    )


@dataclass
class _State:
    """The keys of dated tables, and which flows each dataset was made from."""

    store: Store
    selection: Selection
    keys: Mapping[str, list[PartitionKey]] = field(init=False)
    nights: dict[str, list[PartitionKey]] = field(init=False)

    def __post_init__(self) -> None:
        self.keys = {table: self.store.partitions(table) for table in DATED}
        self.nights = {
            key["name"]: [PartitionKey(each) for each in self.store.open("datasets", key).metadata.get("nights", [])]
            for key in self.store.partitions(DATASETS)
        }
        before = self.selection.before
        self._last = {
            table: {_owner(key): key.capture_date for key in keys if key.capture_date < before}
            for table, keys in self.keys.items()
        }  # keys are sorted by date within a site or network; of network by date
        networks = {key["name"]: key.capture_date for key in self.keys[NETWORK]}
        days = timedelta(days=self.selection.network_days - 1)
        self._windows = {name: (date.fromisoformat(last) - days).isoformat() for name, last in networks.items()}

    def need(self, table: str, key: PartitionKey) -> str:
        """Why a later step needs the partition; empty if none does."""
        day, owner = key.capture_date, _owner(key)
        if self._last[table].get(owner) == day:
            return "the last before the date: the next one continues it, or is compared with it"
        if table in (SPLITS, FLOWS):
            if self._last[CENSUS].get(owner) == day:
                return "its census is the last before the date, and is scored again with a new model"
            named = next((dataset for dataset, of in self.nights.items() if key in of), None)
            return f"dataset {named} was made from it" if named else ""
        if table == NETWORK:
            return "on the network's page of trends" if day >= self._windows[key["name"]] else ""
        summed = next((name for name, first in sorted(self._windows.items()) if day >= first), None)
        return f"network {summed} would sum its date again, without it" if summed else ""


def _owner(key: PartitionKey) -> str:
    return key.get("site") or key["name"]
