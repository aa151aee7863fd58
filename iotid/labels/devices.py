"""An entry of a device list, with identifiers normalised to the forms in stored flows."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from iotid.config import to_nfc
from iotid.errors import short_repr, shorten

UNLISTED = "unknown"
"""The label of flows whose device is on no list, if ``dataset.unlisted`` keeps them."""

# as written by people and switches: groups of two digits (leading zeros optional), four, six, or all twelve
_MAC = re.compile(
    r"[0-9a-f]{1,2}(?:[:.-][0-9a-f]{1,2}){5}|[0-9a-f]{4}(?:[:.-][0-9a-f]{4}){2}|[0-9a-f]{6}[:.-]?[0-9a-f]{6}"
)
_THIS_NETWORK = ipaddress.ip_network("0.0.0.0/8")  # RFC 1122
_LONGEST_PATH = 4096  # Linux's PATH_MAX
ALWAYS = (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC))


class Device(BaseModel):
    """A device and the identifiers of its flows: MACs, addresses, patterns of capture paths.

    ``valid_from`` and ``valid_to`` bound the time of a flow's first packet. Dates are whole days in UTC, both
    inclusive; of times, ``valid_to`` is exclusive. A time without a zone is UTC.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True)

    name: str = Field(min_length=1)
    model: str = ""
    vendor: str = ""
    type: str = ""
    mac: tuple[str, ...] = ()
    ip: tuple[str, ...] = ()
    path: tuple[str, ...] = ()
    valid_from: datetime = ALWAYS[0]
    valid_to: datetime = ALWAYS[1]

    @model_validator(mode="before")
    @classmethod
    def _absent_values_are_defaults(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            raise ValueError("must hold keys such as name and mac")
        entry = {key: value for key, value in given.items() if value not in (None, "")}
        if isinstance(entry.get("name"), str):
            entry.setdefault("model", entry["name"])
        return entry

    @field_validator("mac", "ip", "path", mode="before")
    @classmethod
    def _one_is_a_list_of_one(cls, given: Any) -> Any:
        return (given,) if isinstance(given, str) else given

    @field_validator("name", "model", "vendor", "type")
    @classmethod
    def _letters_in_one_form(cls, given: str) -> str:
        return to_nfc(given)

    @field_validator("mac")
    @classmethod
    def _macs_in_one_form(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(_mac, given))

    @field_validator("ip")
    @classmethod
    def _addresses_in_one_form(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(_address, given))

    @field_validator("path")
    @classmethod
    def _patterns_that_can_fit(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(_pattern, given))

    @field_validator("valid_from", "valid_to", mode="before")
    @classmethod
    def _instant(cls, given: Any, info: Any) -> Any:
        if not isinstance(given, str):
            return given
        try:
            day = date.fromisoformat(given)
            return datetime.combine(day + timedelta(days=info.field_name == "valid_to"), time(), UTC)
        except (ValueError, OverflowError):
            try:
                return datetime.fromisoformat(given)
            except ValueError:  # pydantic would take 2024 for a number of seconds
                raise ValueError(
                    f"{short_repr(given)} is no date; write it as 2026-01-31 or 2026-01-31T12:00:00"
                ) from None

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


def _mac(text: str) -> str:
    found = _MAC.fullmatch(text.lower())
    if not found:
        raise ValueError(f"{short_repr(text)} is not a MAC; write it as 00:17:88:24:76:ff")
    groups = re.split("[:.-]", found[0])
    digits = "".join(group.zfill(2) if len(groups) == 6 else group for group in groups)
    mac = ":".join(re.findall("..", digits))
    if int(digits[:2], 16) & 1 or not int(digits, 16):  # IEEE 802: the group bit
        raise ValueError(
            f"{short_repr(text)} is the MAC of no single device (broadcast, multicast or zero); give the device's own"
        )
    return mac


def _address(text: str) -> str:
    """As in flows: without a zone index, which names a local interface of the machine that printed it."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError as fault:
        raise ValueError(shorten(str(fault))) from None
    if isinstance(address, ipaddress.IPv6Address):
        address = address.ipv4_mapped or ipaddress.IPv6Address(int(address))
    if address.is_multicast or address.is_unspecified or address == ipaddress.ip_address("255.255.255.255"):
        raise ValueError(f"{short_repr(text)} is the address of no single device; give the device's own")
    if address in _THIS_NETWORK:
        raise ValueError(f"{short_repr(text)} is an address that no device can have; give the device's own")
    return str(address)


def _pattern(text: str) -> str:
    """With composed letters (NFC), like the paths that it is matched with, which are absolute paths of files."""
    if len(text) > _LONGEST_PATH:
        raise ValueError(f"{short_repr(text)} fits no path, as none has more than {_LONGEST_PATH:,} characters")
    parts = re.sub("^[^/]*:///?", "", text).split("/")
    odd = next((part for part in (".", "..", "~") if part in parts), "\\" if "\\" in text else None)
    if odd is not None:
        raise ValueError(
            f"{short_repr(text)} fits no path, as none holds {odd}; write */folder/* for all files below a folder"
        )
    if not parts[-1] or "" in parts[1:]:
        raise ValueError(f"{short_repr(text)} fits no file; write */folder/* for all files below a folder")
    return to_nfc(text)


def device_kind(label: str, described: Mapping[str, str | None]) -> str:
    """The device kind of a label: vendor and type if both are known (models of a kind may be similar), else the
    label."""
    vendor, type_ = described.get("vendor"), described.get("type")
    return f"{vendor} {type_}" if vendor and type_ else label
