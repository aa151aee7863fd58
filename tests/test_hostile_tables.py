"""Stored tables of another schema, or with invalid contents: a one-line error with file and column."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from iotid import schemas
from iotid.capture import counters
from iotid.capture.counters import Counters
from iotid.capture.splits.stored import check_splits
from iotid.census.groups import NO_GROUPS, check_groups
from iotid.census.stored import GROUPS_FILE, stored_groups, stored_rows
from iotid.dataset import read_encoding, read_sets, read_split
from iotid.errors import DataError, IotidError
from iotid.evaluation.report import read_history
from iotid.flows import partition_files
from iotid.flows.partitions import COUNTERS_FILE, read_counters
from iotid.partitions import MARKER, PartitionKey, Store
from iotid.schemas import CENSUS, COUNTERS, FLOWS, GROUPS, SPLITS
from iotid.storage import read_table

NIGHT = PartitionKey.of_date("a", "2026-01-01")


@pytest.fixture(scope="module")
def stored(module_at: Callable[[Path], ModuleType]) -> ModuleType:
    return module_at(Path(__file__).parent / "fuzz" / "stored.py")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path))


def _fault(call: Callable[[], Any]) -> str:
    with pytest.raises(IotidError) as caught:
        call()
    line = str(caught.value)
    assert isinstance(caught.value, DataError)
    assert line.isprintable()
    assert len(line) < 1000
    return line


def _empty(schema: pa.Schema) -> pa.Table:
    return schema.empty_table()


def _damaged(schema: pa.Schema, path: Path, *, may_lack: tuple[str, ...] = ()) -> list[tuple[str, str]]:
    """Ways to damage the file at ``path``, each with a word that the error must hold; done one after the other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ways = []
    for name in schema.names:
        if name not in may_lack:
            ways.append((name, f"without {name}"))
            ways.append((name, f"text for {name}"))
    return [*ways, ("", "no parquet"), ("", "cut")]


def _write(schema: pa.Schema, path: Path, way: str) -> None:
    table = _empty(schema)
    if way.startswith("without "):
        pq.write_table(table.drop_columns([way.removeprefix("without ")]), path)
    elif way.startswith("text for "):
        name = way.removeprefix("text for ")
        odd = pa.array([["x"]]) if pa.types.is_string(schema.field(name).type) else pa.array(["x"])
        one = pa.table({field.name: pa.nulls(1, field.type) for field in schema})
        pq.write_table(one.set_column(schema.get_field_index(name), name, odd), path)
    elif way == "no parquet":
        path.write_bytes(b"\xff\x00PAR1" * 30)
    else:
        pq.write_table(table, path)
        path.write_bytes(path.read_bytes()[:-20])


@pytest.mark.parametrize("contract", [SPLITS, COUNTERS, CENSUS, GROUPS], ids=lambda table: table.name)
def test_read_table__other_schema_or_format_is_a_one_line_error(contract: schemas.Table, tmp_path: Path) -> None:
    schema, path = contract.arrow_schema(stored=True), tmp_path / "part.parquet"
    for word, way in _damaged(schema, path):
        _write(schema, path, way)
        line = _fault(lambda: read_table(str(path), schema, "write it again"))
        assert word in line, way
        assert line.startswith(str(path))
        assert line.endswith("; write it again")
    pq.write_table(_empty(schema), path)
    assert read_table(str(path), schema, "write it again").schema == schema


