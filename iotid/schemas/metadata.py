"""Types of the metadata of partitions, by table. The columns of tables are in `iotid.schemas.tables`.

A step may write more fields; only those that later steps read have a type here. All are checked when a partition is
opened; the first fault is raised as a DataError of one line.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NotRequired, TypedDict

from iotid.errors import DataError, shorten
from iotid.inputs import parse_object
from iotid.schemas import typed
from iotid.schemas.typed import Count, Share

METADATA = "_METADATA.json"
_STEPS = {
    "splits": "split-pcaps", "flows": "assemble-flows", "datasets": "write-dataset", "reports": "evaluate",
    "decisions": "promote", "census": "take-census", "group_names": "name", "network": "take-network-census",
    "comparisons": "compare", "descriptions": "describe", "reproductions": "reproduce",
}  # fmt: skip


class Common(TypedDict, total=False):
    """Of every table."""

    table: str
    keys: dict[str, str]
    schema_version: Count
    code_version: str


class CapturesRead(TypedDict, total=False):
    """The inputs of splits."""

    captures: str


class Splits(Common, total=False):
    """``unreadable``: capture -> why it cannot be read."""

    rows: Count
    files: Count
    files_ignored: Count
    files_same: Count
    files_alike: Count
    files_unplanned: Count
    bytes: Count
    unreadable: dict[str, str]
    inputs: CapturesRead


class FlowSettings(TypedDict):
    """The settings of section ``flow`` that determine whether a model can read the flows."""

    length: str
    max_packets: Count
    join_files: NotRequired[bool]
    header_fields: NotRequired[bool]


class FlowsSettings(TypedDict):
    """The sections of settings that the flows were assembled with."""

    flow: FlowSettings


class DateBefore(TypedDict):
    """The previous date, whose open flows continue in this partition; ``last_us``: its last packet, in µs."""

    site: NotRequired[str]
    capture_date: NotRequired[str]
    last_us: int


class FlowsRead(TypedDict, total=False):
    """The inputs of flows."""

    splits: Splits
    night_before: DateBefore


class Flows(Common, total=False):
    """``packets``: by reason; ``flows_by_date``: flows by the date (UTC) of their first packet, those of rarer dates
    under `other`; ``open_flows``, ``open_packets``: flows that may continue on the next date."""

    rows: Count
    flows_by_date: dict[str, Count]
    packets: dict[str, Count]
    unreadable: Count
    overlapping: Count
    settings: FlowsSettings
    settings_hash: str
    inputs: FlowsRead
    last_us: int
    open_flows: Count
    open_packets: Count


class Totals(TypedDict):
    """Of a label in one dataset split."""

    rows: Count
    flows: Count


class Datasets(Common, total=False):
    """``rows``, ``flows``: by dataset split; ``labels``: by label and split; ``nights``: keys of the flows;
    ``from_persons``: devices and flows that persons named (`iotid name`), and those that the list overrules;
    ``settings``: the sections dataset and flow that it was written with."""

    hash: str
    nights: list[dict[str, str]]
    rows: dict[str, Count]
    flows: dict[str, Count]
    labels: dict[str, dict[str, Totals]]
    coverage: list[str]
    from_persons: dict[str, Count]
    settings: dict[str, dict[str, Any]]
    summary: str
    protocol: str


class Reports(Common, total=False):
    """``versions``: by alias; ``left_out``: version -> why it was left out."""

    versions: dict[str, Count]
    left_out: dict[str, str]
    summary: list[str]
    made_by: str | None


class Decisions(Common, total=False):
    """Whether the version was promoted."""

    promoted: bool


class DeviceListCounts(TypedDict, total=False):
    """Listed devices: all, those seen at the site before but not on this date, with names, and those never seen; and
    addresses by ``list_check``."""

    devices: Count
    not_seen: Count
    not_seen_names: list[str]
    never_seen: Count
    agrees: Count
    differs: Count
    not_identified: Count
    not_listed: Count
    unknown: Count


class Census(Common, total=False):
    """Devices by status, change and mark; ``flows_without_device``: by reason; ``watched_labels``: watched, by name;
    ``makers``: which table of MAC prefixes, null with pseudonyms; ``unreadable``: captures in quarantine;
    ``network_groups``: key of the network's census that names groups, if any. ``device_list``: empty without a list.
    ``learned_from_date``: whether the model was trained on this site and date; null if that is not known.
    ``flows_by_date``: as of flows. ``inputs``: hash of all that the census was made from.

    ``model_version``: null if no model was there.
    """

    model_version: str | None
    settings_hash: str
    key_fingerprint: str | None
    makers: str | None
    devices: Count
    status: dict[str, Count]
    changes: dict[str, Count]
    marks: dict[str, Count]
    flows_without_device: dict[str, Count]
    flows_of_other_protocols: Count
    groups: Count
    watched: Count
    watched_labels: dict[str, Count]
    packets: dict[str, Count]
    flows: Count
    flows_of_devices: Count
    unreadable: Count
    unexplained: Share
    network_groups: dict[str, str]
    device_list: DeviceListCounts
    learned_from_date: bool | None
    flows_by_date: dict[str, Count]
    inputs: str


class Network(Common, total=False):
    """``sites``: number by state; ``inputs``: hash of all that the rows were made from; ``groups_hash``: of the groups
    and their profiles, which the next capture date reads; ``not_joined``: sites whose groups have another key."""

    rows: Count
    sites: dict[str, Count]
    addresses: Count
    status: dict[str, Count]
    watched: Count
    groups: Count
    undecided: Count
    unexplained: Share
    models: list[str]
    inputs: str
    groups_hash: str
    key_fingerprint: str | None
    not_joined: Count


class GroupNames(Common, total=False):
    """One statement of a person about a group, as in the columns of the table; ``rows``: devices and capture dates."""

    rows: Count
    group: str
    action: Literal["name", "reject", "split"]
    model: str
    vendor: str
    type: str
    stated_by: str
    stated_at: str
    sites: list[str]
    dates: list[str]


CONTRACTS: Mapping[str, Any] = {
    "splits": Splits,
    "flows": Flows,
    "datasets": Datasets,
    "reports": Reports,
    "decisions": Decisions,
    "census": Census,
    "network": Network,
    "group_names": GroupNames,
}


class Metadata(dict[str, Any]):
    """The metadata of the partition at ``place``; reading a missing field raises a DataError."""

    def __init__(self, fields: Mapping[str, Any], table: str = "", place: str = "") -> None:
        super().__init__(fields)
        self.table, self.place = table, place

    def __missing__(self, name: str) -> Any:
        raise DataError(f"{self.place}/{METADATA}: {name}: is missing; {remedy(self.table)}")


def checked(table: str, fields: dict[str, Any]) -> dict[str, Any]:
    """Check metadata before it is written; raises an AssertionError if a reader would refuse it."""
    try:
        typed.check(CONTRACTS.get(table, Common), fields)
    except ValueError as fault:
        raise AssertionError(f"metadata of {table}: {fault}") from None
    return fields


def read_metadata(content: bytes, table: str, place: str) -> Metadata:
    """Parse the metadata of a partition of ``table`` at ``place``.

    Raises:
        DataError: it is no JSON object, or a field has another type.
    """
    try:
        fields = parse_object(content)
        typed.check(CONTRACTS.get(table, Common), fields)
    except ValueError as fault:
        raise DataError(f"{place}/{METADATA}: {shorten(str(fault), 400)}; {remedy(table)}") from None
    return Metadata(fields, table, place)


def remedy(table: str) -> str:
    """The remedy for a damaged partition of ``table``, for errors."""
    step = f" (iotid {_STEPS[table]})" if table in _STEPS else ""
    return f"write the partition again{step}"


def step_of(table: str) -> str | None:
    """The command that writes the table, if any."""
    return _STEPS.get(table)
