"""Which devices are in which groups by the stored censuses, and what a person may say about a group.

Reads the tables `census` and `group_names`, two or three columns of each partition at a time.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, NamedTuple

from iotid.errors import LabelError, short_repr, shorten
from iotid.labels.group_names import MEMBERS, GroupNames, Statement, checked, read_members, write_statement
from iotid.partitions import PartitionKey, Store
from iotid.schemas import CENSUS, GROUP_NAMES
from iotid.schemas.metadata import remedy
from iotid.storage import translate_read_errors

if TYPE_CHECKING:
    import pyarrow as pa

    from iotid.partitions import Partition
    from iotid.schemas import metadata

OTHERS = "others"  # devices that are similar to no group, so not to each other
GROUPS_SINCE, MAKERS_SINCE, GROUP_NAME_SINCE = 3, 6, 7  # versions of CENSUS that added them
_NEAREST = 3


class Outcome(NamedTuple):
    """``is_new``: whether a statement was stored; otherwise ``statement`` is the earlier one that says the same.

    ``devices``: distinct ones of each site; ``censuses``: those with one.
    """

    statement: Statement
    is_new: bool
    devices: int
    sites: int
    censuses: int


@dataclass(frozen=True)
class CensusesRead:
    """Censuses of the sites and capture dates chosen; empty: all."""

    store: Store
    sites: tuple[str, ...] = ()
    dates: tuple[str, ...] = ()

    def keys(self) -> list[PartitionKey]:
        return [
            key
            for key in self.store.partitions("census")
            if key.site in (self.sites or (key.site,)) and key.capture_date in (self.dates or (key.capture_date,))
        ]

    def members(self, groups: Collection[str] | None = None, columns: tuple[str, ...] = ()) -> pa.Table:
        """MEMBERS and ``group_name`` of the devices in these groups (None: in any), and more columns of CENSUS."""
        import pyarrow as pa

        parts = [grouped_devices(self.store.open("census", key), groups, columns) for key in self.keys()]
        return pa.concat_tables([_schema(columns).empty_table(), *parts])


def grouped_devices(
    census: Partition[metadata.Census], groups: Collection[str] | None = None, columns: tuple[str, ...] = ()
) -> pa.Table:
    """As `CensusesRead.members`, of one census, without the rows of devices that are gone or away.

    Raises:
        DataError: the files are damaged.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    version, schema = census.metadata["schema_version"], _schema(columns)
    if version < GROUPS_SINCE:
        return schema.empty_table()
    group = group_column(version)
    is_wanted = pc.field(group).is_valid() if groups is None else pc.field(group).isin(list(groups))
    stored = ["device_id", group, *(columns if version >= MAKERS_SINCE else ())]
    with translate_read_errors(census.uri, remedy("census")):
        found = pq.read_table(
            census.uri, columns=stored, filters=is_wanted & (pc.field("flows") > 0), partitioning=None
        )
        found = found.rename_columns(["group_name" if name == group else name for name in found.column_names])
        given = {
            "site": pa.scalar(census.key.site),
            "capture_date": pa.scalar(date.fromisoformat(census.key.capture_date)),
            "key_fingerprint": pa.scalar(census.metadata.get("key_fingerprint"), pa.string()),
        }
        absent = dict.fromkeys(set(columns) - set(found.column_names), pa.scalar(None, pa.string()))
        same = {name: pa.repeat(value, len(found)) for name, value in (given | absent).items()}
        return pa.table([same[name] if name in same else found[name] for name in schema.names], schema=schema)


def group_column(version: int) -> str:
    """What a census of this version calls its column `group_name`."""
    return "group_name" if version >= GROUP_NAME_SINCE else "group"


def state(store: Store, statement: Statement) -> Outcome:
    """Store what a person says about a group; if the same is in force for all its devices already, store nothing.

    The devices are those of the group in the censuses of the statement's sites and dates; if there are none, those of
    the last statement about it, so that a statement can be withdrawn after its censuses are gone.

    Raises:
        LabelError: there is no such group, or a text of the statement breaks a rule.
    """
    wanted, known = checked(statement), GroupNames.read(store)
    if wanted.group == OTHERS:
        raise LabelError(f"{OTHERS}: is no group but the devices beyond the most groups, which are not similar")
    censuses = CensusesRead(store, wanted.sites, wanted.dates)
    members = censuses.members([wanted.group]).select(MEMBERS)
    before = [each for each in known.statements if each.group == wanted.group]
    if not len(members) and not before:
        raise _no_such_group(wanted.group, censuses)
    if not len(members):
        members = read_members(store, before[-1])
    same = _same_in_force(before, wanted)
    if same is not None and _pairs(members) <= _pairs(read_members(store, same)):
        return _outcome(same, members, is_new=False)
    return _outcome(write_statement(store, wanted, members, known), members, is_new=True)


def _same_in_force(before: list[Statement], wanted: Statement) -> Statement | None:
    """The last statement about any of the sites and dates of ``wanted``, if it says the same of the same ones."""
    about = [each for each in before if _overlap(each.sites, wanted.sites) and _overlap(each.dates, wanted.dates)]
    return about[-1] if about and about[-1].says_same_as(wanted) else None


def _overlap(some: tuple[str, ...], others: tuple[str, ...]) -> bool:
    return not some or not others or bool(set(some) & set(others))


def _no_such_group(group: str, censuses: CensusesRead) -> LabelError:
    names = sorted(set(censuses.members()["group_name"].to_pylist()) - {OTHERS})
    count = len(censuses.keys())
    chosen = " chosen" if censuses.sites or censuses.dates else ""
    where = f"{count:,} census{'es' * (count != 1)}{chosen} in {censuses.store.root}"
    close = difflib.get_close_matches(shorten(group), names, n=_NEAREST, cutoff=0.4)
    hint = f"did you mean {' or '.join(close)}?" if close else f"they have {len(names):,} groups;"
    return LabelError(f"{short_repr(group)}: is no group of {where}; {hint} iotid name --list shows all")


def _outcome(statement: Statement, members: pa.Table, *, is_new: bool) -> Outcome:
    rows = list(_rows(members))
    devices, censuses = {(site, device) for site, _, device, _ in rows}, {(site, day) for site, day, *_ in rows}
    return Outcome(statement, is_new, len(devices), len({site for site, *_ in rows}), len(censuses))


def _pairs(members: pa.Table) -> set[tuple[object, ...]]:
    return set(_rows(members))


def _rows(members: pa.Table) -> Iterator[tuple[object, ...]]:
    columns: Iterable[list[object]] = (members[name].to_pylist() for name in MEMBERS)
    return zip(*columns, strict=True)


def _schema(columns: tuple[str, ...]) -> pa.Schema:
    import pyarrow as pa

    contract, census = GROUP_NAMES.arrow_schema(), CENSUS.arrow_schema()
    fields = [contract.field(name) for name in MEMBERS]
    return pa.schema([*fields, contract.field("group_name"), *(census.field(name) for name in columns)])
