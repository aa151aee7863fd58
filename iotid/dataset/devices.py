"""One entry of a device list, and how lists are read from YAML and CSV."""

from __future__ import annotations

import csv
import difflib
import io
import ipaddress
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from iotid.config import conf_dir
from iotid.errors import LabelError

_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_ABSENT = ("", "null", "~")  # an empty cell or YAML's null, read as text
_ALWAYS = (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC))


class Device(BaseModel):
    """A device and the evidence that a flow is its own: MACs, addresses, patterns of capture paths.

    ``valid_from`` and ``valid_to`` bound the time of a flow's first packet. A date means the whole day in UTC, both
    days included; a time means from that instant on, and up to it but without it. A time without zone is UTC.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1)
    model: str = ""
    vendor: str = ""
    type: str = ""
    mac: tuple[str, ...] = ()
    ip: tuple[str, ...] = ()
    path: tuple[str, ...] = ()
    valid_from: datetime = _ALWAYS[0]
    valid_to: datetime = _ALWAYS[1]

    @model_validator(mode="before")
    @classmethod
    def _absent_values_are_defaults(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            raise ValueError("must hold keys such as name and mac")
        entry = {key: value for key, value in given.items() if not (isinstance(value, str) and value in _ABSENT)}
        if isinstance(entry.get("name"), str):
            entry.setdefault("model", entry["name"])
        return entry

    @field_validator("mac", "ip", "path", mode="before")
    @classmethod
    def _one_is_a_list_of_one(cls, given: Any) -> Any:
        return (given,) if isinstance(given, str) else given

    @field_validator("mac")
    @classmethod
    def _macs_in_one_form(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(_mac(text) for text in given)

    @field_validator("ip")
    @classmethod
    def _addresses_in_one_form(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(str(ipaddress.ip_address(text.strip())) for text in given)

    @field_validator("valid_from", "valid_to", mode="before")
    @classmethod
    def _instant(cls, given: Any, info: Any) -> Any:
        try:
            day = date.fromisoformat(given)
            return datetime.combine(day + timedelta(days=info.field_name == "valid_to"), time(), UTC)
        except (TypeError, ValueError, OverflowError):  # a time of day, or no date at all: pydantic's to judge
            return given

    @field_validator("valid_from", "valid_to")
    @classmethod
    def _in_utc(cls, given: datetime) -> datetime:
        return given.replace(tzinfo=UTC) if given.tzinfo is None else given.astimezone(UTC)

    @model_validator(mode="after")
    def _can_match(self) -> Self:
        if not (self.mac or self.ip or self.path):
            raise ValueError("has no mac, ip or path; give at least one")
        if self.valid_from >= self.valid_to:
            raise ValueError("valid_from must lie before valid_to")
        return self

    def overlaps(self, other: Device) -> bool:
        """Whether there is a time at which both are valid."""
        return self.valid_from < other.valid_to and other.valid_from < self.valid_to


def _mac(text: str) -> str:
    mac = text.strip().lower().replace("-", ":")
    if not _MAC.fullmatch(mac):
        raise ValueError(f"{text!r} is not a MAC; write it as 00:17:88:24:76:ff")
    return mac


def read_devices(path: str | Path) -> tuple[Device, ...]:
    """The entries of a list: CSV where the name ends in .csv, else YAML. A bare name may be one in conf/datasets.

    Raises:
        LabelError: the file cannot be read, or an entry breaks a rule.
    """
    file = Path(path)
    if not file.exists() and (conf_dir() / "datasets" / file).is_file():
        file = conf_dir() / "datasets" / file
    try:
        text = file.read_text(encoding="utf-8-sig")
    except OSError as fault:
        raise LabelError(f"{path}: cannot be read ({fault.strerror}); give a YAML or CSV device list") from None
    except UnicodeDecodeError:
        raise LabelError(f"{path}: is not UTF-8 text; save the device list as UTF-8") from None
    entries = _csv_entries(text, path) if file.suffix.lower() == ".csv" else _yaml_entries(text, path)
    devices = tuple(_device(entry, f"{path}: {place}") for place, entry in entries)
    if not devices:
        raise LabelError(f"{path}: holds no devices; list at least one with its name and its mac, ip or path")
    return devices


def _yaml_entries(text: str, path: str | Path) -> Iterator[tuple[str, Any]]:
    try:
        # every scalar stays text: to YAML 1.1, 10:11:12:13:14:15 is a number and a device called `no` is false
        content = yaml.load(text, Loader=yaml.BaseLoader)
    except yaml.YAMLError as fault:
        raise LabelError(f"{path}: is not valid YAML ({' '.join(str(fault).split())}); mend the file") from None
    if not isinstance(content, dict) or not isinstance(content.get("devices"), list):
        raise LabelError(f"{path}: must hold a list under the key `devices:`; see conf/datasets for examples")
    unknown = sorted(set(content) - {"devices", "notes"})
    if unknown:
        raise LabelError(f"{path}: unknown key {unknown[0]!r} beside `devices`; remove it, or put it under `notes`")
    for number, entry in enumerate(content["devices"], start=1):
        name = entry.get("name") if isinstance(entry, dict) else None
        yield f"device {number}{f' ({name})' if name else ''}", entry


def _csv_entries(text: str, path: str | Path) -> Iterator[tuple[str, dict[str, Any]]]:
    rows = csv.DictReader(io.StringIO(text, newline=""))
    header = list(rows.fieldnames or ())
    name = next((column for column in ("name", "device") if column in header), None)
    if name is None or not {"mac", "ip", "path"} & set(header):
        raise LabelError(
            f"{path}: the header must name a column `device` or `name` and one of `mac`, `ip`, `path`; got {header}"
        )
    model = next((column for column in header if column == "model" or column.startswith("device_type")), "model")
    columns = {"name": name, "model": model, "vendor": "vendor", "type": "type"}
    columns |= {key: key for key in ("valid_from", "valid_to")}
    for row in rows:
        if any(isinstance(cell, str) and cell.strip() for cell in row.values()):
            entry: dict[str, Any] = {key: (row.get(column) or "").strip() for key, column in columns.items()}
            for key in ("mac", "ip", "path"):
                entry[key] = [part.strip() for part in (row.get(key) or "").split(";") if part.strip()]
            yield f"line {rows.line_num} ({entry['name'] or 'no name'})", entry


def _device(entry: Any, place: str) -> Device:
    try:
        return Device.model_validate(entry)
    except ValidationError as fault:
        raise LabelError(f"{place}: {'; '.join(_reason(error) for error in fault.errors())}") from None


def _reason(error: Any) -> str:
    """One fault in the words of this house: the key, the rule, the value got."""
    key = str(error["loc"][0]) if error["loc"] else ""
    if error["type"] == "extra_forbidden":
        close = difflib.get_close_matches(key, Device.model_fields, n=1)
        return (
            f"unknown key {key!r}; {f'did you mean {close[0]}?' if close else 'use ' + ', '.join(Device.model_fields)}"
        )
    if error["type"] == "missing":
        return f"{key} is missing"
    if error["type"] == "value_error":  # raised above, and says what it got
        return ": ".join(filter(None, (key, error["msg"].removeprefix("Value error, "))))
    return f"{key}: {error['msg']}, got {error['input']!r}"


def merged_name(label: str, told: Mapping[str, str | None]) -> str:
    """What a label is called where look-alikes are merged: the vendor and type told of it, where both are known."""
    return f"{told['vendor']} {told['type']}" if told.get("vendor") and told.get("type") else label
