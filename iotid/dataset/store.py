"""Reads and writes the splits of a dataset as Petastorm datasets; the only user of Petastorm.

A split has native Parquet list columns, one for each characteristic, ``label_id`` and ``num_flows``, so NumPy blocks
are read without a codec. Petastorm 0.13.1 can lose a whole epoch without an error, and reads a folder with a missing
file as a smaller dataset; `read_split` raises an error.

Petastorm stores a split's schema as a pickle in ``_common_metadata``; `petastorm_compat.load_schema` loads it safely.
"""

from __future__ import annotations

import io
import json
import pickle
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyarrow import fs

from iotid.dataset.characteristics import Encoding
from iotid.dataset.hashes import mix
from iotid.dataset.petastorm_compat import (
    COMMON_METADATA,
    ROW_GROUPS_KEY,
    SCHEMA_KEY,
    PetastormFiles,
    load_schema,
    petastorm,
)
from iotid.dataset.sets import FlowSets
from iotid.errors import AbsentError, AccountingError, PartitionError
from iotid.inputs import parse_json
from iotid.partitions import MARKER, Staged, open_metadata
from iotid.schemas.metadata import remedy
from iotid.storage import (
    SIDE_SUFFIX,
    check_json,
    is_file,
    open_filesystem,
    read_small,
    rows_in_footers,
    translate_read_errors,
    visible_files,
)

ENCODING = "encoding.json"
SETS, _FORMER_SETS = f"_sets{SIDE_SUFFIX}", "sets.parquet"
TEST_SETS = f"_test_sets{SIDE_SUFFIX}"
LABEL = "label_id"
WEIGHT = "num_flows"

_ROWS_PER_GROUP = 250_000  # which a reader holds in memory: 64 MB for two characteristics of 32 packets


@dataclass(frozen=True)
class EncodedFlows:
    """One split in memory: ``sequences`` characteristic -> int32 (n, M) ids, ``label`` and ``num_flows`` int64 (n,)."""

    sequences: dict[str, NDArray[np.int32]]
    label: NDArray[np.int64]
    num_flows: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.label)


def read_encoding(partition_uri: str) -> Encoding:
    """The vocabularies and labels of the dataset at ``partition_uri``.

    Raises:
        PartitionError: the dataset is incomplete.
        SchemaError: it was written by another version of iotid.
        DataError: its encoding is damaged.
    """
    return _read_encoding(_open_dataset(partition_uri), partition_uri)


def read_sets(partition_uri: str) -> FlowSets:
    """The sets of flows of the dataset at ``partition_uri``, see `sets`.

    Raises:
        PartitionError: the dataset is incomplete, or was written before datasets had sets.
        DataError: its sets are damaged.
    """
    files = _open_dataset(partition_uri)
    name = next((each for each in (SETS, _FORMER_SETS) if is_file(files, each)), None)
    if name is None:
        raise PartitionError(f"{partition_uri}: has no {SETS}, an earlier iotid wrote it; write the dataset again")
    with translate_read_errors(f"{partition_uri}/{name}", remedy("datasets")):
        return FlowSets.from_arrow(pq.read_table(name, filesystem=files))


def read_test_sets(partition_uri: str) -> FlowSets | None:
    """The sets of the test split's flows, as `read_sets`; None if the dataset has none."""
    files = _open_dataset(partition_uri)
    if not is_file(files, TEST_SETS):
        return None
    with translate_read_errors(f"{partition_uri}/{TEST_SETS}", remedy("datasets")):
        rows = pq.read_table(TEST_SETS, filesystem=files)
        return FlowSets.from_arrow(rows) if len(rows) else None


def write_sets(staged: Staged, name: str, sets: FlowSets) -> None:
    pq.write_table(sets.to_arrow(), f"{staged.path}/{name}", filesystem=staged.filesystem)


def read_split(partition_uri: str, split: str) -> EncodedFlows:
    """All rows of ``split`` (train, validation or test) of the dataset at ``partition_uri``, in a reproducible order.

    Raises:
        PartitionError: the dataset is incomplete, or its stored schema is damaged.
        AccountingError: the files have, or Petastorm delivered, another number of rows than was written.
    """
    files = _open_dataset(partition_uri)
    encoding = _read_encoding(files, partition_uri)
    written = open_metadata(files, "", "datasets", partition_uri)["rows"].get(split, 0)
    with translate_read_errors(f"{partition_uri}/{split}", remedy("datasets")):
        in_footers = rows_in_footers(files, split)
    if in_footers != written:
        raise AccountingError(
            f"{partition_uri}/{split}: {written:,} rows were written, the Parquet footers report {in_footers:,}; "
            "files are missing or foreign; write the dataset again"
        )
    _check_common_metadata(files, split, f"{partition_uri}/{split}")
    columns: dict[str, list[NDArray[Any]]] = {name: [] for name in (*encoding.vocabularies, LABEL, WEIGHT)}
    # the dummy pool reads in this thread: the only pool of Petastorm without known losses of rows
    options = {"reader_pool_type": "dummy", "shuffle_row_groups": False, "filesystem": PetastormFiles(files)}
    with _quiet(), petastorm("reader").make_batch_reader(f"file:///{split}", **options) as reader:
        for block in reader:
            for name, blocks in columns.items():
                blocks.append(getattr(block, name))
    delivered = sum(len(block) for block in columns[LABEL])
    if delivered != in_footers:
        raise AccountingError(
            f"{partition_uri}/{split}: Petastorm delivered {delivered:,} rows, the Parquet footers report "
            f"{in_footers:,}; read it again, and report this if it happens again"
        )
    whole = {name: np.concatenate(blocks).astype(np.int32, copy=False) for name, blocks in columns.items()}
    # rows are stored in another order in each run (`iotid.spark.shuffle`), and training depends on their order
    words = [ids_N for name in (*encoding.vocabularies, LABEL, WEIGHT) for ids_N in np.atleast_2d(whole[name].T)]
    order_N = np.argsort(mix(words), kind="stable")
    return EncodedFlows(
        {name: whole.pop(name)[order_N] for name in encoding.vocabularies},
        whole[LABEL][order_N].astype(np.int64),
        whole[WEIGHT][order_N].astype(np.int64),
    )


