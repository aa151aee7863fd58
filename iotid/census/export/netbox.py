"""Proposals for NetBox: files for its bulk import of sites, manufacturers, device types, roles, devices and interfaces.

Format: NetBox's documentation ("Populating Data") and its import forms (dcim): objects are named by their unique names,
choices by their keys; a file without the column ``id`` creates objects and fails whole if one exists; a row with ``id``
changes that object. Files are numbered in the order of import. A file that would have no rows is not written, as NetBox
refuses it. Interfaces have no MAC of their own since NetBox 4.2, so MAC addresses have a file.

A device's name consists of site and ``device_id``, so it is the same on every date and unique over sites. Its comments
hold the key of `rows`, by which a device that a person renamed is recognised.
"""

from __future__ import annotations

import csv
import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

import pyarrow as pa

from iotid.census.changes import ABSENT
from iotid.census.csv_text import csv_text, without_formulas
from iotid.census.named import NAMED
from iotid.errors import InputError, shorten
from iotid.inputs import MOST_BYTES, read_file
from iotid.labels.owner import parse_addresses
from iotid.messages import one_line
from iotid.model.device.decide import KNOWN

Row = dict[str, Any]
FILES = {
    "1-sites.csv": ("name", "slug", "status"),
    "2-manufacturers.csv": ("name", "slug"),
    "3-device-types.csv": ("manufacturer", "model", "slug", "u_height", "is_full_depth"),
    "4-device-roles.csv": ("name", "slug", "color", "vm_role"),
    "5-devices.csv": (
        "name", "role", "manufacturer", "device_type", "status", "site", "description", "comments",
    ),
    "6-devices-update.csv": ("id", "name", "role", "manufacturer", "device_type", "status", "site"),
    "7-interfaces.csv": ("device", "name", "type", "enabled"),
    "8-mac-addresses.csv": ("mac_address", "device", "interface"),
}  # fmt: skip
SITES, MANUFACTURERS, TYPES, ROLES, DEVICES, UPDATES, INTERFACES, MACS = FILES
_STATUSES = (KNOWN, NAMED)
_COMPARED = ("role", "manufacturer", "device_type")
_MOST, _MOST_OTHERS, _MOST_OF_SLUG = {"name": 64, "comments": 400}, 100, 100  # characters, within NetBox's limits
_STAGED = "staged"
_INTERFACE = "observed"  # the interface that the captures show; its real name is not known
_KEY = re.compile(r"iotid key: (\S+)")
_RENAMED_HEADERS = {"type": "device_type", "device_role": "role"}


@dataclass
class Proposals:
    """``files``: rows by file name; ``counts``: of rows proposed, and of those left out by reason."""

    files: dict[str, list[Row]] = field(default_factory=lambda: {name: [] for name in FILES})
    counts: Counter[str] = field(default_factory=Counter)

    def texts(self) -> dict[str, str]:
        """The content of each file that has rows."""
        return {
            name: csv_text({column: pa.array([row[column] for row in rows]) for column in FILES[name]})
            for name, rows in self.files.items()
            if rows
        }


def read_netbox_devices(path: str) -> list[Row]:
    """The devices of NetBox's own export of all data: id, name, and where given role, manufacturer, device_type, site,
    status and comments.

    Raises:
        InputError: the file cannot be read, is no CSV, or lacks a column.
    """
    remedy = "export the list of devices from NetBox as All Data (CSV)"
    try:
        text = read_file(Path(path).expanduser(), MOST_BYTES).decode("utf-8-sig")
        reader = csv.DictReader(StringIO(text, newline=""), strict=True)
        headers = [re.sub(r"\W+", "_", name.strip().lower()) for name in reader.fieldnames or ()]
        reader.fieldnames = [_RENAMED_HEADERS.get(name, name) for name in headers]
        if missing := [name for name in ("id", "name", "site") if name not in reader.fieldnames]:
            raise ValueError(f"lacks the column{'s' if len(missing) > 1 else ''} {', '.join(missing)}")
        return [{name: value or "" for name, value in row.items() if name} for row in reader]
    except (OSError, RuntimeError, ValueError, csv.Error) as fault:
        reason = getattr(fault, "strerror", None) or str(fault)
        raise InputError(f"--netbox-devices: {shorten(path)}: {reason}; {remedy}") from None


def propose(census: Iterable[Row], site: str, capture_date: str, existing: Sequence[Row] = ()) -> Proposals:
    """The proposals of a census.

    Only present devices with one name that nothing casts doubt on are proposed: status known or named, no mark, and a
    MAC that stays. A device that ``existing`` (`read_netbox_devices`) has is left out if unchanged or if its status is
    not staged any more, as a person has then accepted or changed it; else it is a row with its ``id``.

    Args:
        census: rows of CENSUS (stored columns).
        site: name of the site, in iotid and NetBox.
        capture_date: YYYY-MM-DD.
        existing: devices that NetBox has.
    """
    made = Proposals()
    known = _Existing(existing)
    proposed: list[Row] = []
    for row in sorted(census, key=lambda row: row["device_id"]):
        if reason := _why_not(row):
            made.counts[reason] += 1
            continue
        device = known.spelled(_device(row, site, capture_date))
        mine = known.find(device)
        if mine is None:
            made.files[DEVICES].append(device)
            made.files[INTERFACES].append(_interface(device))
            made.files[MACS] += _macs(row["device_id"], device)
            made.counts["new"] += 1
        elif mine.get("status", _STAGED).lower() != _STAGED:
            made.counts["not staged any more"] += 1
            continue
        elif all(mine.get(name, device[name]) == device[name] for name in _COMPARED):
            made.counts["unchanged"] += 1
            continue
        else:
            made.files[UPDATES].append({**device, "id": mine["id"], "name": mine["name"]})
            made.counts["changed"] += 1
        proposed.append(device)
    _add_named_objects(made.files, proposed, existing)
    return made


