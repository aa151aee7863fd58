"""groups.py --captures DIR: how well groups of unknown devices match their true kinds, over nights without labels.

DIR holds aalto, lsif and ucl. Each laboratory is played as nights of one site: aalto's n-th set-up of each device is
night n, lsif's nights are its days, ucl's n-th capture of each experiment is night n; and all three as one site. No
label is used. As in take-census, a night's groups are recognised on the next. A cluster is a group's name over all
nights, an item one device on one night, the truth its kind (vendor and type) or its model. Hosts that no list names are
grouped, too, but not scored.

Beside the groups: the same devices with random MACs, so that none is recognised by its MAC; groups by lengths of
payloads alone; clusters of flow statistics (k-means with the true number of kinds, DBSCAN); AuDI's clusters of periods,
all nights together, without labels (a device that has no period on a night is in none: "others"); and DEFT, which knows
the other laboratories' kinds: what its forest rejects is clustered, all nights together (not for all three as one site,
as no kinds are left to know). With --thresholds, the least similarity that is best for two laboratories is applied to
the third.

``units``: the same nights as three units of each device at the same time, a third of the nights each, so that units of
one model must find each other; kinds with one firmware are then larger groups, too.

Then each group of the first half of the nights is named once, by the kind that most of its items are; the device model
learns from those names, and the items of the second half are compared with its answers.

Prints tables and one line of JSON.

Shape suffixes: N flows, I items.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from bench_groups_model import later_captures  # beside this file
from natsort import natsorted
from numpy.typing import NDArray
from sklearn.cluster import DBSCAN, KMeans
from sklearn.metrics import normalized_mutual_info_score
from sklearn.preprocessing import StandardScaler

from iotid import config, messages
from iotid.baselines.audi import types
from iotid.baselines.deft import Deft
from iotid.baselines.device_flows import DeviceFlows
from iotid.census.behaviour import PAYLOAD, READ, payloads_and_ports_of
from iotid.census.groups import NO_GROUPS, OTHERS, group_devices
from iotid.dataset.in_memory import FlowsInMemory
from iotid.flows import from_captures
from iotid.labels import DeviceList
from iotid.labels.devices import device_kind
from iotid.labels.hosts import name_devices

_SETTINGS = config.load_settings()
_LISTS = Path("conf/datasets")
_FORMER = 0.6  # census.min_similarity when groups were made of payload lengths alone
_MIN_PURITY = 0.97
_UNITS = 3
Table = dict[str, pa.Table]


def _nth_of_folder(path: str) -> tuple[str, ...]:
    return (str(Path(path).parent),)


def _nth_of_event(path: str) -> tuple[str, ...]:
    return str(Path(path).parent), re.sub(r"\d+\.pcap$", "", Path(path).name)


LABORATORIES: dict[str, tuple[Callable[[str], tuple[str, ...]], list[str]]] = {
    # the captures among which each is the n-th, and settings
    "aalto": (_nth_of_folder, []),
    "lsif": (_nth_of_folder, ["capture.duplicate_window_us=10000"]),
    "ucl": (_nth_of_event, []),
}


@dataclass(frozen=True)
class Site:
    """Flows with ``device_id`` and ``address``; ``night`` (N,); ``truth``: device -> kind and model, of listed ones."""

    flows: pa.Table
    night: NDArray[np.int64]
    truth: dict[str, tuple[str, str]]

    def nights(self) -> Iterator[tuple[int, pa.Table]]:
        for night in np.unique(self.night).tolist():
            yield night, self.flows.filter(pa.array(self.night == night))


def read(folder: Path, name: str) -> Site:
    """The flows of a laboratory's devices and hosts."""
    order, overrides = LABORATORIES[name]
    capture = config.load_settings(overrides=overrides).capture
    flows = from_captures([folder], join_files=False, capture=capture)
    flows = flows.filter(pc.is_in(flows["protocol"], pa.array(_SETTINGS.dataset.protocols, pa.int32())))
    listed = DeviceList.read(_LISTS / f"{name}.yaml").at([FlowsInMemory(flows)])
    named = name_devices(flows, listed.site())
    flows = flows.append_column("device_id", named.device).append_column("address", named.address)
    flows = flows.filter(pc.is_valid(flows["device_id"]))
    flows, truth = _with_devices_by_path(flows, listed)
    files = flows["capture_file"].to_pylist()
    captures = defaultdict(list)
    for path in natsorted(set(files)):
        captures[order(path)].append(path)
    night = {path: number for paths in captures.values() for number, path in enumerate(paths)}
    return Site(flows, np.array([night[path] for path in files]), truth)


