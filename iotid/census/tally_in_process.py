"""Aggregates a table of flows in memory: sums per device, distinct flow and reason, as `tally` does on Spark.

Shape suffixes: N flows, D distinct sequences, P pairs of a device and a sequence, E packets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from iotid.arrow import one_chunk
from iotid.census.behaviour import READ, payloads_and_ports_of
from iotid.census.left_out import MAX_LISTED, with_remainder_rows
from iotid.labels.hosts import UNSPECIFIED

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from iotid.dataset.characteristics import Encoding
    from iotid.labels.owner import Site

MAX_ADDRESSES = 16  # listed per device; a router that answers for a subnet has one for each of its hosts
NEAR_DAYS = 31  # so that a packet with a wrong date does not set when a device was seen
CONCURRENT_US = 60_000_000  # after a longer pause the address may be reassigned; as in flows (kernels.MOVE_US)
_DAY_US = 86_400_000_000


def values_of(flows: pa.Table, device: pa.Array, address: pa.Array) -> pa.Table:
    """PAYLOADS_AND_PORTS of the devices (as `tally.payloads_and_ports`)."""
    own = flows.select([name for name in READ if name not in ("device_id", "address")])
    own = own.append_column("device_id", device).append_column("address", address)
    return payloads_and_ports_of(own.filter(pc.is_valid(device)))


def traffic_by_device(flows: pa.Table, device: pa.Array, address: pa.Array) -> pa.Table:
    """Flows, bytes, times (µs) and addresses of each device, sorted by device (as `tally.traffic_by_device`)."""
    first_N, last_N = _times(flows)
    median_us = _median(first_N)
    sums = pc.add(flows["client_bytes"], flows["server_bytes"])
    columns = {"device_id": device, "bytes": sums, "first": pa.array(first_N), "last": pa.array(last_N)}
    for name, time_N in (("near_first", first_N), ("near_last", last_N)):
        columns[name] = pa.array(time_N, mask=_is_far(time_N, median_us))
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


def distinct_flows(flows: pa.Table, device: pa.Array, encoding: Encoding) -> pa.Table:
    """The distinct sequences of each device, quantised as the ``encoding`` does, by device; for
    `answers.answer_devices`."""
    from iotid.dataset.arrays import distinct_rows
    from iotid.dataset.characteristics import quantise_lists

    is_of_device = pc.is_valid(device)
    flows, device = flows.filter(is_of_device), device.filter(is_of_device)
    for name, characteristic in encoding.quantised_columns.items():
        lists = quantise_lists(flows[name], characteristic, encoding.max_packets)
        flows = flows.set_column(flows.schema.get_field_index(name), name, lists)
    columns = encoding.distinct_columns
    names = pc.unique(device).sort()
    sequences, which_N = distinct_rows(_side_by_side(flows, columns))
    code_N = pc.index_in(device, value_set=names).to_numpy().astype(np.int64) * len(sequences) + which_N
    _, example_P, pair_N = np.unique(code_N, return_index=True, return_inverse=True)
    first_N, last_N = _times(flows)
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
        values, length_N = first_values(flows[name], np.iinfo(np.int32).max)
        longest = int(length_N.max(initial=0))
        padded = np.zeros((len(flows), longest), np.int64)
        padded[np.repeat(np.arange(len(flows)), length_N), list_positions(length_N)] = values
        parts += [length_N[:, np.newaxis].astype(np.int32), padded.view(np.int32).reshape(len(flows), 2 * longest)]
    return np.concatenate(parts, axis=1)


def left_out_of(flows: pa.Table, outcome: pa.Array, mac: pa.Array, ip: pa.Array, devices: pa.ChunkedArray) -> pa.Table:
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


def is_outside_time_window(flows: pa.Table) -> NDArray[np.bool_]:
    """(N,) flows that begin or end NEAR_DAYS or more from the median time."""
    first_N, last_N = _times(flows)
    median_us = _median(first_N)
    return _is_far(first_N, median_us) | _is_far(last_N, median_us)


def conflicting_macs(
    flows: pa.Table, device: pa.Array, address: pa.Array, site: Site, *, joins_files: bool
) -> pa.Array:
    """As `tally.conflicting_macs`; ``device`` and ``address`` (N,) of each flow, null without a device."""
    is_mac = pc.fill_null(pc.not_equal(device, address), False)
    client = _text(flows["client_ip"])
    is_client = pc.equal(client, address)
    other = pc.if_else(is_client, _text(flows["server_ip"]), client)
    # if both ends are local, the conflicting MACs may be those of either
    is_own_N = _numpy(flows["address_conflict"]) & ~site.networks.contain(other)
    in_flow = device.filter(pc.and_(is_mac, pa.array(is_own_N)))
    is_router = pc.is_in(device, value_set=pa.array(sorted(site.routers or ()), pa.string()))
    is_used = pc.and_(is_mac, pc.invert(pc.or_(is_router, pc.is_in(address, value_set=pa.array(UNSPECIFIED)))))
    users = pa.table({"device": device, "address": address}).filter(is_used).group_by(["address", "device"])
    counted = users.aggregate([]).group_by("address").aggregate([("device", "count")])
    shared = one_chunk(counted.filter(pc.greater(counted["device_count"], 1))["address"])
    packets = pc.if_else(is_client, one_chunk(flows["client_packets"]), one_chunk(flows["server_packets"]))
    is_asked = pc.and_(pc.and_(is_used, pc.is_in(address, value_set=shared)), pc.greater(packets, 0))
    rows = np.flatnonzero(_numpy(is_asked))
    if not len(rows):
        return in_flow.unique()
    # of each network and address: the times of all its flows' first and last packets, by time and MAC
    names = ["vlan", "address"] if joins_files else ["vlan", "address", "capture_file"]
    network_N = np.zeros(len(rows), np.int64)
    for name in names:
        column = (address if name == "address" else one_chunk(flows[name])).take(pa.array(rows))
        code = column.cast(pa.string()).dictionary_encode(null_encoding="encode").indices.to_numpy().astype(np.int64)
        _, network_N = np.unique(network_N * (code.max() + 1) + code, return_inverse=True)
    macs = device.take(pa.array(rows)).unique().sort()
    mac_N = pc.index_in(device.take(pa.array(rows)), value_set=macs).to_numpy().astype(np.int64)
    network_E, mac_E = np.tile(network_N, 2), np.tile(mac_N, 2)
    us_E = np.concatenate([time_N[rows] for time_N in _times(flows)])
    order = np.lexsort((mac_E, us_E, network_E))
    network_E, mac_E, us_E = network_E[order], mac_E[order], us_E[order]
    # pairs of one MAC's consecutive times in the same network with another MAC's between them
    by_mac = np.lexsort((np.arange(len(order)), mac_E, network_E))
    before, after = by_mac[:-1], by_mac[1:]
    is_pair = (network_E[before] == network_E[after]) & (mac_E[before] == mac_E[after])
    is_back = is_pair & (after - before > 1) & (us_E[after] - us_E[before] <= CONCURRENT_US)
    at = after[is_back]
    both = np.unique(np.concatenate([mac_E[at], mac_E[at - 1]]))
    return pa.concat_arrays([in_flow, macs.take(pa.array(both))]).unique()


def _times(flows: pa.Table) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    first_N, last_N = (flows[name].cast(pa.int64()).to_numpy() for name in ("first_seen", "last_seen"))
    return first_N, last_N


def _median(first_N: NDArray[np.int64]) -> int:
    return int(np.sort(first_N)[(len(first_N) - 1) // 2]) if len(first_N) else 0


def _is_far(time_N: NDArray[np.int64], median_us: int) -> NDArray[np.bool_]:
    return np.abs(time_N - median_us) >= NEAR_DAYS * _DAY_US


def _text(column: pa.ChunkedArray) -> pa.Array:
    return one_chunk(column).cast(pa.string())


def _numpy(column: pa.Array | pa.ChunkedArray) -> NDArray[np.bool_]:
    return one_chunk(column).to_numpy(zero_copy_only=False).astype(np.bool_)
