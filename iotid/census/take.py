"""Takes a census: identifies the devices of one partition of flows with the champion and writes rows, page and CSV."""

from __future__ import annotations

import logging
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

import iotid
from iotid import config
from iotid.arrow import content_hash, one_chunk
from iotid.census.changes import ABSENT, CHANGES, compare, joined_names, present, with_history, without_history
from iotid.census.export.rows import json_lines, with_keys
from iotid.census.groups import with_new_groups
from iotid.census.identify import names_of_kinds, watched
from iotid.census.known_groups import KnownGroups
from iotid.census.left_out import OTHER_PROTOCOL, flows_by_reason, pseudonymize
from iotid.census.listed import check_list
from iotid.census.macs import with_macs
from iotid.census.makers import Makers, read_makers
from iotid.census.marks import MARKS
from iotid.census.microaggregation import aggregate
from iotid.census.named import CENSUS_STATUSES, NAMED, with_names
from iotid.census.network.stored import PAGE as NETWORK_PAGE
from iotid.census.network.stored import rename
from iotid.census.pseudonyms import Pseudonyms, read_pseudonyms
from iotid.census.report import render_csv, render_groups_csv, render_left_out_csv, render_page
from iotid.census.score import score_partition
from iotid.census.scored import BroadcastModel, NoModel, Scored, broadcast_model
from iotid.census.split_groups import EarlierGroups
from iotid.census.stored import (
    CSV,
    GROUPS_CSV,
    JSON_LINES,
    LEFT_OUT_CSV,
    LEFT_OUT_FILE,
    PAGE,
    TOTALS_FILE,
    stored_rows,
    write_groups,
)
from iotid.census.totals import totals_of
from iotid.errors import AccountingError, DataError, WatchError
from iotid.evaluation.schema import REPORT_PAGE
from iotid.labels.names import warn_of_unmet
from iotid.model.device.decide import UNKNOWN
from iotid.partitions import ALL_SITES, Partition, PartitionKey, Store
from iotid.schemas import CENSUS, LEFT_OUT, TOTALS
from iotid.schemas.metadata import Census, Flows, Network
from iotid.spark.phases import set_phase
from iotid.tracking.versions import ModelVersion

if TYPE_CHECKING:
    from iotid.dataset.characteristics import Encoding
    from iotid.labels.devices import Device
    from iotid.spark.in_process import Session
    from iotid.tracking.versions import ModelVersion

# stored: how the earlier census was made comparable with the model and settings of this one
AS_IT_WAS, SCORED_AGAIN, NOT_COMPARED = "as it was", "scored again", "labels not compared"
# stored: not comparable, because its identifiers are not pseudonymised or have another key
NOT_JOINABLE = "not joinable"
_TCP_AND_UDP = (6, 17)
_log = logging.getLogger(__name__)