def _with_devices_by_path(flows: pa.Table, listed: DeviceList) -> tuple[pa.Table, dict[str, tuple[str, str]]]:
    """The flows, and the truth: of two devices with one MAC, whose captures distinguish them, the second gets another
    MAC in its captures."""
    ids, folders = (np.array(flows[name].to_pylist(), object) for name in ("device_id", "capture_file"))
    folders = np.array([Path(path).parent.name for path in folders], object)
    truth = {}
    for device in listed.devices:
        kind = device_kind(device.model, {"vendor": device.vendor, "type": device.type}).lower(), device.model
        for mac in device.mac:
            own = mac
            while own in truth:
                own = f"{own[:-2]}{(int(own[-2:], 16) + 1) % 256:02x}"
            truth[own] = kind
            if own != mac:
                ids[(ids == mac) & (folders == device.name)] = own
    at = flows.schema.get_field_index("device_id")
    return flows.set_column(at, "device_id", pa.array(ids, pa.string())), truth


def together(sites: list[Site]) -> Site:
    """All as one site, night by night."""
    flows = pa.concat_tables([site.flows for site in sites])
    truth = {device: kind for site in sites for device, kind in site.truth.items()}
    return Site(flows, np.concatenate([site.night for site in sites]), truth)


@dataclass(frozen=True)
class Items:
    """One device on one night each: ``device`` (I,), ``night`` (I,), ``group`` (I,), ``kind`` and ``model`` (I,), empty
    if no list names it; and ``merged``: name -> the name that it has now."""

    device: NDArray[np.object_]
    night: NDArray[np.int64]
    group: NDArray[np.object_]
    kind: NDArray[np.object_]
    model: NDArray[np.object_]
    merged: dict[str, str]

    def scores(self) -> dict[str, Any]:
        listed = self.kind != ""
        group = self.group[listed].astype(str)
        now = np.array([self.merged.get(name, name) for name in group])
        sizes = Counter(group.tolist())
        return {
            "nmi": _nmi(self.kind[listed], group),
            "purity": _purity(self.kind[listed], group),
            "nmi_model": _nmi(self.model[listed], group),
            "nmi_merged": _nmi(self.kind[listed], now),
            "purity_merged": _purity(self.kind[listed], now),
            "groups": len(sizes),
            "kinds": len(set(self.kind[listed])),
            "models": len(set(self.model[listed])),
            "devices": len(set(self.device[listed])),
            "singletons": sum(size == 1 for size in sizes.values()),
            "others": float(np.mean(group == OTHERS)),
            "items": int(listed.sum()),
        }

    def confused(self) -> list[str]:
        """Kinds that share a group, and those that are several groups."""
        listed = self.kind != ""
        by_group, by_kind = defaultdict(Counter), defaultdict(set)
        for group, kind, model in zip(self.group[listed], self.kind[listed], self.model[listed], strict=True):
            by_group[group][kind, model] += 1
            by_kind[kind].add(group)
        shared = [counted for counted in by_group.values() if len({kind for kind, _ in counted}) > 1]
        lines = [
            "one group: " + ", ".join(f"{kind} ({model}) {count}" for (kind, model), count in counted.most_common())
            for counted in shared
        ]
        return lines + [f"{len(groups)} groups: {kind}" for kind, groups in sorted(by_kind.items()) if len(groups) > 1]


def _nmi(truth: NDArray[Any], group: NDArray[Any]) -> float:
    return float(normalized_mutual_info_score(truth.astype(str), group.astype(str)))


def _purity(truth: NDArray[Any], group: NDArray[Any]) -> float:
    most: Counter[str] = Counter()
    for (name, _), count in Counter(zip(group.tolist(), truth.tolist(), strict=True)).items():
        most[name] = max(most[name], count)
    return sum(most.values()) / len(truth)


def values_by_night(site: Site) -> Table:
    """What the devices do on each night."""
    return {str(night): payloads_and_ports_of(flows.select(READ)) for night, flows in site.nights()}


def played(
    site: Site, values: Table, min_similarity: float, *, recognised: bool = True, payloads_alone: bool = False
) -> Items:
    """The groups of each night, from those of the night before.

    ``recognised``: devices keep their MACs; otherwise they have random ones, which mean nothing on the next night.
    """
    groups, rows, merged = NO_GROUPS, [], {}
    for night, counted in values.items():
        shown = counted.filter(pc.equal(counted["what"], PAYLOAD)) if payloads_alone else counted
        ids = counted["device_id"].unique()
        ids = ids.take(pc.sort_indices(ids))
        given = ids if recognised else pc.binary_join_element_wise("x", ids, "")
        if not recognised:
            shown = shown.set_column(0, "device_id", pc.binary_join_element_wise("x", shown["device_id"], ""))
        group, groups = group_devices(given, shown, groups, min_similarity)
        rows += [(device, int(night), name) for device, name in zip(ids.to_pylist(), group.to_pylist(), strict=True)]
        for row in groups.to_pylist():
            merged |= dict.fromkeys(row["merged"] or (), row["group_name"])
    return _items(site, rows, merged)


