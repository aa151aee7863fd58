"""The groups that are known before a census is taken: the site's earlier ones, the network's, and what persons said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from iotid.census.groups import NO_GROUPS
from iotid.census.network.groups import merged_groups
from iotid.census.network.stored import as_leaders, network_before, renamed_groups, site_names, stored_network_groups
from iotid.census.stored import stored_groups
from iotid.labels.group_names import GroupNames, Statement

if TYPE_CHECKING:
    import pyarrow as pa

    from iotid.census.pseudonyms import Pseudonyms
    from iotid.partitions import Partition, PartitionKey, Store
    from iotid.schemas.metadata import Census, Network


@dataclass(frozen=True)
class KnownGroups:
    """``leaders`` (GROUPS): the site's earlier groups under the network's names, then those of the network.

    ``network_names``: a group's earlier name at the site -> its name in the network, where they differ. ``named`` and
    ``split``: what persons said, by the present names. ``network``: the network's census that the names come from.
    """

    leaders: pa.Table
    network_names: Mapping[str, str]
    named: Mapping[str, Statement]
    split: frozenset[str]
    network: Partition[Network] | None

    @classmethod
    def read(
        cls,
        store: Store,
        key: PartitionKey,
        earlier: Partition[Census] | None,
        pseudonyms: Pseudonyms | None,
        min_similarity: float,
    ) -> Self:
        """Those for the census of ``key``; ``earlier``: the site's latest census before, if it has the same key of
        pseudonyms.

        Raises:
            DataError: a stored file is damaged.
        """
        own = stored_groups(store, earlier, pseudonyms) if earlier else NO_GROUPS
        network = network_before(store, key)
        of_network = stored_network_groups(store, network, pseudonyms)
        names = site_names(of_network, key.site, own, min_similarity)
        merged = _merged_at_site(own)
        merged = {former: names.get(name, name) for former, name in merged.items()}
        said = GroupNames.read(store).under(merged | merged_groups(of_network.groups) | names)
        return cls(
            as_leaders(renamed_groups(own, names), of_network),
            names,
            said.named(key.site, key.capture_date),
            said.split(key.site, key.capture_date),
            network,
        )


def _merged_at_site(groups: pa.Table) -> dict[str, str]:
    """Former name -> name, of groups that have become part of others (``groups``: GROUPS)."""
    pairs = zip(groups["group_name"].to_pylist(), groups["merged"].to_pylist(), strict=True)
    return {former: name for name, merged in pairs for former in merged or ()}
