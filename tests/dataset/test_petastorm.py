"""Datasets beside Petastorm as its authors run it, on pyarrow 14 and NumPy 1; and schemas that are no schemas."""

from __future__ import annotations

import collections
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from iotid.dataset.characteristics import Encoding, Vocabulary
from iotid.dataset.petastorm_compat import COMMON_METADATA, ROW_GROUPS_KEY, SCHEMA_KEY, load_schema, petastorm
from iotid.dataset.split_protocols import DATASET_SPLITS
from iotid.dataset.store import ENCODING, EncodedFlows, read_split, split_schema, write_petastorm_metadata
from iotid.errors import PartitionError
from iotid.partitions import Partition, PartitionKey, Store
from iotid.spark.java import use_java

ROOT = Path(__file__).parents[2]
STOCK = ROOT / ".venv-petastorm" / "bin" / "python"
ROWS = 41


@pytest.fixture
def encoding() -> Encoding:
    return Encoding(
        max_packets=5,
        vocabularies={"packet_length": Vocabulary((40, 41, 42)), "tcp_window": Vocabulary((0, 1024))},
        labels=("cam", "plug"),
        devices={},
        protocols=(6, 17),
        length="ip",
    )


@pytest.fixture
def dataset(tmp_path: Path, encoding: Encoding) -> Partition:
    """A whole dataset of ROWS rows a split, in files of several row groups, written without Spark."""
    return _write(Store(str(tmp_path / "store")), encoding)


def _write(store: Store, encoding: Encoding) -> Partition:
    chance = np.random.default_rng(1)
    keys = PartitionKey.named("small")
    with store.write("datasets", keys) as staged:
        for split in DATASET_SPLITS:
            Path(staged.path, split).mkdir(parents=True)
            for number, rows in enumerate((ROWS - 6, 6)):
                columns = [list(chance.integers(0, 5, (rows, encoding.max_packets), np.int32)) for _ in range(2)]
                columns += [chance.integers(0, 2, rows, np.int32), chance.integers(1, 900, rows, np.int32)]
                arrays = [
                    pa.array(each, field.type) for each, field in zip(columns, split_schema(encoding), strict=True)
                ]
                table = pa.Table.from_arrays(arrays, schema=split_schema(encoding))
                pq.write_table(table, f"{staged.path}/{split}/part-{number}.parquet", row_group_size=10)
            assert write_petastorm_metadata(staged, split, encoding) == ROWS
        staged.write_json(ENCODING, encoding.to_json())
        staged.metadata["rows"] = dict.fromkeys(DATASET_SPLITS, ROWS)
    return store.open("datasets", keys)


def _as_rows(rows: EncodedFlows) -> list[dict[str, list[int]]]:
    columns = {**rows.sequences, "label_id": rows.label, "num_flows": rows.num_flows}
    return [{name: np.atleast_1d(column[i]).tolist() for name, column in columns.items()} for i in range(len(rows))]