def test_read_table__unexpected_nulls_are_a_one_line_error(tmp_path: Path, stored: ModuleType) -> None:
    schema, path = SPLITS.arrow_schema(stored=True), tmp_path / "part.parquet"
    rows = stored.splits()
    for name in schema.names:
        table = pa.Table.from_pylist(
            [{**rows[0], name: None}], pa.schema([field.with_nullable(True) for field in schema])
        )
        pq.write_table(table, path)
        assert name in _fault(lambda: read_table(str(path), schema, "write it again"))


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("start", -1, "start: must be at least 0"),
        ("file_bytes", -1, "file_bytes: must be at least 0"),
        ("stop", -2, "stop: must be at least -1"),
        ("stop", 3, "stop: must be -1, or start or more"),
        ("warm_up", 30, "warm_up: must be start or less"),
        ("records", -2, "records: must be at least -1"),
        ("container", "zip", "container: must be one of pcap, pcapng"),
        ("compression", "rar", "compression: must be one of none, gzip"),
        ("context", "", "Expecting value"),
        ("context", "[" * 10_000, "nested"),
        ("context", "{}", "context.big_endian: is missing"),
        ("context", '{"big_endian": 1}', "context.big_endian: must be true or false"),
        ("context", '{"big_endian": true, "record_header": -16}', "context.record_header: must be 16 or 24"),
    ],
)
def test_check_splits__reports_impossible_values(column: str, value: Any, message: str, stored: ModuleType) -> None:
    rows = stored.splits()
    schema = SPLITS.arrow_schema(stored=True)
    check_splits(pa.Table.from_pylist(rows, schema))
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - its text is looked at
        check_splits(pa.Table.from_pylist([{**rows[0], column: value}, rows[1]], schema))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "interface", [[], [1, 2, 3, 4], [-1, 0, 0, 6, 0], [1, 0, 2, 6, 0], [1, 0, 0, 128, 0], ["1"] * 5]
)
def test_check_splits__reports_interfaces_without_a_section(interface: list[Any], stored: ModuleType) -> None:
    row = {**stored.splits()[1], "context": json.dumps({"big_endian": True, "interfaces": [interface]})}
    with pytest.raises(ValueError, match=r"context\.interfaces\[0\]"):
        check_splits(pa.Table.from_pylist([row], SPLITS.arrow_schema(stored=True)))


def test_flows__other_schema_or_format_is_a_one_line_error(store: Store, tmp_path: Path) -> None:
    schema = FLOWS.arrow_schema(stored=True)
    with store.write("flows", NIGHT) as staged:
        pq.write_table(_empty(schema), f"{staged.path}/part-0.parquet")
    night = store.open("flows", NIGHT)
    path = Path(night.uri, "part-0.parquet")
    (file,) = partition_files([night])
    assert list(file.read(FLOWS.names)) == []
    for word, way in _damaged(schema, path):
        _write(schema, path, way)
        line = _fault(lambda: list(file.read(FLOWS.names)))
        assert word in line, way
        assert line.startswith(str(path))
    Path(night.uri, COUNTERS_FILE).write_bytes(b"x")
    assert COUNTERS_FILE in _fault(lambda: read_counters(night))


def test_census__invalid_rows_and_groups_are_one_line_errors(store: Store) -> None:
    schema = CENSUS.arrow_schema(stored=True)
    for version in (CENSUS.version, 3):
        with store.write("census", NIGHT, version) as staged:
            pq.write_table(_empty(schema).drop_columns(["label"]), f"{staged.path}/part-0.parquet")
            staged.write_bytes(GROUPS_FILE, b"\x80" * 100)
        census = store.open("census", NIGHT)
        assert "label" in _fault(lambda at=census: stored_rows(at))
        assert GROUPS_FILE in _fault(lambda at=census: stored_groups(store, at, None))


@pytest.mark.parametrize(
    "change",
    [
        {"share": [[float("nan")]]}, {"share": [[2.0]]}, {"share": [[-0.5]]}, {"share": [[0.5, 0.5]]},
        {"payload_length": [[-1]]}, {"payload_length": [None]}, {"protocol": [[]]},
    ],
)  # fmt: skip
def test_groups__invalid_shares_are_a_one_line_error(change: dict[str, Any], store: Store) -> None:
    schema = GROUPS.arrow_schema()
    row = {"group_name": ["g"], "services": [["TCP 1"]], "protocol": [[6]], "payload_length": [[10]], "share": [[1.0]]}
    kinds = {field.name: field.type for field in schema}
    table = pa.table({name: pa.array(values, kinds[name]) for name, values in {**row, **change}.items()})
    with store.write("census", NIGHT, CENSUS.version) as staged:
        pq.write_table(table, f"{staged.path}/{GROUPS_FILE}")
    assert GROUPS_FILE in _fault(lambda: stored_groups(store, store.open("census", NIGHT), None))