def take_census(
    spark: Session,
    store: Store,
    key: PartitionKey,
    champion: ModelVersion | None,
    bundle: Path | BroadcastModel | None,
    settings: config.Census,
    watchlist: config.Watchlist,
    protocols: Sequence[int] = _TCP_AND_UDP,
    listed: Sequence[Device] | None = None,
    *,
    unless_current: bool = False,
) -> Partition[Census]:
    """Identify every device of one site and capture date, compare with the site's latest earlier census, and write.

    Reads the partition of ``flows``, what persons said about groups (``group_names``) and, if there is one, the latest
    earlier ``census``, whose devices get the same names. Unknown groups have the names that the latest earlier census
    of the ``network`` gives them. If the earlier census was made with another model or other settings, its flows are
    scored again, so that only changes of the network count as changes; if those flows are gone, labels are not
    compared.

    ``bundle``: the folder of the champion's model, or what `broadcast_model` made of it. If there is no champion,
    both are None: all devices that have flows of ``protocols`` (IANA numbers) are unknown and grouped. The next
    census with a champion scores these flows, too, so that what the model knows does not count as changed.

    ``listed``: the entries of the operator's device list, with which the rows are compared; None: without one.

    ``unless_current``: keep the partition if nothing that it is made from has changed, and iotid's version has not.

    With ``census.pseudonyms``, no MAC and no address is written in clear, and devices with the same kinds share their
    numbers (`microaggregation`). An earlier census with identifiers of another key cannot be joined; then every
    device counts as first seen.

    Returns:
        The partition of ``census``: rows of schemas.CENSUS in Parquet, ``_census.csv``, ``_census.jsonl`` and
        ``_census.html``; and the groups of unknown devices, schemas.GROUPS in ``_groups.pq`` and one line for each in
        ``_groups.csv``. With pseudonyms the former is encrypted, ``_groups.sealed``. Flows without a row are in
        ``_left_out.pq`` (schemas.LEFT_OUT) and ``_left_out.csv``. Sums by kind, type, vendor and model are in
        ``_totals.pq`` (schemas.TOTALS).

    Raises:
        AbsentError: there is no partition of flows.
        DataError: the flows were assembled with settings that the model cannot read, or ``census.unlike_kind`` is on
            and the model has no held-out scores.
        SettingError: an entry of ``census.inside`` is not a network; pseudonyms are on without a key; a
            file of ``census.makers`` cannot be read.
        AccountingError: flows of the partition are neither scored nor counted under a reason.
    """
    pseudonyms = read_pseudonyms(settings)
    fingerprint = pseudonyms.fingerprint if pseudonyms else None
    flows = store.open("flows", key)
    model, encoding = _model(spark, bundle, protocols)
    if misfit := encoding.misfit(flows.metadata["settings"]["flow"]):
        raise DataError(
            f"census: {flows.uri} {misfit}; assemble these flows with the settings of the model's training flows"
        )
    settings_hash = config.settings_hash(settings)
    made_with = {
        "model_version": str(champion.number) if champion else None,
        "settings_hash": pseudonyms.digest(settings_hash)
        if pseudonyms
        else settings_hash,  # a plain hash would reveal the networks by guessing
    }
    earlier = _latest_before(store, key)
    joinable = earlier if earlier and earlier.metadata.get("key_fingerprint") == fingerprint else None
    known = KnownGroups.read(store, key, joinable, pseudonyms, settings.min_similarity)
    makers = read_makers(settings.makers)
    links, learned = _links(store, key, earlier, known.network, champion), _learned_from(store, champion, key)
    made_of = {
        "versions": [iotid.__version__, CENSUS.version],
        "model": [made_with["model_version"], champion and dict(champion.tags), learned],
        "key_fingerprint": fingerprint,
        "flows": flows.metadata,
        "protocols": list(protocols),
        "listed": None if listed is None else [repr(each) for each in listed],
        "makers": makers.source,
        "unlike_kind": settings.unlike_kind,
        "named": {name: repr(said) for name, said in known.named.items()},
        "split": sorted(known.split),
        "links": links,
        "earlier": earlier and [earlier.key, earlier.metadata],
        "network": known.network and [known.network.key, known.network.metadata],
    }
    inputs = config.settings_hash(settings, watchlist, extra=made_of)
    inputs = pseudonyms.digest(inputs) if pseudonyms else inputs
    if unless_current and store.exists("census", key):
        stored = store.open("census", key)
        if stored.metadata.get("inputs") == inputs:
            return stored
    _warn_of_watchlist(watchlist, encoding, known)
    scorer = _Scorer(spark, model, encoding, settings, watchlist, pseudonyms, makers, known)
    scored = scorer.score(flows, known.leaders)
    before, how, groups = _comparable(store, joinable, made_with, scorer, scored.groups)
    compared = compare(scored.devices, before, comparable=how != NOT_COMPARED, remember_days=settings.remember_days)
    if pseudonyms:  # they match no entry of a list, whose names would reveal them
        compared, listed = without_history(compared), None
    checked = check_list(compared, listed, key.capture_date)
    census = checked.census
    groups = groups.filter(pc.is_in(groups["group_name"], value_set=census["group_name"].combine_chunks()))
    left_out = pseudonymize(scored.left_out, pseudonyms) if pseudonyms else scored.left_out
    totals = totals_of(census, scored.expected, rounded=pseudonyms is not None)
    hashed = content_hash(totals, groups)
    metadata = {
        **made_with,
        "key_fingerprint": fingerprint,
        "model_date": champion.date if champion else None,
        "model_quality": champion.quality if champion else None,
        "device_quality": champion.device_quality if champion else None,
        "network_groups": dict(known.network.key) if known.network else {},
        "compared_with": {"capture_date": earlier.key.capture_date, "how": how} if earlier else None,
        "makers": None if pseudonyms else makers.source,
        "device_list": checked.counts,
        "learned_from_date": learned,
        "flows_by_date": flows.metadata.get("flows_by_date", {}),
        "packets": flows.metadata["packets"],
        "unreadable": flows.metadata.get("unreadable", 0),
        "content_hash": pseudonyms.digest(hashed) if pseudonyms else hashed,
        **_counts(census, scored),
        "inputs": inputs,
    }
    with store.write("census", key, CENSUS.version) as staged:
        pq.write_table(CENSUS.describe(census), f"{staged.path}/part-0.parquet", filesystem=staged.filesystem)
        pq.write_table(TOTALS.describe(totals), f"{staged.path}/{TOTALS_FILE}", filesystem=staged.filesystem)
        write_groups(staged, groups, pseudonyms)
        rows = with_keys(census, key.site, key.capture_date)
        staged.write_text(CSV, render_csv(rows))
        staged.write_text(JSON_LINES, "".join(json_lines(rows)))
        staged.write_text(GROUPS_CSV, render_groups_csv(census, groups))
        pq.write_table(LEFT_OUT.describe(left_out), f"{staged.path}/{LEFT_OUT_FILE}", filesystem=staged.filesystem)
        staged.write_text(LEFT_OUT_CSV, render_left_out_csv(left_out))
        shown = {
            **key,
            **metadata,
            "root": None if pseudonyms else shlex.quote(store.root),  # such a page is for others, elsewhere
            "links": links,
        }
        staged.write_text(PAGE, render_page(census, groups, left_out, shown, settings.page_rows))
        staged.metadata.update(metadata)
    return store.open("census", key)