def write_petastorm_metadata(staged: Staged, split: str, encoding: Encoding) -> int:
    """Make a split's Parquet files a Petastorm dataset; return the number of rows by their footers.

    Writes the same as Petastorm's ``materialize_dataset``: the schema, and the number of row groups of each file.
    """
    unischema = petastorm("unischema")
    fields = [(name, (encoding.max_packets,)) for name in encoding.vocabularies] + [(LABEL, ()), (WEIGHT, ())]
    schema = unischema.Unischema(
        "rows", [unischema.UnischemaField(name, np.int32, shape, None, False) for name, shape in fields]
    )
    folder = f"{staged.path}/{split}"
    names = visible_files(staged.filesystem, folder)
    footers = {name: pq.read_metadata(f"{folder}/{name}", filesystem=staged.filesystem) for name in names}
    groups = {name: footer.num_row_groups for name, footer in footers.items()}
    metadata = {SCHEMA_KEY: pickle.dumps(schema, protocol=4), ROW_GROUPS_KEY: json.dumps(groups).encode()}
    with staged.filesystem.open_output_stream(f"{folder}/{COMMON_METADATA}") as file:
        pq.write_metadata(split_schema(encoding).with_metadata(metadata), file)
    return sum(footer.num_rows for footer in footers.values())


def split_schema(encoding: Encoding) -> pa.Schema:
    """Columns of a split's Parquet files."""
    sequence = pa.list_(pa.field("element", pa.int32(), nullable=False))
    return pa.schema(
        [pa.field(name, sequence, nullable=False) for name in encoding.vocabularies]
        + [pa.field(name, pa.int32(), nullable=False) for name in (LABEL, WEIGHT)]
    )


def group_rows(rows: Mapping[str, int], of_partitions: Sequence[Mapping[str, int]], least: int) -> list[dict[str, int]]:
    """Rows per row group, by partition and split, for at least ``least`` groups per split of about equal size.

    ``rows``: by split; ``of_partitions``: by partition and split.
    """

    def of_group(split: str, own: int) -> int:
        largest = min(max(rows[split] // least, 1), _ROWS_PER_GROUP)
        return -(-own // max(-(-own // largest), 1))

    return [{split: of_group(split, own) for split, own in some.items() if own} for some in of_partitions]


def _check_common_metadata(files: fs.FileSystem, split: str, shown: str) -> None:
    """Raise a PartitionError if a split's Petastorm metadata does not match its files."""
    names = visible_files(files, split)
    try:
        groups = {name: pq.read_metadata(f"{split}/{name}", filesystem=files).num_row_groups for name in names}
        with files.open_input_file(f"{split}/{COMMON_METADATA}") as file:
            metadata = pq.read_metadata(file).metadata
        load_schema(metadata[SCHEMA_KEY])
        fault = (
            "" if parse_json(metadata[ROW_GROUPS_KEY]) == groups else "it lists other row groups than the files have"
        )
    except (OSError, KeyError, ValueError, pa.ArrowException, pickle.UnpicklingError) as broken:
        fault = str(broken)
    if fault:
        raise PartitionError(
            f"{shown}/{COMMON_METADATA}: is not what iotid wrote there ({fault}); nothing of the split was read; write "
            "the dataset again from its flows, with iotid write-dataset"
        )


def _open_dataset(partition_uri: str) -> fs.FileSystem:
    """A filesystem whose root is the dataset's folder."""
    filesystem, path = open_filesystem(partition_uri)
    files = fs.SubTreeFileSystem(path, filesystem)
    if files.get_file_info(MARKER).type != fs.FileType.File:
        raise AbsentError(f"datasets: no completed data at {partition_uri}; run iotid write-dataset first")
    return files


def _read_encoding(files: fs.FileSystem, shown: str) -> Encoding:
    where = f"{shown}/{ENCODING}"
    content = check_json(read_small(files, ENCODING, where), dict[str, Any], where, remedy("datasets"))
    return Encoding.from_json(content, where)


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress Petastorm's warnings, about what is intended or cannot be changed, and its output."""
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
