"""Take the census of one night and write it as a whole partition, with a page and a CSV beside it."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from iotid import config
from iotid.arrow import one_chunk
from iotid.census.changes import ABSENT, CHANGES, compare, name_of
from iotid.census.groups import NO_GROUPS, check_groups, with_new
from iotid.census.identify import names_of_kinds, watched
from iotid.census.left_out import OTHER_PROTOCOL, flows_by_reason, hide
from iotid.census.marks import MARKS
from iotid.census.microaggregation import aggregate
from iotid.census.pseudonyms import Pseudonyms, read_pseudonyms
from iotid.census.report import render_csv, render_groups_csv, render_left_out_csv, render_page
from iotid.census.score import Scored, score_night, ship_model
from iotid.errors import AccountingError, DataError, NoModelError, WatchError
from iotid.labels.devices import merged_name
from iotid.labels.names import warn_of_unmet
from iotid.model.device import STATUSES
from iotid.partitions import Partition, PartitionKey, Staged, Store
from iotid.schemas import CENSUS, GROUPS
from iotid.schemas.metadata import remedy
from iotid.storage import as_schema, read_table, reading
from iotid.tracking.versions import CHALLENGER, CHAMPION, ModelVersion, Registry

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


# names that Spark and pyarrow take for no data
PAGE, CSV = "_census.html", "_census.csv"
GROUPS_FILE, GROUPS_CSV = "_groups.parquet", "_groups.csv"
LEFT_OUT_FILE, LEFT_OUT_CSV = "_left_out.parquet", "_left_out.csv"
_OF_EVERY_VERSION = ("device_id", "status", "label", "vendor", "type", "confidence")
GROUPS_SEALED = "_groups.sealed"  # the same with pseudonyms: payload lengths tell a device that is a group of its own
# how the census before was brought to this one's model and settings
AS_IT_WAS, SCORED_AGAIN, NOT_COMPARED = "as it was", "scored again", "labels not compared"
# or why it was not: devices bear other identifiers there, clear ones or those of another key
NOT_JOINABLE = "not joinable"
_GROUPS_SINCE = 3  # version of CENSUS


def take_census(
    spark: SparkSession,
    store: Store,
    site: str,
    capture_date: str,
    predictor_folder: Path,
    model_version: str,
    settings: config.Census,
    watchlist: config.Watchlist,
    *,
    model_date: str | None = None,
    model_quality: str | None = None,
) -> Partition:
    """Name every device of one site's night, compare with the site's latest census before it, and write both.

    Reads the partition of ``flows`` and, where there is one, the ``census`` of the latest earlier night. If that was
    made by another model or other settings, the earlier night's flows are scored again, so that only the network's
    changes are called changes; if those flows are gone, labels are not compared. ``model_date`` and
    ``model_quality`` are for the page.

    With ``census.pseudonyms``, no MAC and no address is written as it is, and numbers are those of all devices of the
    same kinds (`microaggregation`). A census before whose identifiers were not made with the same key cannot be joined
    with this one: then every device is there for the first time.

    Returns:
        The partition of ``census``: rows of schemas.CENSUS in Parquet, ``_census.csv`` and ``_census.html``; and the
        groups of unknown devices, schemas.GROUPS in ``_groups.parquet`` and one line for each in ``_groups.csv``. With
        pseudonyms the former is ``_groups.sealed``, encrypted. What is in no row is in ``_left_out.parquet``
        (schemas.LEFT_OUT) and ``_left_out.csv``.

    Raises:
        PartitionError: the night's flows are absent.
        DataError: the night's flows were made by other settings than the model can read.
        SettingError: ``census.inside`` lists what is not a network; pseudonyms are on and there is no key.
        AccountingError: flows of the partition are neither scored nor counted under a reason.
    """
    pseudonyms = read_pseudonyms(settings)
    fingerprint = pseudonyms.fingerprint if pseudonyms else None
    keys = PartitionKey.of_date(site, capture_date)
    night = store.open("flows", keys)
    model, encoding = ship_model(spark, Path(predictor_folder))
    if misfit := encoding.misfit(night.metadata["settings"]["flow"]):
        raise DataError(f"census: {night.uri} {misfit}; assemble this night's flows as those that the model learned")
    warn_of_unmet(watchlist, {label: encoding.devices.get(label, {}) for label in encoding.labels}, "the model")
    settings_hash = config.settings_hash(settings)
    made_with = {
        "model_version": model_version,
        "settings_hash": pseudonyms.word(settings_hash) if pseudonyms else settings_hash,  # it is one of the networks
    }

    def rows_of(flows: Partition, groups: pa.Table) -> Scored:
        """The devices with ``watched``."""
        scored = score_night(spark, flows, model, encoding, settings, groups)
        _account_for_all(flows, scored)
        devices = scored.devices.append_column("watched", watched(scored.devices, watchlist))
        if pseudonyms is None:
            return replace(scored, devices=devices)
        devices = pseudonyms.rename_groups(pseudonyms.rename(aggregate(devices)), groups)
        return replace(scored, devices=devices, groups=pseudonyms.rename_groups(scored.groups, groups).sort_by("group"))

    earlier = _latest_before(store, keys)
    is_joinable = earlier is not None and earlier.metadata.get("key_fingerprint") == fingerprint
    scored = rows_of(night, _stored_groups(store, earlier, pseudonyms) if earlier and is_joinable else NO_GROUPS)
    groups, before, how = scored.groups, None, NOT_JOINABLE
    if earlier and is_joinable:
        before, how = _stored_rows(earlier), AS_IT_WAS
        if any(earlier.metadata[name] != value for name, value in made_with.items()):
            how = NOT_COMPARED
            flows = store.open("flows", earlier.key) if store.exists("flows", earlier.key) else None
            if flows and not encoding.misfit(flows.metadata["settings"]["flow"]):
                again = rows_of(flows, groups)
                before, how, groups = _renewed(before, again.devices), SCORED_AGAIN, with_new(groups, again.groups)
    census = compare(scored.devices, before, comparable=how != NOT_COMPARED, remember_days=settings.remember_days)
    groups = groups.filter(pc.is_in(groups["group"], value_set=census["group"].combine_chunks()))
    metadata = {
        **made_with,
        "key_fingerprint": fingerprint,
        "model_date": model_date,
        "model_quality": model_quality,
        "compared_with": {"capture_date": earlier.key.capture_date, "how": how} if earlier else None,
        "packets": night.metadata["packets"],
        **_counts(census, scored),
    }
    left_out = hide(scored.left_out, pseudonyms) if pseudonyms else scored.left_out
    with store.write("census", keys, CENSUS.version) as staged:
        pq.write_table(census, f"{staged.path}/part-0.parquet", filesystem=staged.filesystem)
        _write_groups(staged, groups, pseudonyms)
        staged.write_text(CSV, render_csv(census))
        staged.write_text(GROUPS_CSV, render_groups_csv(census, groups))
        pq.write_table(left_out, f"{staged.path}/{LEFT_OUT_FILE}", filesystem=staged.filesystem)
        staged.write_text(LEFT_OUT_CSV, render_left_out_csv(left_out))
        staged.write_text(PAGE, render_page(census, groups, left_out, {**keys, **metadata}, settings.page_rows))
        staged.metadata.update(metadata)
    return store.open("census", keys)


def champion_of(registry: Registry) -> ModelVersion:
    """The version that names devices.

    Raises:
        NoModelError: there is none; says so where a challenger was refused.
    """
    try:
        return registry.version_of(CHAMPION)
    except NoModelError:
        challenger = registry.find_version(CHALLENGER)
        tags = challenger.tags if challenger is not None else {}
        sentences = re.split(r"(?=\b(?:Passed|Refused): )", tags.get("decision", ""))
        refused = " ".join(each.strip() for each in sentences if each.startswith("Refused"))
        if not refused or challenger is None:
            raise
        raise NoModelError(
            f"census: no model serves yet, because promotion refused version {challenger.number}. {refused} Learn from "
            "more captures, or change the rule named in brackets (conf/promotion.yaml); then iotid promote --dataset "
            f"{tags.get('decided_on', 'NAME')}, and the census again"
        ) from None


def check_watchlist(census: Partition, watchlist: config.Watchlist) -> None:
    """Raises WatchError where the census met a watched device and the watch list asks for it."""
    if watchlist.fail and census.metadata["watched"]:
        met = ", ".join(f"{count:,} {label}" for label, count in census.metadata["watched_labels"].items())
        raise WatchError(
            f"watchlist: the census of {census.key.site}, {census.key.capture_date}, is written; "
            f"watched devices: {census.metadata['watched']:,} ({met}); see {census.uri}/{PAGE}, and set "
            "watchlist.fail=false to end without an error"
        )


def _account_for_all(flows: Partition, scored: Scored) -> None:
    if scored.flows != flows.metadata["rows"]:
        left_out = ", ".join(f"{count} {reason}" for reason, count in flows_by_reason(scored.left_out).items())
        raise AccountingError(
            f"census: {flows.uri} promises {flows.metadata['rows']} flows, but {scored.flows_of_devices} were scored "
            f"and left out are {left_out or 'none'}, together {scored.flows}; run iotid assemble-flows for "
            "this night again"
        )


def _latest_before(store: Store, key: PartitionKey) -> Partition | None:
    nights = [found for found in store.partitions("census") if found.site == key.site]
    dates = [found.capture_date for found in nights if found.capture_date < key.capture_date]
    return store.open("census", PartitionKey.of_date(key.site, max(dates))) if dates else None


def _stored_rows(census: Partition) -> pa.Table:
    """The rows of a census, with nothing in the columns that it lacks."""
    schema = CENSUS.arrow_schema(stored=True)
    if census.metadata["schema_version"] == CENSUS.version:
        return read_table(census.uri, schema, remedy("census"))
    with reading(census.uri, remedy("census")):
        return _of_earlier_version(pq.read_table(census.uri, partitioning=None), schema)


def _of_earlier_version(found: pa.Table, schema: pa.Schema) -> pa.Table:
    """Before version 5 nothing was marked. Before version 4 kinds were listed only where there were several, and
    ``known`` ones stood in their row alone."""
    found.select(_OF_EVERY_VERSION)  # raises a KeyError where one is missing
    given = {"marks": pa.array([[]] * len(found), schema.field("marks").type)}
    if "kinds" not in found.column_names:
        given |= _of_version_3(found, schema)
    columns = [given[name] if name in given else _column_of(found, schema.field(name)) for name in schema.names]
    return pa.table(columns, schema=schema)


def _of_version_3(found: pa.Table, schema: pa.Schema) -> dict[str, pa.Array]:
    kind = schema.field("kinds").type
    rows = found.select(["label", "vendor", "type", "confidence"]).to_pylist()
    several = found["several"].to_pylist() if "several" in found.column_names else [[]] * len(found)
    listed = [
        [{**one, "flows": 0, "units": 1} for one in (kinds or [row])] if kinds or row["label"] is not None else []
        for row, kinds in zip(rows, several, strict=True)
    ]
    for one in (one for kinds in listed for one in kinds):
        one["kind"] = merged_name(one["label"] or "", one) or one["label"]
    return {
        "kinds": pa.array(listed, kind),
        "unexplained": pa.array(np.zeros(len(found))),
        "household": pa.array(np.zeros(len(found))),
        "reason": pa.array(["Made by an earlier version."] * len(found), pa.string()),
        "new_kinds": pa.array([[]] * len(found), schema.field("new_kinds").type),
    }


def _column_of(found: pa.Table, field: pa.Field) -> pa.ChunkedArray | pa.Array:
    return found[field.name].cast(field.type) if field.name in found.column_names else pa.nulls(len(found), field.type)


def _write_groups(staged: Staged, groups: pa.Table, pseudonyms: Pseudonyms | None) -> None:
    content = pa.BufferOutputStream()
    pq.write_table(groups, content)
    whole = content.getvalue().to_pybytes()
    if pseudonyms:
        staged.write_bytes(GROUPS_SEALED, pseudonyms.seal(whole))
    else:
        staged.write_bytes(GROUPS_FILE, whole)


def _stored_groups(store: Store, census: Partition, pseudonyms: Pseudonyms | None) -> pa.Table:
    if census.metadata["schema_version"] < _GROUPS_SINCE:
        return NO_GROUPS
    if pseudonyms is None:
        content = store.read_bytes(census, GROUPS_FILE)
    else:
        try:
            content = pseudonyms.unseal(store.read_bytes(census, GROUPS_SEALED))
        except FileNotFoundError:  # an earlier version sealed none, and the names of its groups were no pseudonyms
            return NO_GROUPS
    with reading(f"{census.uri}/{GROUPS_FILE}", remedy("census")):
        return check_groups(as_schema(pq.read_table(pa.BufferReader(content)), GROUPS.arrow_schema()))


def _renewed(stored: pa.Table, present: pa.Table) -> pa.Table:
    """The stored census with the devices of its night as they are named now; those that were absent stay so."""
    absent = stored.filter(pc.is_in(stored["change"], value_set=pa.array(ABSENT)))
    absent = absent.filter(pc.invert(pc.is_in(absent["device_id"], value_set=present["device_id"])))
    # whether they had changed on that night matters no more, only that they were there
    return pa.concat_tables([compare(present, None, comparable=True, remember_days=1), absent])


def _counts(census: pa.Table, scored: Scored) -> dict[str, Any]:
    present = census.filter(pc.invert(pc.is_in(census["change"], value_set=pa.array(ABSENT))))
    status, changes = Counter(present["status"].to_pylist()), Counter(census["change"].to_pylist())
    labels = Counter(names_of_kinds(one_chunk(present["kinds"]).flatten()).to_pylist())
    marks = Counter(one_chunk(present["marks"]).flatten().to_pylist())
    without_device = flows_by_reason(scored.left_out)
    watched_labels = Counter(name_of(census.filter(census["watched"])).to_pylist())
    return {
        "rows": census.num_rows,
        "devices": present.num_rows,
        "status": {name: status[name] for name in STATUSES},
        "labels": dict(sorted(labels.items())),
        "changes": {name: changes[name] for name in CHANGES},
        "groups": len(pc.unique(present["group"].drop_null())),
        "marks": {mark: marks[mark] for mark in MARKS},
        "watched": watched_labels.total(),
        "watched_labels": dict(sorted(watched_labels.items())),
        "flows": scored.flows,
        "flows_of_devices": scored.flows_of_devices,
        "flows_of_other_protocols": without_device.pop(OTHER_PROTOCOL, 0),
        "flows_without_device": without_device,
        "flows_of_other_dates": scored.flows_of_other_dates,
    }
