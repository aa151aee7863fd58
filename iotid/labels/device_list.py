"""Matches flows with a device list, column by column.

Identifiers, the strongest first: the capture's path, then MAC and address of the side that owns the flow
(`iotid.labels.owner`: flows that a listed router forwards, or that a phone opens to a listed device, are not that
device's). A flow's candidates are the entries with its strongest identifier; if there are several, the next identifier
that some of them have narrows them down.

Shape suffixes: N flows.
"""

from __future__ import annotations

import fnmatch
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache, cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from iotid import config
from iotid.arrow import one_chunk
from iotid.config import to_nfc
from iotid.errors import LabelError, shorten
from iotid.labels.device_files import read_devices
from iotid.labels.devices import Device, device_kind
from iotid.labels.named_devices import NamedDevices
from iotid.labels.owner import CLIENT, SERVER, Networks, Site, owner_side
from iotid.labels.routers import find_routers

if TYPE_CHECKING:
    import pyarrow as pa

    from iotid.labels.routers import FlowFile
    from iotid.spark.in_process import Session

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ALL = ""  # no path
_NONE: frozenset[int] = frozenset()
_State = tuple[bool, frozenset[int]]  # whether an identifier matched, and the candidates left
_Named = tuple[
    list[frozenset[int]], NDArray[np.int64]
]  # sets of devices, and (N,) which of them each row's value names


@cache
def _default_inside() -> tuple[str, ...]:
    return config.load_settings().census.inside


