"""Takes the census of a network: sums the censuses of its sites, and draws the trends of the last dates.

The step for a date reads what is in the store, never what has happened: an earlier date of the window whose sites'
censuses are not those that were summed, or that was never summed, is summed again, in the order of the dates, since a
date's unknown groups continue those of the date before. So late sites need no other step.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any, Self

import pyarrow as pa
import pyarrow.compute as pc

from iotid import config
from iotid.census.network.groups import MIN_SIMILARITY, Items, NetworkGroups, Rules, join_groups, without_rhythm
from iotid.census.network.read import MISSING, STATES, SiteCensus, identity_of, read_sites
from iotid.census.network.report import Page, render_page
from iotid.census.network.stored import (
    CSV,
    GROUPS_CSV,
    PAGE,
    SITES_CSV,
    hash_of,
    stored_network_groups,
    stored_sites,
    text_columns,
    write_tables,
)
from iotid.census.network.totals import network_rows
from iotid.census.network.trends import COMPARED_DAYS, DateTotals, History
from iotid.census.pseudonyms import Pseudonyms, read_pseudonyms
from iotid.census.report import render_table_csv
from iotid.census.stored import PAGE as SITE_PAGE
from iotid.census.stored import stored_groups
from iotid.errors import AbsentError, DataError, InputError, list_nearest
from iotid.labels.group_names import GroupNames
from iotid.partitions import ALL_SITES, Partition, PartitionKey, Store
from iotid.schemas import NETWORK, NETWORK_SITES
from iotid.schemas.metadata import Network

if TYPE_CHECKING:
    from iotid.spark.in_process import Session

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Window:
    """``days`` capture dates, the last of which is summed, of the network ``name``; ``sites``: those that it should
    have, all that have a census if empty."""

    name: str
    capture_date: str
    days: int
    sites: tuple[str, ...] = ()

    @classmethod
    def of(cls, name: str = ALL_SITES, capture_date: str = "", days: int = 90, sites: Iterable[str] = ()) -> Self:
        return cls(name, capture_date, days, tuple(sites))

    def first_of(self, capture_date: str) -> str:
        """The first date of a window of the same length that ends on ``capture_date``."""
        return (date.fromisoformat(capture_date) - timedelta(days=self.days - 1)).isoformat()

    def key(self, capture_date: str) -> PartitionKey:
        return PartitionKey.of_network(self.name, capture_date)


def take_network_census(spark: Session, store: Store, window: Window, settings: config.Census) -> Partition[Network]:
    """Sum the censuses of all sites of the window's last date, and of earlier dates whose inputs have changed.

    Returns:
        The partition of ``network`` of the last date: rows of schemas.NETWORK in Parquet and ``_network.csv``; each
        site's state (NETWORK_SITES) in ``_sites.pq`` and ``_sites.csv``; unknown groups over sites
        (NETWORK_GROUPS) in ``_groups.pq`` and ``_groups.csv``, which of a site's groups belong to which (MEMBERS)
        in ``_members.pq``, and their profiles, encrypted under pseudonyms; and the page ``_network.html``.

    Raises:
        InputError: no site is named, and none has a census in the window.
        AbsentError: none of the sites named has data of any date.
        SettingError: pseudonyms are on without a key.
    """
    said = GroupNames.read(store)
    step = _Step(spark, store, window, settings, read_pseudonyms(settings), _written(store, window), said)
    if not step.expected(window.capture_date):
        first = window.first_of(window.capture_date)
        raise InputError(
            f"--date: no site has a census from {first} to {window.capture_date}; take one first (iotid take-census), "
            "or name the sites with --site"
        )
    _check_sites(store, window.sites)
    first = window.first_of(window.capture_date)
    summed = {each for each in step.history.dates if first <= each < window.capture_date}
    for capture_date in sorted({*step.written, *summed} - {window.capture_date}):
        if not step.is_current(capture_date):
            step.sum_date(capture_date)
    step.sum_date(window.capture_date)
    return store.open("network", window.key(window.capture_date))


def _check_sites(store: Store, sites: Sequence[str]) -> None:
    """Raise an AbsentError if no site of ``sites`` has data of any date: their names are misspelt; warn of each one of
    several, which may be new."""
    absent, known = sorted(sites), set[str]()
    for table in ("census", "flows", "splits"):  # the last two only for sites without a census
        if absent:
            known |= {key.site for key in store.partitions(table)}
            absent = [site for site in absent if site not in known]
    if sites and len(absent) == len(sites):
        raise AbsentError(
            f"network: no completed data for site {', '.join(absent)} on any date; sites with data: "
            f"{list_nearest(absent[0], known) or 'none'}; correct --site"
        )
    for site in absent:
        _log.warning("network: site %s has no data on any date, and counts as missing; is its name right?", site)


def _written(store: Store, window: Window) -> dict[str, dict[str, int]]:
    """For each date of the window, the sites that have a census, and when it was written."""
    first = window.first_of(window.capture_date)
    written: dict[str, dict[str, int]] = {}
    for key, written_us in store.written("census"):
        is_chosen = not window.sites or key.site in window.sites
        if first <= key.capture_date <= window.capture_date and is_chosen:
            written.setdefault(key.capture_date, {})[key.site] = written_us
    return written


@dataclass
class _Step:
    spark: Session
    store: Store
    window: Window
    settings: config.Census
    pseudonyms: Pseudonyms | None
    written: dict[str, dict[str, int]]
    said: GroupNames
    history: History = field(init=False)

    def __post_init__(self) -> None:
        self.history = History(self.store, self.window.name)

    @property
    def fingerprint(self) -> str | None:
        return self.pseudonyms.fingerprint if self.pseudonyms else None

    def expected(self, capture_date: str) -> list[str]:
        """The sites that the network should have on a date, sorted: on the last those that were given. On a date that
        was summed before, those that it had then, and others that have a census now; otherwise those with a census on
        that date or earlier in the window: a site that is new is not missing before."""
        is_last = capture_date == self.window.capture_date
        if is_last and self.window.sites:
            return sorted(self.window.sites)
        stored = None if is_last else self._stored(capture_date)
        if stored is not None:
            before = stored_sites(self.store, stored)["site"].to_pylist()
            return sorted({*before, *self.written.get(capture_date, ())})
        return sorted({site for each, sites in self.written.items() if each <= capture_date for site in sites})

    def is_current(self, capture_date: str) -> bool:
        """Whether the date is summed from the censuses that are in the store now."""
        stored = self._stored(capture_date)
        return stored is not None and stored.metadata.get("inputs") == self._inputs(
            capture_date, self._identities(capture_date, stored), self._before(capture_date)
        )

    def sum_date(self, capture_date: str) -> None:
        """Sum the censuses of one date and write its partition."""
        written = self.written.get(capture_date, {})
        sites = read_sites(self.spark, self.store, capture_date, self.expected(capture_date), written)
        before = self._before(capture_date)
        groups = self._groups(sites, capture_date, before)
        names: dict[str, dict[str, str]] = {site: {} for site in self._joined(sites)}
        for (site, own), name in groups.names.items():
            if site in names:
                names[site][own] = name
        present = {site: each.totals for site, each in sites.items() if each.row["state"] != MISSING}
        rows = network_rows(present, names)
        of_sites = pa.Table.from_pylist([each.row for each in sites.values()], schema=NETWORK_SITES.arrow_schema())
        metadata = self._metadata(capture_date, rows, of_sites, groups, before)
        self._write(capture_date, rows, of_sites, groups, metadata)

    def _write(
        self, capture_date: str, rows: pa.Table, sites: pa.Table, groups: NetworkGroups, metadata: dict[str, Any]
    ) -> None:
        key = self.window.key(capture_date)
        page = Page(
            metadata={**key, **metadata},
            rows=rows,
            sites=sites,
            groups=groups.groups,
            history=[
                *(
                    each
                    for each in self.history.of_window(self.window.first_of(capture_date), capture_date)
                    if each.capture_date != capture_date
                ),
                DateTotals(capture_date, rows.filter(pc.is_null(rows["site"])), metadata),
            ],
            before={days: found for days in COMPARED_DAYS if (found := self.history.before(capture_date, days))},
            links=self._links(key, sites),
        )
        with self.store.write("network", key, NETWORK.version) as staged:
            write_tables(staged, rows, sites, groups, self.pseudonyms)
            staged.write_text(CSV, render_table_csv(rows))
            staged.write_text(SITES_CSV, render_table_csv(text_columns(sites)))
            staged.write_text(GROUPS_CSV, render_table_csv(text_columns(groups.groups)))
            staged.write_text(PAGE, render_page(page))
            staged.metadata.update(metadata)
        self.history.add(capture_date, rows, metadata)

    def _links(self, key: PartitionKey, sites: pa.Table) -> dict[str, str]:
        """Relative addresses of the pages of sites that have a census."""
        links: dict[str, str] = {}
        for site, state in zip(sites["site"].to_pylist(), sites["state"].to_pylist(), strict=True):
            target = ("census", PartitionKey.of_date(site, key.capture_date))
            link = self.store.link(("network", key), target, SITE_PAGE) if state != MISSING else None
            links |= {site: link} if link else {}
        return links

    def _groups(
        self, sites: Mapping[str, SiteCensus], capture_date: str, before: Partition[Network] | None
    ) -> NetworkGroups:
        """The network's groups, from those of sites with the same key."""
        joined = self._joined(sites)
        items = Items.of(
            (site, self._site_groups(site, each, capture_date), each.counts) for site, each in joined.items()
        )
        later = [each for each in self.history.dates if each >= capture_date]
        known = sorted({*later[-1:], capture_date} & {*later})
        groups = join_groups(
            items,
            stored_network_groups(self.store, before, self.pseudonyms),
            [stored_network_groups(self.store, self._stored(each), self.pseudonyms) for each in known],
            date.fromisoformat(capture_date),
            Rules(MIN_SIMILARITY, self.settings.remember_days, self.said.split_everywhere(capture_date)),
        )
        return groups if self.pseudonyms is None else without_rhythm(groups)

    def _joined(self, sites: Mapping[str, SiteCensus]) -> dict[str, SiteCensus]:
        """The sites whose groups were made under this step's key, or without one as this step."""
        return {
            site: each
            for site, each in sites.items()
            if each.row["state"] != MISSING and each.row["key_fingerprint"] == self.fingerprint
        }

    def _site_groups(self, site: str, census: SiteCensus, capture_date: str) -> pa.Table:
        if self.pseudonyms is None or not len(census.counts):
            return census.groups
        found = self.store.open("census", PartitionKey.of_date(site, capture_date))
        return stored_groups(self.store, found, self.pseudonyms)

    def _metadata(
        self,
        capture_date: str,
        rows: pa.Table,
        sites: pa.Table,
        groups: NetworkGroups,
        before: Partition[Network] | None,
    ) -> dict[str, Any]:
        states = Counter(sites["state"].to_pylist())
        of_all = rows.filter(pc.is_null(rows["site"]))
        found = {(row["level"], row["item"]): row["found"] for row in of_all.to_pylist()}
        keys = zip(sites["state"].to_pylist(), sites["key_fingerprint"].to_pylist(), strict=True)
        identities = dict(zip(sites["site"].to_pylist(), sites["identity"].to_pylist(), strict=True))
        present = pc.sum(pc.greater(groups.groups["addresses"], 0)).as_py() or 0
        return {
            "rows": len(rows),
            "sites": {state: states[state] for state in STATES},
            "addresses": pc.sum(sites["addresses"]).as_py() or 0,
            "status": {item: count for (level, item), count in found.items() if level == "status"},
            "watched": pc.sum(sites["watched"]).as_py() or 0,
            "groups": present,
            "undecided": pc.sum(sites["undecided"]).as_py() or 0,
            "unexplained": _mean(sites, "unexplained"),
            "models": sorted({version for version in sites["model_version"].to_pylist() if version is not None}),
            "inputs": self._inputs(capture_date, identities, before),
            "groups_hash": hash_of(groups, self.pseudonyms),
            "before": before.key.capture_date if before else None,
            "key_fingerprint": self.fingerprint,
            "not_joined": sum(state != MISSING and key != self.fingerprint for state, key in keys),
        }

    def _identities(self, capture_date: str, stored: Partition[Network]) -> dict[str, str | None]:
        """Of each site that the network should have, the identity of its census in the store; None without one.

        A census that was not written since it was summed is not opened.
        """
        table = stored_sites(self.store, stored)
        columns = (table[name].to_pylist() for name in ("site", "identity", "written_us"))
        summed = {site: (identity, written_us) for site, identity, written_us in zip(*columns, strict=True)}
        written = self.written.get(capture_date, {})
        identities = {}
        for site in self.expected(capture_date):
            identity, written_us = summed.get(site, (None, None))
            is_same = written.get(site) == written_us
            identities[site] = identity if is_same else self._identity(site, capture_date)
        return identities

    def _identity(self, site: str, capture_date: str) -> str | None:
        key = PartitionKey.of_date(site, capture_date)
        try:
            return identity_of(self.store.open("census", key)) if self.store.exists("census", key) else None
        except DataError:
            return None

    def _inputs(
        self, capture_date: str, identities: Mapping[str, str | None], before: Partition[Network] | None
    ) -> str:
        """Hash of all that a date's rows are made from."""
        earlier = [before.key.capture_date, before.metadata.get("groups_hash")] if before else None
        split = sorted(self.said.split_everywhere(capture_date))
        text = json.dumps([NETWORK.version, sorted(identities.items()), earlier, self.fingerprint, split])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _before(self, capture_date: str) -> Partition[Network] | None:
        earlier = [each for each in self.history.dates if each < capture_date]
        return self._stored(earlier[-1]) if earlier else None

    def _stored(self, capture_date: str) -> Partition[Network] | None:
        key = self.window.key(capture_date)
        return self.store.open("network", key) if self.store.exists("network", key) else None


def _mean(sites: pa.Table, name: str) -> float:
    """The mean over all addresses of what the sites have as means."""
    addresses = sites["addresses"].to_numpy()
    total = int(addresses.sum())
    return round(float(addresses @ sites[name].to_numpy()) / total, 6) if total else 0.0
