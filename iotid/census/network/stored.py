"""Reads and writes the files of a network's census."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from iotid.arrow import content_hash, one_chunk
from iotid.census.groups import OTHERS, check_groups, similarities, with_new_groups
from iotid.census.network.groups import NetworkGroups
from iotid.census.stored import with_group_name
from iotid.partitions import ALL_SITES
from iotid.schemas import GROUPS, MEMBERS, NETWORK, NETWORK_GROUPS, NETWORK_SITES
from iotid.schemas.metadata import remedy
from iotid.storage import SIDE_SUFFIX, as_schema, translate_read_errors

if TYPE_CHECKING:
    from iotid.census.pseudonyms import Pseudonyms
    from iotid.partitions import Partition, PartitionKey, Staged, Store
    from iotid.schemas import Table
    from iotid.schemas.metadata import Network

PAGE, CSV = "_network.html", "_network.csv"
SITES_FILE, SITES_CSV = f"_sites{SIDE_SUFFIX}", "_sites.csv"
GROUPS_FILE, GROUPS_CSV = f"_groups{SIDE_SUFFIX}", "_groups.csv"
PROFILES_FILE, PROFILES_SEALED = f"_profiles{SIDE_SUFFIX}", "_profiles.sealed"  # sealed as those of a census
MEMBERS_FILE = f"_members{SIDE_SUFFIX}"


def stored_dates(store: Store, name: str) -> list[str]:
    """The capture dates of which the network's census is stored, in order."""
    return sorted(key.capture_date for key in store.partitions("network") if key.get("name") == name)


def stored_sites(store: Store, network: Partition[Network]) -> pa.Table:
    """NETWORK_SITES of a network's census; raises a DataError if it is damaged."""
    return _read(store, network, SITES_FILE, NETWORK_SITES)


def stored_totals(network: Partition[Network], *, of_sites: bool = False) -> pa.Table:
    """The rows (NETWORK) of all sites together; ``of_sites``: and those of each.

    Raises:
        DataError: the files are damaged.
    """
    schema = NETWORK.arrow_schema(stored=True)
    with translate_read_errors(network.uri, remedy("network")):
        chosen = None if of_sites else pc.field("site").is_null()
        return as_schema(pq.read_table(network.uri, partitioning=None, columns=schema.names, filters=chosen), schema)


def stored_network_groups(
    store: Store, network: Partition[Network] | None, pseudonyms: Pseudonyms | None
) -> NetworkGroups:
    """The groups of a network's census that was made under the same key; none if there is none or it has another.

    Raises:
        DataError: a file is damaged.
    """
    fingerprint = pseudonyms.fingerprint if pseudonyms else None
    if network is None or network.metadata.get("key_fingerprint") != fingerprint:
        return NetworkGroups()
    groups, members = (
        _read(store, network, file, table) for file, table in ((GROUPS_FILE, NETWORK_GROUPS), (MEMBERS_FILE, MEMBERS))
    )
    if pseudonyms:
        content = pseudonyms.unseal(store.read_bytes(network, PROFILES_SEALED))
    else:
        content = store.read_bytes(network, PROFILES_FILE)
    with translate_read_errors(f"{network.uri}/{PROFILES_FILE}", remedy("network")):
        profiles = as_schema(with_group_name(pq.read_table(pa.BufferReader(content))), GROUPS.arrow_schema())
        return NetworkGroups(groups, check_groups(profiles), members)


def write_tables(
    staged: Staged, rows: pa.Table, sites: pa.Table, groups: NetworkGroups, pseudonyms: Pseudonyms | None
) -> None:
    """Write all tables of a network's census; the profiles encrypted if there are pseudonyms."""
    pq.write_table(NETWORK.describe(rows), f"{staged.path}/part-0.parquet", filesystem=staged.filesystem)
    for name, contract, table in (
        (SITES_FILE, NETWORK_SITES, sites),
        (GROUPS_FILE, NETWORK_GROUPS, groups.groups),
        (MEMBERS_FILE, MEMBERS, groups.members),
    ):
        pq.write_table(contract.describe(table), f"{staged.path}/{name}", filesystem=staged.filesystem)
    buffer = pa.BufferOutputStream()
    pq.write_table(GROUPS.describe(groups.profiles), buffer)
    content = buffer.getvalue().to_pybytes()
    if pseudonyms:
        staged.write_bytes(PROFILES_SEALED, pseudonyms.seal(content))
    else:
        staged.write_bytes(PROFILES_FILE, content)