class _Existing:
    """NetBox's devices by our key in their comments, else by site and name; and how names are spelled."""

    def __init__(self, devices: Sequence[Row]) -> None:
        keys = ((_KEY.search(device.get("comments", "")), device) for device in devices)
        self._by_key = {match[1]: device for match, device in keys if match}
        self._by_name = {(device["site"].lower(), device["name"].lower()): device for device in devices}
        self._spelling: dict[tuple[str, str], str] = {}
        for device in devices:
            self.spelled({name: device[name] for name in _COMPARED if name in device})

    def spelled(self, device: Row) -> Row:
        """The device with role, manufacturer and type as an earlier device spells them: names differ not by case
        alone."""
        same = {name: self._spelling.setdefault((name, device[name].lower()), device[name])
                for name in _COMPARED if name in device}  # fmt: skip
        return {**device, **same}

    def find(self, device: Row) -> Row | None:
        match = _KEY.search(device["comments"])
        named = self._by_name.get((device["site"].lower(), device["name"].lower()))
        return self._by_key.get(match[1] if match else "", named)


def _why_not(row: Row) -> str | None:
    if row["status"] == ABSENT:
        return "absent"
    if row["status"] not in _STATUSES:
        return row["status"]
    if not _model(row):
        return "without a name"
    if row["marks"]:
        return "marked"
    return "of a MAC that may change" if row["mac_randomised"] else None


def _model(row: Row) -> str:
    kinds = [kind["kind"] for kind in row["kinds"] or ()]
    return row["label"] or (kinds[0] if len(kinds) == 1 else "")


def _device(row: Row, site: str, capture_date: str) -> Row:
    cells = {
        "name": f"{site} {row['device_id']}",
        "role": row["type"] or "IoT device",
        "manufacturer": row["vendor"] or "unknown",
        "device_type": _model(row),
        "status": _STAGED,
        "site": site,
        "description": f"Proposed by iotid from the census of {capture_date}",
        "comments": f"iotid key: {site}/{row['device_id']}",
    }
    safe = without_formulas(pa.array([one_line(cell) for cell in cells.values()])).to_pylist()
    return {name: _shortened(cell, _MOST.get(name, _MOST_OTHERS)) for name, cell in zip(cells, safe, strict=True)}


def _interface(device: Row) -> Row:
    return {"device": device["name"], "name": _INTERFACE, "type": "other", "enabled": "true"}


def _macs(device_id: str, device: Row) -> list[Row]:
    is_mac = parse_addresses([device_id])[0][0] == 0
    return [{"mac_address": device_id, "device": device["name"], "interface": _INTERFACE}] if is_mac else []


def _add_named_objects(files: Mapping[str, list[Row]], proposed: Sequence[Row], existing: Sequence[Row]) -> None:
    """What the devices refer to and no existing device does: NetBox has it otherwise."""
    for file, what, more in (
        (SITES, "site", {"status": "active"}),
        (MANUFACTURERS, "manufacturer", {}),
        (ROLES, "role", {"color": "9e9e9e", "vm_role": "false"}),
    ):
        has = {device.get(what, "") for device in existing}
        for name, slug in _slugs({device[what] for device in proposed} - has, has).items():
            files[file].append({"name": name, "slug": slug, **more})
    models = {f"{device['manufacturer']} {device['device_type']}": device for device in proposed}
    has = {f"{device.get('manufacturer', '')} {device.get('device_type', '')}" for device in existing}
    for name, slug in _slugs(set(models) - has, has).items():
        of = {"manufacturer": models[name]["manufacturer"], "model": models[name]["device_type"]}
        files[TYPES].append({**of, "slug": slug, "u_height": "0", "is_full_depth": "false"})


def _slugs(names: Iterable[str], taken_by: Iterable[str]) -> dict[str, str]:
    """Name -> slug, sorted; a slug that another name has, too, ends with a hash of the name."""
    taken, slugs = {_slug(name) for name in taken_by}, {}
    for name in sorted(names):
        slug = _slug(name)
        slugs[name] = slug if slug and slug not in taken else f"{slug[: _MOST_OF_SLUG - 9]}-{_hash(name)}".strip("-")
        taken.add(slug)
    return slugs


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower())[:_MOST_OF_SLUG].strip("-")


def _shortened(name: str, most: int) -> str:
    """The name, cut to ``most`` characters with a hash of the whole at the end."""
    return name if len(name) <= most else f"{name[: most - 9]}~{_hash(name)}"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
