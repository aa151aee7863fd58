"""Checks JSON values against type annotations: the first fault is one line with the field, the rule and the value.

Supports bool, int, float, str, None, Any, their unions, Literal, list[…], dict[str, …], TypedDict and
Annotated[…, Within(…)]. Integers have 64 bits, numbers are finite, and true is no number. Unknown keys of a TypedDict
are ignored, as later versions may add some.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    NotRequired,
    Required,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from iotid.errors import short_repr, shorten

_MOST_INTEGER = 2**63
_LONGEST_NAME = 200  # characters of a field's name
_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "text", NoneType: "null"}


@dataclass(frozen=True)
class Within:
    """The range of a number or of the length of a list."""

    least: float = -math.inf
    most: float = math.inf


Count = Annotated[int, Within(0)]
Share = Annotated[float, Within(0, 1)]


def check(kind: Any, value: Any, name: str = "") -> None:
    """Raise a ValueError unless ``value``, of the field ``name``, is of the type ``kind``, including nested values."""
    origin, of = get_origin(kind), get_args(kind)
    if origin is Annotated:
        check(of[0], value, name)
        number = value if isinstance(value, int | float) else len(value)
        for limit in of[1:]:
            if not limit.least <= number <= limit.most:
                raise _fault(name, f"must {'be' if number is value else 'hold'} {_range(limit)}", number)
    elif origin in (Union, UnionType):
        _check_any(of, value, name)
    elif origin is Literal:
        if not any(value == each and type(value) is type(each) for each in of):
            raise _fault(name, f"must be {' or '.join(map(repr, of))}", value)
    elif origin is list:
        _expect(isinstance(value, list), name, "a list", value)
        for index, item in enumerate(value):
            check(of[0], item, f"{name}[{index}]")
    elif origin is dict:
        _expect(isinstance(value, dict), name, "an object", value)
        for key, each in value.items():
            check(of[1], each, _within(name, key))
    elif is_typeddict(kind):
        _expect(isinstance(value, dict), name, "an object", value)
        for key, (of_key, is_needed) in _fields(kind).items():
            if key in value:
                check(of_key, value[key], _within(name, key))
            elif is_needed:
                raise ValueError(f"{_within(name, key)}: is missing")
    elif kind is float:
        is_finite = type(value) is float and math.isfinite(value)
        _expect(is_finite or _is_integer(value), name, _NAMES[float], value)
    elif kind is int:
        _expect(_is_integer(value), name, f"{_NAMES[int]} of 64 bits", value)
    elif kind is not Any:
        of_kind = NoneType if kind is None else kind
        _expect(type(value) is of_kind, name, _NAMES[of_kind], value)


def _check_any(kinds: tuple[Any, ...], value: Any, name: str) -> None:
    """Check a union; the error is that of the first of ``kinds``, so list the main type first."""
    faults = []
    for kind in kinds:
        try:
            return check(kind, value, name)
        except ValueError as fault:
            faults.append(fault)
    raise faults[0]


@cache
def _fields(kind: Any) -> dict[str, tuple[Any, bool]]:
    """Key -> (type, whether it is required)."""
    hints = get_type_hints(kind, include_extras=True)
    fields = {}
    for key, hint in hints.items():
        mark = get_origin(hint)  # with `from __future__ import annotations`, __required_keys__ ignores it
        if mark in (Required, NotRequired):
            fields[key] = (get_args(hint)[0], mark is Required)
        else:
            fields[key] = (hint, key in kind.__required_keys__)
    return fields


def _is_integer(value: Any) -> bool:
    return type(value) is int and -_MOST_INTEGER <= value < _MOST_INTEGER


def _range(limit: Within) -> str:
    if limit.most == math.inf:
        return f"at least {limit.least}"
    return f"{limit.least} to {limit.most}"


def _within(name: str, key: str) -> str:
    return f"{name}.{shorten(key)}" if name else shorten(key)


def _expect(holds: bool, name: str, what: str, value: Any) -> None:
    if not holds:
        raise _fault(name, f"must be {what}", value)


def _fault(name: str, rule: str, value: Any) -> ValueError:
    field = f"{shorten(name, _LONGEST_NAME)}:" if name else "it"
    return ValueError(f"{field} {rule}, got {short_repr(value)}")