def hash_of(groups: NetworkGroups, pseudonyms: Pseudonyms | None) -> str:
    """Hash of the groups, keyed under pseudonyms."""
    hashed = content_hash(groups.groups, groups.profiles, groups.members)
    return pseudonyms.digest(hashed) if pseudonyms else hashed


def network_before(store: Store, key: PartitionKey) -> Partition[Network] | None:
    """The latest census of a network with this site before this date; of several of a date, that of all sites, or else
    the first by name. A new site counts to the network of all sites."""
    earlier = [each for each in store.partitions("network") if each.capture_date < key.capture_date]
    for found in sorted(earlier, key=lambda each: (each.capture_date, each["name"] == ALL_SITES), reverse=True):
        network = store.open("network", found)
        if found["name"] == ALL_SITES or key.site in stored_sites(store, network)["site"].to_pylist():
            return network
    return None


def site_names(groups: NetworkGroups, site: str, own: pa.Table, min_similarity: float) -> dict[str, str]:
    """The network's name of each group of a site whose name differs: ``own`` (GROUPS) are the site's earlier groups.

    Of several groups of the site that are one group of the network, the first, or that which has its name, gets it; the
    others get it, too, if they are similar to the first, and otherwise keep theirs.
    """
    of_network: dict[str, list[str]] = {}
    members = groups.names
    for name in sorted(own["group_name"].to_pylist()):
        joined = members.get((site, name))
        if joined is not None and joined != OTHERS:
            of_network.setdefault(joined, []).append(name)
    index = {name: number for number, name in enumerate(own["group_name"].to_pylist())}
    renamed: dict[str, str] = {}
    for joined, names in of_network.items():
        first = joined if joined in names else names[0]
        if joined in index and first != joined:
            continue  # the site has given this name to another of its groups
        rows = own.take(pa.array([index[first], *(index[name] for name in names)]))
        similarity = similarities(rows.slice(0, 1), rows.slice(1))[0].tolist()
        similar = (name for name, value in zip(names, similarity, strict=True) if value >= min_similarity)
        renamed |= dict.fromkeys({first, *similar}, joined)
    return {name: joined for name, joined in renamed.items() if name != joined}


def renamed_groups(own: pa.Table, names: Mapping[str, str]) -> pa.Table:
    """The site's groups (GROUPS) under the network's names; of several of one name the first in order."""
    renamed = rename(own, names).sort_by("group_name").combine_chunks()
    first = {name: row for row, name in reversed([*enumerate(renamed["group_name"].to_pylist())])}
    return renamed.take(pa.array(sorted(first.values()), pa.int64()))


def rename(table: pa.Table, names: Mapping[str, str]) -> pa.Table:
    """The table (CENSUS or GROUPS) with the network's names of groups."""
    group = [names.get(name, name) if name is not None else None for name in table["group_name"].to_pylist()]
    index = table.schema.get_field_index("group_name")
    return table.set_column(index, table.schema.field(index), pa.array(group, pa.string()))


def as_leaders(own: pa.Table, network: NetworkGroups) -> pa.Table:
    """The site's groups (GROUPS) and, after them, those of the network."""
    return with_new_groups(own, network.profiles)


def _read(store: Store, network: Partition[Network], file: str, table: Table) -> pa.Table:
    content = store.read_bytes(network, file)
    with translate_read_errors(f"{network.uri}/{file}", remedy("network")):
        return as_schema(with_group_name(pq.read_table(pa.BufferReader(content))), table.arrow_schema())


def text_columns(table: pa.Table) -> pa.Table:
    """The table with lists of text joined by "; ", for CSV."""
    for number, column in enumerate(table.schema):
        if pa.types.is_list(column.type):
            table = table.set_column(number, column.name, pc.binary_join(one_chunk(table[column.name]), "; "))
    return table
