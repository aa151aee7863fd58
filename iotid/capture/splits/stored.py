"""Checks splits that are read from storage: every value must be one that a plan can have."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypedDict

import pyarrow as pa
import pyarrow.compute as pc

from iotid.errors import shorten
from iotid.inputs import parse_object
from iotid.schemas import typed
from iotid.schemas.typed import Within

_MOST_INTERFACES = 1 << 16
_RANGES = {"file_index": 0, "file_bytes": 0, "split": 0, "start": 0, "stop": -1, "warm_up": 0, "records": -1, "task": 0}
_COMPRESSIONS = ("none", "gzip", "zstd", "bz2", "xz")


class _Pcap(TypedDict):
    big_endian: bool
    record_header: Literal[16, 24]
    ticks_per_us: Literal[1, 1000]
    link_type: Annotated[int, Within(0, 2**26 - 1)]


class _Pcapng(TypedDict):
    big_endian: bool
    interfaces: Annotated[list[Annotated[list[int], Within(5, 5)]], Within(0, _MOST_INTERFACES)]


_CONTEXTS: dict[str, Any] = {"pcap": _Pcap, "pcapng": _Pcapng}


def check_splits(splits: pa.Table) -> None:
    """Raise a ValueError that names the column if a row of schemas.SPLITS has a value that no plan has."""
    for name, least in _RANGES.items():
        found = pc.min(splits[name]).as_py()
        if found is not None and found < least:
            raise ValueError(f"{name}: must be at least {least}, got {found}")
    for name, known in (("container", tuple(_CONTEXTS)), ("compression", _COMPRESSIONS)):
        for value in pc.unique(splits[name]).to_pylist():
            if value not in known:
                raise ValueError(f"{name}: must be one of {', '.join(known)}, got {shorten(value)}")
    is_open = pc.equal(splits["stop"], -1)
    if not pc.all(pc.or_(is_open, pc.greater_equal(splits["stop"], splits["start"]))).as_py() and len(splits):
        raise ValueError("stop: must be -1, or start or more")
    if not pc.all(pc.less_equal(splits["warm_up"], splits["start"])).as_py() and len(splits):
        raise ValueError("warm_up: must be start or less")
    distinct = splits.select(["container", "context"]).group_by(["container", "context"]).aggregate([])
    for row in distinct.to_pylist():
        context = parse_object(row["context"])
        typed.check(_CONTEXTS[row["container"]], context, "context")
        for number, interface in enumerate(context.get("interfaces", ())):
            _check_interface(interface, f"context.interfaces[{number}]")


def _check_interface(values: list[int], name: str) -> None:
    """``values``: link type, snap length, whether the exponent's base is 2, the exponent, and an offset in s."""
    for value, most in zip(values, (2**16 - 1, 2**32 - 1, 1, 127), strict=False):
        typed.check(Annotated[int, Within(0, most)], value, name)