def _model(
    spark: Session, bundle: Path | BroadcastModel | None, protocols: Sequence[int]
) -> tuple[BroadcastModel, Encoding] | tuple[None, NoModel]:
    if bundle is None:
        return None, NoModel(tuple(protocols))
    return (bundle, bundle.load().encoding) if isinstance(bundle, BroadcastModel) else broadcast_model(spark, bundle)


def _learned_from(store: Store, champion: ModelVersion | None, key: PartitionKey) -> bool | None:
    """Whether the model was trained on flows of this site and date; None if that is not known."""
    name = champion.tags.get("dataset") if champion else None
    if champion is None or name is None or not store.exists("datasets", PartitionKey.named(name)):
        return None
    dataset = store.open("datasets", PartitionKey.named(name)).metadata
    if dataset["hash"] != champion.tags.get("dataset_hash"):
        return None  # another dataset was written under this name since
    return dict(key) in dataset["nights"]


def _warn_of_watchlist(watchlist: config.Watchlist, encoding: Encoding | NoModel, groups: KnownGroups) -> None:
    """Log entries of the watch list that neither the model nor a person's name can meet."""
    learned = {label: encoding.devices.get(label, {}) for label in encoding.labels}
    said = {each.model: {"vendor": each.vendor, "type": each.type} for each in groups.named.values()}
    if learned or said:
        warn_of_unmet(watchlist, learned | said, "the model")
    elif watchlist.labels or watchlist.vendors or watchlist.types:
        _log.warning("watchlist: there is no model, so no device is identified that could be on it")