def _stock(*arguments: str) -> str:
    if not STOCK.exists():
        pytest.skip("Petastorm's own environment is absent: make petastorm-setup makes it, with CPython 3.12 or 3.11")
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYSPARK_PYTHON")}
    program = str(Path(__file__).with_name("stock_petastorm.py"))
    answer = subprocess.run(
        [str(STOCK), program, *arguments],
        env={**environment, "PYSPARK_PYTHON": str(STOCK)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def test_stock_petastorm__reads_our_parts_row_for_row_by_every_reader(dataset: Partition) -> None:
    expected = sorted(_as_rows(read_split(dataset.uri, "train")), key=str)
    assert len(expected) == ROWS
    answers = json.loads(_stock("read", f"{dataset.uri}/train").splitlines()[-1])
    assert set(answers) == {"make_reader", "make_batch_reader", "torch DataLoader", "torch BatchedDataLoader"}
    for reader, rows in answers.items():
        assert sorted(rows, key=str) == expected, reader


@pytest.mark.spark
def test_read_split__reads_what_stock_petastorm_and_an_older_spark_wrote(dataset: Partition, tmp_path: Path) -> None:
    use_java()
    expected = _as_rows(read_split(dataset.uri, "train"))
    split = Path(dataset.uri, "train")
    shutil.move(split, tmp_path / "source")
    _stock("write", str(tmp_path / "source"), str(split))
    again = _as_rows(read_split(dataset.uri, "train"))
    assert Counter(map(str, again)) == Counter(map(str, expected))


def _rewrite(dataset: Partition, change: Mapping[bytes, bytes | None]) -> None:
    path = f"{dataset.uri}/train/{COMMON_METADATA}"
    schema = pq.read_schema(path)
    metadata = {name: value for name, value in {**schema.metadata, **change}.items() if value is not None}
    pq.write_metadata(schema.with_metadata(metadata), path)


class _Command:
    """What runs a command as soon as it is unpickled."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._call = (function, arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return self._call


HOSTILE = {
    "a command": lambda trace: pickle.dumps(_Command(os.system, f"touch {trace}")),
    "code, by the builtins that Petastorm itself admits": lambda trace: pickle.dumps(
        _Command(eval, f"open({str(trace)!r}, 'w')")
    ),
    "an old protocol's text": lambda trace: b"cos\nsystem\n(S'touch " + str(trace).encode() + b"'\ntR.",
    "a name that is reached through an admitted one": lambda trace: (
        b"\x80\x04\x8c\x13petastorm.unischema\x8c\x09np.memmap\x93."
    ),
    "NumPy's loader": lambda trace: pickle.dumps(_Command(np.load, str(trace))),
    "no schema": lambda trace: pickle.dumps(collections.OrderedDict(fields=1)),
    "cut off": lambda trace: b"\x80\x04\x95",
    "nothing": lambda trace: b"",
    "no pickle": lambda trace: b"\xff\xfe\x00schema",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_read_split__a_hostile_schema_runs_nothing_and_is_one_error(
    dataset: Partition, tmp_path: Path, kind: str
) -> None:
    trace = tmp_path / "trace"
    _rewrite(dataset, {SCHEMA_KEY: HOSTILE[kind](trace)})
    with pytest.raises(PartitionError, match=r"train/_common_metadata: is not what iotid wrote .*write the dataset"):
        read_split(dataset.uri, "train")
    with pytest.raises(pickle.UnpicklingError):  # what Petastorm calls
        petastorm("etl.dataset_metadata").depickle_legacy_package_name_compatible(HOSTILE[kind](trace))
    assert not trace.exists()


def test_read_split__missing_metadata_or_other_row_groups_are_one_error(dataset: Partition) -> None:
    for groups in (b'{"part-0.parquet": 1000000000000, "part-1.parquet": 1}', b"[]", b"{", None):
        _rewrite(dataset, {ROW_GROUPS_KEY: groups})
        with pytest.raises(PartitionError, match="_common_metadata: is not what iotid wrote"):
            read_split(dataset.uri, "train")
    Path(dataset.uri, "train", COMMON_METADATA).write_bytes(b"PAR1 but no Parquet PAR1")
    with pytest.raises(PartitionError, match="_common_metadata: is not what iotid wrote"):
        read_split(dataset.uri, "train")
    Path(dataset.uri, "train", COMMON_METADATA).unlink()
    with pytest.raises(PartitionError, match="_common_metadata: is not what iotid wrote"):
        read_split(dataset.uri, "train")


def test_load_schema__takes_the_schema_that_is_written_and_no_other_type(
    dataset: Partition, encoding: Encoding
) -> None:
    schema = load_schema(pq.read_schema(f"{dataset.uri}/train/{COMMON_METADATA}").metadata[SCHEMA_KEY])
    assert list(schema.fields) == [*encoding.vocabularies, "label_id", "num_flows"]
    unischema = petastorm("unischema")
    floats = unischema.Unischema("rows", [unischema.UnischemaField("a", np.float64, (), None, False)])
    with pytest.raises(pickle.UnpicklingError):
        load_schema(pickle.dumps(floats))


def test_petastorm__alone_sees_the_old_names() -> None:
    code = (
        "import sys\nfrom iotid.dataset.petastorm_compat import petastorm\n"
        "for name in ('reader', 'pytorch', 'unischema', 'utils'): petastorm(name)\n"
        "import numpy, pyarrow, pyarrow.parquet, petastorm.unischema as seen\n"
        "assert seen.np.string_ is numpy.bytes_ and seen.np.int32 is numpy.int32\n"
        "assert not hasattr(numpy, 'string_') and not hasattr(numpy, 'unicode_')\n"
        "assert not hasattr(pyarrow, 'localfs') and not hasattr(pyarrow, 'hdfs')\n"
        "assert not hasattr(pyarrow.parquet, 'ParquetDatasetPiece')\n"
        "assert 'validate_schema' not in str(pyarrow.parquet.ParquetDataset.__init__.__code__.co_varnames)\n"
        "assert not {'pyarrow.filesystem', 'pyarrow.hdfs'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
