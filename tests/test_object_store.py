"""Tables on an object store: the S3 API, pyarrow's client with moto's server."""

from __future__ import annotations

import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, date, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from iotid.dataset.store import ENCODING
from iotid.errors import AbsentError, UserError
from iotid.partitions import PartitionKey, Store
from iotid.retention import Selection, prune
from iotid.storage import OutputFile, open_filesystem, remove_failed_task_files, rows_in_footers

_TESTS = Path(__file__).parent
_SERVER = _TESTS.parent / ".venv-peers" / "bin" / "moto_server"
_TOLERANCE = 1e-3  # of what a model answers
KEYS = PartitionKey.of_date("a", "2026-01-10")

pytestmark = pytest.mark.spark


@pytest.fixture(scope="module")
def bucket(spark: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An empty bucket, configured for this process and for Spark's."""
    if not _SERVER.exists():
        pytest.skip("moto is not installed: make peers-setup")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    variables = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_REGION": "us-east-1"}
    variables |= {"AWS_ACCESS_KEY_ID": "iotid", "AWS_SECRET_ACCESS_KEY": "iotid", "AWS_EC2_METADATA_DISABLED": "true"}
    log = tmp_path_factory.mktemp("s3") / "log"
    with log.open("wb") as out, pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
            patch.setitem(spark.sparkContext.environment, name, value)
        server = subprocess.Popen([_SERVER, "-H", "127.0.0.1", "-p", str(port)], stdout=out, stderr=out)
        try:
            _await(port, server, log)
            place = {"endpoint_override": f"127.0.0.1:{port}", "scheme": "http", "region": "us-east-1"}
            fs.S3FileSystem(allow_bucket_creation=True, **place).create_dir("tables")
            yield "s3://tables"
        finally:
            server.terminate()
            server.wait()


def _await(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    while server.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
            return
        time.sleep(0.1)
    raise AssertionError(log.read_text())


def _write(store: Store, text: str) -> None:
    with store.write("flows", KEYS) as staged:
        staged.write_text("part.txt", text)
        staged.metadata["rows"] = len(text)


def _read(store: Store) -> str:
    filesystem, path = open_filesystem(store.open("flows", KEYS).uri)
    with filesystem.open_input_file(f"{path}/part.txt") as file:
        return bytes(file.read()).decode()


def _objects(root: str) -> list[str]:
    filesystem, path = open_filesystem(root)
    found = filesystem.get_file_info(fs.FileSelector(path, recursive=True, allow_not_found=True))
    return sorted(info.path for info in found if info.is_file)


def test_store__a_partition_is_absent_until_its_marker_names_it(bucket: str) -> None:
    root = f"{bucket}/replaced"
    store = Store(root)
    with pytest.raises(AbsentError, match="run iotid assemble-flows first"):
        store.open("flows", KEYS)
    with store.write("flows", KEYS) as staged:
        staged.write_text("part.txt", "old")
        assert not Store(root).exists("flows", KEYS)
    partition = store.open("flows", KEYS)
    assert (partition.metadata["schema_version"], _read(store)) == (1, "old")
    with store.write("flows", KEYS) as staged:
        staged.write_text("part.txt", "new")
        assert _read(Store(root)) == "old"
    assert _read(store) == "new"
    assert store.partitions("flows") == [KEYS]
    assert len(_objects(root)) == 4, "the pointer, and marker, metadata and the file of one version"


def test_store__a_failed_write_changes_nothing(bucket: str) -> None:
    store = Store(f"{bucket}/failed")
    _write(store, "old")
    before = _objects(store.root)
    with pytest.raises(ZeroDivisionError), store.write("flows", KEYS) as staged:
        staged.write_text("part.txt", str(1 / 0))
    assert _read(store) == "old"
    assert _objects(store.root) == before


def test_store__files_of_a_dead_run_are_removed_after_days(bucket: str) -> None:
    store = Store(f"{bucket}/dead")
    filesystem, base = open_filesystem(store.uri("flows", KEYS))
    young, old = (
        f"{base}/version-{when:%Y%m%dT%H%M%S}-0/part.txt" for when in (datetime.now(UTC), datetime(2026, 1, 1))
    )
    for path in (young, old):
        filesystem.create_dir(path.rpartition("/")[0])
        with filesystem.open_output_stream(path) as file:
            file.write(b"half")
    _write(store, "whole")
    assert young in _objects(store.root)
    assert old not in _objects(store.root)
    assert _read(store) == "whole"


def test_store__of_concurrent_writers_one_result_is_complete(bucket: str) -> None:
    root = f"{bucket}/at-once"
    runs = [threading.Thread(target=_write, args=(Store(root), text * 1000)) for text in "abcd"]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    text = _read(Store(root))
    assert text in {name * 1000 for name in "abcd"}
    assert Store(root).open("flows", KEYS).metadata["rows"] == 1000


def test_store__options_in_its_address_are_refused() -> None:
    with pytest.raises(UserError, match="AWS_ENDPOINT_URL"):
        Store("s3://tables?region=x")


def test_part_file__gets_its_name_when_complete(bucket: str) -> None:
    folder = f"{bucket}/parts"
    filesystem, path = open_filesystem(folder)
    table = pa.table({"number": [1, 2, 3]})
    for attempt, whole in ((7, False), (8, True)):
        file = OutputFile(folder, "part-0.parquet", attempt, table.schema, 2)
        file.write(table)
        file.close(whole=whole)
    remove_failed_task_files(filesystem, path)
    assert _objects(folder) == ["tables/parts/part-0.parquet"]
    assert rows_in_footers(filesystem, path) == 3


def test_steps__from_captures_to_census_are_those_of_a_local_folder(
    bucket: str,
    tmp_path: Path,
    module_at: Callable[[Path], ModuleType],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Captures and tables are objects; two dates, of which the second continues open flows of the first."""
    monkeypatch.chdir(tmp_path)  # where MLflow on SQLite leaves its artifacts
    drill = module_at(_TESTS / "drills" / "nights.py")
    nights = drill.Nights(tmp_path, tmp_path / "local", seed=1)
    days = [nights.day(0), nights.day(1)]
    for day in days:
        nights.restore(day)
    filesystem, base = open_filesystem(f"{bucket}/captures")
    fs.copy_files(
        str(tmp_path / "captures"), base, source_filesystem=fs.LocalFileSystem(), destination_filesystem=filesystem
    )
    places = {f"{bucket}/run": f"{bucket}/captures", str(tmp_path / "local"): str(tmp_path / "captures")}
    small = ["training.epochs=2", "training.ranks=1", "model.embedding_size=8", "model.hidden_size=8"]
    small += ["evaluation.baselines=[]", "evaluation.bootstrap=20", "promotion.min_macro_f1=0"]
    for number, (root, captures) in enumerate(places.items()):
        layers = nights.layers(*small, f"storage.root={root}", f"tracking.uri=sqlite:///{tmp_path}/{number}.db")
        home = ["--site", "home"]
        for day in days:
            night = [*home, "--date", day]
            assert drill.ask("split_pcaps", layers, "--captures", f"{captures}/home/{day}", *night) == (0, [])
            assert drill.ask("assemble_flows", layers, *night) == (0, [])
        assert nights.write_dataset(days, root) == (0, [])
        for step in ("train", "evaluate", "promote"):
            assert drill.ask(step, layers, "--dataset", "all") == (0, [])
        assert drill.ask("take_census", layers, *night) == (0, [])
    here, there = (Store(root) for root in places)
    for table in ("splits", "flows", "datasets", "reports", "decisions", "census"):
        assert here.partitions(table) == there.partitions(table) != []
    for table in ("splits", "flows", "datasets", "census"):
        for keys in here.partitions(table):
            _same_rows(here.open(table, keys).uri, there.open(table, keys).uri)
    encodings = [
        store.read_json(store.open("datasets", PartitionKey.named("all")), ENCODING) for store in (here, there)
    ]
    assert encodings[0] == encodings[1]
    metadata = here.open("census", PartitionKey.of_date("home", days[-1])).metadata
    assert metadata["model_quality"].startswith("macro F1 ")
    assert metadata["model_quality"].endswith(" on the test part of dataset all")
    assert date.fromisoformat(metadata["model_date"]) <= datetime.now(UTC).date()


def _same_rows(here: str, there: str) -> None:
    """Both partitions have the same rows in files of the same names, but for where captures lie.

    Files that are named by their number are one: which row is in which of them is drawn anew by each run.
    """
    one, other = ({name: _in_order(tables) for name, tables in _tables(folder).items()} for folder in (here, there))
    assert one.keys() == other.keys() != set()
    for name, rows in one.items():
        assert rows.schema == other[name].schema, f"{here}: {name}"
        for column, left, right in zip(rows.column_names, rows, other[name], strict=True):
            near = pa.types.is_floating(left.type) and np.allclose(left, right, atol=_TOLERANCE, equal_nan=True)
            assert near or left.equals(right), f"{here}: {name}: {column}: {left} {right}"


def _in_order(tables: list[pa.Table]) -> pa.Table:
    """All rows, ordered by their columns of exact values."""
    whole = pa.concat_tables(tables)
    exact = whole.select([field.name for field in whole.schema if not pa.types.is_floating(field.type)])
    keys = list(map(str, exact.to_pylist()))
    order = pa.array(sorted(range(len(keys)), key=keys.__getitem__), pa.int64())
    return whole.take(order).combine_chunks()


def _tables(folder: str) -> dict[str, list[pa.Table]]:
    """By name, the rows of each file, with the names of captures alone."""
    found: dict[str, list[pa.Table]] = {}
    filesystem, base = open_filesystem(folder)
    for info in filesystem.get_file_info(fs.FileSelector(base, recursive=True)):
        if not info.path.endswith(".parquet"):
            continue
        table = pq.read_table(info.path, filesystem=filesystem, partitioning=None)
        for number, name in enumerate(table.column_names):
            if name in ("path", "capture_file"):
                table = table.set_column(number, name, pc.replace_substring_regex(table[name], ".*/", ""))
        found.setdefault(re.sub(r"part-[0-9]+.*", "part", info.path.removeprefix(f"{base}/")), []).append(table)
    return found


def test_object_store__prune_deletes_partitions_and_abandoned_versions(
    bucket: str,
) -> None:
    store = Store(f"{bucket}/retention")
    for night in ("2026-01-01", "2026-01-02", "2026-01-03"):
        with store.write("flows", PartitionKey.of_date("a", night)) as staged:
            staged.write_text("part.txt", "x" * 1000)
    filesystem, base = open_filesystem(store.root)
    folder = f"{base}/flows/site=a/capture_date=2026-01-03"
    for version in ("version-20260101T000000-dead", f"version-{datetime.now(UTC):%Y%m%dT%H%M%S}-running"):
        filesystem.create_dir(f"{folder}/{version}")
        with filesystem.open_output_stream(f"{folder}/{version}/part.txt") as file:
            file.write(b"y" * 100)
    dry = prune(store, Selection("2026-01-03"), apply=False)
    assert [choice.key.capture_date for choice, _ in dry.deleted] == ["2026-01-01"]
    assert [(each.folder.rpartition("/")[2], each.num_bytes) for each in dry.leftovers] == [
        ("version-20260101T000000-dead", 100)
    ]
    assert len(store.partitions("flows")) == 3
    prune(store, Selection("2026-01-03"), apply=True)
    assert [key.capture_date for key in store.partitions("flows")] == ["2026-01-02", "2026-01-03"]
    later = prune(store, Selection("2026-01-05"), apply=False)
    assert {choice.needed.partition(":")[0] for choice in later.kept} == {"the last before the date"}
    assert not later.leftovers
    with store.write("flows", PartitionKey.of_date("a", "2026-01-04")) as staged:
        staged.metadata["open_flows"] = 0
    (running,) = prune(store, Selection("2026-01-05"), apply=False).kept[:1]
    assert (running.key.capture_date, running.needed) == ("2026-01-03", "a run is writing it")
