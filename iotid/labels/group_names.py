"""What persons said about groups of unknown devices (`iotid name`): statements, and which of them is in force.

A statement is one partition of GROUP_NAMES, so that two persons at the same time lose nothing. None is ever changed or
deleted: for each site and capture date, the last one about a group is in force.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from iotid.config import to_nfc
from iotid.errors import DataError, LabelError, short_repr
from iotid.labels.devices import UNLISTED
from iotid.partitions import PartitionKey, Store
from iotid.schemas import GROUP_NAMES
from iotid.schemas.metadata import METADATA, remedy
from iotid.storage import read_table

if TYPE_CHECKING:
    import pyarrow as pa

    from iotid.partitions import Partition
    from iotid.schemas import metadata

NAME, REJECT, SPLIT = "name", "reject", "split"
MEMBERS = ("site", "capture_date", "device_id", "key_fingerprint")
"""Columns of GROUP_NAMES that differ between the rows of a statement."""

_CONTENT = ("group", "action", "model", "vendor", "type", "sites", "dates")


@dataclass(frozen=True)
class Statement:
    """What one person said about one group: `name` it, `reject` earlier statements, or `split` it.

    ``model``, ``vendor``, ``type``: as in a device list; empty if not given. ``sites``, ``dates``: where it is in
    force; empty: everywhere, later capture dates included. ``stated_at`` is None until it is stored.
    """

    group: str
    action: str
    stated_by: str
    model: str = ""
    vendor: str = ""
    type: str = ""
    sites: tuple[str, ...] = ()
    dates: tuple[str, ...] = ()
    stated_at: datetime | None = None
    name: str = ""  # of its partition

    def covers(self, site: str, capture_date: str) -> bool:
        return (not self.sites or site in self.sites) and (not self.dates or capture_date in self.dates)

    def says_same_as(self, other: Statement) -> bool:
        """Whether both say the same of the same groups, sites and dates, by any person and at any time."""
        return all(getattr(self, field) == getattr(other, field) for field in _CONTENT)

    @property
    def title(self) -> str:
        """The model, with vendor and type in parentheses; ``rejected`` or ``to be split``."""
        if self.action != NAME:
            return {REJECT: "rejected", SPLIT: "to be split"}[self.action]
        more = ", ".join(filter(None, (self.vendor, self.type)))
        return f"{self.model} ({more})" if more else self.model

    @property
    def said(self) -> str:
        """Who said it, and when."""
        return f"{self.stated_by}, {self.stated_at:%Y-%m-%d %H:%M} UTC" if self.stated_at else self.stated_by


@dataclass(frozen=True)
class GroupNames:
    """All statements of a store, in order of time."""

    statements: tuple[Statement, ...] = ()

    @classmethod
    def read(cls, store: Store) -> GroupNames:
        """Reads the metadata only; `read_members` reads the devices of a statement.

        Raises:
            DataError: a partition is damaged.
        """
        found = (store.open("group_names", key) for key in store.partitions("group_names"))
        return cls(tuple(sorted(map(stored_statement, found), key=lambda each: each.name)))

    def under(self, names: Mapping[str, str]) -> GroupNames:
        """The same statements about groups that have other names now: former name -> present name."""
        return GroupNames(tuple(replace(each, group=names.get(each.group, each.group)) for each in self.statements))

    def in_force(self, site: str, capture_date: str) -> dict[str, Statement]:
        """Group -> the last statement about it for this site and capture date."""
        return {each.group: each for each in self.statements if each.covers(site, capture_date)}

    def named(self, site: str, capture_date: str) -> dict[str, Statement]:
        """Group -> the statement in force, of groups that have a name."""
        return {group: each for group, each in self.in_force(site, capture_date).items() if each.action == NAME}

    def split(self, site: str, capture_date: str) -> frozenset[str]:
        """The groups that are to be split."""
        return frozenset(group for group, each in self.in_force(site, capture_date).items() if each.action == SPLIT)

    def split_everywhere(self, capture_date: str) -> frozenset[str]:
        """The groups that are to be split at all sites."""
        in_force = {each.group: each for each in self.statements if not each.sites and each.covers("", capture_date)}
        return frozenset(group for group, each in in_force.items() if each.action == SPLIT)


def checked(statement: Statement) -> Statement:
    """The statement with its texts in the form of device lists (NFC, without surrounding white space).

    Raises:
        LabelError: a text breaks a rule.
    """
    texts = {name: _text(name, getattr(statement, name)) for name in ("model", "vendor", "type")}
    by = _text("by", statement.stated_by)
    if not by:
        raise LabelError("--by: must not be empty; give the name of the person who says it")
    for name, text in texts.items():
        if "…" in text:
            raise LabelError(
                f"--{name}: {text} is a placeholder; give the {name}, as in a device list, or leave it out"
            )
    if statement.action == NAME and not texts["model"]:
        raise LabelError("--model: must not be empty; give the model's name, as in a device list")
    if statement.action != NAME and any(texts.values()):
        raise LabelError(f"--{statement.action}: gives no name, so leave out --model, --vendor and --type")
    if texts["model"] == UNLISTED or texts["type"] == UNLISTED:
        raise LabelError(f"--model, --type: {UNLISTED!r} is the label of devices on no list; give another, or --reject")
    return replace(statement, stated_by=by, model=texts["model"], vendor=texts["vendor"], type=texts["type"])


def write_statement(store: Store, statement: Statement, members: pa.Table, known: GroupNames) -> Statement:
    """Store a checked statement with its devices (MEMBERS), as the latest; ``known``: the statements so far."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    moment = datetime.now(UTC)
    if known.statements and (latest := known.statements[-1].stated_at):
        moment = max(moment, latest + timedelta(microseconds=1))  # also if the clock of another machine is ahead
    stored = replace(statement, stated_at=moment, name=f"{moment:%Y%m%dT%H%M%S%f}Z-{uuid.uuid4().hex[:8]}")
    given: dict[str, Any] = {
        "group_name": stored.group, "action": stored.action, "model": stored.model or None,
        "vendor": stored.vendor or None, "type": stored.type or None, "stated_by": stored.stated_by,
        "stated_at": moment, "sites": list(stored.sites), "dates": list(map(date.fromisoformat, stored.dates)),
    }  # fmt: skip
    schema = GROUP_NAMES.arrow_schema(stored=True)
    same = {name: pa.repeat(pa.scalar(value, schema.field(name).type), len(members)) for name, value in given.items()}
    rows = pa.table([same[name] if name in same else members[name] for name in schema.names], schema=schema)
    with store.write("group_names", PartitionKey.named(stored.name), GROUP_NAMES.version) as staged:
        pq.write_table(GROUP_NAMES.describe(rows), f"{staged.path}/part-0.parquet", filesystem=staged.filesystem)
        staged.metadata |= {
            "rows": len(rows),
            **{name: getattr(stored, name) for name in ("group", "action", "model", "vendor", "type", "stated_by")},
            "stated_at": moment.isoformat(),
            "sites": list(stored.sites),
            "dates": list(stored.dates),
        }
    return stored


