"""The devices that persons named (`iotid name`), as labels beside a device list.

A device is a member of a group on a capture date by a stored census, or was when somebody said something about the
group. A globally administered MAC is one device on all dates of its site; an address, or a MAC that its device may
change, only on the dates on which it was a member.

Shape suffixes: N flows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from iotid.arrow import one_chunk
from iotid.labels.devices import ALWAYS, Device
from iotid.labels.group_names import MEMBERS, NAME, GroupNames, Statement, read_members
from iotid.labels.grouped_devices import grouped_devices
from iotid.labels.owner import CLIENT, LOCAL_DIGITS, NO_MAC, SERVER, parse_addresses

if TYPE_CHECKING:
    import pyarrow as pa

    from iotid.partitions import PartitionKey, Store

_SEVERAL = -2  # in an index: persons said different things of one MAC

Place = tuple[str, str]  # site and capture date


@dataclass(frozen=True)
class NamedDevice:
    """One device of one site, by ``identifier`` (MAC or address), and what was said; ``dates``: where it holds, None
    for all."""

    site: str
    identifier: str
    statement: Statement
    dates: frozenset[str] | None
    is_one_of_several: bool = False  # the MAC has other names on other dates, so none where nothing was said

    @cached_property
    def device(self) -> Device:
        """As an entry of a device list. Not validated, because a census may hold what no list may, such as a group MAC.

        ``dataset.label: name`` gives each device its own class; an address is one only at its site.
        """
        said, is_mac = self.statement, _is_mac(self.identifier)
        name = f"{said.model} {self.identifier}" + ("" if self.dates is None else f" of {self.site}")
        identifier = (self.identifier,)
        mac, ip = (identifier, ()) if is_mac else ((), identifier)
        return Device.model_construct(  # all fields, because defaults would be copied, which takes most of the time
            name=name,
            model=said.model,
            vendor=said.vendor,
            type=said.type,
            mac=mac,
            ip=ip,
            path=(),
            valid_from=ALWAYS[0],
            valid_to=ALWAYS[1],
        )


@dataclass(frozen=True)
class NamedDevices:
    """``pseudonyms``: sites and dates whose census has pseudonyms, so that what was said of it labels no flows."""

    named: tuple[NamedDevice, ...] = ()
    pseudonyms: frozenset[Place] = field(default_factory=frozenset)

    def __bool__(self) -> bool:
        return bool(self.named)

    @cached_property
    def devices(self) -> tuple[Device, ...]:
        return tuple(each.device for each in self.named)

    def match(
        self, flows: pa.Table | pa.RecordBatch, side_N: NDArray[np.int8], place: Place
    ) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """(N,) the index of each flow's device, -1 for none; and (N,) whether persons said different things of it.

        ``side_N``: the side that owns each flow (`labels.owner`). A device is its MAC, or its address where no MAC is
        shown, as in the census.
        """
        index = self._index(place)
        found_N = np.full(len(side_N), -1, np.int64)
        for end, side in (("client", CLIENT), ("server", SERVER)):
            mac, ip = (one_chunk(flows.column(f"{end}_{what}")) for what in ("mac", "ip"))
            by_mac_N, shown_N = _numbers_of(mac, index)
            by_ip_N, _ = _numbers_of(ip, index)
            found_N = np.where(side_N == side, np.where(shown_N, by_mac_N, by_ip_N), found_N)
        return np.maximum(found_N, -1).astype(np.int32), found_N == _SEVERAL

    @property
    def content(self) -> list[str]:
        """A line for each device, for hashes of datasets."""
        return [
            "\t".join((each.site, ",".join(sorted(each.dates or ("*",))), each.device.model_dump_json()))
            for each in self.named
        ]

    def _index(self, place: Place) -> dict[str, int]:
        """Identifier -> index of its device at this site and date, or _SEVERAL."""
        site, capture_date = place
        index: dict[str, int] = {}
        for number in self._by_site.get(site, ()):
            own = self.named[number]
            if own.dates is None or capture_date in own.dates:
                index[own.identifier] = number
            elif own.is_one_of_several:
                index.setdefault(own.identifier, _SEVERAL)
        return index

    @cached_property
    def _by_site(self) -> dict[str, list[int]]:
        numbers: dict[str, list[int]] = {}
        for number, each in enumerate(self.named):
            numbers.setdefault(each.site, []).append(number)
        return numbers


def read_named_devices(store: Store, keys: Iterable[PartitionKey]) -> NamedDevices:
    """The devices that persons named, of the sites of these partitions of flows.

    What was said holds for the devices that were members then, and for those that are in the censuses of ``keys``.

    Raises:
        DataError: a statement or a census is damaged.
    """
    names, keys = GroupNames.read(store), list(keys)
    if not any(each.action == NAME for each in names.statements):
        return NamedDevices()
    sites = {key.site for key in keys}
    in_force: dict[Place, Mapping[str, Statement]] = {}
    said: dict[tuple[str, str], dict[str, Statement]] = {}  # device -> date -> what holds
    pseudonyms: set[Place] = set()
    for site, day, device, fingerprint, group in _all_members(store, names, keys):
        place = (site, day.isoformat())
        if site not in sites:
            continue
        if fingerprint is not None:
            pseudonyms.add(place)
            continue
        if place not in in_force:
            in_force[place] = names.in_force(*place)
        if statement := in_force[place].get(group):
            said.setdefault((site, device), {})[place[1]] = statement
    devices = [each for device in sorted(said) for each in _named_devices(device, said[device])]
    return NamedDevices(tuple(devices), frozenset(pseudonyms))


def _all_members(
    store: Store, names: GroupNames, keys: list[PartitionKey]
) -> Iterator[tuple[str, date, str, str | None, str]]:
    """Site, date, device, fingerprint and group of members: as they were when something was said, then as censuses are
    now, which replace the former."""
    groups = {each.group for each in names.statements}
    for statement in names.statements:
        yield from ((*row, statement.group) for row in _rows(read_members(store, statement), MEMBERS))
    for key in keys:
        if store.exists("census", key):
            yield from _rows(grouped_devices(store.open("census", key), groups), (*MEMBERS, "group_name"))


def _named_devices(device: tuple[str, str], said: Mapping[str, Statement]) -> Iterator[NamedDevice]:
    """The device once for each name that it has on some dates; a MAC that has one name has it on all."""
    of_name: dict[tuple[str, str, str], list[str]] = {}
    for day, each in sorted(said.items()):
        if each.action == NAME:
            of_name.setdefault((each.model, each.vendor, each.type), []).append(day)
    is_fixed, is_one = _is_fixed_mac(device[1]), len(of_name) == 1
    is_always_named = sum(map(len, of_name.values())) == len(said)
    for days in of_name.values():
        dates = None if is_fixed and is_one and is_always_named else frozenset(days)
        yield NamedDevice(*device, said[days[-1]], dates, is_one_of_several=is_fixed and not is_one)


def _numbers_of(column: pa.Array, index: Mapping[str, int]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """(N,) the index of each value, -1 if it has none; and whether it is shown: not null nor loopback's MAC."""
    encoded = column.dictionary_encode()
    texts = encoded.dictionary.to_pylist()
    number_V = np.array([*(index.get(text, -1) for text in texts), -1], np.int64)
    shown_V = np.array([*(text != NO_MAC for text in texts), False])
    value_N = encoded.indices.fill_null(len(texts)).to_numpy(zero_copy_only=False)
    return number_V[value_N], shown_V[value_N]


def _is_mac(identifier: str) -> bool:
    return bool(parse_addresses([identifier])[0][0] == 0)


def _is_fixed_mac(identifier: str) -> bool:
    """Whether it is a globally administered MAC, which a device keeps."""
    return _is_mac(identifier) and identifier[1].lower() not in LOCAL_DIGITS


def _rows(table: pa.Table, columns: Iterable[str]) -> Iterator[tuple[Any, ...]]:
    return zip(*(table[name].to_pylist() for name in columns), strict=True)