@dataclass(frozen=True)
class DeviceList:
    """Devices, in the order of the list; ``source``: its name in errors; ``inside``: the site's networks, as
    `census.inside`; ``routers``: site -> MACs of its routers, if known (`iotid.labels.routers`); ``named``: devices
    that persons named, where the list has none."""

    devices: tuple[Device, ...]
    source: str = "devices"
    inside: tuple[str, ...] = field(default_factory=_default_inside)
    routers: Mapping[str, frozenset[str]] | None = None
    named: NamedDevices = field(default_factory=NamedDevices)

    def __post_init__(self) -> None:
        """Raise a LabelError if one MAC is listed for two devices that nothing else distinguishes."""
        for mac, numbers in self._by_mac.items():
            if clash := _clash(self.devices[number] for number in sorted(numbers)):
                first, second = (shorten(device.name) for device in clash)
                raise LabelError(
                    f"{self.source}: MAC {mac} is listed for {first} and for {second}; give each a path pattern of its "
                    "captures, or valid_from and valid_to that do not overlap, or one name"
                )

    @classmethod
    def read(cls, *paths: str | Path, inside: Iterable[str] | None = None) -> DeviceList:
        """Read YAML or CSV lists as one. ``inside``: the default of `census.inside` unless given.

        YAML holds ``devices:``, entries with ``name`` and any of ``model`` (default: the name), ``vendor``, ``type``,
        ``mac``, ``ip``, ``path`` (each one or a list), ``valid_from``, ``valid_to``; ``notes:`` is free text. CSV has
        a header: ``device`` or ``name``, ``mac``, ``ip``, ``path`` (several values of a cell parted by ``;``),
        ``vendor``, ``type``, ``model`` (or any ``device_type…``), ``valid_from``, ``valid_to``; other columns are
        ignored, except misspelt names of these, which are an error.

        Raises:
            LabelError: the file is missing or malformed, or nothing distinguishes two devices with one MAC.
        """
        devices = tuple(device for path in paths for device in read_devices(path))
        return cls(devices, ", ".join(map(str, paths)), _default_inside() if inside is None else tuple(inside))

    def with_named(self, named: NamedDevices) -> DeviceList:
        """The list, and beside it what persons named.

        Raises:
            LabelError: there is neither.
        """
        if not self.devices and not named:
            why = "their censuses have pseudonyms, which label no flows" if named.pseudonyms else "none has a name"
            raise LabelError(
                f"--labels: there is no device list, and of the groups of these sites and dates {why}; give a list, or "
                "name groups of unknown devices (iotid name --list)"
            )
        source = " and ".join(filter(None, (self.source, "the names of groups (iotid name)" if named else "")))
        return replace(self, named=named, source=source)

    def at(self, files: Sequence[FlowFile], spark: Session | None = None) -> DeviceList:
        """The list with the routers of these flows' sites, found in the flows, by workers if ``spark`` is given."""
        return replace(self, routers=find_routers(files, self._networks, spark))

    def site(self, name: str = "") -> Site:
        """The networks inside, the listed addresses outside them, and the site's routers."""
        return Site(self._networks, None if self.routers is None else self.routers.get(name, frozenset()))

    def match(self, flows: pa.Table | pa.RecordBatch, site: str = "") -> NDArray[np.int32]:
        """(N,) index of each flow's device in the list; -1 if no entry matches, or several match equally well.

        Reads these columns of FLOWS: capture_file, first_seen, and MAC, address and packets of both ends.
        """
        return self.resolve(flows, site)[0]

    def resolve(self, flows: pa.Table | pa.RecordBatch, site: str = "") -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """``match``, and (N,) whether several devices with different names match the flow equally well."""
        side_N = owner_side(flows, self.site(site))

        def of_owner(what: str, index: dict[str, frozenset[int]]) -> _Named:
            devices_of = partial(_devices_of, index)
            (of_client, client_N), (of_server, server_N) = (
                _distinct_sets(flows.column(f"{end}_{what}"), devices_of) for end in ("client", "server")
            )
            named_N = np.select([side_N == CLIENT, side_N == SERVER], [client_N + 1, server_N + 1 + len(of_client)])
            return [_NONE, *of_client, *of_server], named_N

        by_path = _distinct_sets(flows.column("capture_file"), self._by_path)
        return self._narrow_down(flows, [by_path, of_owner("mac", self._by_mac), of_owner("ip", self._by_ip)])

    def resolve_named(
        self, flows: pa.Table | pa.RecordBatch, site: str, capture_date: str
    ) -> tuple[NDArray[np.int32], NDArray[np.bool_], NDArray[np.int32]]:
        """``resolve`` with ``named``: (N,) index into `entries`; (N,) whether there are several; (N,) the index of the
        entry that a person named and the list overrules, -1 for none."""
        listed_N, several_N = self.resolve(flows, site)
        nobody_N = np.full(len(listed_N), -1, np.int32)
        if not self.named:
            return listed_N, several_N, nobody_N
        side_N = owner_side(flows, self.site(site))
        named_N, differ_N = self.named.match(flows, side_N, (site, capture_date))
        named_N = np.where(named_N >= 0, named_N + len(self.devices), -1).astype(np.int32)
        is_free_N = (listed_N < 0) & ~several_N
        overruled_N = np.where((listed_N >= 0) & (named_N >= 0), named_N, nobody_N)
        return np.where(is_free_N, named_N, listed_N), several_N | (is_free_N & differ_N), overruled_N

    def match_devices(self, rows: pa.Table) -> NDArray[np.int32]:
        """As ``match``, from columns capture_file, device (its MAC or its address: no text is both) and first_seen."""
        by_path = _distinct_sets(rows.column("capture_file"), self._by_path)
        by_end = _distinct_sets(rows.column("device"), partial(_devices_of, {**self._by_mac, **self._by_ip}))
        return self._narrow_down(rows, [by_path, by_end])[0]

    def are_listed(self, number_N: NDArray[np.int32], ends: pa.ChunkedArray) -> NDArray[np.bool_]:
        """(N,) whether device ``number_N`` (-1: none) lists the MAC or address in ``ends``.

        Entries of one name are one device.
        """
        own: dict[str, set[str]] = {}
        for device in self.devices:
            own.setdefault(device.name, set()).update(device.mac, device.ip)
        encoded = one_chunk(ends).dictionary_encode()
        texts = encoded.dictionary.to_pylist()
        code_N = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
        pairs, pair_N = np.unique((number_N + 1) * np.int64(len(texts)) + code_N, return_inverse=True)
        of_pairs = (divmod(pair, len(texts)) for pair in pairs.tolist())
        listed = [number > 0 and texts[code] in own[self.devices[number - 1].name] for number, code in of_pairs]
        return np.array(listed, np.bool_)[pair_N]

    @property
    def macs(self) -> list[str]:
        """All listed MACs, sorted."""
        return sorted(self._by_mac)

    def addresses(self, *, without_mac: bool = False) -> list[str]:
        """Addresses of all devices, or of those that list no MAC, sorted."""
        return sorted({ip for device in self.devices for ip in device.ip if not (without_mac and device.mac)})

    def _narrow_down(
        self, rows: pa.Table | pa.RecordBatch, evidence: Iterable[_Named]
    ) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """As ``resolve``; ``evidence``: the devices that each row's identifiers name, the strongest first."""
        # A state is (an identifier matched, candidates). Flows have few distinct states: the loop is over these, and
        # each flow is a lookup.
        states, state_N = self._valid_at(rows)
        for named, named_N in evidence:
            pairs, pair_N = np.unique(state_N * len(named) + named_N, return_inverse=True)
            narrowed = [_narrow(states[pair // len(named)], named[pair % len(named)]) for pair in pairs.tolist()]
            states, index = _intern(narrowed)
            state_N = index[pair_N]
        decided = [self._decide(*state) for state in states]
        device = np.array([number for number, _ in decided], dtype=np.int32)
        ambiguous = np.array([several for _, several in decided], dtype=np.bool_)
        return device[state_N], ambiguous[state_N]

    @cached_property
    def entries(self) -> tuple[Device, ...]:
        """The devices of the list, then those that persons named."""
        return (*self.devices, *self.named.devices)

    def labels(self, attribute: str) -> tuple[str, ...]:
        """The label of each of `entries`; ``attribute``: ``name``, ``model`` or ``type``.

        Raises:
            LabelError: a device has none.
        """
        labels = tuple(str(getattr(device, attribute)) for device in self.entries)
        for number, label in enumerate(labels):
            if not label:
                raise self._without(attribute, number)
        return labels

    def describe(self, attribute: str) -> dict[str, dict[str, str]]:
        """Label -> vendor, type and model, each empty if the label's devices differ in it."""
        labels, size = self.labels(attribute), len(self.devices)
        listed = _described(labels[:size], self.devices)
        return (
            _described(labels[size:], self.named.devices) | listed
        )  # what a person says of a listed label is not used

    def describe_all(self, attribute: str, labels: Iterable[str]) -> dict[str, dict[str, str]]:
        """`describe` of each of ``labels``, all empty for UNLISTED."""
        known = self.describe(attribute)
        return {label: known.get(label, {"vendor": "", "type": "", "model": ""}) for label in sorted(labels)}

    def device_kinds(self, attribute: str, labels: Iterable[str]) -> dict[str, str]:
        """The device kind of each of ``labels``, see `devices.device_kind`."""
        return {
            label: device_kind(label, described) for label, described in self.describe_all(attribute, labels).items()
        }

    @property
    def hash(self) -> str:
        """Twelve hexadecimal digits: hash of `entries` and the site's networks, independent of ``source``."""
        of_devices = (device.model_dump_json() for device in self.devices)
        content = "\n".join([*of_devices, *self.inside, *self.named.content])
        return hashlib.sha256(content.encode()).hexdigest()[:12]

    @cached_property
    def _networks(self) -> Networks:
        import pyarrow as pa

        inside = Networks(self.inside)
        listed = pa.array(self.addresses(), pa.string())
        beyond = listed.filter(pa.array(~inside.contain(listed))).to_pylist()
        return Networks([*self.inside, *beyond])

    @cached_property
    def _by_mac(self) -> dict[str, frozenset[int]]:
        return _index(device.mac for device in self.devices)

    @cached_property
    def _by_ip(self) -> dict[str, frozenset[int]]:
        return _index(device.ip for device in self.devices)

    @cached_property
    def _patterns(self) -> list[tuple[re.Pattern[str], int]]:
        return [
            (re.compile(_path_regex(pattern)), number)
            for number, device in enumerate(self.devices)
            for pattern in device.path
        ]

    def _by_path(self, path: str) -> frozenset[int]:
        absolute = "/" + to_nfc(path).lstrip("/")  # so that `*/Hue/*` fits the relative path `Hue/setup.pcap`
        return frozenset(number for pattern, number in self._patterns if pattern.fullmatch(absolute))

    def _valid_at(self, flows: pa.Table | pa.RecordBatch) -> tuple[list[_State], NDArray[np.int64]]:
        """(initial state of each time interval: all devices valid in it; (N,) interval of each flow)."""
        bounds = sorted({at for device in self.devices for at in (device.valid_from, device.valid_to)})
        valid = [
            frozenset(n for n, device in enumerate(self.devices) if device.valid_from <= bound < device.valid_to)
            for bound in bounds
        ]
        bounds_us = np.array([(bound - _EPOCH) // timedelta(microseconds=1) for bound in bounds], dtype=np.int64)
        interval_N = np.searchsorted(bounds_us, _microseconds(flows), side="right")
        return [(False, numbers) for numbers in (_NONE, *valid)], interval_N.astype(np.int64)

    def _without(self, attribute: str, number: int) -> LabelError:
        """The error that an entry has no such attribute."""
        if number < len(self.devices):
            name = shorten(self.devices[number].name)
            return LabelError(f"{self.source}: {name} has no {attribute}, and dataset.label is {attribute}; add it")
        said = self.named.named[number - len(self.devices)].statement
        return LabelError(
            f"group_names: {shorten(said.title)} has no {attribute}, and dataset.label is {attribute}; give it with "
            f"iotid name {shorten(said.group)} --model … --{attribute} …"
        )

    def _decide(self, found: bool, candidates: frozenset[int]) -> tuple[int, bool]:
        if not found:
            return -1, False
        if len({self.devices[number].name for number in candidates}) > 1:
            return -1, True
        return min(candidates), False


def _described(labels: Iterable[str], devices: Iterable[Device]) -> dict[str, dict[str, str]]:
    described: dict[str, dict[str, str]] = {}
    for label, device in zip(labels, devices, strict=True):
        own = {"vendor": device.vendor, "type": device.type, "model": device.model}
        known = described.setdefault(label, own)
        described[label] = {key: value if known[key] == value else "" for key, value in own.items()}
    return described


def _clash(devices: Iterable[Device]) -> tuple[Device, Device] | None:
    """Of the devices with one MAC, two that nothing distinguishes: different names, overlapping validity and paths."""
    # path (None: without, _ALL: any) -> of the earlier devices, the two of different names that are valid for longest
    latest: dict[str | None, list[Device]] = {}
    for device in sorted(devices, key=lambda device: device.valid_from):
        for key in (*device.path, None) if device.path else (_ALL,):
            for other in latest.get(key, ()):
                if other.name != device.name and other.valid_to > device.valid_from:
                    return other, device
        for key in (*device.path, _ALL) if device.path else (None, _ALL):
            first, *others = sorted([device, *latest.get(key, ())], key=lambda d: d.valid_to, reverse=True)
            latest[key] = [first, *[other for other in others if other.name != first.name][:1]]
    return None


def _index(values_of_devices: Iterable[tuple[str, ...]]) -> dict[str, frozenset[int]]:
    """Value -> indices of all devices that list it."""
    index: dict[str, set[int]] = {}
    for number, values in enumerate(values_of_devices):
        for value in values:
            index.setdefault(value, set()).add(number)
    return {value: frozenset(numbers) for value, numbers in index.items()}


def _devices_of(index: dict[str, frozenset[int]], value: str) -> frozenset[int]:
    return index.get(value, _NONE)


def _path_regex(pattern: str) -> str:
    """Regular expression of a shell glob for a whole path; a relative glob also matches the end of a path.

    Brackets match as a character class, as in a shell, or literally, as in the name of a folder.
    """
    head, bracket, tail = pattern.rpartition("]")
    # behind the last ] every [ is literal; fnmatch would search the end of a class for each
    of_classes, of_themselves = head + bracket + tail.replace("[", "[[]"), pattern.replace("[", "[[]")
    globs = [of_classes, of_themselves]
    if not pattern.startswith("/"):
        globs += [f"*/{glob}" for glob in globs]
    return "|".join(map(fnmatch.translate, globs))


def _narrow(state: _State, named: frozenset[int]) -> _State:
    left = state[1] & named
    return (True, left) if left else state


def _intern(items: list[Any]) -> tuple[list[Any], NDArray[np.int64]]:
    """The distinct items, and the index of each item among them."""
    indices: dict[Any, int] = {}
    index = [indices.setdefault(item, len(indices)) for item in items]
    return list(indices), np.array(index, dtype=np.int64)


def _distinct_sets(column: pa.Array | pa.ChunkedArray, devices_of: Callable[[str], frozenset[int]]) -> _Named:
    """(distinct sets of devices named by the column's values, (N,) index of each row's set)."""
    encoded = one_chunk(column).dictionary_encode()
    sets, set_V = _intern([_NONE, *(devices_of(value) for value in encoded.dictionary.to_pylist())])
    value_N = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    return sets, set_V[value_N + 1]


def _microseconds(flows: pa.Table | pa.RecordBatch) -> NDArray[np.int64]:
    import pyarrow as pa

    return one_chunk(flows.column("first_seen")).cast(pa.int64()).to_numpy(zero_copy_only=False)