def read_members(store: Store, statement: Statement) -> pa.Table:
    """MEMBERS of a stored statement: the devices that were in the group, and on which capture dates.

    Raises:
        DataError: the files are damaged.
    """
    import pyarrow as pa

    contract = GROUP_NAMES.arrow_schema()
    schema = pa.schema([contract.field(name) for name in MEMBERS])
    stored = store.open("group_names", PartitionKey.named(statement.name))
    return read_table(stored.uri, schema, remedy("group_names"))


def stored_statement(partition: Partition[metadata.GroupNames]) -> Statement:
    """The statement of a partition, from its metadata.

    Raises:
        DataError: a field is missing or is no date.
    """
    found = partition.metadata
    texts = {name: found[name] for name in ("group", "action", "stated_by", "model", "vendor", "type")}
    try:
        moment = datetime.fromisoformat(found["stated_at"]).astimezone(UTC)
        dates = tuple(date.fromisoformat(text).isoformat() for text in found["dates"])
    except (ValueError, OverflowError) as fault:
        raise DataError(f"{partition.uri}/{METADATA}: {fault}; delete this statement, and make it again") from None
    return Statement(**texts, sites=tuple(found["sites"]), dates=dates, stated_at=moment, name=partition.key["name"])


def _text(name: str, given: str) -> str:
    text = to_nfc(given.strip())
    try:
        text.encode()
    except UnicodeEncodeError:
        raise LabelError(f"--{name}: {short_repr(given)} is not UTF-8 text; write it again") from None
    return text
