"""Titles of unknown groups for people: a few characters of the group's name, and its commonest services."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby

from iotid.census.groups import OTHERS

_LEAST = 4  # characters of a name that a title has at least
_PORTS = 3


def group_titles(services: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Title of each group: "Unknown group E232 (TCP 443, 9999)"; ``services``: of each group, as in GROUPS.

    A title has so many characters of the name as distinguish all groups given. It does not depend on their order, so
    a group keeps its title from date to date, unless another one begins with the same characters.
    """
    names = {name: name.removeprefix("g") for name in services if name != OTHERS}
    length = _LEAST
    while len({name[:length] for name in names.values()}) < len(names) and length < max(map(len, names.values())):
        length += 1
    titles = {group: f"Unknown group {name[:length].upper()}{_of(services[group])}" for group, name in names.items()}
    return titles | ({OTHERS: "Unknown devices of no group"} if OTHERS in services else {})


def _of(services: Sequence[str]) -> str:
    """The ports in brackets: "TCP 443, 9999, UDP 53"."""
    pairs = [service.partition(" ")[::2] for service in services[:_PORTS]]
    parts = [
        f"{protocol} {', '.join(port for _, port in ports)}".strip()
        for protocol, ports in groupby(pairs, key=lambda pair: pair[0])
    ]
    return f" ({', '.join(parts)})" if parts else ""
