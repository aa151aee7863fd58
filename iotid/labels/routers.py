"""Finds the MACs of routers in a site's flows: they appear with the addresses of other hosts.

A router's MAC answers, from outside addresses, flows that an inside address opened. An attacker cannot make a device
appear so, because the device chooses its servers. A MAC that sends from many networks is a router's, too. If no inside
address opened a flow, routers are the MACs with an outside address in flows with an inside address; if there is no
inside address at all, the answering MAC with the most networks.

Shape suffixes: N flows, M MACs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from iotid.arrow import one_chunk
from iotid.labels.owner import is_host, is_shown, parse_addresses, sent_by
from iotid.spark.shuffle import map_batches, read_task_ids, task_ids

if TYPE_CHECKING:
    from iotid.labels.owner import Networks
    from iotid.spark.in_process import Session

MOST_NETWORKS = 8  # outside networks (/24 of IPv4, /64 of IPv6) from which a device sends, at most
_COLUMNS = ("client_ip", "client_mac", "client_packets", "server_ip", "server_mac", "server_packets")
_FACTS = ("routes", "meets", "asked")
ENDS = pa.schema([("mac", pa.string()), ("network", pa.int64()), *((fact, pa.bool_()) for fact in _FACTS)])
_ENDS_OF_SITE = ENDS.append(pa.field("site", pa.string()))


class FlowFile(Protocol):
    """A file of flows of one site, read in batches, such as `flows.FlowFile`."""

    @property
    def site(self) -> str: ...

    def read(self, columns: Iterable[str]) -> Iterator[pa.RecordBatch]: ...


def find_routers(
    files: Sequence[FlowFile], inside: Networks, spark: Session | None = None
) -> dict[str, frozenset[str]]:
    """Site -> its routers, in the flows of these files; workers read them if ``spark`` is given.

    Each site by itself, as a MAC may be a router's at one site and a device's at another.
    """
    if spark is None:
        ends = pa.concat_tables([_ENDS_OF_SITE.empty_table(), *(_ends_of(file, inside) for file in files)])
    else:
        scan = partial(_scan, files=files, inside=inside)
        found = map_batches(task_ids(spark, range(len(files))), scan, _ENDS_OF_SITE)
        ends = found.toArrow().cast(_ENDS_OF_SITE)
    sites = sorted({file.site for file in files})
    return {site: routers_of(ends.filter(pc.equal(ends["site"], site)).drop_columns("site")) for site in sites}


def outside_ends(flows: pa.Table | pa.RecordBatch, inside: Networks) -> pa.Table:
    """The distinct ENDS of flows with an outside address that sent packets.

    routes: it answered an inside address with another MAC; meets: the other end is inside; asked: it answered another
    MAC.
    """
    host_N, inside_N, sent_N, shown_N = {}, {}, {}, {}
    for end in ("client", "server"):
        ip = flows.column(f"{end}_ip")
        host_N[end], inside_N[end], sent_N[end] = is_host(ip), inside.contain(ip), sent_by(flows, end)
        shown_N[end] = is_shown(flows.column(f"{end}_mac"))
    macs = pc.fill_null(_text(flows.column("client_mac")), ""), pc.fill_null(_text(flows.column("server_mac")), "")
    is_other_N = pc.not_equal(*macs).to_numpy(zero_copy_only=False)
    tables = []
    for end, other in (("client", "server"), ("server", "client")):
        at_N = np.flatnonzero(host_N[end] & ~inside_N[end] & sent_N[end] & shown_N[end])
        meets_N = (host_N[other] & inside_N[other])[at_N]
        asked_N = is_other_N[at_N] if end == "server" else np.zeros(len(at_N), bool)
        ip, mac = (_text(flows.column(f"{end}_{name}")).take(pa.array(at_N)) for name in ("ip", "mac"))
        columns = [mac, pa.array(_networks(ip)), *map(pa.array, (meets_N & asked_N, meets_N, asked_N))]
        tables.append(pa.Table.from_arrays(columns, schema=ENDS))
    grouped = pa.concat_tables(tables).group_by(["mac", "network"], use_threads=False)
    summed = grouped.aggregate([(fact, "max") for fact in _FACTS])
    return summed.rename_columns({f"{fact}_max": fact for fact in _FACTS}).select(ENDS.names).cast(ENDS)


def routers_of(ends: pa.Table) -> frozenset[str]:
    """The routers among the M MACs of ENDS."""
    facts = [(fact, "max") for fact in _FACTS]
    by_mac = ends.group_by("mac", use_threads=False).aggregate([("network", "count_distinct"), *facts])
    networks_M, routes_M, meets_M, asked_M = (
        by_mac[name].to_numpy() for name in ("network_count_distinct", *(f"{fact}_max" for fact in _FACTS))
    )
    routers_M = routes_M if routes_M.any() else meets_M
    if not routers_M.any():
        routers_M = asked_M & (networks_M == networks_M[asked_M].max(initial=0))
    return frozenset(by_mac["mac"].filter(pa.array(routers_M | (networks_M > MOST_NETWORKS))).to_pylist())


def _scan(tasks: Iterable[pa.RecordBatch], files: Sequence[FlowFile], inside: Networks) -> Iterator[pa.RecordBatch]:
    for number in read_task_ids(tasks):
        yield from _ends_of(files[number], inside).to_batches()


def _ends_of(file: FlowFile, inside: Networks) -> pa.Table:
    """_ENDS_OF_SITE of a file. To send few rows, only the MOST_NETWORKS + 1 lowest networks of each MAC and facts."""
    found = [ENDS.empty_table(), *(outside_ends(batch, inside) for batch in file.read(_COLUMNS))]
    distinct = pa.concat_tables(found).group_by(ENDS.names, use_threads=False).aggregate([])
    rows = distinct.sort_by([(name, "ascending") for name in ("mac", *_FACTS, "network")])
    keys = pc.binary_join_element_wise(rows["mac"], *(rows[fact].cast(pa.string()) for fact in _FACTS), " ")
    _, first_K, key_R = np.unique(keys.to_numpy(), return_index=True, return_inverse=True)
    lowest = rows.filter(pa.array(np.arange(len(rows)) - first_K[key_R] <= MOST_NETWORKS)).cast(ENDS)
    return lowest.append_column("site", pa.repeat(file.site, len(lowest))).cast(_ENDS_OF_SITE)


def _text(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    return one_chunk(column).cast(pa.string())


def _networks(ip: pa.Array) -> NDArray[np.int64]:
    """(N,): numbers of the addresses' /24 or /64; IPv4 and IPv6 could collide only for addresses in ::/8."""
    encoded = ip.dictionary_encode()
    version_D, value_D2 = parse_addresses(encoded.dictionary.to_pylist())
    network_D = np.where(version_D == 6, value_D2[:, 0], value_D2[:, 1] >> np.uint64(8)).view(np.int64)
    return network_D[encoded.indices.to_numpy()]
