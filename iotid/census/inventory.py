"""The devices in a table of flows, without Spark and without a store: the rows that a first census of it would have.

For captures that fit into memory. Everything is computed as on Spark (`score`, `tally`), with one exception: addresses
that several MACs use at the same time get no mark (`marks.ADDRESS_CONFLICT`).

Shape suffixes: N flows, D distinct sequences, P pairs of a device and a sequence.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from iotid import config
from iotid.arrow import one_chunk
from iotid.census.behaviour import PORT
from iotid.census.changes import compare
from iotid.census.group_columns import services_of
from iotid.census.groups import NO_GROUPS
from iotid.census.identify import watched
from iotid.census.macs import with_macs
from iotid.census.makers import read_makers
from iotid.census.score_in_process import COLUMNS, score_flows
from iotid.census.scored import NoModel
from iotid.census.split_groups import EarlierGroups
from iotid.errors import InputError
from iotid.flows.as_table import check_length, flows_of
from iotid.inputs import check_type

if TYPE_CHECKING:
    from iotid.model.bundle import FlowTable, Predictor


@dataclass(frozen=True)
class Inventory:
    """``devices``: stored columns of CENSUS, as of a first census, by device; ``services``: of each device, the ports
    with most flows, as "TCP 443"; ``groups``: GROUPS of the unknown devices; ``left_out``: LEFT_OUT."""

    devices: pa.Table
    services: list[list[str]]
    groups: pa.Table
    left_out: pa.Table

    def __repr__(self) -> str:
        statuses = sorted(Counter(self.devices["status"].to_pylist()).items())
        counts = ", ".join(f"{count} {status}" for status, count in statuses) or "none"
        left_out = sum(self.left_out["flows"].to_pylist())
        return f"Inventory(devices: {counts}; {len(self.groups)} groups; {left_out} flows left out)"


def devices(flows: FlowTable, model: Predictor | None = None, *, settings: config.Census | None = None) -> pa.Table:
    """The devices in these flows, a row for each, sorted by ``device_id``; needs no Spark, and no model.

    ``flows``: of one site, as `iotid.flows.from_captures` returns them, or in any form that ``model.predict`` takes.
    ``model`` names the devices; without one, all are unknown, and similar ones share a group. ``settings``: the section
    ``census``, by default that of conf/base.yaml.

    Returns the columns of schemas.CENSUS without site and date, as a first census has them, and ``services``, a list:
    the ports with most flows, as "TCP 443". Flows that belong to no device of the site are left out.

    Raises:
        InputError: an argument is of another type, or the flows are of several sites.
        SchemaError: a column is missing or of another type, a row cannot be a flow, or the model reads other lengths.
        DataError: the model has no device model.
    """
    base = config.load_settings()
    settings = base.census if settings is None else settings
    check_type("settings", settings, config.Census, "iotid.config.load_settings().census")
    max_packets, columns = 0, list(COLUMNS)
    if model is not None:
        from iotid.model.bundle import Predictor

        check_type("model", model, Predictor, "what iotid.tracking.load or iotid.model.Predictor.load returns")
        check_length(flows, model.encoding.length)
        max_packets, columns = model.encoding.max_packets, list(dict.fromkeys([*columns, *model.encoding.columns]))
    table = flows_of(flows, columns, max_packets, optional=["site"])
    if "site" in table.column_names and len(sites := pc.unique(table["site"])) > 1:
        raise InputError(
            f"flows: must be of one site, as sites use the same private addresses, got {len(sites)} sites; pass the "
            "flows of each alone"
        )
    found = take_inventory(table, settings, base.watchlist, base.dataset.protocols, model)
    return found.devices.append_column("services", pa.array(found.services, pa.list_(pa.string())))


def take_inventory(
    flows: pa.Table,
    settings: config.Census,
    watchlist: config.Watchlist,
    protocols: Sequence[int],
    predictor: Predictor | None = None,
) -> Inventory:
    """The devices of these flows (schemas.FLOWS), identified if there is a model, and the unknown ones in groups.

    ``protocols``: IANA numbers of the protocols whose flows belong to devices, if there is no ``predictor``, which has
    its own.

    Raises:
        SettingError: an entry of ``census.inside`` is not a network.
    """
    encoding = predictor.encoding if predictor else NoModel(tuple(protocols))
    found = score_flows(flows, predictor, encoding, settings, EarlierGroups(NO_GROUPS))
    devices = found.scored.devices
    known = predictor.encoding.devices.values() if predictor else ()
    vendors = [vendor for described in known if (vendor := described.get("vendor"))]
    devices = with_macs(devices, read_makers(settings.makers), vendors)
    devices = devices.append_column("named_by", pa.nulls(len(devices), pa.string()))
    devices = devices.append_column("watched", watched(devices, watchlist))
    devices = compare(devices, None, comparable=True, remember_days=settings.remember_days)
    services = _services(found.values, one_chunk(devices["device_id"]))
    return Inventory(devices, services, found.scored.groups, found.scored.left_out)


def _services(values: pa.Table, devices: pa.Array) -> list[list[str]]:
    services = services_of(values.filter(pc.equal(values["what"], PORT)), devices, devices)
    return [services.get(device, []) for device in devices.to_pylist()]
