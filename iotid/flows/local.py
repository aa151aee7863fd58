"""Flows of captures on one machine, without Spark or a JVM."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from iotid import config, schemas
from iotid.capture import list_captures, split_capture
from iotid.capture.counters import Counters
from iotid.errors import AccountingError
from iotid.flows.kernels import FIRST
from iotid.flows.merge import merge
from iotid.flows.partial import Partials
from iotid.flows.read import read_partials, read_stretches
from iotid.flows.table import flow_table

Location = str | Path


def from_captures(
    paths: Location | Iterable[Location],
    *,
    max_packets: int = 32,
    idle_timeout_s: float | None = None,
    active_timeout_s: float | None = None,
    tcp_close: bool = True,
    length: str = "ip",
    join_files: bool = True,
    site: str = "local",
    capture_date: date | None = None,
    capture: config.Capture | None = None,
) -> pa.Table:
    """schemas.FLOWS of captures, ordered by first packet: time, then file, then offset.

    ``paths``: capture files, folders or URIs. ``capture_date``: the UTC date of the earliest packet unless given.
    The count of every packet comes along: ``iotid.capture.counters(table)`` reads it.

    Raises:
        InputError: a path is missing or holds no capture.
        SettingError: a setting is out of its range.
    """
    values = {
        "max_packets": max_packets,
        "idle_timeout_s": idle_timeout_s,
        "active_timeout_s": active_timeout_s,
        "tcp_close": tcp_close,
        "length": length,
        "join_files": join_files,
    }
    overrides = [f"flow.{key}={json.dumps(value)}" for key, value in values.items()]
    settings = config.load_settings(overrides=overrides)
    locations = [paths] if isinstance(paths, Location) else paths
    captures = sorted({found for location in locations for found in list_captures(str(location))})
    flows, counters = _assemble(captures, capture or settings.capture, settings.flow)
    check_accounting(int(flows.packets.sum()), counters.packets("flow"))
    table = flow_table(flows, pa.array(captures, pa.string()))
    if capture_date is None and len(table):
        capture_date = pc.min(table["first_seen"]).as_py().date()
    table = table.add_column(0, "site", pa.array([site] * len(table), pa.string()))
    table = table.add_column(1, "capture_date", pa.array([capture_date] * len(table), pa.date32()))
    return counters.attach(table.cast(schemas.FLOWS.arrow_schema()))


def check_accounting(in_flows: int, counted: int) -> None:
    """Raise an AccountingError unless as many packets are in flows as the decoder counted for them."""
    if in_flows != counted:
        raise AccountingError(
            f"flows: {counted} packets were decoded for flows, {in_flows} are in them; the captures changed while they "
            "were read, or this is a defect: run the step again, and report it if the numbers differ again"
        )


def _assemble(captures: list[str], capture: config.Capture, flow: config.Flow) -> tuple[Partials, Counters]:
    splits = [split for index, path in enumerate(captures) for split in split_capture(path, index, capture)]
    counters = Counters()
    parts = [
        part for task, split in enumerate(splits) for part in read_partials([split], task, capture, flow, counters)
    ]
    merged = merge(Partials.concat(parts), flow)
    again = [
        part
        for task in np.unique(merged.unresolved.task)
        for part in read_stretches([splits[task]], merged.unresolved, capture, flow, Counters())
    ]
    flows = Partials.concat([merged.flows, merge(Partials.concat(again), flow).flows])
    return flows.take(np.lexsort((flows.state[:, FIRST + 1], flows.state[:, FIRST]))), counters
