"""The devices in a table of flows, without Spark and without a store: the rows that a first census of it would have.

For captures that fit into memory. Everything is computed as on Spark (`score`, `tally`), with one exception: addresses
that several MACs use at the same time get no mark (`marks.ADDRESS_CONFLICT`).

Shape suffixes: N flows, D distinct sequences, P pairs of a device and a sequence.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from iotid import config
from iotid.arrow import one_chunk
from iotid.census.answers import identify_devices
from iotid.census.behaviour import PORT, READ, payloads_and_ports_of
from iotid.census.changes import compare
from iotid.census.group_columns import services_of
from iotid.census.groups import NO_GROUPS, group_devices
from iotid.census.identify import watched, without_model
from iotid.census.left_out import MAX_LISTED, OTHER_PROTOCOL, with_remainder_rows
from iotid.census.macs import with_macs
from iotid.census.makers import read_makers
from iotid.errors import InputError
from iotid.flows.as_table import check_length, flows_of
from iotid.inputs import check_type
from iotid.labels.hosts import UNSPECIFIED, name_devices
from iotid.labels.owner import Networks, Site
from iotid.labels.routers import find_routers
from iotid.model.device.decide import UNKNOWN
from iotid.schemas import CENSUS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from iotid.model.bundle import FlowTable, Predictor

MAX_ADDRESSES = 16  # listed per device; a router that answers for a subnet has one for each of its hosts
_FLOW_COLUMNS = (  # of FLOWS that `take_inventory` reads, beside the model's
    "protocol", "client_ip", "client_mac", "client_packets", "client_bytes", "server_ip", "server_port", "server_mac",
    "server_packets", "server_bytes", "first_seen", "last_seen", "answered", "direction", "payload_length",
)  # fmt: skip
NEAR_DAYS = 31  # so that a packet with a wrong date does not set when a device was seen
_DAY_US = 86_400_000_000


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
    max_packets, columns = 0, list(_FLOW_COLUMNS)
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
    inside = Networks(settings.inside)
    routers = find_routers([_InMemory(flows)], inside)[_InMemory.site]
    named = name_devices(flows, Site(inside, routers))
    is_read = pc.is_in(flows["protocol"], value_set=pa.array(predictor.encoding.protocols if predictor else protocols))
    outcome = pc.if_else(one_chunk(is_read), named.reason, OTHER_PROTOCOL)
    device = pc.if_else(pc.is_null(outcome), pc.coalesce(named.mac, named.ip), None)
    traffic = _traffic(flows, device, named.ip)
    if predictor is None:
        devices = without_model(one_chunk(traffic["device_id"]), one_chunk(traffic["flows"]))
    else:
        columns = list(dict.fromkeys(predictor.encoding.columns))
        devices = identify_devices(predictor, _distinct_flows(flows, device, columns), columns, settings)
    schema = CENSUS.arrow_schema()
    for name in ("bytes", "first_seen", "last_seen", "addresses"):
        devices = devices.append_column(schema.field(name), traffic[name].cast(schema.field(name).type))
    values = _values(flows, device, named.ip)
    unknown = one_chunk(devices["device_id"].filter(pc.equal(devices["status"], UNKNOWN)))
    of_unknown = values.filter(pc.is_in(values["device_id"], value_set=unknown))
    group, groups = group_devices(unknown, of_unknown, NO_GROUPS, settings.min_similarity)
    devices = devices.append_column("group_name", group.take(pc.index_in(devices["device_id"], value_set=unknown)))
    known = predictor.encoding.devices.values() if predictor else ()
    vendors = [vendor for described in known if (vendor := described.get("vendor"))]
    devices = with_macs(devices, read_makers(settings.makers), vendors)
    devices = devices.append_column("named_by", pa.nulls(len(devices), pa.string()))
    devices = devices.append_column("watched", watched(devices, watchlist))
    devices = compare(devices, None, comparable=True, remember_days=settings.remember_days)
    left_out = _left_out(flows, outcome, named.mac, named.ip, traffic["device_id"])
    return Inventory(devices, _services(values, one_chunk(devices["device_id"])), groups, left_out)


@dataclass(frozen=True)
class _InMemory:
    """Flows as `find_routers` reads them."""

    flows: pa.Table
    site = ""

    def read(self, columns: Iterable[str]) -> Iterator[pa.RecordBatch]:
        yield from self.flows.select(list(columns)).to_batches()


def _values(flows: pa.Table, device: pa.Array, address: pa.Array) -> pa.Table:
    """PAYLOADS_AND_PORTS of the devices (as `tally.payloads_and_ports`)."""
    own = flows.select([name for name in READ if name not in ("device_id", "address")])
    own = own.append_column("device_id", device).append_column("address", address)
    return payloads_and_ports_of(own.filter(pc.is_valid(device)))


def _services(values: pa.Table, devices: pa.Array) -> list[list[str]]:
    services = services_of(values.filter(pc.equal(values["what"], PORT)), devices, devices)
    return [services.get(device, []) for device in devices.to_pylist()]


def _traffic(flows: pa.Table, device: pa.Array, address: pa.Array) -> pa.Table:
    """Flows, bytes, times (µs) and addresses of each device, sorted by device (as `tally.traffic_by_device`)."""
    first_N, last_N = (flows[name].cast(pa.int64()).to_numpy() for name in ("first_seen", "last_seen"))
    median_us = int(np.sort(first_N)[(len(first_N) - 1) // 2]) if len(first_N) else 0
    sums = pc.add(flows["client_bytes"], flows["server_bytes"])
    columns = {"device_id": device, "bytes": sums, "first": pa.array(first_N), "last": pa.array(last_N)}
    for name, time_N in (("near_first", first_N), ("near_last", last_N)):
        columns[name] = pa.array(time_N, mask=np.abs(time_N - median_us) >= NEAR_DAYS * _DAY_US)
    table = pa.table(columns).filter(pc.is_valid(device))
    wanted = [("bytes", "count"), ("bytes", "sum")]
    wanted += [(name, "min") for name in ("first", "near_first")] + [(name, "max") for name in ("last", "near_last")]
    by_device = table.group_by("device_id", use_threads=False).aggregate(wanted).sort_by("device_id")
    low, high = (median_us + sign * NEAR_DAYS * _DAY_US for sign in (-1, 1))

    def nearest(time: pa.ChunkedArray) -> pa.ChunkedArray:
        return pc.min_element_wise(pc.max_element_wise(time, low), high)

    return pa.table(
        {
            "device_id": by_device["device_id"],
            "flows": by_device["bytes_count"],
            "bytes": by_device["bytes_sum"],
            "first_seen": pc.coalesce(by_device["near_first_min"], nearest(by_device["first_min"])),
            "last_seen": pc.coalesce(by_device["near_last_max"], nearest(by_device["last_max"])),
            "addresses": _addresses(device, address, by_device["device_id"]),
        }
    )


def _addresses(device: pa.Array, address: pa.Array, devices: pa.ChunkedArray) -> pa.Array:
    """The first MAX_ADDRESSES addresses of each of ``devices``, sorted."""
    pairs = pa.table({"device_id": device, "address": address}).filter(pc.is_valid(device))
    distinct = pairs.group_by(["device_id", "address"], use_threads=False).aggregate([])
    distinct = distinct.filter(pc.invert(pc.is_in(distinct["address"], value_set=pa.array(UNSPECIFIED))))
    ordered = distinct.sort_by([("device_id", "ascending"), ("address", "ascending")])
    listed: dict[str, list[str]] = {name: [] for name in devices.to_pylist()}
    for name, one in zip(ordered["device_id"].to_pylist(), ordered["address"].to_pylist(), strict=True):
        if len(listed[name]) < MAX_ADDRESSES:
            listed[name].append(one)
    return pa.array(list(listed.values()), pa.list_(pa.string()))


def _distinct_flows(flows: pa.Table, device: pa.Array, columns: Sequence[str]) -> pa.Table:
    """The distinct sequences of each device, by device, as `answers.answer_devices` reads them."""
    from iotid.dataset.arrays import distinct_rows

    is_of_device = pc.is_valid(device)
    flows, device = flows.filter(is_of_device), device.filter(is_of_device)
    names = pc.unique(device).sort()
    sequences, which_N = distinct_rows(_side_by_side(flows, columns))
    code_N = pc.index_in(device, value_set=names).to_numpy().astype(np.int64) * len(sequences) + which_N
    _, example_P, pair_N = np.unique(code_N, return_index=True, return_inverse=True)
    first_N, last_N = (flows[name].cast(pa.int64()).to_numpy() for name in ("first_seen", "last_seen"))
    first_P, last_P = first_N[example_P].copy(), last_N[example_P].copy()
    np.minimum.at(first_P, pair_N.ravel(), first_N)
    np.maximum.at(last_P, pair_N.ravel(), last_N)
    open_P = np.zeros(len(example_P), np.int64)
    np.add.at(open_P, pair_N.ravel(), last_N - first_N)
    counts = {"flows": np.bincount(pair_N.ravel(), minlength=len(example_P)), "open_us": open_P}
    counts |= {"first_seen": first_P, "last_seen": last_P}
    examples = pa.array(example_P)
    rows = {"device_id": device.take(examples), **{name: pa.array(values) for name, values in counts.items()}}
    return pa.table(rows | {name: one_chunk(flows[name]).take(examples) for name in columns})


def _side_by_side(flows: pa.Table, columns: Sequence[str]) -> NDArray[np.int32]:
    """(N, W): the lists of all columns, padded, with their lengths; rows are equal if all lists are."""
    from iotid.dataset.arrays import first_values, list_positions

    parts: list[NDArray[np.int32]] = []
    for name in columns:
        length_N = pc.list_value_length(one_chunk(flows[name])).to_numpy().astype(np.int64)
        longest = int(length_N.max(initial=0))
        values, _ = first_values(flows[name], longest)
        padded = np.zeros((len(flows), longest), np.int64)
        padded[np.repeat(np.arange(len(flows)), length_N), list_positions(length_N)] = values
        parts += [length_N[:, np.newaxis].astype(np.int32), padded.view(np.int32).reshape(len(flows), 2 * longest)]
    return np.concatenate(parts, axis=1)


def _left_out(flows: pa.Table, outcome: pa.Array, mac: pa.Array, ip: pa.Array, devices: pa.ChunkedArray) -> pa.Table:
    """LEFT_OUT of the flows with an ``outcome`` (reason), by ``mac`` and ``ip`` of the end that is left out."""
    is_left_out = pc.is_valid(outcome)
    packets = pc.add(flows["client_packets"], flows["server_packets"])
    columns = {"reason": outcome, "who": pc.coalesce(mac, ip), "mac": mac, "address": ip, "packets": packets}
    rows = pa.table(columns).filter(is_left_out)
    sums = [("mac", "min"), ("address", "min"), ("address", "count_distinct"), ("packets", "count"), ("packets", "sum")]
    ends = rows.group_by(["reason", "who"], use_threads=False).aggregate(sums)
    renamed = {
        "reason": ends["reason"],
        "mac": ends["mac_min"],
        "address": pc.if_else(pc.equal(ends["address_count_distinct"], 1), ends["address_min"], None),
        "addresses": ends["address_count_distinct"],
        "in_census": pc.is_in(ends["who"], value_set=one_chunk(devices)),
        "flows": ends["packets_count"],
        "packets": ends["packets_sum"],
    }
    by_flows = [("in_census", "ascending"), ("flows", "descending"), ("who", "ascending")]
    in_order = pa.table(renamed | {"who": ends["who"]}).sort_by(by_flows).drop_columns("who")
    reasons = pc.unique(in_order["reason"])
    listed = [in_order.filter(pc.equal(in_order["reason"], reason)).slice(0, MAX_LISTED) for reason in reasons]
    counts = [("reason", "count"), *((name, "sum") for name in ("addresses", "flows", "packets"))]
    totals = in_order.group_by("reason", use_threads=False).aggregate(counts)
    names = {"reason_count": "ends", **{f"{name}_sum": name for name in ("addresses", "flows", "packets")}}
    return with_remainder_rows(pa.concat_tables([in_order.slice(0, 0), *listed]), totals.rename_columns(names))