def units_of(site: Site, values: Table, units: int) -> tuple[Site, Table]:
    """Each device as several, with MACs of their own: the first shows the first of equal parts of the nights …"""
    length, truth, nights = len(values) // units, {}, defaultdict(list)
    for number, counted in enumerate(list(values.values())[: units * length]):
        unit = number // length
        ids = counted["device_id"].to_pylist()
        other = [f"{mac[:3]}{int(mac[3:5], 16) ^ unit << 4:02x}{mac[5:]}" for mac in ids]
        truth |= {new: site.truth[mac] for mac, new in zip(ids, other, strict=True) if mac in site.truth}
        nights[str(number % length)].append(counted.set_column(0, "device_id", pa.array(other, pa.string())))
    return replace(site, truth=truth), {night: pa.concat_tables(parts) for night, parts in nights.items()}


def _items(site: Site, rows: list[tuple[str, int, str]], merged: dict[str, str]) -> Items:
    device, night, group = (np.array(column, object) for column in zip(*rows, strict=True))
    kind, model = (np.array([site.truth.get(each, ("", ""))[at] for each in device], object) for at in (0, 1))
    return Items(device, night.astype(np.int64), group, kind, model, merged)


def clustered(site: Site, method: str) -> Items:
    """Clusters of the devices' flow statistics on each night, all nights together."""
    rows, features = [], []
    for night, flows in site.nights():
        table = flows.append_column("seconds", pc.subtract(_us(flows["last_seen"]), _us(flows["first_seen"])))
        names = ("client_packets", "server_packets", "client_bytes", "server_bytes", "seconds")
        sums = [(name, how) for name in names for how in ("mean", "stddev", "max")]
        more = [("server_port", "count_distinct"), ("server_ip", "count_distinct"), ("protocol", "mean")]
        counted = table.group_by("device_id").aggregate([*sums, *more, ([], "count_all")]).sort_by("device_id")
        rows += [(device, night, "") for device in counted["device_id"].to_pylist()]
        features.append(np.stack([counted[name].to_numpy() for name in counted.column_names if name != "device_id"], 1))
    scaled = StandardScaler().fit_transform(np.log1p(np.nan_to_num(np.concatenate(features).astype(np.float64))))
    items = _items(site, rows, {})
    kinds = len(set(items.kind) - {""})
    found = KMeans(kinds, n_init=10, random_state=1) if method == "k-means" else DBSCAN(eps=1.0, min_samples=3)
    return replace(items, group=found.fit_predict(scaled).astype(str).astype(object))


def clustered_by_audi(site: Site) -> Items:
    """The types of AuDI for each device and night; OTHERS without a period."""
    captures, rows = device_nights(site)
    names = [OTHERS if found < 0 else str(found) for found in types(captures).tolist()]
    return _items(site, [(*row, name) for row, name in zip(rows, names, strict=True)], {})


def clustered_by_deft(site: Site, others: list[Site]) -> Items:
    """The groups of DEFT, which learned the listed kinds of the other sites, for each device and night."""
    learned = [device_nights(other, listed=True) for other in others]
    flows = pa.concat_tables([captures.flows for captures, _ in learned])
    units = np.cumsum([0, *(captures.units for captures, _ in learned)])
    unit_N = np.concatenate([captures.unit + first for (captures, _), first in zip(learned, units, strict=False)])
    is_client_N = np.concatenate([captures.is_client for captures, _ in learned])
    kinds = [other.truth[device][0] for other, (_, rows) in zip(others, learned, strict=True) for device, _ in rows]
    names, label_U = np.unique(kinds, return_inverse=True)
    deft = Deft(1).fit(DeviceFlows(flows, unit_N, is_client_N, int(units[-1])), label_U, len(names))
    captures, rows = device_nights(site)
    groups = deft.groups(captures).tolist()
    return _items(site, [(*row, str(group)) for row, group in zip(rows, groups, strict=True)], {})