def check_watchlist(census: Partition[Census], watchlist: config.Watchlist) -> None:
    """Raises WatchError if the census has a watched device and ``watchlist.fail`` is set."""
    if watchlist.fail and census.metadata["watched"]:
        found = ", ".join(f"{count:,} {label}" for label, count in census.metadata["watched_labels"].items())
        raise WatchError(
            f"watchlist: the census of {census.key.site}, {census.key.capture_date}, is written; "
            f"watched devices: {census.metadata['watched']:,} ({found}); see {census.uri}/{PAGE}, and set "
            "watchlist.fail=false to end without an error"
        )


@dataclass(frozen=True)
class _Scorer:
    """Scores partitions of flows with one model, and applies the watch list, the pseudonyms and what persons said."""

    spark: Session
    model: BroadcastModel | None
    encoding: Encoding | NoModel
    settings: config.Census
    watchlist: config.Watchlist
    pseudonyms: Pseudonyms | None
    makers: Makers
    known: KnownGroups

    def score(self, flows: Partition[Flows], groups: pa.Table) -> Scored:
        """The devices of the flows, with ``watched``; ``groups`` (GROUPS): those of the earlier census."""
        set_phase(self.spark, "take-census", f"score the flows of {flows.key.title}")
        earlier = EarlierGroups(groups, self.known.split, self.known.named)
        scored = score_partition(self.spark, flows, self.model, self.encoding, self.settings, earlier)
        _account_for_all(flows, scored)
        vendors = [vendor for device in self.encoding.devices.values() if (vendor := device.get("vendor"))]
        devices = with_macs(scored.devices, self.makers, vendors)
        devices = devices.append_column("named_by", pa.nulls(len(devices), pa.string()))
        devices = devices.append_column("watched", watched(devices, self.watchlist))
        if self.pseudonyms is None:
            return replace(scored, devices=self.with_names(devices))
        devices = self.pseudonyms.rename_groups(self.pseudonyms.rename(aggregate(devices)), groups)
        renamed = self.pseudonyms.rename_groups(scored.groups, groups).sort_by("group_name")
        return replace(scored, devices=self.with_names(devices), groups=renamed)

    def with_names(self, devices: pa.Table) -> pa.Table:
        """The devices with the names of their groups, which are as stored, and ``watched`` by these, too."""
        devices = with_names(devices, self.known.named)
        is_named = pc.equal(devices["status"], NAMED)
        # not these alone: an address on the watch list may be a pseudonym by now
        hits = pc.or_(devices["watched"], pc.and_(is_named, watched(devices, self.watchlist)))
        at = devices.schema.get_field_index("watched")
        return devices.set_column(at, devices.schema.field(at), hits)


def _account_for_all(flows: Partition[Flows], scored: Scored) -> None:
    if scored.flows != flows.metadata["rows"]:
        left_out = ", ".join(f"{count} {reason}" for reason, count in flows_by_reason(scored.left_out).items())
        raise AccountingError(
            f"census: {flows.uri} has {flows.metadata['rows']} flows by its metadata, but {scored.flows_of_devices} "
            f"were scored and left out are {left_out or 'none'}, together {scored.flows}; run iotid assemble-flows for "
            f"{flows.key.site}, {flows.key.capture_date} again"
        )


def _latest_before(store: Store, key: PartitionKey) -> Partition[Census] | None:
    keys = [found for found in store.partitions("census") if found.site == key.site]
    dates = [found.capture_date for found in keys if found.capture_date < key.capture_date]
    return store.open("census", PartitionKey.of_date(key.site, max(dates))) if dates else None