def test_groups__of_one_name_are_refused() -> None:
    row = {"group_name": "g", "services": [], "protocol": [6], "payload_length": [10], "share": [1.0]}
    assert check_groups(NO_GROUPS) is NO_GROUPS
    check_groups(pa.Table.from_pylist([row], GROUPS.arrow_schema()))
    with pytest.raises(ValueError, match="different names"):
        check_groups(pa.Table.from_pylist([row, row], GROUPS.arrow_schema()))


def test_dataset__invalid_encoding_sets_and_splits_are_one_line_errors(store: Store, stored: ModuleType) -> None:
    with store.write("datasets", PartitionKey.named("d")) as staged:
        staged.write_json("encoding.json", stored.encoding().to_json())
        staged.write_bytes("_sets.pq", b"\xff" * 99)
        staged.filesystem.create_dir(f"{staged.path}/train")
        staged.write_bytes("train/part-0.parquet", b"PAR1" * 9)
        staged.metadata |= {"rows": {"train": 1}}
    dataset = store.open("datasets", PartitionKey.named("d"))
    assert read_encoding(dataset.uri) == stored.encoding()
    assert "_sets.pq" in _fault(lambda: read_sets(dataset.uri))
    pq.write_table(pa.table({"set": [1]}), Path(dataset.uri, "_sets.pq"))
    assert "_sets.pq" in _fault(lambda: read_sets(dataset.uri))
    assert "/train: is not as iotid wrote it" in _fault(lambda: read_split(dataset.uri, "train"))
    for content in (b"", b"\xff", b"[]", b"{}", b'{"schema_version": 1}', b"[" * 10**5):
        Path(dataset.uri, "encoding.json").write_bytes(content)
        line = _fault(lambda: read_encoding(dataset.uri))
        assert "encoding.json: " in line
        assert "write the " in line
    Path(dataset.uri, "_METADATA.json").write_text('{"rows": {"train": "many"}}')
    Path(dataset.uri, "encoding.json").write_text(json.dumps(stored.encoding().to_json()))
    assert "rows.train: must be a whole number" in _fault(lambda: read_split(dataset.uri, "train"))


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\x80", b"5", b"[1]", b'["ab"]', b'[["/a"]]', b'[["/a", "flow", "1", 2, 3]]', b'[["/a", 5, 1, 2, 3]]',
        b'[["/a", "flow", 1, 2, 3, 4]]', b'[["/a", "flow", 1e999, 2, 3]]', b"[" * 10**5,
    ],
)  # fmt: skip
def test_counters__invalid_ones_are_a_one_line_error(content: bytes) -> None:
    held = Counters()
    held.add("/a", "flow", 1, 2, 3)
    table = held.attach(pa.table({"x": [1]}))
    assert counters(table).num_rows == 1
    assert "counters" in _fault(lambda: counters(table.replace_schema_metadata({b"iotid.counters": content})))


@pytest.mark.parametrize("content", [b"", b"\xff", b"{}", b'[{"loss": "low"}]', b"[[1]]", b'[{"loss": NaN}]'])
def test_history__invalid_one_is_a_one_line_error(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "history.json"
    path.write_bytes(b'[{"loss": 0.5, "seconds": 1}, {"loss": null}]')
    assert read_history(path) == [{"loss": 0.5, "seconds": 1}, {"loss": None}]
    path.write_bytes(content)
    assert "history.json: " in _fault(lambda: read_history(path))


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe", b"../../elsewhere", b"version-../..", b"version-" + b"a/b", b"v" * 10**6]
)
def test_marker__of_an_object_store_without_a_version_is_a_one_line_error(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("iotid.partitions.is_object_store", lambda _: True)  # on this machine's own filesystem
    store = Store(str(tmp_path))
    with store.write("census", NIGHT) as staged:
        staged.write_text("a.txt", "x")
    assert store.exists("census", NIGHT)
    marker = tmp_path / "census" / "site=a" / "capture_date=2026-01-01" / MARKER
    marker.write_bytes(content)
    assert "must name a folder version-" in _fault(lambda: store.open("census", NIGHT))


def test_arrays__of_a_model_are_not_pickles(stored: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "weights.npy"
    np.save(path, np.array([object()]), allow_pickle=True)
    assert not stored.check("weights", path.read_bytes(), tmp_path)
