"""YAML 1.2: types of scalars, and no input is dropped silently."""

from __future__ import annotations

import math
from typing import Any

import pytest

from iotid import yaml12


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8", 8), ("010", 10), ("-07", -7), ("+1", 1), ("0o10", 8), ("0x1F", 31),
        ("1.5", 1.5), (".5", 0.5), ("5.", 5.0), ("1e3", 1000.0), ("1e-3", 0.001), ("-.Inf", -math.inf),
        ("true", True), ("False", False), ("null", None), ("~", None), ("", None),
        ("1:30", "1:30"), ("1_000", "1_000"), ("0b11", "0b11"), ("yes", "yes"), ("off", "off"), ("nUll", "nUll"),
        ("2026-01-31", "2026-01-31"), ("12:34:56:12:34:56", "12:34:56:12:34:56"), ("\"010\"", "010"), ("=", "="),
    ],
)  # fmt: skip
def test_load__reads_scalars_by_the_core_schema(text: str, value: Any) -> None:
    for read in (yaml12.load(text), yaml12.load(f"[{text or '~'}]")[0], yaml12.load_value(text)):
        assert (type(read), read) == (type(value), value)


@pytest.mark.parametrize("text", ["021234567890", "1e3", "0x1F", "true", "12:34:56:12:34:56", "1.0"])
def test_load_text__reads_every_scalar_but_null_as_text(text: str) -> None:
    assert yaml12.load_text(f"a: {text}") == {"a": text}
    assert yaml12.load_text("[null, ~, 'null']") == [None, None, "null"]


@pytest.mark.parametrize("load", [yaml12.load, yaml12.load_text])
@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("a: 1\nb: 2\na: 3", ("'a' in line 1", "line 3")),
        ("a:\n  b: 1\n\n  b: 1", ("'b' in line 2", "line 4")),
        ("- {a: 1, b: 2,\n   a: 3}", ("'a' in line 1", "line 2")),
        ("a: 1\n---\nb: 2", ("line 1", "line 2")),
        ("a: 1\n...\n---\nb: 2", ("line 1", "line 3")),
        ("a: [1\nb: 2", ("line 1", "line 2")),
    ],
)
def test_load__duplicate_or_dropped_content_is_an_error_with_lines(
    load: Any, text: str, lines: tuple[str, str]
) -> None:
    with pytest.raises(ValueError, match="line") as caught:
        load(text)
    first, second = lines
    assert str(caught.value).index(first) < str(caught.value).rindex(second)
    assert "\n" not in str(caught.value)


def test_load__equal_keys_of_different_mappings_are_allowed_and_not_merged() -> None:
    assert yaml12.load("[{a: 1}, {a: 2}]") == [{"a": 1}, {"a": 2}]
    assert yaml12.load("base: &base {a: 1}\nother: {<<: *base, a: 3}")["other"] == {"<<": {"a": 1}, "a": 3}


@pytest.mark.parametrize("text", ["/run #2", "'x' # y", "[a, b] #c", "# x", "&a b", "!!str b", "--- b", "a\n---\nb"])
def test_load_value__refuses_what_yaml_would_truncate(text: str) -> None:
    with pytest.raises(ValueError, match=r"comment|alone|document"):
        yaml12.load_value(text)


@pytest.mark.parametrize("text", ["/run#2", "'/run #2'", "[a, 'b #c']", "-5", "x:#y", "!"])
def test_load_value__accepts_other_values(text: str) -> None:
    yaml12.load_value(text)


@pytest.mark.parametrize("text", ["[" * 5000, "9" * 5000, "{[a]: 1}", "!!python/object:os.system {}", "\x01"])
def test_load__invalid_yaml_is_a_one_line_error(text: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - any text will do
        yaml12.load(text)
    assert "\n" not in str(caught.value)


def _bomb(levels: int, scalar: str = "x") -> str:
    lines = [f"a0: &a0 [{scalar}]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (_bomb(9), "aliases expand to more than 100,000 values and characters in line 6"),
        (_bomb(4, "x" * 1000), "aliases expand to more than"),
        (f"[&a {'x' * 2000}{', *a' * 60}]", "aliases expand to more than"),
        ("a: &a [1, *a]", "alias 'a' refers to a value that contains it in line 1"),
        ("&a {b: {c: *a}}", "refers to a value that contains it"),
        ("[" * 70 + "]" * 70, "nested more than 64 deep in line 1"),
        ("- " * 70, "nested more than 64 deep"),
        ("\n".join(" " * n + "a:" for n in range(70)), "nested more than 64 deep in line 64"),
        ('"\\ud800"', "contains a lone surrogate"),
        ("f" * 1000 + ": 1\n" + "f" * 1000 + ": 2", "the same key once more in line 2"),
        ("*" + "f" * 1000, "undefined alias"),
        ("!!int 0x" + "f" * 10**5, "too large a number"),
        ("!!int x", "invalid literal"),
        ("!!bool maybe", "'maybe' is neither true nor false"),
        ("!!timestamp x", "constructor for the tag"),
        ("!!binary x", "constructor for the tag"),
        ("!!" + "x" * 1000 + " x", "constructor for the tag"),
    ],
    ids=range(17),
)
def test_load__huge_or_deep_input_is_a_short_one_line_error(text: str, expected: str) -> None:
    for load in (yaml12.load, yaml12.load_text, yaml12.load_value):
        with pytest.raises(ValueError, match=expected) as caught:
            load(text)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 500


def test_load__too_many_values_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yaml12, "_MAX_VALUES", 20)
    assert len(yaml12.load("[" + "a," * 19 + "]")) == 19
    with pytest.raises(ValueError, match="more than 20 values in line 3"):
        yaml12.load("[\n" + "a," * 9 + "\n" + "a," * 11 + "]")


def test_load__ordinary_anchors_are_read() -> None:
    assert yaml12.load("a: &a {b: [1, 2]}\nc: *a\nd: [*a, *a]") == {"a": (a := {"b": [1, 2]}), "c": a, "d": [a, a]}