def _links(
    store: Store,
    key: PartitionKey,
    earlier: Partition[Census] | None,
    network: Partition[Network] | None,
    champion: ModelVersion | None,
) -> dict[str, Any]:
    """Relative addresses, for the page, of pages of other partitions; null where there is none, or on an object store.

    ``after`` and ``network`` may not exist yet.
    """
    here = ("census", key)
    day_after = (date.fromisoformat(key.capture_date) + timedelta(days=1)).isoformat()
    after = PartitionKey.of_date(key.site, day_after)
    of_network = PartitionKey.of_network(network.key["name"] if network else ALL_SITES, key.capture_date)
    dataset = champion.tags.get("dataset") if champion else None
    report = PartitionKey.of_dataset(dataset) if dataset else None
    return {
        "before": store.link(here, ("census", earlier.key), PAGE) if earlier else None,
        "before_date": earlier.key.capture_date if earlier else None,
        "after": store.link(here, ("census", after), PAGE),
        "after_date": day_after,
        "network": store.link(here, ("network", of_network), NETWORK_PAGE),
        "report": store.link(here, ("reports", report), REPORT_PAGE)
        if report and store.exists("reports", report)
        else None,
    }


def _comparable(
    store: Store, earlier: Partition[Census] | None, made_with: dict[str, str | None], scorer: _Scorer, groups: pa.Table
) -> tuple[pa.Table | None, str, pa.Table]:
    """The rows of the earlier census, with findings of this model; how they were made; and ``groups`` with its
    groups."""
    if earlier is None:
        return None, NOT_JOINABLE, groups
    rows = scorer.with_names(rename(stored_rows(earlier), scorer.known.network_names))
    stored = earlier.metadata
    if made_with == {"model_version": stored["model_version"], "settings_hash": stored["settings_hash"]}:
        return rows, AS_IT_WAS, groups
    flows = store.open("flows", earlier.key) if store.exists("flows", earlier.key) else None
    if flows is None or scorer.encoding.misfit(flows.metadata["settings"]["flow"]):
        return rows, NOT_COMPARED, groups
    again = scorer.score(flows, groups)
    return _with_absent(again.devices, rows), SCORED_AGAIN, with_new_groups(groups, again.groups)


def _with_absent(present: pa.Table, stored: pa.Table) -> pa.Table:
    """The devices of an earlier capture date, scored again, and the absent devices that its census lists."""
    absent = stored.filter(pc.equal(stored["status"], ABSENT))
    absent = absent.filter(pc.invert(pc.is_in(absent["device_id"], value_set=present["device_id"])))
    # whether they had changed then is not used
    again = compare(present, None, comparable=True, remember_days=1)
    return pa.concat_tables([with_history(again, stored), absent])


def _counts(census: pa.Table, scored: Scored) -> dict[str, Any]:
    here = present(census)
    status, changes = Counter(here["status"].to_pylist()), Counter(census["change"].to_pylist())
    labels = Counter(names_of_kinds(one_chunk(here["kinds"]).flatten()).to_pylist())
    marks = Counter(one_chunk(here["marks"]).flatten().to_pylist())
    without_device = flows_by_reason(scored.left_out)
    watched_labels = Counter(pc.fill_null(joined_names(census.filter(census["watched"])), UNKNOWN).to_pylist())
    return {
        "rows": census.num_rows,
        "devices": here.num_rows,
        "status": {name: status[name] for name in CENSUS_STATUSES},
        "labels": dict(sorted(labels.items())),
        "changes": {name: changes[name] for name in CHANGES},
        "groups": len(pc.unique(here["group_name"].drop_null())),
        "marks": {mark: marks[mark] for mark in MARKS},
        "unexplained": round(pc.mean(here["unexplained"]).as_py() or 0.0, 6),
        "watched": watched_labels.total(),
        "watched_labels": dict(sorted(watched_labels.items())),
        "flows": scored.flows,
        "flows_of_devices": scored.flows_of_devices,
        "flows_of_other_protocols": without_device.pop(OTHER_PROTOCOL, 0),
        "flows_without_device": without_device,
        "flows_of_other_dates": scored.flows_of_other_dates,
    }
