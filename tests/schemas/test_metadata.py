"""Metadata of partitions: each field of the right type, or one line that names file, field, rule, value and remedy."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from iotid import partitions
from iotid.errors import DataError
from iotid.partitions import PartitionKey, Store
from iotid.schemas.metadata import CONTRACTS, METADATA, read_metadata

KEYS = {
    "flows": PartitionKey.of_date("a", "2026-01-01"),
    "datasets": PartitionKey.named("d"),
    "reports": PartitionKey.of_dataset("d"),
}
_LONG = "\x1b[31m" + "x" * 10**5
_ODD: dict[type, list[Any]] = {  # by the type of what is there
    str: [3, 3.5, True, None, [_LONG], {"x": _LONG}],
    int: [_LONG, 3.5, -1, 10**40, True, None, [1], {"x": 1}],
    float: [_LONG, -1, 1.5, True, None, [0.5], {"x": 0.5}],  # all are shares
    bool: [1, 0, "true", None, []],
    list: [_LONG, {"x": 1}, None, [[]], 3, True],
    dict: [_LONG, [], [{"x": 1}], None, 3, False],
    type(None): [3, [_LONG], {"x": 1}, False],
}
_VALID = (
    (-1, "last_us"),
    (None, "model_version"),
    (None, "makers"),
    (None, "learned_from_date"),
)  # among the odd values
_HERE = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def stored(module_at: Callable[[Path], ModuleType]) -> ModuleType:
    return module_at(_HERE / "fuzz" / "stored.py")


def _fields(value: dict[str, Any], *place: str) -> Iterator[tuple[str, ...]]:
    for name, inner in value.items():
        yield (*place, name)
        if isinstance(inner, dict) and name not in ("settings", "flow"):
            yield from _fields(inner, *place, name)


def _with(fields: dict[str, Any], place: tuple[str, ...], value: Any) -> dict[str, Any]:
    first, *rest = place
    return {**fields, first: _with(fields[first], tuple(rest), value) if rest else value}


def _fault(content: Any, table: str = "flows") -> str:
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    with pytest.raises(DataError) as caught:
        read_metadata(text, table, "/store/here")
    line = str(caught.value)
    assert line.startswith(f"/store/here/{METADATA}: ")
    assert "; write the partition again (iotid " in line
    assert line.isprintable()
    assert len(line) < 700
    return line


@pytest.mark.parametrize("table", CONTRACTS)
def test_metadata__each_field_of_another_type_is_one_line_that_names_it(table: str, stored: ModuleType) -> None:
    fields = stored.stored_metadata()[table]
    assert dict(read_metadata(json.dumps(fields).encode(), table, "/store/here")) == fields
    assert set(CONTRACTS[table].__annotations__) <= set(fields), "a field that no test tries"
    for place in _fields(fields):
        present = _at(fields, place)
        for odd in _ODD[dict if isinstance(present, dict) else type(present)]:
            if (odd, place[-1]) not in _VALID:
                line = _fault(_with(fields, place, odd), table)
                assert f": {'.'.join(place)}: must be" in line or f": {'.'.join(place)}[0]: must be" in line, (
                    place,
                    odd,
                )


def _at(fields: Any, place: tuple[str, ...]) -> Any:
    return _at(fields[place[0]], place[1:]) if place else fields


@pytest.mark.parametrize("table", CONTRACTS)
def test_metadata__a_missing_field_is_one_line_when_it_is_asked_for(table: str, stored: ModuleType) -> None:
    fields = stored.stored_metadata()[table]
    for name in fields:
        kept = read_metadata(json.dumps({key: fields[key] for key in fields if key != name}).encode(), table, "/x")
        assert kept.get(name) is None
        with pytest.raises(DataError, match=rf"^/x/_METADATA\.json: {name}: is missing; write the partition again"):
            kept[name]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "Expecting value"),
        (b"\x80\x00\xff" * 20, "not UTF-8"),
        (b"PAR1" + os.urandom(1), ""),
        (b"{" * 10**6, ""),
        (b"[" * 10**6 + b"]" * 10**6, "nested"),
        (b'{"a":' * 100 + b"1" + b"}" * 100, "nested more than 64 deep"),
        (b'{"rows": NaN}', "NaN is no number of JSON"),
        (b'{"rows": 1e999}', "too large"),
        (b'{"rows": ' + b"9" * 10**5 + b"}", ""),
        (b"[]", "instead of an object"),
        (b"null", "instead of an object"),
        (b'{"summary": "\\ud800"}', "half of a character"),
        (b'{"\\udc00": 1}', "half of a character"),
        (b"{" + b'"a":[],' * 3_000_000 + b'"b":1}', "more than 2,097,152 values"),
    ],
    ids=range(14),
)
def test_metadata__what_is_no_object_of_json_is_one_line(content: bytes, message: str) -> None:
    assert message in _fault(content)


@pytest.mark.parametrize("nested", [40, 64, 500, 5000])
def test_metadata__deep_values_of_any_field_are_refused_before_anything_prints_them(nested: int) -> None:
    text = b'{"rows": 1, "later": ' + b"[" * nested + b"]" * nested + b"}"
    if nested < 60:
        assert json.dumps(read_metadata(text, "flows", "/x"))
    else:
        assert "nested" in _fault(text)


def test_metadata__is_as_it_was_through_pickle() -> None:
    read = read_metadata(b'{"rows": 3}', "flows", "/x")
    again = pickle.loads(pickle.dumps(read))
    assert again == {"rows": 3}
    with pytest.raises(DataError, match=r"^/x/_METADATA"):
        again["packets"]


# --- through the store


def _written(root: Path, table: str = "flows") -> tuple[Store, Path]:
    store = Store(str(root))
    with store.write(table, KEYS[table]) as staged:
        staged.write_text("part.txt", "x")
    return store, Path(store.open(table, KEYS[table]).uri)


@pytest.mark.parametrize("kind", ["missing", "folder", "pipe", "too large", "binary"])
def test_open__metadata_that_is_no_file_of_json_is_one_line_at_once(kind: str, tmp_path: Path) -> None:
    store, folder = _written(tmp_path)
    path = folder / METADATA
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "too large":
        with path.open("wb") as file:
            file.truncate(1 << 40)
    elif kind == "binary":
        path.write_bytes(bytes(range(256)))
    with pytest.raises(DataError, match=r"_METADATA\.json: .*again"):
        store.open("flows", KEYS["flows"])


def test_read_json__what_is_not_of_the_type_asked_for_is_one_line(tmp_path: Path) -> None:
    store, folder = _written(tmp_path, "reports")
    (folder / "report.json").write_text('{"version": "3"}')
    page = store.open("reports", KEYS["reports"])
    assert store.read_json(page, "report.json") == {"version": "3"}
    with pytest.raises(DataError, match=r"report\.json: it must be a list.*again \(iotid evaluate\)"):
        store.read_json(page, "report.json", list[int])


def test_partitions__folders_that_are_no_keys_are_passed_over(tmp_path: Path) -> None:
    store, _ = _written(tmp_path)
    for name in ("colour=red", "site=a/odd", "site=a/x=1"):
        (tmp_path / "flows" / name).mkdir(parents=True)
        (tmp_path / "flows" / name / partitions.MARKER).touch()
    assert store.partitions("flows") == [KEYS["flows"]]