def device_nights(site: Site, *, listed: bool = False) -> tuple[DeviceFlows, list[tuple[str, int]]]:
    """The flows by device and night, of listed devices alone or of all; and the device and night of each."""
    device_N = np.asarray(site.flows["device_id"].to_pylist())
    kept = np.flatnonzero(np.isin(device_N, list(site.truth)) | (not listed))
    names, number_K = np.unique(device_N[kept], return_inverse=True)
    pairs_U2, unit_K = np.unique(np.stack([number_K, site.night[kept]], axis=1), axis=0, return_inverse=True)
    first_K = _us(site.flows["first_seen"]).to_numpy()[kept]
    order = np.lexsort((first_K, unit_K.ravel()))
    flows = site.flows.take(pa.array(kept[order])).combine_chunks()
    is_client_N = pc.equal(flows["client_ip"], flows["address"]).to_numpy()
    rows = [(str(names[number]), int(night)) for number, night in pairs_U2]
    return DeviceFlows(flows, unit_K.ravel()[order], is_client_N, len(rows)), rows


def _us(times: pa.ChunkedArray) -> pa.ChunkedArray:
    return times.cast(pa.int64())


def left_one_out(sites: dict[str, Site], values: dict[str, Table], thresholds: list[float]) -> dict[str, Any]:
    """The least similarity that is best for all other laboratories, applied to each.

    Best: the greatest NMI on average, of those that are pure enough in each; else the purest.
    """
    tried = {name: {least: played(sites[name], values[name], least).scores() for least in thresholds} for name in sites}
    result = {}
    for name in sites:
        others = [tried[other] for other in sites if other != name]

        def merit(least: float, others: list[dict[float, dict[str, Any]]] = others) -> tuple[float, float]:
            purity = min(other[least]["purity"] for other in others)
            return min(purity, _MIN_PURITY), float(np.mean([other[least]["nmi"] for other in others]))

        chosen = max(thresholds, key=merit)
        result[name] = {"min_similarity": chosen, **{key: tried[name][chosen][key] for key in ("nmi", "purity")}}
    return {"chosen": result, "tried": {name: _short(by) for name, by in tried.items()}}


def _short(by_threshold: dict[float, dict[str, Any]]) -> dict[str, list[float]]:
    return {str(least): [round(scores[key], 3) for key in ("nmi", "purity")] for least, scores in by_threshold.items()}


def line(name: str, method: str, scores: dict[str, Any]) -> str:
    shown = "  ".join(f"{key} {scores[key]:.3f}" for key in ("nmi", "purity", "nmi_model", "nmi_merged"))
    counts = "  ".join(f"{key} {scores[key]}" for key in ("groups", "kinds", "models", "devices", "singletons"))
    return f"{name:6} {method:22} {shown}  {counts}  others {scores['others']:.1%}"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--captures", required=True, type=Path)
    options.add_argument("--thresholds", type=float, nargs="*", default=[0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95])
    options.add_argument("--without-model", action="store_true", help="do not train on the names")
    given = options.parse_args()
    messages.log_to_stderr()
    start, least = time.perf_counter(), _SETTINGS.census.min_similarity
    sites = {name: read(given.captures / name, name) for name in LABORATORIES}
    values = {name: values_by_night(site) for name, site in sites.items()}
    result: dict[str, Any] = {"min_similarity": least}
    if given.thresholds:
        result["left_one_out"] = left_one_out(sites, values, given.thresholds)
        for name, chosen in result["left_one_out"]["chosen"].items():
            sys.stdout.write(f"{name}: threshold of the others {json.dumps(chosen)}\n")
    everything = {**sites, "all": together(list(sites.values()))}
    values["all"] = values_by_night(everything["all"])
    for name, site in everything.items():
        began = time.perf_counter()
        items = played(site, values[name], least)
        methods = {
            "iotid": items,
            "random MACs": played(site, values[name], least, recognised=False),
            "payloads alone": played(site, values[name], _FORMER, recognised=False, payloads_alone=True),
            "units": played(*units_of(site, values[name], _UNITS), least),
            "k-means, kinds known": clustered(site, "k-means"),
            "DBSCAN": clustered(site, "DBSCAN"),
            "AuDI": clustered_by_audi(site),
        }
        if name in sites:
            methods["DEFT"] = clustered_by_deft(site, [other for each, other in sites.items() if each != name])
        result[name] = {method: found.scores() for method, found in methods.items()}
        for method, scores in result[name].items():
            sys.stdout.write(f"{line(name, method, scores)}\n")
        for text in items.confused():
            sys.stdout.write(f"{name:6} {text}\n")
        result[name]["confused"] = items.confused()
        if not given.without_model:
            result[name]["later"] = later_captures(site.flows, site.night, items, _SETTINGS)
            sys.stdout.write(f"{name:6} later captures {json.dumps(result[name]['later'])}\n")
        result[name]["seconds"] = round(time.perf_counter() - began, 1)
        sys.stdout.flush()
    result["seconds"] = round(time.perf_counter() - start)
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
