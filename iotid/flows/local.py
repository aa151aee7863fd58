"""Flows of captures on one machine, without Spark or a JVM."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, datetime
from itertools import groupby
from pathlib import Path

import numpy as np
import pyarrow as pa

from iotid import config, schemas
from iotid.capture.counters import Counters
from iotid.capture.file_split import FileSplit
from iotid.capture.packets import column_of, strings_of
from iotid.capture.splits.discovery import find_captures
from iotid.capture.splits.overlaps import FirstPackets
from iotid.capture.splits.plan import last_splits, num_bytes, split_captures, splits_before
from iotid.capture.threads import cores, in_threads
from iotid.errors import AccountingError, InputError, short_repr
from iotid.flows.as_table import LENGTH_KEY
from iotid.flows.dates import DAY_US
from iotid.flows.merge import merge, separate_unique_keys
from iotid.flows.partial import Partials
from iotid.flows.read import TaskSplits, read_intervals, read_partials
from iotid.flows.table import FlowSelection, table_in_time_order
from iotid.inputs import check_type, locations_of

Location = str | Path

_TABLE_CHUNKS = 16  # of chunk_bytes: size of a table of partial flows at which another is begun
_TABLE_BYTES = 1 << 35  # ... and at most: fewer than 2^31 first packets, whose rows are int32

_EPOCH = date(1970, 1, 1)


def from_captures(
    paths: Location | Iterable[Location],
    *,
    max_packets: int = 32,
    idle_timeout_s: float | None = None,
    active_timeout_s: float | None = None,
    tcp_close: bool = True,
    length: str = "ip",
    join_files: bool = True,
    keep_bytes: int = 0,
    keep_packets: int = 10,
    header_fields: bool = False,
    site: str = "local",
    capture_date: date | str | None = None,
    capture: config.Capture | None = None,
) -> pa.Table:
    """schemas.FLOWS of captures, ordered by first packet: time, then file, then offset.

    ``paths``: capture files, folders or URIs; one, or any iterable of them. ``capture_date``: a date or 2026-01-31; by
    default the UTC date of the earliest packet. ``keep_bytes``: bytes of each of a flow's first ``keep_packets``
    packets in the column ``first_bytes``; 0: none. ``header_fields``: whether the columns from ``ttl`` to
    ``timestamp_rate`` have values. ``iotid.capture.counters(table)`` returns how many packets are in flows, and the
    others by reason.

    Raises:
        InputError: no path is given; one is missing or holds no capture; an argument is of another type.
        SettingError: a setting is out of its range.
    """
    locations = locations_of(paths)
    check_type("site", site, str, "the site's name")
    values = {
        "max_packets": max_packets,
        "idle_timeout_s": idle_timeout_s,
        "active_timeout_s": active_timeout_s,
        "tcp_close": tcp_close,
        "length": length,
        "join_files": join_files,
        "keep_bytes": keep_bytes,
        "keep_packets": keep_packets,
        "header_fields": header_fields,
    }
    settings = config.load_settings()
    plain = {key: value.item() if isinstance(value, np.generic) else value for key, value in values.items()}
    flow = config.with_values(settings.flow, **plain)
    if capture is not None:
        check_type("capture", capture, config.Capture, "iotid.config.load_settings().capture")
    return read_captures(locations, flow, capture or settings.capture, site, _date_of(capture_date))


def _date_of(given: object) -> date | None:
    if isinstance(given, datetime):
        return given.date()
    if given is None or isinstance(given, date):
        return given
    try:
        return date.fromisoformat(given)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise InputError(f"capture_date: must be a date, got {short_repr(given)}; pass '2026-01-31'") from None


def read_captures(
    locations: Iterable[str],
    flow: config.Flow,
    capture: config.Capture,
    site: str = "local",
    capture_date: date | None = None,
) -> pa.Table:
    """As `from_captures`, with sections of settings."""
    captures, _, quarantined, _ = find_captures(locations, capture.unreadable)
    selections, counters = _assemble(captures, capture, flow)
    for path, why in quarantined.items():
        counters.quarantine(path, 0, 0, why)
    in_flows = sum(int(flows.packets[rows].sum()) for flows, rows in selections)
    check_accounting(in_flows, counters.packets("flow"))
    table = table_in_time_order(selections, strings_of([found.path for found in captures]), flow)
    zeros = np.zeros(len(table), np.int32)
    day = (capture_date - _EPOCH).days if capture_date else 0
    if capture_date is None and len(table):  # the table is in time order; as_py() would import pandas
        day = table["first_seen"][0].value // DAY_US
    table = table.add_column(0, "site", strings_of([site]).take(column_of(zeros, pa.int32())))
    table = table.add_column(1, "capture_date", column_of(zeros + np.int32(day), pa.date32()))
    flows = counters.attach(table.cast(schemas.FLOWS.arrow_schema()))
    return flows.replace_schema_metadata({**(flows.schema.metadata or {}), LENGTH_KEY: flow.length.encode()})


def check_accounting(in_flows: int, counted: int) -> None:
    """Raise an AccountingError unless as many packets are in flows as the decoder counted for them."""
    if in_flows != counted:
        raise AccountingError(
            f"flows: {counted} packets were decoded for flows, {in_flows} are in them; the captures changed while they "
            "were read, or this is a bug: run the step again, and report this if it happens again"
        )


def _split_evenly(splits: list[FileSplit], capture: config.Capture) -> list[list[FileSplit]]:
    """Consecutive splits for each core, about equally many bytes; fewer if these are less than ``task_bytes`` each."""
    sizes = np.array([num_bytes(split) for split in splits], np.int64)
    total = max(int(sizes.sum()), 1)
    tasks = max(min(cores(), -(-total // capture.task_bytes)), 1)
    middle = np.cumsum(sizes) - sizes // 2
    task_of = (middle * tasks // (total + 1)).tolist()
    return [[splits[index] for index in group] for _, group in groupby(range(len(splits)), key=task_of.__getitem__)]


def _assemble(
    captures: list[FileSplit], capture: config.Capture, flow: config.Flow
) -> tuple[list[FlowSelection], Counters]:
    """The flows, and the counters of all packets."""
    # cut no more than this machine needs: each cut takes a walk through the records before it
    share = -(-sum(found.file_bytes for found in captures) // cores())
    plan = split_captures(
        captures, capture.model_copy(update={"split_bytes": max(capture.split_bytes, share)}), walk_last=False
    )
    splits = plan.splits
    last_of = last_splits(splits)
    firsts = FirstPackets((split.file_index, split.first_packet) for split in splits)
    of_task = [
        TaskSplits(own, splits_before(last_of, own[0], capture) if flow.join_files else None, firsts)
        for own in _split_evenly(splits, capture)
    ]
    # flows that continue through all splits of a task need not be merged; nothing is held that is not handed out
    table_bytes = min(_TABLE_CHUNKS * capture.chunk_bytes, _TABLE_BYTES)

    def read(task: int) -> tuple[list[Partials], Counters]:
        counted = Counters()
        return list(read_partials(of_task[task], task, capture, flow, counted, table_bytes, in_order=False)), counted

    counters = Counters()
    for path, why in plan.unreadable.items():
        counters.quarantine(path, 0, 0, why)
    parts = []
    for partials, counted in in_threads(read, range(len(of_task)), len(of_task)):
        parts += partials
        counters.merge(counted)
    counters.log_overlaps()
    unique, others = separate_unique_keys(parts)
    merged = merge(others, flow)
    reread = [
        part
        for task in np.unique(merged.unresolved.task)
        for part in read_intervals(of_task[task], merged.unresolved, capture, flow, Counters())
    ]
    rest = Partials.concat([merged.flows, merge(Partials.concat(reread), flow).flows])
    return [
        FlowSelection(part, rows) for part, rows in zip([*parts, rest], [*unique, np.arange(len(rest))], strict=True)
    ], counters
