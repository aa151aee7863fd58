"""What readers learn about a group of unknown devices: the services that it uses, and its rhythm."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from iotid.arrow import one_chunk

_SERVICES = 3
_COMMON_PORTS = (53, 67, 68, 123)  # DNS, DHCP and NTP, which all devices use
_TRANSPORTS = {6: "TCP", 17: "UDP"}
_HOURS = 24


def services_of(ports: pa.Table, devices: pa.Array, group_N: pa.Array) -> dict[str, list[str]]:
    """The ports of each group with most flows, as "TCP 443"; ports that all devices use come last.

    ``ports``: rows of PAYLOADS_AND_PORTS; ``group_N``: the groups of the devices.
    """
    grouped = _with_group(ports, devices, group_N)
    counted = grouped.group_by(["group_name", "protocol", "value"]).aggregate([("flows", "sum")])
    is_common = pc.is_in(counted["value"], value_set=pa.array(_COMMON_PORTS, counted["value"].type))
    order = [("group_name", "ascending"), ("last", "ascending"), ("flows_sum", "descending"), ("value", "ascending")]
    ranked = counted.append_column("last", is_common.cast(pa.int8())).sort_by([*order, ("protocol", "ascending")])
    services: dict[str, list[str]] = {}
    for group, name in _named_ports(ranked):
        if len(services.setdefault(group, [])) < _SERVICES:
            services[group].append(name)
    return services


def rhythm_of(hours: pa.Table, devices: pa.Array, group_N: pa.Array) -> dict[str, dict[str, float]]:
    """``flows_per_hour`` and ``active_hours`` (GROUPS) of each group: medians over its devices.

    ``hours``: rows of PAYLOADS_AND_PORTS; ``group_N``: the groups of the devices.
    """
    of_day = pa.array(hours["value"].to_numpy() % _HOURS)
    table = hours.append_column("of_day", of_day).group_by("device_id")
    by_device = table.aggregate([("flows", "sum"), ("value", "count"), ("of_day", "count_distinct")])
    grouped = _with_group(by_device, devices, group_N).sort_by("group_name")
    per_hour = grouped["flows_sum"].to_numpy() / grouped["value_count"].to_numpy()
    active = grouped["of_day_count_distinct"].to_numpy()
    names, first = np.unique(np.array(grouped["group_name"].to_pylist(), str), return_index=True)
    ends = np.append(first, len(grouped))[1:]
    return {
        str(name): {
            "flows_per_hour": float(np.median(per_hour[start:end])),
            "active_hours": float(np.median(active[start:end])),
        }
        for name, start, end in zip(names, first, ends, strict=True)
    }


def _with_group(rows: pa.Table, devices: pa.Array, group_N: pa.Array) -> pa.Table:
    of_device = one_chunk(pc.index_in(rows["device_id"], value_set=devices))
    return rows.append_column("group_name", group_N.take(of_device))


def _named_ports(ranked: pa.Table) -> Iterator[tuple[str, str]]:
    columns = (ranked[name].to_pylist() for name in ("group_name", "protocol", "value"))
    for group, protocol, port in zip(*columns, strict=True):
        yield group, f"{_TRANSPORTS.get(protocol, f'IP {protocol}')} {port}"
