"""Values of JSON held against types: the first fault is named by field, rule and value."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired, TypedDict

import pytest

from iotid.schemas.typed import Count, Share, Within, check


class _Inner(TypedDict):
    number: Count
    maybe: NotRequired[str]


class _Outer(TypedDict, total=False):
    inner: _Inner
    names: list[str]
    shares: dict[str, Share]
    either: str | None
    length: Literal["ip", "frame"]
    few: Annotated[list[int], Within(1, 2)]
    ratio: float
    on: bool
    whatever: Any


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"inner": {"number": 0}},
        {"inner": {"number": 2**63 - 1, "maybe": "", "unknown": []}, "later": {"x": 1}},
        {"names": [], "shares": {"a": 0, "b": 1.0}, "either": None, "length": "ip", "few": [1, -5]},
        {"either": "", "ratio": 1, "on": False, "whatever": [[]]},
    ],
)
def test_check__what_fits_passes(value: Any) -> None:
    check(_Outer, value)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "it must be an object, got []"),
        ({"inner": 5}, "inner: must be an object, got 5"),
        ({"inner": {}}, "inner.number: is missing"),
        ({"inner": {"number": True}}, "inner.number: must be a whole number of 64 bits, got True"),
        ({"inner": {"number": 1.0}}, "inner.number: must be a whole number of 64 bits, got 1.0"),
        ({"inner": {"number": -1}}, "inner.number: must be at least 0, got -1"),
        ({"inner": {"number": 2**63}}, "inner.number: must be a whole number of 64 bits, got 9223372036854775808"),
        ({"inner": {"number": 10**999}}, "inner.number: must be a whole number of 64 bits, got a number of 3319 bits"),
        ({"inner": {"number": 1, "maybe": None}}, "inner.maybe: must be text, got None"),
        ({"names": "ab"}, "names: must be a list, got 'ab'"),
        ({"names": ["a", 1]}, "names[1]: must be text, got 1"),
        ({"shares": {"a": 0.5, "b": 1.5}}, "shares.b: must be 0 to 1, got 1.5"),
        ({"either": 1}, "either: must be text, got 1"),
        ({"length": "IP"}, "length: must be 'ip' or 'frame', got 'IP'"),
        ({"few": []}, "few: must hold 1 to 2, got 0"),
        ({"few": [1, 2, 3]}, "few: must hold 1 to 2, got 3"),
        ({"ratio": float("nan")}, "ratio: must be a number, got nan"),
        ({"ratio": 10**99}, "ratio: must be a number, got a number of 329 bits"),
        ({"ratio": "1"}, "ratio: must be a number, got '1'"),
        ({"on": 1}, "on: must be true or false, got 1"),
    ],
)  # fmt: skip
def test_check__names_the_first_fault(value: Any, message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - its whole text is compared
        check(_Outer, value)
    assert str(caught.value) == message


def test_check__a_fault_is_short_whatever_is_there() -> None:
    for value in (
        {"shares": {"k" * 10**6: "x" * 10**6}},
        {"names": [["y"] * 10**6]},
        {"inner": {"number": 1 << 10**6}},
    ):
        with pytest.raises(ValueError, match="must be") as caught:
            check(_Outer, value)
        assert len(str(caught.value)) < 400
